//! A batch: tokens of several sequences that go through the layers together.

use std::ops::Range;

/// Tokens of one sequence in a batch: a chunk of its prompt, or the one token of a decode step.
#[derive(Clone, Copy, Debug)]
pub struct BatchSequence<'a> {
    /// The tokens.
    pub tokens: &'a [u32],
    /// Position of the first of them in its sequence.
    pub position: usize,
    /// Pages of the sequence's key-value cache, enough for all its positions up to the last token.
    pub pages: &'a [u32],
    /// Which of the tokens need logits.
    pub logits: LogitsFor,
}

/// The tokens of a chunk whose logits are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogitsFor {
    /// None: an inner chunk of a prompt.
    None,
    /// The last token.
    Last,
    /// Every token.
    All,
}

/// The chunks that one pass through the layers works on.
#[derive(Clone, Debug, Default)]
pub struct Batch<'a> {
    /// The chunks; their tokens follow each other as the rows of the hidden state.
    pub sequences: Vec<BatchSequence<'a>>,
}

impl Batch<'_> {
    /// Rows of the hidden state.
    pub fn tokens(&self) -> usize {
        self.sequences.iter().map(|s| s.tokens.len()).sum()
    }

    /// Runs of rows that need logits, in order.
    pub fn outputs(&self) -> impl Iterator<Item = Range<usize>> {
        let mut row = 0;
        self.sequences.iter().map(move |s| {
            let rows = row..row + s.tokens.len();
            row = rows.end;
            match s.logits {
                LogitsFor::None => rows.end..rows.end,
                LogitsFor::Last => rows.end.saturating_sub(1).max(rows.start)..rows.end,
                LogitsFor::All => rows,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_rows_of_the_whole_batch() {
        let chunk = |tokens, logits| BatchSequence { tokens, position: 0, pages: &[], logits };
        let batch = Batch {
            sequences: vec![
                chunk(&[1, 2, 3], LogitsFor::None),
                chunk(&[4, 5], LogitsFor::All),
                chunk(&[6, 7, 8], LogitsFor::Last),
                chunk(&[], LogitsFor::Last),
            ],
        };
        assert_eq!(batch.tokens(), 8);
        assert_eq!(batch.outputs().flatten().collect::<Vec<_>>(), [3, 4, 7]);
    }
}
