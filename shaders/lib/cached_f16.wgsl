// Pairs of the key-value cache in half precision, two in a word: needs no feature of the device.

alias Cached = u32;

fn from_cache(pair: Cached) -> vec2<f32> {
    return unpack2x16float(pair);
}

// Half precision, ties to even, by integers: the rounding of the built-in function is not specified.
fn half_bits(x: f32) -> u32 {
    let bits = bitcast<u32>(x);
    let sign = (bits >> 16u) & 0x8000u;
    let magnitude = bits & 0x7fffffffu;
    if magnitude >= 0x47800000u {
        return sign | select(0x7c00u, 0x7e00u, magnitude > 0x7f800000u);
    }
    if magnitude < 0x38800000u {
        return sign | u32(round(abs(x) * 16777216.0));
    }
    let rebased = magnitude - 0x38000000u;
    return sign | ((rebased + 0xfffu + ((rebased >> 13u) & 1u)) >> 13u);
}

fn to_cache(pair: vec2<f32>) -> Cached {
    return half_bits(pair.x) | (half_bits(pair.y) << 16u);
}
