// #use normed
// The norm in front of the head, of the rows whose logits are wanted. One workgroup per output.

@group(0) @binding(0) var<storage, read> source: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> norm_weight: array<vec4<f32>>;
// Row of the hidden state, and where its normalised numbers go.
@group(0) @binding(2) var<storage, read> wanted: array<vec2<u32>>;
@group(0) @binding(3) var<storage, read_write> inputs: array<vec4<f32>>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) place: vec3<u32>, thread: Thread) {
    let output = wanted[place.x];
    let start = output.x * HIDDEN_TILES * 4u;
    let inverse = inverse_rms(thread, start, HIDDEN_TILES, HIDDEN);
    for (var i = thread_id(thread); i < HIDDEN_TILES * 4u; i += WG) {
        inputs[output.y * HIDDEN_TILES * 4u + i] = normed(start, i, inverse);
    }
}
