// Activations as int8 with one scale per token.

// How a token was quantized: 127 / absmax, and the sum of the int8 values.
struct ActScale {
    scale: f32,
    sum: i32,
}

// 127 / absmax.
fn act_scale(largest: f32) -> f32 {
    return 127.0 / max(largest, 1e-5);
}

// Rounds four numbers, halves to even. What is not a number becomes something in range.
fn quantize4(x: vec4<f32>, scale: f32) -> vec4<i32> {
    return vec4<i32>(clamp(round(x * scale), vec4<f32>(-128.0), vec4<f32>(127.0)));
}

fn largest_of(x: vec4<f32>) -> f32 {
    let a = abs(x);
    return max(max(a.x, a.y), max(a.z, a.w));
}

fn sum_of(x: vec4<i32>) -> i32 {
    return x.x + x.y + x.z + x.w;
}
