// #use question, search, order, exp, reduce
// The rows that may be among the best logits: those whose interval reaches a threshold. One workgroup of 256 threads per
// part of the vocabulary and output.

@group(0) @binding(0) var<uniform> vocabulary: Vocabulary;
@group(0) @binding(1) var<storage, read> intervals: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> tops: array<f32>;
@group(0) @binding(4) var<storage, read> classes: array<u32>;
// [output, part, SEGMENT], and what is known of the parts, [output, part].
@group(0) @binding(5) var<storage, read_write> candidates: array<u32>;
@group(0) @binding(6) var<storage, read_write> parts: array<Part>;

const CLASSES = 256u;

// Share of the weight that may be left to rows that are no candidates.
const SHARE = 1e-4;

var<workgroup> counts: array<u32, CLASSES>;
var<workgroup> last_class: u32;
var<workgroup> found: atomic<u32>;

// The class behind the last whose rows are candidates for their weight.
fn class_of_threshold() -> u32 {
    var weight = 0.0;
    var end = CLASSES;
    while end > 0u {
        weight += f32(counts[end - 1u]) * exp(-0.25 * f32(end - 1u));
        if weight > SHARE {
            break;
        }
        end--;
    }
    var rows = 0u;
    var affordable = 0u;
    while affordable < end {
        rows += counts[affordable];
        if rows > vocabulary.few {
            break;
        }
        affordable++;
    }
    return affordable;
}

// A weight relative to that of the threshold.
fn weight_of(logit: f32, threshold: f32, temperature: f32) -> f32 {
    return exp_exact(max(logit - threshold, -100.0 * temperature) / temperature);
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) place: vec3<u32>, thread: Thread) {
    let id = thread_id(thread);
    let output = place.y;
    if id == 0u {
        atomicStore(&found, 0u);
    }
    // Each thread has a row that reaches the top of its groups: the count-th of the tops is a threshold.
    var own = NOTHING;
    for (var group = id; group < vocabulary.groups; group += WG) {
        own = max(own, tops[output * vocabulary.groups + group]);
    }
    let top = wg_max(thread, own);
    let own_key = order(own);
    let count = i32(asked[output * QUESTION + WANTED]);
    var key = 0u;
    for (var bit = 0x80000000u; bit > 0u; bit >>= 1u) {
        if wg_sum_int(thread, i32(own_key >= (key | bit))) >= count {
            key |= bit;
        }
    }
    var threshold = min(ordered(key), top - bitcast<f32>(asked[output * QUESTION + MARGIN]));
    let temperature = bitcast<f32>(asked[output * QUESTION + TEMPERATURE]);
    if temperature > 0.0 {
        var rows = 0u;
        for (var part = 0u; part < CHUNKS; part++) {
            rows += classes[(output * CHUNKS + part) * CLASSES + id];
        }
        counts[id] = rows;
        workgroupBarrier();
        if id == 0u {
            last_class = class_of_threshold();
        }
        workgroupBarrier();
        threshold = min(threshold, top - 0.25 * temperature * f32(last_class));
    }
    // A little more room, so that numbers that a temperature rounds to the same one are all there.
    threshold = max(threshold - abs(threshold) * (1.0 / 1048576.0) - 1e-30, -ANYTHING);

    let base = output * vocabulary.groups * 4u;
    let to = segment(output, place.x);
    let end = min((place.x + 1u) * vocabulary.part, vocabulary.groups) * 4u;
    var least = 0.0;
    var most = 0.0;
    for (var quad = place.x * vocabulary.part * 4u + id; quad < end; quad += WG) {
        let low = intervals[(base + quad) * 2u];
        let high = intervals[(base + quad) * 2u + 1u];
        for (var c = 0u; c < 4u; c++) {
            if high[c] >= threshold {
                let at = atomicAdd(&found, 1u);
                if at < SEGMENT {
                    candidates[to + at] = quad * 4u + c;
                }
            } else if temperature > 0.0 {
                least += weight_of(low[c], threshold, temperature);
                most += weight_of(high[c], threshold, temperature);
            }
        }
    }
    least = wg_sum(thread, least);
    most = wg_sum(thread, most);
    workgroupBarrier();
    if id == 0u {
        parts[output * (CHUNKS + 1u) + place.x] = Part(atomicLoad(&found), threshold, least, most);
    }
    if place.x == 0u {
        if id < asked_ids(output) {
            candidates[segment(output, CHUNKS) + id] = asked_id(output, id);
        }
        if id == 0u {
            parts[output * (CHUNKS + 1u) + CHUNKS] = Part(asked_ids(output), threshold, 0.0, 0.0);
        }
    }
}
