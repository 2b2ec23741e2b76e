// How an input of the head was rounded: x = x̂ + d, and a split of x into outliers x′ and the others x″.

struct Rounded {
    // x̂ is the numbers of 16 bits times this.
    scale: f32,
    // Factors of ‖e‖, max |e| and ‖ŵ‖ of a row w = ŵ + e, and what is added to their products.
    error: f32,
    worst: f32,
    norm: f32,
    tiny: f32,
    // Whether the bounds hold: not for numbers of extreme size.
    certain: u32,
}
