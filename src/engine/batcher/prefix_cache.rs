//! Finds sequences whose beginning serves a new prompt.
//!
//! The tokens of a sequence are hashed page by page, each hash over all pages up to it, so that one look-up for each page finds
//! the longest common beginning. Sequences of finished requests are kept until their pages are needed.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

use sterna_cpu::kv::PAGE_LEN;

use crate::engine::{Engine, SequenceId};

/// Which sequence begins with which tokens.
#[derive(Debug, Default)]
pub(super) struct PrefixCache {
    /// The sequence that was seen last with these pages.
    pages: HashMap<u64, SequenceId>,
    /// Sequences of finished requests, the one that was used longest ago first.
    retained: VecDeque<SequenceId>,
}

impl PrefixCache {
    /// A sequence that has the longest beginning of `tokens` in its cache, and how many tokens that is. The last token is never
    /// part of it: what comes next has to be computed.
    pub(super) fn find(&self, engine: &Engine, tokens: &[u32]) -> Option<(SequenceId, usize)> {
        let usable = &tokens[..tokens.len().saturating_sub(1)];
        let found = hashes(usable).map_while(|hash| self.pages.get(&hash)).last().copied()?;
        let common = engine.tokens(found).iter().zip(usable).take_while(|(a, b)| a == b).count();
        // Other tokens may have the same hash.
        (common >= PAGE_LEN).then_some((found, common))
    }

    /// Lets a sequence be found by the pages that it has in its cache.
    pub(super) fn insert(&mut self, engine: &Engine, id: SequenceId) {
        self.pages.extend(hashes(engine.tokens(id)).map(|hash| (hash, id)));
    }

    /// Marks a retained sequence as used now.
    pub(super) fn touch(&mut self, id: SequenceId) {
        if let Some(at) = self.retained.iter().position(|&retained| retained == id) {
            self.retained.remove(at);
            self.retained.push_back(id);
        }
    }

    /// Keeps the sequence of a finished request, or releases it where another one serves as well.
    pub(super) fn retain(&mut self, engine: &mut Engine, id: SequenceId) {
        // Pages that are not full would be found by nobody.
        engine.truncate(id, engine.tokens(id).len() / PAGE_LEN * PAGE_LEN);
        match hashes(engine.tokens(id)).last().map(|hash| self.pages.get(&hash).copied()) {
            // Nothing to find.
            None => self.release(engine, id),
            Some(Some(other)) if other != id && self.retained.contains(&other) => {
                self.touch(other);
                self.release(engine, id);
            }
            Some(_) => {
                self.insert(engine, id);
                self.retained.push_back(id);
            }
        }
    }

    /// Ends a sequence, which is found no more.
    pub(super) fn release(&mut self, engine: &mut Engine, id: SequenceId) {
        for hash in hashes(engine.tokens(id)) {
            if self.pages.get(&hash) == Some(&id) {
                self.pages.remove(&hash);
            }
        }
        engine.release(id);
    }

    /// Gives retained sequences up, the one that was used longest ago first, until `pages` are free or none is left. Returns
    /// whether they are free.
    pub(super) fn make_room(&mut self, engine: &mut Engine, pages: usize) -> bool {
        while engine.available_pages() < pages {
            let Some(id) = self.retained.pop_front() else { return false };
            self.release(engine, id);
        }
        true
    }

    /// Gives all retained sequences up.
    pub(super) fn clear(&mut self, engine: &mut Engine) {
        while let Some(id) = self.retained.pop_front() {
            self.release(engine, id);
        }
    }

    /// Sequences of finished requests.
    pub(super) fn retained(&self) -> impl Iterator<Item = SequenceId> {
        self.retained.iter().copied()
    }
}

/// A hash for each full page of `tokens`, over all tokens up to its end.
fn hashes(tokens: &[u32]) -> impl Iterator<Item = u64> {
    tokens.chunks_exact(PAGE_LEN).scan(DefaultHasher::new(), |hasher, page| {
        page.hash(hasher);
        Some(hasher.finish())
    })
}
