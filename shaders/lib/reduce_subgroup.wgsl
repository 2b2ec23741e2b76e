// Sums and maxima over a workgroup: within subgroups first, of any size from 4, then over their results.

struct Thread {
    @builtin(subgroup_size) size: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(subgroup_invocation_id) lane: u32,
}

var<workgroup> reduce_floats: array<f32, WG / 4u>;
var<workgroup> reduce_ints: array<i32, WG / 4u>;
var<workgroup> reduce_rows: array<vec4<i32>, WG>;

// Threads are numbered along the subgroups: lane i of a subgroup is thread i modulo its size by construction.
fn thread_id(thread: Thread) -> u32 {
    return thread.subgroup * thread.size + thread.lane;
}

fn wg_sum(thread: Thread, value: f32) -> f32 {
    let own = subgroupAdd(value);
    workgroupBarrier();
    if thread.lane == 0u {
        reduce_floats[thread.subgroup] = own;
    }
    workgroupBarrier();
    var total = 0.0;
    for (var i = 0u; i < WG / thread.size; i++) {
        total += reduce_floats[i];
    }
    return total;
}

fn wg_max(thread: Thread, value: f32) -> f32 {
    let own = subgroupMax(value);
    workgroupBarrier();
    if thread.lane == 0u {
        reduce_floats[thread.subgroup] = own;
    }
    workgroupBarrier();
    var largest = reduce_floats[0];
    for (var i = 1u; i < WG / thread.size; i++) {
        largest = max(largest, reduce_floats[i]);
    }
    return largest;
}

fn wg_sum_int(thread: Thread, value: i32) -> i32 {
    let own = subgroupAdd(value);
    workgroupBarrier();
    if thread.lane == 0u {
        reduce_ints[thread.subgroup] = own;
    }
    workgroupBarrier();
    var total = 0;
    for (var i = 0u; i < WG / thread.size; i++) {
        total += reduce_ints[i];
    }
    return total;
}

// The sum over all threads whose number is the same modulo 4; the first four threads get theirs.
fn sum_of_quads(thread: Thread, value: vec4<i32>) -> vec4<i32> {
    var own = value;
    for (var mask = 4u; mask < thread.size; mask *= 2u) {
        own += subgroupShuffleXor(own, mask);
    }
    workgroupBarrier();
    if thread.lane < 4u {
        reduce_rows[thread.subgroup * 4u + thread.lane] = own;
    }
    workgroupBarrier();
    var total = vec4<i32>(0);
    for (var i = thread_id(thread) & 3u; i < WG / thread.size * 4u; i += 4u) {
        total += reduce_rows[i];
    }
    return total;
}

var<workgroup> reduce_fours: array<vec4<f32>, WG / 4u>;

fn wg_sum4(thread: Thread, value: vec4<f32>) -> vec4<f32> {
    let own = vec4<f32>(subgroupAdd(value.x), subgroupAdd(value.y), subgroupAdd(value.z), subgroupAdd(value.w));
    workgroupBarrier();
    if thread.lane == 0u {
        reduce_fours[thread.subgroup] = own;
    }
    workgroupBarrier();
    var total = vec4<f32>(0.0);
    for (var i = 0u; i < WG / thread.size; i++) {
        total += reduce_fours[i];
    }
    return total;
}
