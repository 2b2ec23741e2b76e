// A ternary matrix, or some of its groups of 16 rows, and the pass it is used in.

struct Pass {
    // Rows of the hidden state.
    tokens: u32,
    // Blocks of 256 positions that the longest sequence of the pass has.
    blocks: u32,
}

struct Linear {
    // Groups of 16 rows in this buffer, and the number of the first in the matrix.
    groups: u32,
    first_group: u32,
    // Tiles of 16 columns.
    tiles: u32,
    // Distance between rows of the output, in its elements.
    stride: u32,
    // Scales of the parts that the matrix was joined from.
    scale: vec4<f32>,
}

@group(0) @binding(0) var<uniform> batch: Pass;
@group(0) @binding(1) var<uniform> linear: Linear;
