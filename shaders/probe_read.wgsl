// Reads all of a buffer once, as fast as the device can: each workgroup a piece of its own, in order.

@group(0) @binding(0) var<storage, read> data: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read_write> mixed: array<u32>;

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) id: u32,
) {
    let piece = arrayLength(&data) / groups.x;
    let end = (group.x + 1u) * piece;
    var a = vec4<u32>();
    var b = vec4<u32>();
    var c = vec4<u32>();
    var d = vec4<u32>();
    for (var at = group.x * piece + id; at < end; at += 4u * WG) {
        a ^= data[at];
        b ^= data[at + WG];
        c ^= data[at + 2u * WG];
        d ^= data[at + 3u * WG];
    }
    let all = a ^ b ^ c ^ d;
    mixed[group.x * WG + id] = all.x ^ all.y ^ all.z ^ all.w;
}
