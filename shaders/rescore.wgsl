// #use head_lib, search, reduce
// The exact logits of the candidates. TAKERS workgroups per part of the vocabulary, and one such part per output, take
// turns with its candidates, four at a time; those whose rows are in another buffer of the matrix are left to the
// dispatch for that one.

@group(0) @binding(4) var<storage, read> candidates: array<vec4<u32>>;
@group(0) @binding(5) var<storage, read> parts: array<Part>;
@group(0) @binding(6) var<storage, read_write> exact: array<f32>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) place: vec3<u32>, thread: Thread) {
    let id = thread_id(thread);
    let part = place.x / TAKERS;
    let to = segment(place.z, part);
    let found = parts[place.z * (CHUNKS + 1u) + part].count;
    // With too many, all logits will be asked for.
    let count = select(found, 0u, found > SEGMENT);
    for (var i = place.x % TAKERS * 4u; i < count; i += TAKERS * 4u) {
        let places = candidates[(to + i) / 4u] - vec4<u32>(matrix.first);
        if all(places >= vec4<u32>(matrix.rows)) {
            continue;
        }
        var sums: array<vec4<f32>, TOKENS>;
        add_products(id, places, outputs.first + place.z, &sums);
        let total = wg_sum4(thread, sums[0]);
        if id < 4u && places[id] < matrix.rows {
            exact[to + i + id] = total[id];
        }
    }
}
