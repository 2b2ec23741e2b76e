//! Generation: one token after the other until something stops it.

use std::time::{Duration, Instant};

use super::answer::AnswerText;
use super::{Error, Sampler, Sampling, Session};
use crate::tokenizer::DecodeStream;

/// How long and how a text is continued.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateOptions {
    /// At most this many tokens; `None` goes on until the context is full.
    pub max_tokens: Option<usize>,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Text that ends the answer; not part of it.
    pub stop: Vec<String>,
    /// Go on after an end-of-text token.
    pub ignore_eos: bool,
}

impl Default for GenerateOptions {
    /// 256 tokens, greedy.
    fn default() -> GenerateOptions {
        GenerateOptions { max_tokens: Some(256), sampling: Sampling::default(), stop: Vec::new(), ignore_eos: false }
    }
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// An end-of-text token or a stop string.
    Stop,
    /// The number of tokens that was asked for.
    Length,
    /// No room in the context.
    Context,
}

impl FinishReason {
    /// The name used in JSON output.
    pub const fn name(self) -> &'static str {
        match self {
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
            FinishReason::Context => "context",
        }
    }
}

/// A generated token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Its id.
    pub id: u32,
    /// Text that became certain with it. Empty while a character or a stop string may be incomplete; the text of an
    /// end-of-text token is what was held back until then.
    pub text: String,
}

/// Numbers and times of a generation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// Prompt tokens that were computed.
    pub prompt_tokens: usize,
    /// Prompt tokens whose keys and values were still cached.
    pub cached_tokens: usize,
    /// Time for the prompt, the first token and its text included.
    pub prompt_time: Duration,
    /// Generated tokens.
    pub generated_tokens: usize,
    /// Time for all tokens but the first, and their text.
    pub decode_time: Duration,
}

impl Timings {
    /// Prompt tokens per second.
    pub fn prompt_rate(&self) -> f64 {
        self.prompt_tokens as f64 / self.prompt_time.as_secs_f64().max(1e-9)
    }

    /// Generated tokens per second, without the first, which belongs to the prompt.
    pub fn decode_rate(&self) -> f64 {
        self.generated_tokens.saturating_sub(1) as f64 / self.decode_time.as_secs_f64().max(1e-9)
    }
}

/// An iterator over the tokens of an answer. Dropping it ends the answer; what was generated stays in the session.
pub struct Generation<'s> {
    session: &'s mut Session,
    sampler: Sampler,
    text: AnswerText,
    max_tokens: Option<usize>,
    /// Tokens that are not in the cache yet: the prompt, then the last token.
    pending: Vec<u32>,
    /// The whole sequence, for the repetition penalty.
    history: Vec<u32>,
    /// Memory for the sampler.
    adjusted: Vec<u32>,
    finish: Option<FinishReason>,
    timings: Timings,
}

impl<'s> Generation<'s> {
    pub(super) fn new(
        session: &'s mut Session,
        prompt: Vec<u32>,
        cached: usize,
        options: GenerateOptions,
        stream: DecodeStream,
    ) -> Result<Generation<'s>, Error> {
        let mut sampler = session.model().sampler(&options.sampling)?;
        sampler.set_prompt_len(prompt.len());
        Ok(Generation {
            sampler,
            text: AnswerText::new(&options, stream),
            max_tokens: options.max_tokens,
            pending: prompt[cached..].to_vec(),
            history: prompt,
            adjusted: Vec::new(),
            finish: None,
            timings: Timings { cached_tokens: cached, ..Timings::default() },
            session,
        })
    }

    /// Why the generation ended; `None` while it goes on.
    pub fn finish_reason(&self) -> Option<FinishReason> {
        self.finish
    }

    /// Numbers and times so far.
    pub fn timings(&self) -> Timings {
        self.timings
    }

    /// The seed of the sampler.
    pub fn seed(&self) -> u64 {
        self.sampler.seed()
    }

    fn step(&mut self) -> Result<Token, Error> {
        let start = Instant::now();
        let id = {
            let (sampler, history) = (&mut self.sampler, &self.history);
            let wanted = sampler.wanted(history, &mut self.adjusted);
            self.session.forward_last(&self.pending, wanted, |output| sampler.choose(output, history))?
        };
        self.history.push(id);
        let (text, finish) = self.text.push(self.session.model(), id, self.history.len())?;
        self.finish = finish;
        let elapsed = start.elapsed();
        if self.timings.generated_tokens == 0 {
            self.timings.prompt_tokens = self.pending.len();
            self.timings.prompt_time = elapsed;
        } else {
            self.timings.decode_time += elapsed;
        }
        self.timings.generated_tokens += 1;
        self.pending.clear();
        self.pending.push(id);
        Ok(Token { id, text })
    }
}

impl Iterator for Generation<'_> {
    type Item = Result<Token, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.finish.is_some() {
            return None;
        }
        if self.max_tokens == Some(0) {
            self.finish = Some(FinishReason::Length);
            return None;
        }
        let item = self.step();
        if item.is_err() {
            // An iterator that has failed is at its end.
            self.finish = Some(FinishReason::Stop);
        }
        Some(item)
    }
}
