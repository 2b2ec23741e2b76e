//! What a request is, and what is told of it.

use std::time::Duration;

use super::TokenLogprobs;
use crate::engine::{Error, FinishReason, GenerateOptions, Timings, Token};

/// A text to continue.
#[derive(Clone, Debug)]
pub struct Request {
    /// The prompt.
    pub tokens: Vec<u32>,
    /// How it is continued.
    pub options: GenerateOptions,
    /// Ask for the log-probability of each token, and of so many of the most probable ones in its place.
    pub logprobs: Option<usize>,
    /// Give up after this time.
    pub timeout: Option<Duration>,
}

/// What becomes of a request. The last event is [`Event::Finished`] or [`Event::Failed`].
#[derive(Debug)]
pub enum Event {
    /// A token was generated.
    Token {
        /// It, with the text that is certain now.
        token: Token,
        /// Its probability, if that was asked for.
        logprobs: Option<TokenLogprobs>,
    },
    /// The answer is complete.
    Finished {
        /// Why.
        reason: FinishReason,
        /// Numbers and times; the time of the prompt includes what it waited.
        timings: Timings,
    },
    /// There will be no more.
    Failed(Failure),
}

/// Why an answer ended early.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The model or a device.
    #[error(transparent)]
    Engine(#[from] Error),
    /// A device has failed for good.
    #[error("the model cannot be run any more: {0}")]
    Broken(String),
    /// The time that the request allowed is over.
    #[error("the answer took longer than {0:?}")]
    Timeout(Duration),
    /// The batcher was stopped.
    #[error("the server is shutting down")]
    Stopped,
}

/// Why a request was not taken.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// It makes no sense for the model.
    #[error(transparent)]
    Invalid(#[from] Error),
    /// Too many others wait.
    #[error("{waiting} requests are waiting already; try again later")]
    Busy {
        /// How many.
        waiting: usize,
    },
    /// A device has failed for good.
    #[error("the model cannot be run any more: {0}")]
    Broken(String),
    /// The batcher is stopping.
    #[error("the server is shutting down")]
    Stopping,
}

/// Takes the events of one request, on the thread of the batcher: it must not wait.
pub trait EventSink: Send + 'static {
    /// Takes an event; `false` if nobody listens any more: the answer is then given up.
    fn send(&mut self, event: Event) -> bool;

    /// Whether nobody listens any more.
    fn is_closed(&self) -> bool {
        false
    }
}

/// One pass through the model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// Answers that got a token.
    pub answers: usize,
    /// Tokens of prompts that were computed.
    pub prompt_tokens: usize,
    /// How long it took.
    pub time: Duration,
}

/// Is told what a batcher does, on its thread.
pub trait Observer: Send + 'static {
    /// A request left the queue.
    fn admitted(&self, _waited: Duration, _prompt_tokens: usize, _cached_tokens: usize) {}
    /// A request got its first token, so long after it came.
    fn first_token(&self, _after: Duration) {}
    /// A request got another token.
    fn next_token(&self, _after: Duration) {}
    /// A pass is done.
    fn step(&self, _step: &Step) {}
    /// An answer gave its place in the cache up and will be computed again.
    fn preempted(&self) {}
    /// A device failed.
    fn device_error(&self) {}
}

impl Observer for () {}

/// What a batcher is busy with.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// Requests that wait.
    pub queued: usize,
    /// Requests that are being answered.
    pub running: usize,
    /// Free pages of the key-value cache.
    pub free_pages: usize,
    /// Pages that hold prompts of earlier requests and are given up when others need them.
    pub retained_pages: usize,
    /// All pages.
    pub pages: usize,
    /// Tokens generated per second, of late.
    pub tokens_per_second: f64,
    /// Tokens generated since the start.
    pub generated_tokens: u64,
}
