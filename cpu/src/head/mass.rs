//! The weight of the rows that are not multiplied: what top-p sampling needs to know of them.

use super::interval::Intervals;
use crate::math::exp;

/// Share of the weight that may be left to the others. The weight of one token at the edge of a nucleus is typically
/// larger; where it is not, the exact head decides.
const SHARE: f64 = 1e-4;

/// Classes of logits by their distance from the best, in quarters of the temperature.
const CLASSES: usize = 256;

/// A floor such that the weights of the logits below it, compared with that of `top`, do not matter; at most about
/// `limit` rows are above it.
pub(super) fn floor(intervals: &Intervals, token: usize, temperature: f32, top: f32, limit: usize) -> f32 {
    let width = temperature * 0.25;
    let mut counts = [0usize; CLASSES];
    for (_, _, high) in intervals.parts(token) {
        for &high in high {
            // A float becomes the nearest integer that there is.
            counts[(((top - high) / width) as usize).min(CLASSES - 1)] += 1;
        }
    }
    // From the far end: as long as the others, each with the largest weight of its class, weigh little.
    let mut mass = 0.0;
    let mut class = CLASSES;
    while class > 0 {
        mass += counts[class - 1] as f64 * (-0.25 * (class - 1) as f64).exp();
        if mass > SHARE {
            break;
        }
        class -= 1;
    }
    // The weights of the candidates add up to more than that of the best.
    let mut sum = 0;
    let affordable = counts.iter().take_while(|&&count| {
        sum += count;
        sum <= limit
    });
    top - width * class.min(affordable.count()) as f32
}

/// Bounds of `Σ exp((logit - rest) / temperature)` over the rows that are not among `ids` (ascending).
pub(super) fn of_others(intervals: &Intervals, token: usize, temperature: f32, rest: f32, ids: &[u32]) -> (f64, f64) {
    let (mut least, mut most) = (0.0f64, 0.0f64);
    let mut ids = ids.iter().copied().peekable();
    for (first, low, high) in intervals.parts(token) {
        for (row, (&low, &high)) in low.iter().zip(high).enumerate() {
            if ids.next_if_eq(&((first + row) as u32)).is_some() {
                continue;
            }
            least += f64::from(exp((low - rest) / temperature));
            most += f64::from(exp((high.min(rest) - rest) / temperature));
        }
    }
    // The factor is for the canonical exponential and the rounding of its argument, the last term for what it takes as 0.
    let slack = 1e-4;
    (least * (1.0 - slack), most * (1.0 + slack) + 1e-30)
}
