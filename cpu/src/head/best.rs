//! Which rows can be among the best, and their exact logits.

use super::Int8Rows;
use super::interval::Intervals;
use super::mass;
use super::token::Tokens;
use crate::Isa;
use crate::buffer::AlignedBuf;
use crate::dense::{DenseMatrix, logits_of_rows};
use crate::pool::Pool;

/// Which logits of a token are wanted: those that a choice among the best needs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Best<'a> {
    /// The `count` best of all that are not in `also`, at least one,
    pub count: usize,
    /// those that are no more than this below the best of them,
    pub margin: f32,
    /// these,
    pub also: &'a [u32],
    /// and, at this temperature, so many that the others have next to no weight.
    pub temperature: Option<f32>,
}

impl Best<'_> {
    /// Whether so few of `rows` rows are wanted that looking for them is less work than computing all.
    pub fn is_few(&self, rows: usize) -> bool {
        self.count.max(1) + self.also.len() <= rows / FEW
    }
}

/// The exact logits of some rows, and what is certain about the others.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Candidates {
    /// The rows, in ascending order.
    pub ids: Vec<u32>,
    /// Their logits.
    pub logits: Vec<f32>,
    /// All other logits are below this.
    pub rest: f32,
    /// Bounds of `Σ exp((logit - rest) / temperature)` over the others, where a temperature was given.
    pub mass: Option<(f64, f64)>,
}

/// Looks for the best logits; keeps its memory between calls.
#[derive(Debug, Default)]
pub struct Finder {
    tokens: Tokens,
    intervals: Intervals,
    ranking: Vec<(f32, u32)>,
    exact: Vec<f32>,
    more: Vec<u32>,
    widened: AlignedBuf<f32>,
}

/// At most one row in so many is multiplied exactly: beyond that, the exact head is hardly more work.
const FEW: usize = 8;

/// The matrix and its copy, and what computes.
#[derive(Clone, Copy)]
pub struct Head<'a> {
    /// Threads.
    pub pool: &'a Pool,
    /// Instruction set.
    pub isa: Isa,
    /// The matrix.
    pub matrix: DenseMatrix<'a>,
    /// Its copy.
    pub copy: &'a Int8Rows,
}

impl Finder {
    /// Bounds the logits of all rows for each token of `x`; [`Finder::best`] then looks among them.
    ///
    /// # Panics
    /// If a token has other columns than the matrix.
    pub fn bound<'a>(&mut self, head: Head<'_>, x: impl ExactSizeIterator<Item = &'a [f32]>) {
        self.tokens.set(head.isa, x, head.copy.cols());
        self.intervals.set(head.pool, head.isa, head.copy, &self.tokens);
        // Room for as many as there can be, so that no later step needs more; what is not used is not touched.
        let rows = head.copy.rows();
        self.ranking.clear();
        self.ranking.reserve(rows);
        self.more.clear();
        self.more.reserve(rows);
        self.exact.clear();
        self.exact.reserve(rows / FEW);
    }

    /// The logits that `wanted` names, of token `token` of the last [`Finder::bound`], which is `x`. `false` if they are
    /// so many that the exact head had better compute all; `out` then holds nothing of use.
    ///
    /// # Panics
    /// If there is no such token, or `x` has other columns than the matrix.
    pub fn best(&mut self, head: Head<'_>, token: usize, x: &[f32], wanted: &Best<'_>, out: &mut Candidates) -> bool {
        let rows = head.copy.rows();
        let count = wanted.count.max(1);
        let first = count + wanted.also.len();
        if !wanted.is_few(rows) {
            return false;
        }
        // Among so many rows with the best lower bounds are `count` that are not in `also`.
        self.with_best_lower_bounds(token, first);
        let Candidates { ids, logits, .. } = out;
        ids.clear();
        ids.reserve(2 * (rows / FEW));
        logits.clear();
        logits.reserve(2 * (rows / FEW));
        ids.extend(self.ranking.iter().map(|&(_, id)| id));
        ids.extend(wanted.also.iter().filter(|&&id| (id as usize) < rows));
        ids.sort_unstable();
        ids.dedup();
        self.multiply(head, ids, x);
        logits.extend_from_slice(&self.exact);

        // What is below this cannot be wanted: the `count`-th of exact logits, or the margin below the first.
        self.ranking.clear();
        let others = ids.iter().zip(logits.iter()).filter(|(id, logit)| !wanted.also.contains(id) && !logit.is_nan());
        self.ranking.extend(others.map(|(&id, &logit)| (logit, id)));
        if self.ranking.len() < count {
            return false;
        }
        let (_, &mut (kth, _), _) = self.ranking.select_nth_unstable_by(count - 1, |a, b| b.0.total_cmp(&a.0));
        let top = self.ranking.iter().fold(kth, |top, &(logit, _)| top.max(logit));
        let mut floor = kth.min(top - wanted.margin);
        if let Some(temperature) = wanted.temperature {
            floor = floor.min(mass::floor(&self.intervals, token, temperature, top, rows / FEW));
        }
        // A little more room, so that numbers that a temperature rounds to the same one are all there.
        floor -= floor.abs() / (1 << 20) as f32 + f32::MIN_POSITIVE;
        if floor == f32::NEG_INFINITY || floor.is_nan() {
            return false;
        }

        let more = &mut self.more;
        more.clear();
        self.intervals.high_from(token, floor, |id| more.push(id));
        // Both are sorted.
        more.retain(|id| ids.binary_search(id).is_err());
        if more.len() > rows / FEW {
            return false;
        }
        let more = std::mem::take(&mut self.more);
        self.multiply(head, &more, x);
        self.ranking.clear();
        self.ranking.extend(logits.iter().zip(ids.iter()).chain(self.exact.iter().zip(&more)).map(|(&l, &id)| (l, id)));
        self.more = more;
        self.ranking.sort_unstable_by_key(|&(_, id)| id);
        ids.clear();
        ids.extend(self.ranking.iter().map(|&(_, id)| id));
        logits.clear();
        logits.extend(self.ranking.iter().map(|&(logit, _)| logit));
        out.rest = floor;
        out.mass = wanted.temperature.map(|t| mass::of_others(&self.intervals, token, t, floor, ids));
        true
    }

    /// Puts the `count` rows with the best lower bounds into the ranking.
    fn with_best_lower_bounds(&mut self, token: usize, count: usize) {
        // Each task has a row that reaches its top: the count-th of the tops is a floor, where there are so many.
        let by_low = |a: &(f32, u32), b: &(f32, u32)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
        let ranking = &mut self.ranking;
        ranking.clear();
        ranking.extend(self.intervals.low_tops(token).map(|low| (low, 0)));
        let floor = match ranking.len() >= count {
            true => ranking.select_nth_unstable_by(count - 1, by_low).1.0,
            false => f32::NEG_INFINITY,
        };
        ranking.clear();
        self.intervals.low_from(token, floor, |id, low| ranking.push((low, id)));
        if ranking.len() > count {
            ranking.select_nth_unstable_by(count - 1, by_low);
            ranking.truncate(count);
        }
    }

    /// The exact logits of `ids`.
    fn multiply(&mut self, head: Head<'_>, ids: &[u32], x: &[f32]) {
        self.exact.clear();
        self.exact.resize(ids.len(), 0.0);
        logits_of_rows(head.pool, head.isa, head.matrix, ids, x, &mut self.widened, &mut self.exact);
    }
}
