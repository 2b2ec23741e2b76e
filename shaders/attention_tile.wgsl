// #use kv, exp
// Attention of many tokens: one workgroup of 256 threads per tile of ROWS rows (some adjacent tokens of a sequence, GROUP
// query heads of a key-value head each), page by page with the online softmax (arXiv 1805.02867).

@group(0) @binding(0) var<storage, read> queries: array<vec2<f32>>;
@group(0) @binding(1) var<storage, read> keys: array<Cached>;
@group(0) @binding(2) var<storage, read> values: array<Cached>;
// First token, tokens, position of the first, first entry of the pages.
@group(0) @binding(3) var<storage, read> tiles: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read> pages: array<u32>;
// [token, heads · head_dim], padded to tiles of 16.
@group(0) @binding(5) var<storage, read_write> attended: array<vec2<f32>>;

// Rows of a thread, of which there are four sets; threads of a row when it is reduced, and positions of each.
const OWN = ROWS / 4u;
const TEAM = 256u / ROWS;
const OF_TEAM = PAGE / TEAM;
// Pairs of a value that a thread has.
const OWN_PAIRS = (PAIRS + 63u) / 64u;

var<workgroup> query: array<vec2<f32>, ROWS * PAIRS>;
var<workgroup> scores: array<f32, ROWS * PAGE>;
var<workgroup> maxima: array<f32, 256>;
var<workgroup> shrink: array<f32, ROWS>;

// The token of a row within the tile; rows beyond the last are copies of it that nobody writes.
fn token_of(row: u32, count: u32) -> u32 {
    return min(row / GROUP, count - 1u);
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) place: vec3<u32>, @builtin(local_invocation_index) id: u32) {
    let tile = tiles[place.x];
    let head = place.y * GROUP;
    let kv_head = head / (HEADS / KV_HEADS);
    for (var i = id; i < ROWS * PAIRS; i += 256u) {
        let row = i / PAIRS;
        let token = tile.x + token_of(row, tile.y);
        query[i] = queries[token * (Q_ROWS / 2u) + (head + row % GROUP) * PAIRS + i % PAIRS];
    }
    let slot = id % 64u;
    let own = id / 64u * OWN;
    let team_row = id / TEAM;
    let team_slot = id % TEAM * OF_TEAM;
    var largest = -3e38;
    var total: array<vec2<f32>, OWN * OWN_PAIRS>;
    var sums: array<f32, OWN>;
    let seen = tile.z + tile.y;
    for (var first = 0u; first < seen; first += PAGE) {
        let page = pages[tile.w + first / PAGE];
        workgroupBarrier();
        var own_scores: array<f32, OWN>;
        let start = key_at(page, kv_head, 0u, slot);
        for (var pair = 0u; pair < PAIRS; pair++) {
            let key = from_cache(keys[start + pair * PAGE]);
            for (var r = 0u; r < OWN; r++) {
                let q = query[(own + r) * PAIRS + pair];
                own_scores[r] = fma(q.y, key.y, fma(q.x, key.x, own_scores[r]));
            }
        }
        for (var r = 0u; r < OWN; r++) {
            let visible = first + slot <= tile.z + token_of(own + r, tile.y);
            scores[(own + r) * PAGE + slot] = select(-3e38, own_scores[r] * SCORE_SCALE, visible);
        }
        workgroupBarrier();
        var own_largest = -3e38;
        for (var i = 0u; i < OF_TEAM; i++) {
            own_largest = max(own_largest, scores[team_row * PAGE + team_slot + i]);
        }
        maxima[id] = own_largest;
        workgroupBarrier();
        let before = largest;
        for (var i = 0u; i < TEAM; i++) {
            largest = max(largest, maxima[team_row * TEAM + i]);
        }
        for (var i = 0u; i < OF_TEAM; i++) {
            let at = team_row * PAGE + team_slot + i;
            scores[at] = exp_exact(scores[at] - largest);
        }
        if team_slot == 0u {
            shrink[team_row] = exp_exact(before - largest);
        }
        workgroupBarrier();
        for (var r = 0u; r < OWN; r++) {
            sums[r] *= shrink[own + r];
            for (var p = 0u; p < OWN_PAIRS; p++) {
                total[r * OWN_PAIRS + p] *= shrink[own + r];
            }
        }
        let count = min(PAGE, seen - first);
        for (var position = 0u; position < count; position++) {
            for (var p = 0u; p < OWN_PAIRS; p++) {
                let pair = min(slot + p * 64u, PAIRS - 1u);
                let value = from_cache(values[value_at(page, kv_head, position, pair)]);
                for (var r = 0u; r < OWN; r++) {
                    let weight = scores[(own + r) * PAGE + position];
                    total[r * OWN_PAIRS + p] = fma(vec2<f32>(weight), value, total[r * OWN_PAIRS + p]);
                }
            }
            for (var r = 0u; r < OWN; r++) {
                sums[r] += scores[(own + r) * PAGE + position];
            }
        }
    }
    for (var r = 0u; r < OWN; r++) {
        let row = own + r;
        let token = row / GROUP;
        if token < tile.y {
            for (var p = 0u; p < OWN_PAIRS; p++) {
                let pair = slot + p * 64u;
                if pair < PAIRS {
                    let at = (tile.x + token) * (Q_ROWS / 2u) + (head + row % GROUP) * PAIRS + pair;
                    attended[at] = total[r * OWN_PAIRS + p] / sums[r];
                }
            }
        }
    }
}
