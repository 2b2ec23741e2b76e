// e^x as the CPU computes it (`sterna_cpu::math::exp`): reduction by ln 2 and a polynomial, right to 2e-7. The built-in
// function of some drivers is not good enough: an error of 1e-6 flips roundings of later activations.
fn exp_exact(x: f32) -> f32 {
    let clamped = clamp(x, -87.3, 88.7);
    let n = round(clamped * 1.4426950408889634);
    let r = fma(n, -1.4286068e-6, fma(n, -0.69314575, clamped));
    var p = 1.0 / 5040.0;
    p = fma(p, r, 1.0 / 720.0);
    p = fma(p, r, 1.0 / 120.0);
    p = fma(p, r, 1.0 / 24.0);
    p = fma(p, r, 1.0 / 6.0);
    p = fma(p, r, 0.5);
    p = fma(p, r, 1.0);
    p = fma(p, r, 1.0);
    // n reaches 128: 2^n in two factors.
    let split = i32(n) / 2;
    let low = bitcast<f32>(u32(split + 127) << 23u);
    let high = bitcast<f32>(u32(i32(n) - split + 127) << 23u);
    return select(p * low * high, 0.0, x < -87.3);
}
