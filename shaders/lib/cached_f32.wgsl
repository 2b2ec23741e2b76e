// Pairs of the key-value cache in single precision.

alias Cached = vec2<f32>;

fn from_cache(pair: Cached) -> vec2<f32> {
    return pair;
}

fn to_cache(pair: vec2<f32>) -> Cached {
    return pair;
}
