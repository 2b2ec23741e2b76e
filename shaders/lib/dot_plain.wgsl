// Products of codes (0, 1, 2) or of any bytes with int8 activations, byte by byte.

fn dot_rows(codes: vec4<u32>, acts: u32) -> vec4<i32> {
    // Columns are bytes: the codes of one column of all four rows at a time.
    let a = bitcast<i32>(acts);
    let mask = vec4<u32>(255u);
    return vec4<i32>(codes & mask) * vec4<i32>((a << 24u) >> 24u)
        + vec4<i32>((codes >> vec4<u32>(8u)) & mask) * vec4<i32>((a << 16u) >> 24u)
        + vec4<i32>((codes >> vec4<u32>(16u)) & mask) * vec4<i32>((a << 8u) >> 24u)
        + vec4<i32>(codes >> vec4<u32>(24u)) * vec4<i32>(a >> 24u);
}

fn dot_tile(codes: vec4<u32>, acts: vec4<u32>) -> i32 {
    let a = bitcast<vec4<i32>>(acts);
    let mask = vec4<u32>(255u);
    let by = vec4<u32>(24u);
    let sums = vec4<i32>(codes & mask) * ((a << by) >> by)
        + vec4<i32>((codes >> vec4<u32>(8u)) & mask) * ((a << vec4<u32>(16u)) >> by)
        + vec4<i32>((codes >> vec4<u32>(16u)) & mask) * ((a << vec4<u32>(8u)) >> by)
        + vec4<i32>(codes >> by) * (a >> by);
    return sums.x + sums.y + sums.z + sums.w;
}

// Four signed bytes of each of four rows with four activations.
fn dot_signed(bytes: vec4<u32>, acts: u32) -> vec4<i32> {
    let a = bitcast<i32>(acts);
    let b = bitcast<vec4<i32>>(bytes);
    let by = vec4<u32>(24u);
    return ((b << by) >> by) * vec4<i32>((a << 24u) >> 24u)
        + ((b << vec4<u32>(16u)) >> by) * vec4<i32>((a << 16u) >> 24u)
        + ((b << vec4<u32>(8u)) >> by) * vec4<i32>((a << 8u) >> 24u)
        + (b >> by) * vec4<i32>(a >> 24u);
}
