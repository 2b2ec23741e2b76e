// Sums and maxima over a workgroup through its memory. All threads must call them, and all get the result.

struct Thread {
    @builtin(local_invocation_index) index: u32,
}

var<workgroup> reduce_floats: array<f32, WG>;
var<workgroup> reduce_ints: array<i32, WG>;
var<workgroup> reduce_rows: array<vec4<i32>, WG>;

fn thread_id(thread: Thread) -> u32 {
    return thread.index;
}

fn wg_sum(thread: Thread, value: f32) -> f32 {
    workgroupBarrier();
    reduce_floats[thread.index] = value;
    workgroupBarrier();
    for (var width = WG / 2u; width > 0u; width /= 2u) {
        if thread.index < width {
            reduce_floats[thread.index] += reduce_floats[thread.index + width];
        }
        workgroupBarrier();
    }
    return reduce_floats[0];
}

fn wg_max(thread: Thread, value: f32) -> f32 {
    workgroupBarrier();
    reduce_floats[thread.index] = value;
    workgroupBarrier();
    for (var width = WG / 2u; width > 0u; width /= 2u) {
        if thread.index < width {
            reduce_floats[thread.index] = max(reduce_floats[thread.index], reduce_floats[thread.index + width]);
        }
        workgroupBarrier();
    }
    return reduce_floats[0];
}

fn wg_sum_int(thread: Thread, value: i32) -> i32 {
    workgroupBarrier();
    reduce_ints[thread.index] = value;
    workgroupBarrier();
    for (var width = WG / 2u; width > 0u; width /= 2u) {
        if thread.index < width {
            reduce_ints[thread.index] += reduce_ints[thread.index + width];
        }
        workgroupBarrier();
    }
    return reduce_ints[0];
}

// The sum over all threads whose number is the same modulo 4; the first four threads get theirs.
fn sum_of_quads(thread: Thread, value: vec4<i32>) -> vec4<i32> {
    workgroupBarrier();
    reduce_rows[thread.index] = value;
    workgroupBarrier();
    for (var width = WG / 2u; width > 2u; width /= 2u) {
        if thread.index < width {
            reduce_rows[thread.index] += reduce_rows[thread.index + width];
        }
        workgroupBarrier();
    }
    return reduce_rows[thread.index & 3u];
}

var<workgroup> reduce_fours: array<vec4<f32>, WG>;

fn wg_sum4(thread: Thread, value: vec4<f32>) -> vec4<f32> {
    workgroupBarrier();
    reduce_fours[thread.index] = value;
    workgroupBarrier();
    for (var width = WG / 2u; width > 0u; width /= 2u) {
        if thread.index < width {
            reduce_fours[thread.index] += reduce_fours[thread.index + width];
        }
        workgroupBarrier();
    }
    return reduce_fours[0];
}
