// #use linear, dot, quantize_lib, output
// Products of many tokens: 64 rows with 64 tokens per workgroup of 256 threads, 4 by 4 per thread. Weights are unpacked
// once per workgroup.

@group(0) @binding(2) var<storage, read> weights: array<u32>;
@group(0) @binding(3) var<storage, read> acts: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read> act_scales: array<ActScale>;

// Tiles of 16 columns that are in workgroup memory at a time.
const DEPTH = 4u;

// [tile, row], the rows of a thread 16 apart; the four words are the four fields.
var<workgroup> codes: array<vec4<u32>, 256>;
// [tile, token], likewise.
var<workgroup> operands: array<vec4<u32>, 256>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) place: vec3<u32>, @builtin(local_invocation_index) id: u32) {
    let first_group = place.x * 4u;
    let first_token = place.y * 64u;
    // What the thread loads: a word of a row, 16 bytes of a token.
    let load_row = id % 16u;
    let load_tile = id / 16u % 4u;
    let load_group = first_group + id / 64u;
    let code_at = load_tile * 64u + load_row % 4u * 16u + id / 64u * 4u + load_row / 4u;
    let load_token = first_token + id / 4u;
    let operand_at = id % 4u * 64u + id / 4u % 4u * 16u + id / 16u;
    // What it computes: rows 4 · (id % 16) and on, tokens 4 · (id / 16) and on.
    let row = id % 16u;
    let token = id / 16u;
    var sums: array<vec4<i32>, 4>;
    for (var start = 0u; start < linear.tiles; start += DEPTH) {
        var word = 0u;
        if load_group < linear.groups && start + load_tile < linear.tiles {
            word = weights[(load_group * linear.tiles + start + load_tile) * 16u + load_row];
        }
        codes[code_at] = vec4<u32>(word, word >> 2u, word >> 4u, word >> 6u) & vec4<u32>(0x03030303u);
        var act = vec4<u32>(0u);
        if load_token < batch.tokens && start + id % 4u < linear.tiles {
            act = acts[load_token * linear.tiles + start + id % 4u];
        }
        operands[operand_at] = act;
        workgroupBarrier();
        for (var tile = 0u; tile < DEPTH; tile++) {
            let at = tile * 64u + row;
            let c0 = codes[at];
            let c1 = codes[at + 16u];
            let c2 = codes[at + 32u];
            let c3 = codes[at + 48u];
            for (var i = 0u; i < 4u; i++) {
                let a = operands[tile * 64u + i * 16u + token];
                sums[i] += vec4<i32>(dot_tile(c0, a), dot_tile(c1, a), dot_tile(c2, a), dot_tile(c3, a));
            }
        }
        workgroupBarrier();
    }
    let group = first_group + row / 4u;
    if group >= linear.groups {
        return;
    }
    for (var i = 0u; i < 4u; i++) {
        let at = first_token + token * 4u + i;
        if at < batch.tokens {
            let by = act_scales[at];
            let out_row = (linear.first_group + group) * 16u + row % 4u * 4u;
            emit(at, out_row, vec4<f32>(sums[i] - vec4<i32>(by.sum)), by.scale);
        }
    }
}
