// #use gemv_lib, quantize_lib, output
// Products of up to TOKENS tokens. One workgroup per group of 16 rows.

@group(0) @binding(3) var<storage, read> acts: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read> act_scales: array<ActScale>;

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) place: vec3<u32>,
    @builtin(num_workgroups) places: vec3<u32>,
    thread: Thread,
) {
    let group = place.y * places.x + place.x;
    if group >= linear.groups {
        return;
    }
    let id = thread_id(thread);
    let first = group * linear.tiles * 4u + id % 4u;
    var sums: array<vec4<i32>, TOKENS>;
    for (var tile = id / 4u; tile < linear.tiles; tile += WG / 4u) {
        let words = weights[first + tile * 4u];
        for (var token = 0u; token < TOKENS; token++) {
            sums[token] += tile_sums(words, acts[token * linear.tiles + tile]);
        }
    }
    let row = (linear.first_group + group) * 16u + id * 4u;
    for (var token = 0u; token < TOKENS; token++) {
        let total = sum_of_quads(thread, sums[token]);
        if id < 4u && token < batch.tokens {
            let by = act_scales[token];
            emit(token, row, vec4<f32>(total - vec4<i32>(by.sum)), by.scale);
        }
    }
}
