//! The text of an answer: tokens become text, and rules end it.

use super::stop::{StopMatcher, StopResult};
use super::{Error, FinishReason, GenerateOptions, Model};
use crate::tokenizer::DecodeStream;

/// Turns the tokens of one answer into text.
pub(super) struct AnswerText {
    stream: DecodeStream,
    stop: StopMatcher,
    max_tokens: Option<usize>,
    ignore_eos: bool,
    tokens: usize,
}

impl AnswerText {
    /// For the tokens that `stream` decodes.
    pub(super) fn new(options: &GenerateOptions, stream: DecodeStream) -> AnswerText {
        AnswerText {
            stream,
            stop: StopMatcher::new(&options.stop),
            max_tokens: options.max_tokens,
            ignore_eos: options.ignore_eos,
            tokens: 0,
        }
    }

    /// The text that is certain after token `id`, with which the sequence has `len` tokens, and why it was the last one, if
    /// it was.
    pub(super) fn push(&mut self, model: &Model, id: u32, len: usize) -> Result<(String, Option<FinishReason>), Error> {
        self.tokens += 1;
        if !self.ignore_eos && model.is_end(id) {
            return Ok((self.rest(String::new())?.0, Some(FinishReason::Stop)));
        }
        let text = self.stream.push(id)?.unwrap_or_default();
        let certain = match self.stop.push(&text) {
            StopResult::Stopped(text) => return Ok((text, Some(FinishReason::Stop))),
            StopResult::Text(text) => text,
        };
        let reason = if self.max_tokens.is_some_and(|max| self.tokens >= max) {
            FinishReason::Length
        } else if len > model.context() {
            FinishReason::Context
        } else {
            return Ok((certain, None));
        };
        let (text, stopped) = self.rest(certain)?;
        Ok((text, Some(if stopped { FinishReason::Stop } else { reason })))
    }

    /// `text` and everything that was held back, and whether a stop string was hidden in it.
    fn rest(&mut self, mut text: String) -> Result<(String, bool), Error> {
        let tail = self.stream.finish()?.unwrap_or_default();
        Ok(match self.stop.push(&tail) {
            StopResult::Stopped(before) => (text + &before, true),
            StopResult::Text(before) => {
                text += &before;
                text += &self.stop.finish();
                (text, false)
            }
        })
    }
}
