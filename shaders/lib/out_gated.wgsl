// #use linear, exp
// Gate and up lie row by row next to each other: multiplies them, [tokens, intermediate].

@group(0) @binding(5) var<storage, read_write> gated: array<vec2<f32>>;

fn gate_of(gate: vec2<f32>) -> vec2<f32> {
    if SILU {
        return gate / (vec2<f32>(1.0) + vec2<f32>(exp_exact(-gate.x), exp_exact(-gate.y)));
    }
    let x = max(gate, vec2<f32>(0.0));
    return x * x;
}

fn emit(token: u32, row: u32, sums: vec4<f32>, act_scale: f32) {
    let gate = sums.xz * (linear.scale.x / act_scale);
    let up = sums.yw * (linear.scale.y / act_scale);
    gated[token * linear.stride + row / 4u] = gate_of(gate) * up;
}
