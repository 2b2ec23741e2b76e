// #use normed, rounded
// The norm in front of the head, of the rows whose logits are wanted, and the same numbers in 16 bits, with what bounds
// the error of their products. One workgroup per output.

@group(0) @binding(0) var<storage, read> source: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> norm_weight: array<vec4<f32>>;
// Row of the hidden state, and where its normalised numbers go.
@group(0) @binding(2) var<storage, read> wanted: array<vec2<u32>>;
@group(0) @binding(3) var<storage, read_write> inputs: array<vec4<f32>>;
// The upper and the lower bytes of four numbers: x = 256 · upper + lower, both from -128 to 127.
@group(0) @binding(4) var<storage, read_write> planes: array<vec2<u32>>;
@group(0) @binding(5) var<storage, read_write> rounded: array<Rounded>;

// 256 · 127 + 127.
const LIMIT = 32639.0;

// What single precision may take away from a logit, relative to ‖w‖ ‖x‖: steps of a thread and of the sum over threads,
// each within 2^-23 even where a device rounds carelessly; twice that for good measure.
const GAMMA = f32(HIDDEN / 128u + 140u) / 4194304.0;

// For the rounding of the sums here, which have less than a thousand steps.
const SLACK = 1.0001;

// Four bytes of a word.
fn packed(x: vec4<i32>) -> u32 {
    let bytes = bitcast<vec4<u32>>(x) & vec4<u32>(255u);
    return bytes.x | (bytes.y << 8u) | (bytes.z << 16u) | (bytes.w << 24u);
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) place: vec3<u32>, thread: Thread) {
    let output = wanted[place.x];
    let start = output.x * HIDDEN_TILES * 4u;
    let to = output.y * HIDDEN_TILES * 4u;
    let id = thread_id(thread);
    let inverse = inverse_rms(thread, start, HIDDEN_TILES, HIDDEN);
    var own_largest = 0.0;
    var squares = 0.0;
    for (var i = id; i < HIDDEN_TILES * 4u; i += WG) {
        let x = normed(start, i, inverse);
        inputs[to + i] = x;
        own_largest = max(own_largest, largest_of(x));
        squares += dot(x, x);
    }
    let largest = wg_max(thread, own_largest);
    let square = wg_sum(thread, squares);
    let length = sqrt(square);

    // Splits at 1, 2, 4 and 8 times the root mean square.
    let thresholds = vec4<f32>(1.0, 2.0, 4.0, 8.0) * (length / sqrt(f32(HIDDEN)));
    let scale = max(largest, 1e-15) / LIMIT;
    let by = 1.0 / scale;
    var rest = 0.0;
    var large = vec4<f32>(0.0);
    var small = vec4<f32>(0.0);
    for (var i = id; i < HIDDEN_TILES * 4u; i += WG) {
        let x = inputs[to + i];
        let whole = clamp(round(x * by), vec4<f32>(-LIMIT), vec4<f32>(LIMIT));
        let d = fma(-whole, vec4<f32>(scale), x);
        rest += dot(d, d);
        let words = vec4<i32>(whole);
        let upper = (words + 128) >> vec4<u32>(8u);
        planes[to + i] = vec2<u32>(packed(upper), packed(words - upper * 256));
        for (var c = 0u; c < 4u; c++) {
            let size = abs(x[c]);
            let is_large = vec4<f32>(size) >= thresholds;
            large += select(vec4<f32>(0.0), vec4<f32>(size), is_large);
            small += select(vec4<f32>(size * size), vec4<f32>(0.0), is_large);
        }
    }
    rest = wg_sum(thread, rest);
    large = wg_sum4(thread, large);
    small = wg_sum4(thread, small);
    if id == 0u {
        // Of the splits, that which bounds a row best whose errors are spread evenly.
        let root = sqrt(f32(HIDDEN) / 3.0);
        var worst = 0.0;
        var error = length;
        for (var c = 0u; c < 4u; c++) {
            let others = sqrt(small[c]);
            if large[c] + others * root < worst + error * root {
                worst = large[c];
                error = others;
            }
        }
        // A sum that is no number has an exponent of all ones.
        let finite = (bitcast<u32>(square) & 0x7f800000u) != 0x7f800000u;
        // d may be off by the rounding of a product. The smallest terms are for numbers that a device takes for 0.
        rounded[output.y] = Rounded(
            scale,
            (error + GAMMA * length) * SLACK + 1e-30,
            worst * SLACK,
            (sqrt(rest) + (GAMMA + 1.0 / 2097152.0) * length) * SLACK + 1e-30,
            1e-25 + length * 1e-30,
            u32(finite && largest >= 1e-15 && largest <= 1e15),
        );
    }
}
