// #use kv, exp, reduce
// Attention of few tokens: one workgroup of 256 threads per block of 256 positions, GROUP query heads of one key-value
// head, and token. Each writes its weighted values, the maximum of its scores and the sum of its weights; `combine` puts
// the blocks together.

struct Pass {
    tokens: u32,
    blocks: u32,
}

@group(0) @binding(0) var<uniform> batch: Pass;
@group(0) @binding(1) var<storage, read> queries: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read> keys: array<Cached>;
@group(0) @binding(3) var<storage, read> values: array<Cached>;
@group(0) @binding(4) var<storage, read> tokens: array<vec4<u32>>;
@group(0) @binding(5) var<storage, read> pages: array<u32>;
// [token, block, head, pair]
@group(0) @binding(6) var<storage, read_write> part_values: array<vec2<f32>>;
// [token, block, head]: maximum, sum.
@group(0) @binding(7) var<storage, read_write> part_stats: array<vec2<f32>>;

const BLOCK = 256u;
// Threads that share a pair of a value, each with some of the positions.
const SHARES = BLOCK / PAIRS;

var<workgroup> query: array<vec2<f32>, GROUP * PAIRS>;
var<workgroup> weights: array<f32, GROUP * BLOCK>;
var<workgroup> sums: array<vec2<f32>, BLOCK>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) place: vec3<u32>, thread: Thread) {
    let token = place.z;
    let info = tokens[token];
    let first = place.x * BLOCK;
    if first > info.y {
        return;
    }
    let id = thread_id(thread);
    let count = min(BLOCK, info.y + 1u - first);
    let head = place.y * GROUP;
    let kv_head = head / (HEADS / KV_HEADS);
    for (var i = id; i < GROUP * PAIRS; i += WG) {
        query[i] = queries[token * (Q_ROWS / 2u) + head * PAIRS + i];
    }
    workgroupBarrier();

    var scores: array<f32, GROUP>;
    let page_of = info.z + first / PAGE;
    if id < count {
        let start = key_at(pages[page_of + id / PAGE], kv_head, 0u, id % PAGE);
        for (var pair = 0u; pair < PAIRS; pair++) {
            let key = from_cache(keys[start + pair * PAGE]);
            for (var g = 0u; g < GROUP; g++) {
                let q = query[g * PAIRS + pair];
                scores[g] = fma(q.y, key.y, fma(q.x, key.x, scores[g]));
            }
        }
    }
    let stats = (token * batch.blocks + place.x) * HEADS + head;
    for (var g = 0u; g < GROUP; g++) {
        let score = select(-3e38, scores[g] * SCORE_SCALE, id < count);
        let largest = wg_max(thread, score);
        let weight = select(0.0, exp_exact(score - largest), id < count);
        let sum = wg_sum(thread, weight);
        weights[g * BLOCK + id] = weight;
        if id == 0u {
            part_stats[stats + g] = vec2<f32>(largest, sum);
        }
    }
    workgroupBarrier();

    let share = id / PAIRS;
    let pair = id % PAIRS;
    var total: array<vec2<f32>, GROUP>;
    if share < SHARES {
        for (var position = share; position < count; position += SHARES) {
            let value = from_cache(values[value_at(pages[page_of + position / PAGE], kv_head, position % PAGE, pair)]);
            for (var g = 0u; g < GROUP; g++) {
                total[g] = fma(vec2<f32>(weights[g * BLOCK + position]), value, total[g]);
            }
        }
    }
    for (var g = 0u; g < GROUP; g++) {
        workgroupBarrier();
        sums[id] = total[g];
        workgroupBarrier();
        if id < PAIRS {
            var all = sums[id];
            for (var i = 1u; i < SHARES; i++) {
                all += sums[i * PAIRS + id];
            }
            part_values[(stats + g) * PAIRS + id] = all;
        }
    }
}
