//! Cuts a batch into parts that the buffers have room for.

use smallvec::SmallVec;

use crate::backend::{Batch, BatchSequence};

/// Sequences of a part that take no memory from the heap.
const FEW_SEQUENCES: usize = 8;

/// Adjacent rows of a batch.
#[derive(Debug)]
pub(super) struct Part<'a> {
    /// The chunks, some cut short. What logits they need is to be asked of the batch.
    pub(super) sequences: SmallVec<[BatchSequence<'a>; FEW_SEQUENCES]>,
    /// The first row in the batch, and the number of rows.
    pub(super) first_row: usize,
    pub(super) tokens: usize,
}

impl<'a> Part<'a> {
    /// The parts of `batch`, of at most `most` rows.
    pub(super) fn of(batch: &Batch<'a>, most: usize) -> SmallVec<[Part<'a>; 1]> {
        let mut parts: SmallVec<[Part<'a>; 1]> = SmallVec::new();
        let mut row = 0;
        for s in &batch.sequences {
            let (mut tokens, mut position) = (s.tokens, s.position);
            while !tokens.is_empty() {
                if parts.last().is_none_or(|part| part.tokens == most) {
                    parts.push(Part { sequences: SmallVec::new(), first_row: row, tokens: 0 });
                }
                let Some(part) = parts.last_mut() else { break };
                let (now, later) = tokens.split_at(tokens.len().min(most - part.tokens));
                part.sequences.push(BatchSequence { tokens: now, position, ..*s });
                part.tokens += now.len();
                (tokens, position, row) = (later, position + now.len(), row + now.len());
            }
        }
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::LogitsFor;

    #[test]
    fn parts_cover_the_rows_in_order() {
        let chunk = |tokens, position| BatchSequence { tokens, position, pages: &[7], logits: LogitsFor::None };
        let batch = Batch { sequences: vec![chunk(&[1, 2, 3], 10), chunk(&[], 5), chunk(&[4, 5, 6, 7, 8], 20)] };
        let parts = Part::of(&batch, 4);
        let seen: Vec<Vec<(&[u32], usize)>> =
            parts.iter().map(|part| part.sequences.iter().map(|s| (s.tokens, s.position)).collect()).collect();
        assert_eq!(seen, [vec![(&[1, 2, 3][..], 10), (&[4][..], 20)], vec![(&[5, 6, 7, 8][..], 21)]]);
        assert_eq!(parts.iter().map(|part| (part.first_row, part.tokens)).collect::<Vec<_>>(), [(0, 4), (4, 4)]);
    }
}
