// #use linear
// Adds the products to the residual stream, [tokens, hidden].

@group(0) @binding(5) var<storage, read_write> hidden: array<vec4<f32>>;

// Four rows from `row` of one token: sums of products, before any scale.
fn emit(token: u32, row: u32, sums: vec4<f32>, act_scale: f32) {
    hidden[token * linear.stride + row / 4u] += sums * (linear.scale.x / act_scale);
}
