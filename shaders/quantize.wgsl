// #use normed
// RMSNorm (if NORM) and quantization of each token's row. One workgroup per token.

struct Row {
    // Numbers in a row, and tiles of 16 that they take with their padding, which holds zeros.
    cols: u32,
    tiles: u32,
}

@group(0) @binding(0) var<uniform> row: Row;
@group(0) @binding(1) var<storage, read> source: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> norm_weight: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> acts: array<u32>;
@group(0) @binding(4) var<storage, read_write> act_scales: array<ActScale>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, thread: Thread) {
    let token = group.x;
    let start = token * row.tiles * 4u;
    var inverse = 1.0;
    if NORM {
        inverse = inverse_rms(thread, start, row.tiles, row.cols);
    }
    let scale = row_scale(thread, start, row.tiles, inverse);
    var sum = 0;
    for (var i = thread_id(thread); i < row.tiles * 4u; i += WG) {
        let q = quantize4(normed(start, i, inverse), scale);
        acts[start + i] = pack4xI8(q);
        sum += sum_of(q);
    }
    sum = wg_sum_int(thread, sum);
    if thread_id(thread) == 0u {
        act_scales[token] = ActScale(scale, sum);
    }
}
