// #use rows, reduce
// Logits: rows of the vocabulary matrix times up to TOKENS inputs. One workgroup per four rows.

struct Rows {
    // Rows in this buffer, and the number of the first.
    rows: u32,
    first: u32,
    // Distance between rows in 16 bytes.
    row_stride: u32,
    vocab: u32,
}

struct Outputs {
    // The first of the inputs, and the one behind the last.
    first: u32,
    end: u32,
}

@group(0) @binding(0) var<uniform> matrix: Rows;
@group(0) @binding(1) var<uniform> outputs: Outputs;
@group(0) @binding(2) var<storage, read> rows: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> inputs: array<vec4<f32>>;
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
    for (var i = id; i < matrix.row_stride; i += WG) {
        var words: array<vec4<u32>, 4>;
        for (var r = 0u; r < 4u; r++) {
            // Rows beyond the last are copies of it that nobody writes.
            words[r] = rows[min(row + r, matrix.rows - 1u) * matrix.row_stride + i];
        }
        for (var part = 0u; part < ROW_PARTS; part++) {
            for (var token = 0u; token < TOKENS; token++) {
                let x = inputs[(first + token) * HIDDEN_TILES * 4u + i * ROW_PARTS + part];
                sums[token] += vec4<f32>(
                    dot(row_values(words[0], part), x),
                    dot(row_values(words[1], part), x),
                    dot(row_values(words[2], part), x),
                    dot(row_values(words[3], part), x),
                );
            }
        }
    }
    for (var token = 0u; token < TOKENS; token++) {
        let total = wg_sum4(thread, sums[token]);
        if id < 4u && row + id < matrix.rows && first + token < outputs.end {
            logits[(place.z * TOKENS + token) * matrix.vocab + matrix.first + row + id] = total[id];
        }
    }
}
