// #use question, order, exp, reduce
// The KEEP best logits of each of CHUNKS parts of the vocabulary, and the weight of the others: what sampling needs to
// know. One workgroup of 256 threads per part and output.
//
// An output's entry in `found`: for each part KEEP pairs of id and logit (bits), the best first, then the weight of the
// part's other logits relative to the last of the pairs, then whether a logit is not a number; behind the parts the
// logits that were asked for by id.

struct Vocabulary {
    size: u32,
    // Numbers in a part.
    part: u32,
}

@group(0) @binding(0) var<uniform> vocabulary: Vocabulary;
@group(0) @binding(1) var<storage, read> logits: array<f32>;
@group(0) @binding(3) var<storage, read_write> found: array<u32>;

const ENTRY = 2u * KEEP + 2u;
const FOUND = CHUNKS * ENTRY + ASKED;

var<workgroup> best_keys: array<u32, 256>;
var<workgroup> best_ids: array<u32, 256>;

// Whether a is in front of b: larger, or the same with the lower id.
fn is_before(key_a: u32, id_a: u32, key_b: u32, id_b: u32) -> bool {
    return key_a > key_b || (key_a == key_b && id_a < id_b);
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) place: vec3<u32>, thread: Thread) {
    let id = thread_id(thread);
    let base = place.y * vocabulary.size;
    let first = min(place.x * vocabulary.part, vocabulary.size);
    let end = min(first + vocabulary.part, vocabulary.size);
    let entry = place.y * FOUND + place.x * ENTRY;

    var bad = 0;
    for (var i = first + id; i < end; i += WG) {
        if is_nan(logits[base + i]) {
            bad = 1;
        }
    }
    bad = wg_sum_int(thread, bad);

    // The last one that was found: all that are behind it are still to come.
    var last_key = 0xffffffffu;
    var last_id = 0u;
    for (var k = 0u; k < KEEP; k++) {
        var key = 0u;
        var at = 0xffffffffu;
        for (var i = first + id; i < end; i += WG) {
            let own = order(logits[base + i]);
            if is_before(last_key, last_id, own, i) && is_before(own, i, key, at) {
                key = own;
                at = i;
            }
        }
        workgroupBarrier();
        best_keys[id] = key;
        best_ids[id] = at;
        workgroupBarrier();
        for (var width = WG / 2u; width > 0u; width /= 2u) {
            if id < width && is_before(best_keys[id + width], best_ids[id + width], best_keys[id], best_ids[id]) {
                best_keys[id] = best_keys[id + width];
                best_ids[id] = best_ids[id + width];
            }
            workgroupBarrier();
        }
        last_key = best_keys[0];
        last_id = best_ids[0];
        if id == 0u {
            found[entry + 2u * k] = last_id;
            // A part may have fewer: then there is no id.
            found[entry + 2u * k + 1u] = bitcast<u32>(logits[base + min(last_id, vocabulary.size - 1u)]);
        }
    }

    var weight = 0.0;
    let temperature = bitcast<f32>(asked[place.y * QUESTION + TEMPERATURE]);
    if temperature > 0.0 && last_key > 0u {
        let last = logits[base + last_id];
        for (var i = first + id; i < end; i += WG) {
            let logit = logits[base + i];
            if is_before(last_key, last_id, order(logit), i) {
                weight += exp_exact((logit - last) / temperature);
            }
        }
    }
    weight = wg_sum(thread, weight);
    if id == 0u {
        found[entry + 2u * KEEP] = bitcast<u32>(weight);
        found[entry + 2u * KEEP + 1u] = u32(bad);
    }
    if place.x == 0u && id < asked_ids(place.y) {
        found[place.y * FOUND + CHUNKS * ENTRY + id] = bitcast<u32>(logits[base + asked_id(place.y, id)]);
    }
}
