// #use exp, quantize_lib, reduce
// Puts the blocks of attention together, then RMSNorm (if NORM) and quantization of each token's row. One workgroup per
// token; a thread meets the same numbers in each step, so that they may wait in memory without barriers.

struct Pass {
    tokens: u32,
    blocks: u32,
}

@group(0) @binding(0) var<uniform> batch: Pass;
@group(0) @binding(1) var<storage, read> tokens: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> part_values: array<vec2<f32>>;
@group(0) @binding(3) var<storage, read_write> part_stats: array<vec2<f32>>;
@group(0) @binding(4) var<storage, read> norm_weight: array<vec4<f32>>;
// [token, heads · head_dim], padded to tiles of 16.
@group(0) @binding(5) var<storage, read_write> attended: array<vec2<f32>>;
@group(0) @binding(6) var<storage, read_write> acts: array<u32>;
@group(0) @binding(7) var<storage, read_write> act_scales: array<ActScale>;

const TILES = Q_ROWS / 16u;

fn row4(start: u32, i: u32) -> vec4<f32> {
    return vec4<f32>(attended[start + 2u * i], attended[start + 2u * i + 1u]);
}

fn normed4(start: u32, i: u32, inverse: f32) -> vec4<f32> {
    let x = row4(start, i);
    if NORM {
        return norm_weight[i] * (x * inverse);
    }
    return x;
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) place: vec3<u32>, thread: Thread) {
    let token = place.x;
    let id = thread_id(thread);
    let blocks = tokens[token].y / 256u + 1u;
    let first = token * batch.blocks * HEADS;
    // The maximum of each block becomes the factor of its values.
    for (var head = id; head < HEADS; head += WG) {
        var largest = part_stats[first + head].x;
        for (var block = 1u; block < blocks; block++) {
            largest = max(largest, part_stats[first + block * HEADS + head].x);
        }
        var sum = 0.0;
        for (var block = 0u; block < blocks; block++) {
            let stats = part_stats[first + block * HEADS + head];
            let weight = exp_exact(stats.x - largest);
            part_stats[first + block * HEADS + head].x = weight;
            sum = fma(stats.y, weight, sum);
        }
        part_stats[first + head].y = sum;
    }
    storageBarrier();

    let start = token * TILES * 8u;
    var squares = 0.0;
    for (var i = id; i < TILES * 4u; i += WG) {
        for (var pair = 2u * i; pair < 2u * i + 2u; pair++) {
            var x = vec2<f32>(0.0);
            let head = pair / PAIRS;
            if head < HEADS {
                for (var block = 0u; block < blocks; block++) {
                    let part = first + block * HEADS + head;
                    let values = part_values[part * PAIRS + pair % PAIRS];
                    x = fma(values, vec2<f32>(part_stats[part].x), x);
                }
                x /= part_stats[first + head].y;
            }
            attended[start + pair] = x;
            squares += dot(x, x);
        }
    }
    var inverse = 1.0;
    if NORM {
        inverse = 1.0 / sqrt(wg_sum(thread, squares) / f32(HEADS * PAIRS * 2u) + EPS);
    }
    var largest = 0.0;
    for (var i = id; i < TILES * 4u; i += WG) {
        largest = max(largest, largest_of(normed4(start, i, inverse)));
    }
    let scale = act_scale(wg_max(thread, largest));
    var sum = 0;
    for (var i = id; i < TILES * 4u; i += WG) {
        let q = quantize4(normed4(start, i, inverse), scale);
        acts[token * TILES * 4u + i] = pack4xI8(q);
        sum += sum_of(q);
    }
    sum = wg_sum_int(thread, sum);
    if id == 0u {
        act_scales[token] = ActScale(scale, sum);
    }
}
