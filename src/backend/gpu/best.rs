//! What the kernel `best` is asked and what it answers: the best logits, and bounds of the others.

use super::kernels::{ASKED, CHUNKS, KEEP};
use crate::backend::{Best, Candidates};

/// Words of the answer for a part of the vocabulary: pairs of id and logit, weight of the others, whether a logit is not
/// a number.
const ENTRY: usize = 2 * KEEP + 2;

/// Words of an answer. In bytes it stays below a page, 4 KB.
pub(super) const FOUND: usize = CHUNKS * ENTRY + ASKED;
const _: () = assert!(4 * FOUND <= 4096);

/// Words of a question.
pub(super) const QUESTION: usize = 4 + ASKED;

/// Stands for no id.
const NONE: u32 = u32::MAX;

/// What the sums of weights in single precision may be off by, with room to spare.
pub(super) const SLACK: f64 = 1e-4;

/// Whether the kernel can answer.
pub(super) fn can_ask(best: &Best<'_>) -> bool {
    best.also.len() <= ASKED && best.count <= CHUNKS * KEEP / 2
}

/// The question for an output, as the kernels read it: number of ids, temperature, count, margin, ids.
pub(super) fn question(best: Option<Best<'_>>) -> impl Iterator<Item = u32> {
    let best = best.filter(can_ask);
    let best = best.unwrap_or(Best { count: 1, margin: 0.0, also: &[], temperature: None });
    let temperature = best.temperature.unwrap_or(0.0);
    let ids = best.also.iter().copied().chain(std::iter::repeat(0)).take(ASKED);
    let head = [best.also.len() as u32, temperature.to_bits(), best.count.max(1) as u32, best.margin.to_bits()];
    head.into_iter().chain(ids)
}

/// The candidates in an answer for `vocab` logits, searched in parts of `part`; `false` if they say too little (a logit is
/// not a number, say) and all logits are needed.
pub(super) fn candidates(found: &[u32], vocab: usize, part: usize, best: &Best<'_>, out: &mut Candidates) -> bool {
    let (parts, asked) = found.split_at(CHUNKS * ENTRY);
    let parts = || {
        parts.chunks_exact(ENTRY).enumerate().map(|(i, entry)| {
            let (pairs, tail) = entry.split_at(2 * KEEP);
            let complete = vocab.saturating_sub(i * part).min(part) <= KEEP;
            (pairs.as_chunks::<2>().0, f32::from_bits(tail[0]), tail[1] != 0, complete)
        })
    };
    if parts().any(|(_, _, bad, _)| bad) {
        return false;
    }
    // What a part left out is at most its last; the next number is above all of that.
    let last = |pairs: &[[u32; 2]]| f32::from_bits(pairs[KEEP - 1][1]);
    let open = || parts().filter(|(.., complete)| !complete);
    let rest = open().map(|(pairs, ..)| last(pairs).next_up()).fold(f32::NEG_INFINITY, f32::max);
    if rest == f32::INFINITY {
        return false;
    }
    let all = || {
        let pairs = parts().flat_map(|(pairs, ..)| pairs).map(|&[id, bits]| (id, f32::from_bits(bits)));
        pairs.filter(|&(id, _)| id != NONE)
    };
    let also = || best.also.iter().zip(asked).map(|(&id, &bits)| (id, f32::from_bits(bits)));
    let known = keep(all().filter(|&(_, logit)| logit >= rest).chain(also()), rest, out);
    out.mass = best.temperature.map(|temperature| {
        let weight = |logit: f32| (f64::from(logit - rest) / f64::from(temperature)).exp();
        let is_known = |id: u32| known.binary_search_by_key(&id, |&(id, _)| id).is_ok();
        // Those that were found but are below the bound, and those that were not found.
        let below: f64 = all().filter(|&(id, _)| !is_known(id)).map(|(_, logit)| weight(logit)).sum();
        let unknown: f64 = open().map(|(pairs, sum, ..)| f64::from(sum) * weight(last(pairs))).sum();
        // Those that were asked for are among the latter unless they were found.
        let is_found = |id: u32| all().any(|(found, _)| found == id);
        let counted: f64 = also().filter(|&(id, _)| !is_found(id)).map(|(_, logit)| weight(logit)).sum();
        let sum = below + unknown;
        (
            (sum * (1.0 - SLACK) - counted * (1.0 + SLACK)).max(0.0),
            sum * (1.0 + SLACK) - counted * (1.0 - SLACK) + 1e-30,
        )
    });
    true
}

/// Puts logits into `out`, by id and each once; all others are below `rest`. Returns them too.
pub(super) fn keep(logits: impl Iterator<Item = (u32, f32)>, rest: f32, out: &mut Candidates) -> Vec<(u32, f32)> {
    let mut known: Vec<(u32, f32)> = logits.collect();
    known.sort_unstable_by_key(|&(id, _)| id);
    known.dedup_by_key(|&mut (id, _)| id);
    out.ids.clear();
    out.logits.clear();
    out.ids.extend(known.iter().map(|&(id, _)| id));
    out.logits.extend(known.iter().map(|&(_, logit)| logit));
    out.rest = rest;
    known
}
