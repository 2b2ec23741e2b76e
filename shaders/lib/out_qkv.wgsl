// #use linear, kv
// Queries, keys and values: turns the first two by their position, writes the last two to the cache.
//
// Rows of queries and keys lie in rotary pairs: 2i and 2i + 1 are the elements i and i + half of a head.

@group(0) @binding(5) var<storage, read_write> queries: array<vec2<f32>>;
@group(0) @binding(6) var<storage, read_write> keys: array<Cached>;
@group(0) @binding(7) var<storage, read_write> values: array<Cached>;
// Token, position, first entry of its pages, and where in the cache it goes (page · 64 + slot).
@group(0) @binding(8) var<storage, read> tokens: array<vec4<u32>>;
// Cosine and sine for each token and pair.
@group(0) @binding(9) var<storage, read> rope: array<vec2<f32>>;

fn turned(token: u32, pair: u32, x: vec2<f32>) -> vec2<f32> {
    let turn = rope[token * PAIRS + pair % PAIRS];
    return vec2<f32>(fma(x.x, turn.x, -(x.y * turn.y)), fma(x.y, turn.x, x.x * turn.y));
}

fn emit_pair(token: u32, row: u32, sums: vec2<f32>, act_scale: f32) {
    if row < Q_ROWS {
        let pair = row / 2u;
        if pair < HEADS * PAIRS {
            let x = sums * (linear.scale.x / act_scale);
            queries[token * linear.stride + pair] = turned(token, pair, x);
        }
    } else if row < Q_ROWS + KV_ROWS {
        let pair = (row - Q_ROWS) / 2u;
        if pair < KV_HEADS * PAIRS {
            let x = sums * (linear.scale.y / act_scale);
            let place = tokens[token].w;
            keys[key_at(place / PAGE, pair / PAIRS, pair % PAIRS, place % PAGE)] = to_cache(turned(token, pair, x));
        }
    } else {
        let pair = (row - Q_ROWS - KV_ROWS) / 2u;
        if pair < KV_HEADS * PAIRS {
            let x = sums * (linear.scale.z / act_scale);
            let place = tokens[token].w;
            values[value_at(place / PAGE, pair / PAIRS, place % PAGE, pair % PAIRS)] = to_cache(x);
        }
    }
}

fn emit(token: u32, row: u32, sums: vec4<f32>, act_scale: f32) {
    emit_pair(token, row, sums.xy, act_scale);
    emit_pair(token, row + 2u, sums.zw, act_scale);
}
