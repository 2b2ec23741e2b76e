//! What the search by intervals can be asked, and what it answers.

use super::best::{SLACK, can_ask, keep};
use super::kernels::{ASKED, SEGMENT, TOLD};
use crate::backend::{Best, Candidates};

/// Words in front of the logits.
const HEAD: usize = 8;

/// Words of an answer. In bytes it stays below a page, 4 KB.
pub(super) const ANSWER: usize = HEAD + ASKED + 2 * TOLD;
const _: () = assert!(4 * ANSWER <= 4096 && ASKED <= SEGMENT);

/// Rows for each that is wanted, at least: the threshold is one of the best lower ends of 16 rows each, and there should
/// be more of those than are wanted.
const ROWS_OF_ONE: usize = 32;

/// Margins and temperatures beyond this may leave what single precision can say of them.
const EXTREME: f32 = 1e20;

/// Whether the search suits the question: few rows of `vocab` are wanted, and the kernels can be asked for them.
pub(super) fn can_search(best: &Best<'_>, vocab: usize) -> bool {
    can_ask(best)
        && best.is_few(vocab)
        && best.count * ROWS_OF_ONE <= vocab
        && best.also.iter().all(|&id| (id as usize) < vocab)
        && (0.0..EXTREME).contains(&best.margin)
        && best.temperature.is_none_or(|temperature| (1.0 / EXTREME..EXTREME).contains(&temperature))
}

/// Rows that were multiplied exactly.
pub(super) fn rows(answer: &[u32]) -> u64 {
    u64::from(answer[2])
}

/// The candidates in an answer; `false` if they were too many or a logit is not a number, and all logits are needed.
pub(super) fn candidates(answer: &[u32], best: &Best<'_>, out: &mut Candidates) -> bool {
    let (head, logits) = answer.split_at(HEAD);
    let (also, pairs) = logits.split_at(ASKED);
    let float = |i: usize| f32::from_bits(head[i]);
    let (is_bad, told, all) = (head[0] != 0, head[1] as usize, head[2] as usize);
    if is_bad {
        return false;
    }
    let (threshold, last) = (float(3), float(6));
    // What was left out is at most `last`; the next number is above all of that.
    let is_cut = told + best.also.len() < all;
    let rest = if is_cut { threshold.max(last.next_up()) } else { threshold };
    if rest == f32::INFINITY {
        return false;
    }
    let pairs = pairs.as_chunks::<2>().0[..told].iter().map(|&[id, bits]| (id, f32::from_bits(bits)));
    let also = best.also.iter().zip(also).map(|(&id, &bits)| (id, f32::from_bits(bits)));
    keep(pairs.chain(also), rest, out);
    out.mass = best.temperature.map(|temperature| {
        let weight = |logit: f32| (f64::from(logit - rest) / f64::from(temperature)).exp();
        let left = if is_cut { f64::from(float(7)) * weight(last) } else { 0.0 };
        let bound = |sum: f32| f64::from(sum) * weight(threshold) + left;
        (bound(float(4)) * (1.0 - SLACK), bound(float(5)) * (1.0 + SLACK) + 1e-30)
    });
    true
}
