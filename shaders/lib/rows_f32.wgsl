// Rows of single-precision numbers: 4 in 16 bytes.

const ROW_PARTS = 1u;

fn row_values(words: vec4<u32>, part: u32) -> vec4<f32> {
    return bitcast<vec4<f32>>(words);
}
