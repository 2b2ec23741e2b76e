//! A batch: tokens of several sequences that go through the layers together.

use super::Best;

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
    pub logits: LogitsFor<'a>,
}

/// The tokens of a chunk whose logits are wanted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LogitsFor<'a> {
    /// None: an inner chunk of a prompt.
    None,
    /// All logits of the last token.
    Last,
    /// The best logits of the last token.
    Best(Best<'a>),
    /// All logits of every token.
    All,
}

/// The chunks that one pass through the layers works on.
#[derive(Clone, Debug, Default)]
pub struct Batch<'a> {
    /// The chunks; their tokens follow each other as the rows of the hidden state.
    pub sequences: Vec<BatchSequence<'a>>,
}

impl<'a> Batch<'a> {
    /// Rows of the hidden state.
    pub fn tokens(&self) -> usize {
        self.sequences.iter().map(|s| s.tokens.len()).sum()
    }

    /// Rows that need logits, in order, and what is wanted where the best are enough.
    pub fn outputs(&self) -> impl Iterator<Item = (usize, Option<Best<'a>>)> {
        let mut row = 0;
        self.sequences.iter().flat_map(move |s| {
            let rows = row..row + s.tokens.len();
            row = rows.end;
            let best = match s.logits {
                LogitsFor::Best(best) => Some(best),
                _ => None,
            };
            let rows = match s.logits {
                LogitsFor::None => rows.end..rows.end,
                LogitsFor::Last | LogitsFor::Best(_) => rows.end.saturating_sub(1).max(rows.start)..rows.end,
                LogitsFor::All => rows,
            };
            rows.map(move |row| (row, best))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_rows_of_the_whole_batch() {
        let chunk = |tokens, logits| BatchSequence { tokens, position: 0, pages: &[], logits };
        let best = Best { count: 1, margin: 0.0, also: &[], temperature: None };
        let batch = Batch {
            sequences: vec![
                chunk(&[1, 2, 3], LogitsFor::None),
                chunk(&[4, 5], LogitsFor::All),
                chunk(&[6, 7, 8], LogitsFor::Last),
                chunk(&[], LogitsFor::Last),
                chunk(&[9, 10], LogitsFor::Best(best)),
            ],
        };
        assert_eq!(batch.tokens(), 10);
        assert_eq!(batch.outputs().collect::<Vec<_>>(), [(3, None), (4, None), (7, None), (9, Some(best))]);
    }
}
