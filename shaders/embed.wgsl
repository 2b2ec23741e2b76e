// #use rows
// Gathers the rows of tokens into the hidden state. One workgroup per token; a token whose row is in another buffer of
// the matrix is left to the dispatch for that one.

struct Rows {
    // Rows in this buffer, and the number of the first.
    rows: u32,
    first: u32,
    // Distance between rows in 16 bytes.
    row_stride: u32,
    // Distance between rows of the hidden state in 16 bytes.
    stride: u32,
}

@group(0) @binding(0) var<uniform> matrix: Rows;
@group(0) @binding(1) var<storage, read> rows: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> tokens: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read_write> hidden: array<vec4<f32>>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let token = group.x;
    let row = tokens[token].x - matrix.first;
    if row >= matrix.rows {
        return;
    }
    for (var i = index; i < matrix.row_stride; i += WG) {
        let words = rows[row * matrix.row_stride + i];
        for (var part = 0u; part < ROW_PARTS; part++) {
            hidden[token * matrix.stride + i * ROW_PARTS + part] = row_values(words, part);
        }
    }
}
