// #use question, search, order, exp, reduce
// What is told of the candidates: the best of them, and the weight of the others. One workgroup of 256 threads per
// output; a thread has a candidate of each part.
//
// An output's answer: whether there was no room for all candidates or a logit is not a number, the number of pairs, the
// number of rows that were multiplied; what logits that are no candidates are below, and bounds of their weight relative
// to that; the largest candidate that is left out, and the weight of those relative to it; the logits that were asked
// for; pairs of id and logit.

@group(0) @binding(0) var<storage, read> candidates: array<u32>;
@group(0) @binding(1) var<storage, read> parts: array<Part>;
@group(0) @binding(3) var<storage, read> exact: array<f32>;
@group(0) @binding(4) var<storage, read_write> answers: array<u32>;

const ANSWER_HEAD = 8u;
const ANSWER = ANSWER_HEAD + ASKED + 2u * TOLD;

var<workgroup> told: atomic<u32>;
var<workgroup> is_cut: u32;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) place: vec3<u32>, thread: Thread) {
    let id = thread_id(thread);
    let output = place.x;
    let temperature = bitcast<f32>(asked[output * QUESTION + TEMPERATURE]);
    let start = output * (CHUNKS + 1u);
    if id == 0u {
        atomicStore(&told, 0u);
    }
    var total = 0u;
    var bad = 0;
    for (var part = 0u; part <= CHUNKS; part++) {
        let count = parts[start + part].count;
        total += count;
        if count > SEGMENT || (id < count && is_nan(exact[segment(output, part) + id])) {
            bad = 1;
        }
    }
    bad = wg_sum_int(thread, bad);

    // Candidates above this are told.
    var key = 0u;
    if id == 0u {
        is_cut = u32(bad == 0 && total - parts[start + CHUNKS].count > TOLD);
    }
    if workgroupUniformLoad(&is_cut) != 0u {
        for (var bit = 0x80000000u; bit > 0u; bit >>= 1u) {
            var own = 0;
            for (var part = 0u; part < CHUNKS; part++) {
                if id < parts[start + part].count && order(exact[segment(output, part) + id]) >= (key | bit) {
                    own += 1;
                }
            }
            if wg_sum_int(thread, own) >= i32(TOLD) {
                key |= bit;
            }
        }
    }
    let last = ordered(key);
    let to = output * ANSWER;
    var weight = 0.0;
    for (var part = 0u; part < CHUNKS; part++) {
        if bad == 0 && id < parts[start + part].count {
            let logit = exact[segment(output, part) + id];
            if order(logit) > key {
                let at = to + ANSWER_HEAD + ASKED + 2u * atomicAdd(&told, 1u);
                answers[at] = candidates[segment(output, part) + id];
                answers[at + 1u] = bitcast<u32>(logit);
            } else if temperature > 0.0 {
                weight += exp_exact(max(logit - last, -100.0 * temperature) / temperature);
            }
        }
    }
    weight = wg_sum(thread, weight);
    // There are more threads than parts.
    let own = parts[start + min(id, CHUNKS)];
    let least = wg_sum(thread, select(0.0, own.least, id < CHUNKS));
    let most = wg_sum(thread, select(0.0, own.most, id < CHUNKS));
    workgroupBarrier();
    if id == 0u {
        answers[to] = u32(bad != 0);
        answers[to + 1u] = atomicLoad(&told);
        answers[to + 2u] = total;
        answers[to + 3u] = bitcast<u32>(own.threshold);
        answers[to + 4u] = bitcast<u32>(least);
        answers[to + 5u] = bitcast<u32>(most);
        answers[to + 6u] = select(bitcast<u32>(last), 0u, key == 0u);
        answers[to + 7u] = bitcast<u32>(weight);
    }
    if id < ASKED {
        answers[to + ANSWER_HEAD + id] = bitcast<u32>(exact[segment(output, CHUNKS) + id]);
    }
}
