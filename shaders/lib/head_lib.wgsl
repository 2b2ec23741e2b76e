// #use outputs, rows
// Rows of the vocabulary matrix times inputs. A logit is the same bits whichever kernel computes it: each thread makes
// one chain of explicit multiply-adds of a row, which leaves compilers nothing to choose, and the threads are as many.

struct Rows {
    // Rows in this buffer, and the number of the first.
    rows: u32,
    first: u32,
    // Distance between rows in 16 bytes.
    row_stride: u32,
    vocab: u32,
}

@group(0) @binding(0) var<uniform> matrix: Rows;
@group(0) @binding(2) var<storage, read> rows: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> inputs: array<vec4<f32>>;

fn with_product(sum: f32, row: vec4<f32>, x: vec4<f32>) -> f32 {
    return fma(row.w, x.w, fma(row.z, x.z, fma(row.y, x.y, fma(row.x, x.x, sum))));
}

// Adds a thread's share of the products of four rows of this buffer with TOKENS inputs. Of a row beyond the last, the
// products are those of the last.
fn add_products(id: u32, places: vec4<u32>, first: u32, sums: ptr<function, array<vec4<f32>, TOKENS>>) {
    let starts = min(places, vec4<u32>(matrix.rows - 1u)) * matrix.row_stride;
    for (var i = id; i < matrix.row_stride; i += WG) {
        let words = array<vec4<u32>, 4>(rows[starts.x + i], rows[starts.y + i], rows[starts.z + i], rows[starts.w + i]);
        for (var part = 0u; part < ROW_PARTS; part++) {
            for (var token = 0u; token < TOKENS; token++) {
                let x = inputs[(first + token) * HIDDEN_TILES * 4u + i * ROW_PARTS + part];
                let sum = (*sums)[token];
                (*sums)[token] = vec4<f32>(
                    with_product(sum.x, row_values(words[0], part), x),
                    with_product(sum.y, row_values(words[1], part), x),
                    with_product(sum.z, row_values(words[2], part), x),
                    with_product(sum.w, row_values(words[3], part), x),
                );
            }
        }
    }
}
