//! One request on its way.

use std::time::{Duration, Instant};

use super::{Event, EventSink, Failure, Observer, Request, TokenLogprobs};
use crate::engine::answer::AnswerText;
use crate::engine::{Error, FinishReason, Model, Sampler, SequenceId, Timings, Token};

/// A request: what was asked, what has been answered, who listens.
pub(super) struct Job {
    /// The prompt and the tokens of the answer.
    pub(super) history: Vec<u32>,
    /// Tokens of the prompt.
    pub(super) prompt: usize,
    pub(super) sampler: Sampler,
    /// Memory for the sampler.
    pub(super) adjusted: Vec<u32>,
    /// Asks for probabilities, and for how many beside that of the token.
    pub(super) logprobs: Option<usize>,
    /// What it has in the cache; none while it waits.
    pub(super) sequence: Option<SequenceId>,
    text: AnswerText,
    sink: Box<dyn EventSink>,
    ends_at_once: bool,
    came: Instant,
    timeout: Option<Duration>,
    was_admitted: bool,
    cached: usize,
    first: Option<Instant>,
    last: Instant,
}

/// A token that was chosen, with its probabilities.
pub(super) type Choice = (u32, Option<TokenLogprobs>);

impl Job {
    pub(super) fn new(model: &Model, request: Request, sink: Box<dyn EventSink>) -> Result<Job, Error> {
        let Request { tokens, options, logprobs, timeout } = request;
        let mut sampler = model.sampler(&options.sampling)?;
        sampler.set_prompt_len(tokens.len());
        let came = Instant::now();
        Ok(Job {
            prompt: tokens.len(),
            history: tokens,
            sampler,
            adjusted: Vec::new(),
            logprobs,
            sequence: None,
            text: AnswerText::new(&options, model.decode_stream()),
            sink,
            ends_at_once: options.max_tokens == Some(0),
            came,
            timeout,
            was_admitted: false,
            cached: 0,
            first: None,
            last: came,
        })
    }

    /// Tokens of the answer so far.
    pub(super) fn generated(&self) -> usize {
        self.history.len() - self.prompt
    }

    /// Takes note that it leaves the queue, with so many tokens in the cache.
    pub(super) fn admitted(&mut self, sequence: SequenceId, cached: usize, observer: &dyn Observer) {
        self.sequence = Some(sequence);
        if !self.was_admitted {
            (self.was_admitted, self.cached) = (true, cached);
            observer.admitted(self.came.elapsed(), self.prompt, cached);
        }
    }

    /// Appends the next token and tells of it. Returns whether that was all.
    pub(super) fn push(&mut self, model: &Model, (id, logprobs): Choice, observer: &dyn Observer) -> bool {
        let now = Instant::now();
        match self.first {
            None => {
                self.first = Some(now);
                observer.first_token(now - self.came);
            }
            Some(_) => observer.next_token(now - self.last),
        }
        self.last = now;
        self.history.push(id);
        match self.text.push(model, id, self.history.len()) {
            Ok((text, finish)) => {
                let listens = self.sink.send(Event::Token { token: Token { id, text }, logprobs });
                if let Some(reason) = finish {
                    self.finish(reason);
                }
                finish.is_some() || !listens
            }
            Err(error) => {
                self.sink.send(Event::Failed(error.into()));
                true
            }
        }
    }

    /// Why it is over before its next token: nobody listens, its time is up, or no token was asked for.
    pub(super) fn is_over(&mut self) -> bool {
        if self.sink.is_closed() {
            return true;
        }
        if let Some(timeout) = self.timeout.filter(|&timeout| self.came.elapsed() > timeout) {
            self.sink.send(Event::Failed(Failure::Timeout(timeout)));
            return true;
        }
        if self.ends_at_once {
            self.finish(FinishReason::Length);
        }
        self.ends_at_once
    }

    /// Tells that there will be no more.
    pub(super) fn fail(mut self, failure: Failure) {
        self.sink.send(Event::Failed(failure));
    }

    fn finish(&mut self, reason: FinishReason) {
        let first = self.first.unwrap_or(self.last);
        let timings = Timings {
            prompt_tokens: self.prompt - self.cached,
            cached_tokens: self.cached,
            prompt_time: first - self.came,
            generated_tokens: self.generated(),
            decode_time: self.last - first,
        };
        self.sink.send(Event::Finished { reason, timings });
    }
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut out = f.debug_struct("Job");
        out.field("prompt", &self.prompt).field("generated", &self.generated()).field("sequence", &self.sequence);
        out.finish_non_exhaustive()
    }
}
