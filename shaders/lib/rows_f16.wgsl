// Rows of half-precision numbers: 8 in 16 bytes.

const ROW_PARTS = 2u;

fn row_values(words: vec4<u32>, part: u32) -> vec4<f32> {
    let two = select(words.xy, words.zw, part == 1u);
    return vec4<f32>(unpack2x16float(two.x), unpack2x16float(two.y));
}
