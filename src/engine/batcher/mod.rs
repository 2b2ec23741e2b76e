//! Continuous batching: many answers at once on one model.
//!
//! A thread of its own (`worker`) owns the sequences. Requests wait in a queue (`inbox`) until the key-value cache has room for
//! them. In each step every answer gets its next token, and what is left of the pass goes to prompts, in shares
//! (`share`), so that no prompt holds the answers up. What was computed for a prompt serves later ones that begin like
//! it (`prefix_cache`). When the cache runs full the youngest answer gives its place up and is computed again later; as
//! the bits do not depend on company or chunks, its text is the same.

mod event;
mod inbox;
mod job;
mod logprobs;
mod prefix_cache;
mod share;
#[cfg(test)]
mod tests;
mod worker;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

pub use event::{Event, EventSink, Failure, Load, Observer, Refusal, Request, Step};
use inbox::Inbox;
pub use logprobs::{Logprob, TokenLogprobs};

use super::{Error, Model};
use job::Job;
use worker::Worker;

/// How many answers, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatcherOptions {
    /// Answers that are computed together at most.
    pub parallel: usize,
    /// Requests that may wait.
    pub queue: usize,
    /// Prompts may hold running answers up by about this long at a time.
    pub stall: Duration,
    /// Whether what was computed for a prompt serves later ones that begin like it.
    pub prefix_cache: bool,
}

impl Default for BatcherOptions {
    fn default() -> BatcherOptions {
        BatcherOptions { parallel: 8, queue: 256, stall: Duration::from_millis(100), prefix_cache: true }
    }
}

/// Computes the answers to many requests together. Dropping it ends them.
#[derive(Debug)]
pub struct Batcher {
    model: Model,
    options: BatcherOptions,
    inbox: Arc<Inbox>,
    thread: Option<JoinHandle<()>>,
}

impl Batcher {
    /// Starts the thread; `observer` is told what it does.
    ///
    /// # Errors
    /// If the system has no room for a thread.
    pub fn start(model: Model, options: BatcherOptions, observer: impl Observer) -> std::io::Result<Batcher> {
        let options = BatcherOptions { parallel: options.parallel.max(1), ..options };
        let inbox = Arc::new(Inbox::new(options.queue));
        let worker = Worker::new(model.clone(), options, Arc::clone(&inbox), Box::new(observer));
        let thread = std::thread::Builder::new().name("sterna-batcher".into()).spawn(move || worker.run())?;
        Ok(Batcher { model, options, inbox, thread: Some(thread) })
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The options in use.
    pub fn options(&self) -> &BatcherOptions {
        &self.options
    }

    /// Puts a request into the queue; `sink` is told what becomes of it.
    ///
    /// # Errors
    /// If the request makes no sense for this model, too many others wait, or the batcher is stopping.
    pub fn submit(&self, request: Request, sink: impl EventSink) -> Result<(), Refusal> {
        let (needed, context) = (request.tokens.len(), self.model.context());
        if needed == 0 {
            return Err(Error::EmptyPrompt.into());
        }
        if needed > context {
            return Err(Error::ContextFull { needed, context }.into());
        }
        let vocab_size = self.model.config().vocab_size;
        if let Some(&id) = request.tokens.iter().find(|&&id| id as usize >= vocab_size) {
            return Err(Error::TokenOutOfRange { id, vocab_size }.into());
        }
        self.inbox.push(Job::new(&self.model, request, Box::new(sink))?)
    }

    /// What it is busy with.
    pub fn load(&self) -> Load {
        self.inbox.load()
    }

    /// Why no request can be served any more, after a device has failed for good.
    pub fn failure(&self) -> Option<String> {
        self.inbox.failure()
    }

    /// Takes no more requests and waits for those that there are, at most `grace`; what is not finished then fails. Returns
    /// whether all were finished.
    pub fn stop(&self, grace: Duration) -> bool {
        self.inbox.stop(grace)
    }
}

impl Drop for Batcher {
    fn drop(&mut self) {
        self.inbox.stop(Duration::ZERO);
        if let Some(thread) = self.thread.take() {
            // A panic was told to the clients already.
            let _ = thread.join();
        }
    }
}
