// #use head_lib, reduce
// Logits: rows of the vocabulary matrix times up to TOKENS inputs. One workgroup per four rows.

// [output, vocab], from the first.
@group(0) @binding(4) var<storage, read_write> logits: array<f32>;

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) place: vec3<u32>,
    @builtin(num_workgroups) places: vec3<u32>,
    thread: Thread,
) {
    let row = (place.y * places.x + place.x) * 4u;
    if row >= matrix.rows {
        return;
    }
    let id = thread_id(thread);
    // Inputs beyond the last are there, but nobody wants their products.
    let first = outputs.first + place.z * TOKENS;
    var sums: array<vec4<f32>, TOKENS>;
    add_products(id, vec4<u32>(row, row + 1u, row + 2u, row + 3u), first, &sums);
    for (var token = 0u; token < TOKENS; token++) {
        let total = wg_sum4(thread, sums[token]);
        if id < 4u && row + id < matrix.rows && first + token < outputs.end {
            logits[(place.z * TOKENS + token) * matrix.vocab + matrix.first + row + id] = total[id];
        }
    }
}
