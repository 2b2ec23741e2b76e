// Rows of bfloat16 numbers: 8 in 16 bytes.

const ROW_PARTS = 2u;

fn row_values(words: vec4<u32>, part: u32) -> vec4<f32> {
    let two = select(words.xy, words.zw, part == 1u);
    return bitcast<vec4<f32>>(vec4<u32>(two.x << 16u, two.x & 0xffff0000u, two.y << 16u, two.y & 0xffff0000u));
}
