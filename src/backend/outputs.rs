//! What the head says about the tokens whose logits were wanted.

use sterna_cpu::AlignedBuf;
use sterna_cpu::head::Candidates;

/// The logits of a pass, one entry for each row of [`super::Batch::outputs`], in order.
#[derive(Debug, Default)]
pub struct Outputs {
    vocab_size: usize,
    entries: Vec<Entry>,
    /// Rows of logits, `[n, vocab]`.
    pub(in crate::backend) full: AlignedBuf<f32>,
    /// Memory of candidates; entries use some of it.
    pub(in crate::backend) candidates: Vec<Candidates>,
}

/// Where an output is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::backend) enum Entry {
    /// Row of `full`.
    Full(usize),
    /// Index in `candidates`.
    Best(usize),
}

/// The logits of one token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Logits<'a> {
    /// All of them, `[vocab]`.
    All(&'a [f32]),
    /// Those that can be among the best.
    Best(&'a Candidates),
}

impl Outputs {
    /// Starts anew: no output, rows of `vocab_size` logits.
    pub(in crate::backend) fn clear(&mut self, vocab_size: usize) {
        self.vocab_size = vocab_size;
        self.entries.clear();
        self.full.resize(0);
    }

    /// Appends an output.
    pub(in crate::backend) fn push(&mut self, entry: Entry) {
        self.entries.push(entry);
    }

    /// Appends an output of candidates, in memory that no other output uses.
    #[cfg(feature = "gpu")]
    pub(in crate::backend) fn push_candidates(&mut self) {
        let used = self.entries.iter().map(|entry| match entry {
            Entry::Best(index) => index + 1,
            Entry::Full(_) => 0,
        });
        let index = used.max().unwrap_or(0);
        if self.candidates.len() <= index {
            self.candidates.resize_with(index + 1, Candidates::default);
        }
        self.entries.push(Entry::Best(index));
    }

    /// The candidates of output `index`.
    ///
    /// # Panics
    /// If there is no such output, or it has all logits.
    #[cfg(feature = "gpu")]
    pub(in crate::backend) fn candidates_mut(&mut self, index: usize) -> &mut Candidates {
        match self.entries[index] {
            Entry::Best(index) => &mut self.candidates[index],
            Entry::Full(_) => panic!("output {index} has all logits"),
        }
    }

    /// Puts all logits in the place of output `index`; returns their memory.
    pub(in crate::backend) fn make_full(&mut self, index: usize) -> &mut [f32] {
        let start = self.full.len();
        self.entries[index] = Entry::Full(start / self.vocab_size);
        self.full.resize(start + self.vocab_size);
        &mut self.full[start..]
    }

    /// Number of outputs.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no output.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Output `index`.
    ///
    /// # Panics
    /// If there is no such output.
    pub fn get(&self, index: usize) -> Logits<'_> {
        match self.entries[index] {
            Entry::Full(row) => Logits::All(&self.full[row * self.vocab_size..][..self.vocab_size]),
            Entry::Best(index) => Logits::Best(&self.candidates[index]),
        }
    }
}
