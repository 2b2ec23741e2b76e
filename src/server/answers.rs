//! From the batcher's thread to the handlers: the events of the answers to one request.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, sleep_until};

use super::error::ApiError;
use super::params::SamplingParams;
use super::served::Served;
use crate::engine::{Event, EventSink, Request, TokenLogprobs};
use crate::{FinishReason, GenerateOptions, Timings};

/// Answers that are being computed, numbered from 0. Dropping them gives them up.
pub(super) struct Answers {
    receiver: UnboundedReceiver<(usize, Event)>,
    /// Answers that are not complete.
    left: usize,
    /// One of them is complete.
    ended: Arc<Notify>,
    /// When an event was last waited for.
    heard: Option<Instant>,
}

/// Tokens are waited for no more often than this, a frame of a screen. Nobody sees the difference, but the threads of a small
/// model, which has many tokens in that time, need not wake and make way for the writer of each of them.
const PACE: Duration = Duration::from_millis(16);

/// What is asked of a model.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    /// The prompts.
    pub(super) prompts: Vec<Vec<u32>>,
    /// Answers to each of them.
    pub(super) choices: usize,
    pub(super) options: GenerateOptions,
    /// Ask for the probabilities of tokens, and of so many others.
    pub(super) logprobs: Option<usize>,
    pub(super) timeout: Duration,
}

impl Ask {
    /// Tokens of all prompts.
    pub(super) fn prompt_tokens(&self) -> usize {
        self.prompts.iter().map(Vec::len).sum()
    }
}

/// Sends the events of one answer; an answer whose receiver is gone is given up.
struct Sender {
    index: usize,
    sender: UnboundedSender<(usize, Event)>,
    ended: Arc<Notify>,
}

impl EventSink for Sender {
    fn send(&mut self, event: Event) -> bool {
        let is_end = !matches!(event, Event::Token { .. });
        let is_heard = self.sender.send((self.index, event)).is_ok();
        if is_end {
            self.ended.notify_one();
        }
        is_heard
    }

    fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }
}

/// A complete answer.
#[derive(Clone, Debug, Default)]
pub(super) struct Answer {
    pub(super) text: String,
    pub(super) ids: Vec<u32>,
    pub(super) logprobs: Vec<TokenLogprobs>,
    pub(super) finish: Option<FinishReason>,
    pub(super) timings: Timings,
}

impl Answers {
    /// Asks for the answers: those to the first prompt come first.
    ///
    /// # Errors
    /// If the model refuses a request.
    pub(super) fn start(served: &Arc<Served>, ask: Ask) -> Result<Answers, ApiError> {
        let batcher = served.batcher()?;
        let (sender, receiver) = unbounded_channel();
        let ended = Arc::new(Notify::new());
        let left = ask.prompts.len() * ask.choices;
        for (nth, tokens) in ask.prompts.into_iter().enumerate() {
            for choice in 0..ask.choices {
                let request = Request {
                    tokens: tokens.clone(),
                    options: SamplingParams::for_choice(&ask.options, choice),
                    logprobs: ask.logprobs,
                    timeout: Some(ask.timeout),
                };
                let index = nth * ask.choices + choice;
                let sender = Sender { index, sender: sender.clone(), ended: Arc::clone(&ended) };
                batcher.submit(request, sender)?;
            }
        }
        Ok(Answers { receiver, left, ended, heard: None })
    }

    /// The next event, and the number of its answer; `None` when all are complete.
    pub(super) async fn next(&mut self) -> Option<(usize, Event)> {
        if self.left == 0 {
            return None;
        }
        let next = match self.receiver.try_recv() {
            Ok(next) => next,
            Err(_) => self.wait().await?,
        };
        if !matches!(next.1, Event::Token { .. }) {
            self.left -= 1;
        }
        Some(next)
    }

    /// The next event, when it comes.
    async fn wait(&mut self) -> Option<(usize, Event)> {
        if let Some(heard) = self.heard {
            // An answer that is complete is not kept waiting.
            tokio::select! {
                () = sleep_until(heard + PACE) => {}
                () = self.ended.notified() => {}
            }
        }
        let next = self.receiver.recv().await;
        self.heard = Some(Instant::now());
        next
    }

    /// All answers, when they are complete.
    ///
    /// # Errors
    /// If one fails.
    pub(super) async fn collect(mut self) -> Result<Vec<Answer>, ApiError> {
        let mut answers = vec![Answer::default(); self.left];
        while let Some((index, event)) = self.next().await {
            let answer = &mut answers[index];
            match event {
                Event::Token { token, logprobs } => {
                    answer.text += &token.text;
                    answer.ids.push(token.id);
                    answer.logprobs.extend(logprobs);
                }
                Event::Finished { reason, timings } => (answer.finish, answer.timings) = (Some(reason), timings),
                Event::Failed(failure) => return Err(failure.into()),
            }
        }
        if answers.iter().any(|answer| answer.finish.is_none()) {
            return Err(ApiError::internal("an answer ended without a reason"));
        }
        Ok(answers)
    }
}

/// The name of a reason in OpenAI's API.
pub(super) fn finish_name(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop => "stop",
        FinishReason::Length | FinishReason::Context => "length",
    }
}
