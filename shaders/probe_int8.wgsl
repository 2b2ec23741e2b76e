// #use dot
// Products of bytes in registers, as fast as the device can: chains of products that need each other's results, so that none
// can be left out, and enough of them to hide the latency of each. The buffer says how many rounds.

@group(0) @binding(0) var<storage, read> rounds: array<u32>;
@group(0) @binding(1) var<storage, read_write> sums: array<u32>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) id: u32) {
    let first = vec4<u32>(id, id + 1u, id + 2u, id + 3u);
    var a = vec4<i32>(first);
    var b = vec4<i32>(first + 4u);
    let acts = rounds[1];
    for (var round = 0u; round < rounds[0]; round++) {
        a += dot_rows(bitcast<vec4<u32>>(a), acts);
        b += dot_rows(bitcast<vec4<u32>>(b), acts);
    }
    let all = a + b;
    sums[group.x * WG + id] = bitcast<u32>(all.x + all.y + all.z + all.w);
}
