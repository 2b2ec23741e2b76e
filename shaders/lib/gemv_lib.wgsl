// #use linear, dot, reduce
// A group of 16 rows times few tokens. Four threads read the 64 bytes of a tile, 16 bytes each: four rows of 16 columns,
// whose four fields meet the same four words of activations.

@group(0) @binding(2) var<storage, read> weights: array<vec4<u32>>;

const FIELDS = vec4<u32>(0x03030303u);

// The sums of four rows with one tile of a token.
fn tile_sums(words: vec4<u32>, acts: vec4<u32>) -> vec4<i32> {
    return dot_rows(words & FIELDS, acts.x)
        + dot_rows((words >> vec4<u32>(2u)) & FIELDS, acts.y)
        + dot_rows((words >> vec4<u32>(4u)) & FIELDS, acts.z)
        + dot_rows((words >> vec4<u32>(6u)) & FIELDS, acts.w);
}
