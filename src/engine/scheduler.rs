//! Sequences and the passes through the graph that extend them.

use std::collections::BTreeMap;

use smallvec::SmallVec;
use sterna_cpu::kv::PAGE_LEN;

use super::Error;
use super::devices::Fallback;
use super::kv_cache::PagePool;
use crate::backend::{Batch, BatchSequence, LogitsFor};
use crate::graph::{Executor, ExecutorError, Output, Phase, Trace};

/// A sequence of an [`Engine`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SequenceId(u64);

/// Tokens whose keys and values are cached, and the pages that hold them.
#[derive(Clone, Debug, Default)]
struct Sequence {
    tokens: Vec<u32>,
    pages: Vec<u32>,
    /// Positions that the stages of each phase have in their cache, where they differ: those of the last pass have all.
    cached: [usize; 2],
}

/// Tokens that go through the stages together.
#[derive(Debug)]
struct Pass {
    phase: Phase,
    /// Items of the work and how many tokens of each.
    items: SmallVec<[(usize, usize); 8]>,
}

impl Pass {
    /// Tokens of an item.
    fn count(&self, item: usize) -> usize {
        self.items.iter().find(|(index, _)| *index == item).map_or(0, |(_, count)| *count)
    }
}

/// No more tokens than these are computed as generated ones are, where these have other stages than prompts: handing the
/// cache over, and back for the answer, would take longer.
pub(super) const FEW_TOKENS: usize = 8;

/// Tokens to append to one sequence.
#[derive(Clone, Copy, Debug)]
pub struct Work<'a> {
    /// The sequence.
    pub sequence: SequenceId,
    /// The tokens, in order.
    pub tokens: &'a [u32],
    /// Which of them need logits.
    pub logits: LogitsFor<'a>,
}

/// Extends sequences by passes through the graph. Several sequences share the paged cache and the passes.
pub struct Engine {
    executor: Executor,
    /// Builds other stages when these fail.
    fallback: Option<Fallback>,
    pages: PagePool,
    sequences: BTreeMap<SequenceId, Sequence>,
    next_id: u64,
    vocab_size: usize,
    context: usize,
    chunk: usize,
}

/// Takes the index of an item of work, the index of a token in it, and what the head says about that token.
pub type Sink<'a> = dyn FnMut(usize, usize, &mut Output<'_>) -> Result<(), Error> + 'a;

/// Logits of one pass are kept below this many numbers (64 MiB), whatever the vocabulary.
const MAX_LOGITS: usize = 1 << 24;

impl Engine {
    /// An engine over `executor`, whose stages have `pages` pages of cache and a context of `context` positions;
    /// a pass works on at most `chunk` tokens.
    pub fn new(executor: Executor, vocab_size: usize, pages: usize, context: usize, chunk: usize) -> Engine {
        Engine {
            executor,
            fallback: None,
            pages: PagePool::new(pages),
            sequences: BTreeMap::new(),
            next_id: 0,
            vocab_size,
            context,
            chunk: chunk.max(1),
        }
    }

    /// Sets what builds other stages when a device fails, if there is another one.
    pub(super) fn set_fallback(&mut self, fallback: Option<Fallback>) {
        self.fallback = fallback;
    }

    /// Tokens of a pass at most.
    pub(super) fn chunk(&self) -> usize {
        self.chunk
    }

    /// The stages of the graph.
    pub fn executor(&self) -> &Executor {
        &self.executor
    }

    /// The stages of the graph, to observe them.
    pub fn executor_mut(&mut self) -> &mut Executor {
        &mut self.executor
    }

    /// Positions that one sequence may hold.
    pub fn context(&self) -> usize {
        self.context
    }

    /// A new, empty sequence.
    pub fn create(&mut self) -> SequenceId {
        let id = SequenceId(self.next_id);
        self.next_id += 1;
        self.sequences.insert(id, Sequence::default());
        id
    }

    /// A copy of a sequence. The two share their pages until one writes to a shared one.
    pub fn fork(&mut self, id: SequenceId) -> SequenceId {
        let copy = self.create();
        if let Some(source) = self.sequences.get(&id) {
            let sequence = source.clone();
            sequence.pages.iter().for_each(|&page| self.pages.share(page));
            self.sequences.insert(copy, sequence);
        }
        copy
    }

    /// Ends a sequence and frees its pages.
    pub fn release(&mut self, id: SequenceId) {
        for page in self.sequences.remove(&id).unwrap_or_default().pages {
            self.pages.release(page);
        }
    }

    /// Forgets all but the first `len` tokens of a sequence.
    pub fn truncate(&mut self, id: SequenceId, len: usize) {
        let Some(sequence) = self.sequences.get_mut(&id) else { return };
        sequence.tokens.truncate(len);
        sequence.cached = sequence.cached.map(|cached| cached.min(sequence.tokens.len()));
        let keep = sequence.tokens.len().div_ceil(PAGE_LEN);
        for page in sequence.pages.drain(keep.min(sequence.pages.len())..) {
            self.pages.release(page);
        }
    }

    /// The tokens of a sequence; empty for one that was released.
    pub fn tokens(&self, id: SequenceId) -> &[u32] {
        self.sequences.get(&id).map_or(&[], |sequence| &sequence.tokens)
    }

    /// Free pages of the key-value cache.
    pub fn available_pages(&self) -> usize {
        self.pages.available()
    }

    /// All pages of the key-value cache.
    pub fn pages(&self) -> usize {
        self.pages.len()
    }

    /// Pages that sequences hold together; those that they share are counted once.
    pub(super) fn pages_together(&self, ids: impl Iterator<Item = SequenceId>) -> usize {
        let mut counted = vec![false; self.pages.len()];
        let sequences = ids.filter_map(|id| self.sequences.get(&id));
        let pages = sequences.flat_map(|sequence| &sequence.pages);
        pages.filter(|&&page| !std::mem::replace(&mut counted[page as usize], true)).count()
    }

    /// Free pages that `count` more tokens of a sequence take.
    pub(super) fn pages_for(&self, id: SequenceId, count: usize) -> usize {
        let Some(sequence) = self.sequences.get(&id) else { return 0 };
        let len = sequence.tokens.len();
        // The page that is written to next gets a copy if others use it too.
        let shared = sequence.pages.get(len / PAGE_LEN).is_some_and(|&page| count > 0 && self.pages.is_shared(page));
        (len + count).div_ceil(PAGE_LEN).saturating_sub(sequence.pages.len()) + usize::from(shared)
    }

    /// Appends the tokens of each item of `work` to its sequence; calls `sink` with the item's index, the token's
    /// index in it and its logits, for each token that needs them. Long work is cut into passes. If a device fails in the
    /// sink and another takes over, the sink is called again for that token.
    ///
    /// # Errors
    /// If the sink fails, a token is not in the vocabulary, a sequence or the cache is full, or a backend fails. A
    /// sequence then holds the tokens of the passes that were finished.
    pub fn forward(
        &mut self,
        work: &[Work<'_>],
        sink: &mut Sink<'_>,
        mut trace: Option<&mut Trace<'_>>,
    ) -> Result<(), Error> {
        self.check(work)?;
        let mut done = vec![0; work.len()];
        // Tokens of each item whose outputs were told: when a device fails passes are made again, and these not told again.
        let mut told = vec![0; work.len()];
        loop {
            let passes = self.next_passes(work, &done, trace.is_some());
            let Some(last) = passes.last() else { return Ok(()) };
            let phase = last.phase;
            for (item, work) in work.iter().enumerate() {
                let count = passes.iter().map(|pass| pass.count(item)).sum();
                if count > 0 {
                    self.reserve(work.sequence, count)?;
                }
            }
            let batches = batches(&self.sequences, work, &done, &passes);
            let ran = hand_over(&mut self.executor, &self.sequences, phase, work, &passes).and_then(
                |()| match &batches[..] {
                    [batch] => self.executor.forward(phase, batch, trace.as_deref_mut()),
                    batches => self.executor.forward_all(phase, batches),
                },
            );
            if let Err(error) = ran {
                drop(batches);
                self.recover(error)?;
                // The passes are made again.
                continue;
            }
            let mut index = 0;
            let mut result = Ok(());
            let chunks = batches.last().map_or(&[][..], |batch| &batch.sequences).iter().zip(&last.items);
            'sinks: for (chunk, &(item, count)) in chunks {
                let wanted = match chunk.logits {
                    LogitsFor::None => 0..0,
                    LogitsFor::Last | LogitsFor::Best(_) => count - 1..count,
                    LogitsFor::All => 0..count,
                };
                let before = passes.iter().map(|pass| pass.count(item)).sum::<usize>() - count;
                for token in wanted.map(|token| done[item] + before + token) {
                    if token >= told[item] {
                        result = sink(item, token, &mut self.executor.output(index));
                        if result.is_err() {
                            break 'sinks;
                        }
                        told[item] = token + 1;
                    }
                    index += 1;
                }
            }
            drop(batches);
            if let Err(Error::Executor(error)) = result {
                self.recover(error)?;
                continue;
            }
            for (item, count) in passes.iter().flat_map(|pass| pass.items.iter().copied()) {
                let new = &work[item].tokens[done[item]..done[item] + count];
                if let Some(sequence) = self.sequences.get_mut(&work[item].sequence) {
                    sequence.tokens.extend_from_slice(new);
                    sequence.cached[phase as usize] = sequence.tokens.len();
                }
                done[item] += count;
            }
            result?;
        }
    }

    /// Checks tokens and room before anything is computed.
    fn check(&self, work: &[Work<'_>]) -> Result<(), Error> {
        for item in work {
            if let Some(&id) = item.tokens.iter().find(|&&id| id as usize >= self.vocab_size) {
                return Err(Error::TokenOutOfRange { id, vocab_size: self.vocab_size });
            }
            let needed = self.tokens(item.sequence).len() + item.tokens.len();
            if needed > self.context {
                return Err(Error::ContextFull { needed, context: self.context });
            }
        }
        Ok(())
    }

    /// The next pass and, where stages of several devices can work on them at the same time, those behind it up to the first
    /// one that has outputs. With `alone`, no more than one.
    fn next_passes(&self, work: &[Work<'_>], done: &[usize], alone: bool) -> SmallVec<[Pass; 1]> {
        let mut passes: SmallVec<[Pass; 1]> = SmallVec::new();
        let mut ahead: SmallVec<[usize; 8]> = SmallVec::from_slice(done);
        while let Some(pass) = self.next_pass(work, &ahead) {
            if passes.first().is_some_and(|first| first.phase != pass.phase) {
                break;
            }
            pass.items.iter().for_each(|&(item, count)| ahead[item] += count);
            let has_outputs = pass.items.iter().any(|&(item, _)| match work[item].logits {
                LogitsFor::None => false,
                LogitsFor::Last | LogitsFor::Best(_) => ahead[item] == work[item].tokens.len(),
                LogitsFor::All => true,
            });
            let is_last = alone || has_outputs || !self.executor.overlaps(pass.phase);
            passes.push(pass);
            if is_last {
                break;
            }
        }
        passes
    }

    /// Items and numbers of tokens of the next pass: as much of each item, in order, as the chunk has room for. Prompts and
    /// generated tokens are in passes of their own where they have different stages.
    fn next_pass(&self, work: &[Work<'_>], done: &[usize]) -> Option<Pass> {
        let mut room = self.chunk;
        let mut logits = (MAX_LOGITS / self.vocab_size).max(1);
        let mut pass: Option<Pass> = None;
        for (index, item) in work.iter().enumerate() {
            let left = item.tokens.len() - done[index];
            if left == 0 || !self.sequences.contains_key(&item.sequence) {
                continue;
            }
            let phase = if item.tokens.len() > FEW_TOKENS { Phase::Prefill } else { Phase::Decode };
            if pass.as_ref().is_some_and(|pass| pass.phase != phase) && self.executor.has_phases() {
                continue;
            }
            let mut count = left.min(room);
            if item.logits == LogitsFor::All {
                count = count.min(logits);
                logits -= count;
            }
            room -= count;
            if count > 0 {
                pass.get_or_insert_with(|| Pass { phase, items: SmallVec::new() }).items.push((index, count));
            }
        }
        pass
    }

    /// Puts other stages in the place of those that failed, if there are any, and computes what their cache held.
    fn recover(&mut self, error: ExecutorError) -> Result<(), Error> {
        // Once: what fails after that is an error.
        let Some(mut fallback) = self.fallback.take() else { return Err(error.into()) };
        self.executor = fallback(&error)?;
        for sequence in self.sequences.values_mut() {
            sequence.cached = [0; 2];
            for (i, tokens) in sequence.tokens.chunks(self.chunk).enumerate() {
                let position = i * self.chunk;
                let chunk = BatchSequence { tokens, position, pages: &sequence.pages, logits: LogitsFor::None };
                self.executor.forward(Phase::Prefill, &Batch { sequences: vec![chunk] }, None)?;
            }
            sequence.cached[Phase::Prefill as usize] = sequence.tokens.len();
        }
        Ok(())
    }

    /// Makes the pages of the next `count` positions of a sequence its own.
    fn reserve(&mut self, id: SequenceId, count: usize) -> Result<(), Error> {
        let full = Error::CacheFull { pages: self.pages.len() };
        let Some(sequence) = self.sequences.get(&id) else { return Ok(()) };
        let len = sequence.tokens.len();
        // The page that is written to next may be shared with a fork: it gets a copy of its own.
        let shared = sequence.pages.get(len / PAGE_LEN).copied().filter(|&page| self.pages.is_shared(page));
        if let Some(page) = shared {
            let Some(copy) = self.pages.allocate() else { return Err(full) };
            if let Err(error) = self.executor.copy_page(page, copy) {
                self.recover(error).and_then(|()| Ok(self.executor.copy_page(page, copy)?)).inspect_err(|_| {
                    self.pages.release(copy);
                })?;
            }
            self.pages.release(page);
            self.sequences.entry(id).and_modify(|sequence| sequence.pages[len / PAGE_LEN] = copy);
        }
        let Some(sequence) = self.sequences.get_mut(&id) else { return Ok(()) };
        while sequence.pages.len() * PAGE_LEN < len + count {
            let Some(page) = self.pages.allocate() else { return Err(full) };
            sequence.pages.push(page);
        }
        Ok(())
    }
}

/// The batches of passes, whose items begin behind `done`.
fn batches<'a>(
    sequences: &'a BTreeMap<SequenceId, Sequence>,
    work: &[Work<'a>],
    done: &[usize],
    passes: &[Pass],
) -> SmallVec<[Batch<'a>; 1]> {
    let mut ahead: SmallVec<[usize; 8]> = SmallVec::from_slice(done);
    let mut batch = |pass: &Pass| {
        let chunk = |&(item, count): &(usize, usize)| {
            let Work { sequence, tokens, logits } = work[item];
            let sequence = &sequences[&sequence];
            let start = ahead[item];
            ahead[item] += count;
            let position = sequence.tokens.len() + start - done[item];
            BatchSequence {
                tokens: &tokens[start..start + count],
                position,
                pages: &sequence.pages[..(position + count).div_ceil(PAGE_LEN)],
                logits: match logits {
                    LogitsFor::Last | LogitsFor::Best(_) if start + count < tokens.len() => LogitsFor::None,
                    other => other,
                },
            }
        };
        Batch { sequences: pass.items.iter().map(chunk).collect() }
    };
    passes.iter().map(&mut batch).collect()
}

/// Gives the stages of `phase` what only those of the other phase have of the sequences of `passes`.
fn hand_over(
    executor: &mut Executor,
    sequences: &BTreeMap<SequenceId, Sequence>,
    phase: Phase,
    work: &[Work<'_>],
    passes: &[Pass],
) -> Result<(), ExecutorError> {
    if !executor.has_phases() {
        return Ok(());
    }
    for (item, Work { sequence, .. }) in work.iter().enumerate() {
        let Some(sequence) = sequences.get(sequence).filter(|_| passes.iter().any(|pass| pass.count(item) > 0)) else {
            continue;
        };
        let (cached, len) = (sequence.cached[phase as usize], sequence.tokens.len());
        if cached < len {
            executor.hand_over(phase, &sequence.pages[cached / PAGE_LEN..len.div_ceil(PAGE_LEN)])?;
        }
    }
    Ok(())
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut out = f.debug_struct("Engine");
        out.field("executor", &self.executor).field("pages", &self.pages).field("sequences", &self.sequences);
        out.finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
