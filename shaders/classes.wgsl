// #use question, search, reduce
// How many logits may be how far below the best: for outputs with a temperature, whose candidates are to have nearly all
// of the weight. One workgroup of 256 threads per part of the vocabulary and output.

@group(0) @binding(0) var<uniform> vocabulary: Vocabulary;
@group(0) @binding(1) var<storage, read> intervals: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> tops: array<f32>;
// [output, part, class]: a class is a quarter of the temperature wide.
@group(0) @binding(4) var<storage, read_write> classes: array<u32>;

const CLASSES = 256u;

var<workgroup> counts: array<atomic<u32>, CLASSES>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) place: vec3<u32>, thread: Thread) {
    let id = thread_id(thread);
    let temperature = bitcast<f32>(asked[place.y * QUESTION + TEMPERATURE]);
    if temperature <= 0.0 {
        return;
    }
    atomicStore(&counts[id], 0u);
    var own = NOTHING;
    for (var group = id; group < vocabulary.groups; group += WG) {
        own = max(own, tops[place.y * vocabulary.groups + group]);
    }
    let top = wg_max(thread, own);
    let width = 0.25 * temperature;
    let base = place.y * vocabulary.groups * 4u;
    let end = min((place.x + 1u) * vocabulary.part, vocabulary.groups) * 4u;
    for (var quad = place.x * vocabulary.part * 4u + id; quad < end; quad += WG) {
        let below = clamp(vec4<f32>(top) - intervals[(base + quad) * 2u + 1u], vec4<f32>(0.0), vec4<f32>(300.0 * width));
        let class_of = min(vec4<u32>(below / width), vec4<u32>(CLASSES - 1u));
        for (var c = 0u; c < 4u; c++) {
            atomicAdd(&counts[class_of[c]], 1u);
        }
    }
    workgroupBarrier();
    classes[(place.y * CHUNKS + place.x) * CLASSES + id] = atomicLoad(&counts[id]);
}
