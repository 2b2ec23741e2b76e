// #use quantize_lib, reduce
// RMSNorm and quantization of a row that is read from memory three times (it stays in the nearest cache).

// 1 / sqrt(mean of squares + epsilon) of the row at `start`, `tiles` tiles of 16 numbers, `cols` of them not padding.
fn inverse_rms(thread: Thread, start: u32, tiles: u32, cols: u32) -> f32 {
    var squares = 0.0;
    for (var i = thread_id(thread); i < tiles * 4u; i += WG) {
        let x = source[start + i];
        squares += dot(x, x);
    }
    return 1.0 / sqrt(wg_sum(thread, squares) / f32(cols) + EPS);
}

// Four numbers of the row, normalised if there is a norm.
fn normed(start: u32, i: u32, inverse: f32) -> vec4<f32> {
    let x = source[start + i];
    if NORM {
        return norm_weight[i] * (x * inverse);
    }
    return x;
}

// 127 / absmax of the normalised row.
fn row_scale(thread: Thread, start: u32, tiles: u32, inverse: f32) -> f32 {
    var largest = 0.0;
    for (var i = thread_id(thread); i < tiles * 4u; i += WG) {
        largest = max(largest, largest_of(normed(start, i, inverse)));
    }
    return act_scale(wg_max(thread, largest));
}
