// Products of codes (0, 1, 2) or of any bytes with int8 activations by the packed dot product.

// Four codes of each of four rows with four activations.
fn dot_rows(codes: vec4<u32>, acts: u32) -> vec4<i32> {
    return vec4<i32>(
        dot4I8Packed(codes.x, acts),
        dot4I8Packed(codes.y, acts),
        dot4I8Packed(codes.z, acts),
        dot4I8Packed(codes.w, acts),
    );
}

// 16 codes of a row with 16 activations.
fn dot_tile(codes: vec4<u32>, acts: vec4<u32>) -> i32 {
    return dot4I8Packed(codes.x, acts.x) + dot4I8Packed(codes.y, acts.y)
        + dot4I8Packed(codes.z, acts.z) + dot4I8Packed(codes.w, acts.w);
}

// Four signed bytes of each of four rows with four activations.
fn dot_signed(bytes: vec4<u32>, acts: u32) -> vec4<i32> {
    return dot_rows(bytes, acts);
}
