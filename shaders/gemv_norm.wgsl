// #use gemv_lib, normed, output
// Products of few tokens, normalised and quantized by each workgroup for itself: a dispatch less, for numbers that are
// in the nearest cache anyway. One workgroup per group of 16 rows, token by token, so that its memory holds one token.

@group(0) @binding(3) var<storage, read> source: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> norm_weight: array<vec4<f32>>;

var<workgroup> row_acts: array<vec4<u32>, HIDDEN_TILES>;

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
    let first = group * HIDDEN_TILES * 4u + id % 4u;
    for (var token = 0u; token < batch.tokens; token++) {
        let start = token * HIDDEN_TILES * 4u;
        let inverse = inverse_rms(thread, start, HIDDEN_TILES, HIDDEN);
        let scale = row_scale(thread, start, HIDDEN_TILES, inverse);
        var sum = 0;
        for (var tile = id; tile < HIDDEN_TILES; tile += WG) {
            var words: vec4<u32>;
            for (var i = 0u; i < 4u; i++) {
                let q = quantize4(normed(start, tile * 4u + i, inverse), scale);
                words[i] = pack4xI8(q);
                sum += sum_of(q);
            }
            row_acts[tile] = words;
        }
        // Its barriers also make the activations visible to all threads.
        sum = wg_sum_int(thread, sum);
        var sums = vec4<i32>(0);
        for (var tile = id / 4u; tile < HIDDEN_TILES; tile += WG / 4u) {
            sums += tile_sums(weights[first + tile * 4u], row_acts[tile]);
        }
        // All threads have read the activations when its barriers are passed.
        let total = sum_of_quads(thread, sums);
        if id < 4u {
            emit(token, (linear.first_group + group) * 16u + id * 4u, vec4<f32>(total - vec4<i32>(sum)), scale);
        }
    }
}
