//! How much a request took.

use serde::Serialize;
use utoipa::ToSchema;

use crate::Timings;

/// Tokens of a request and its answers.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub(super) struct Usage {
    pub(super) prompt_tokens: usize,
    pub(super) completion_tokens: usize,
    pub(super) total_tokens: usize,
    pub(super) prompt_tokens_details: PromptDetails,
}

/// Of the prompt.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub(super) struct PromptDetails {
    /// Tokens that had been computed before.
    pub(super) cached_tokens: usize,
}

/// Times, in seconds. An extension of OpenAI's API.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub(super) struct Times {
    /// From the request to the first token; what it waited is part of it.
    pub(super) first_token_seconds: f64,
    /// From the first token to the last.
    pub(super) decode_seconds: f64,
    /// Tokens of an answer per second, without the first.
    pub(super) decode_tokens_per_second: f64,
}

/// Adds the answers of a request up.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    prompt: usize,
    generated: usize,
    cached: usize,
    first: Option<Timings>,
}

impl Tally {
    /// For prompts of so many tokens together.
    pub(super) fn new(prompt: usize) -> Tally {
        Tally { prompt, ..Tally::default() }
    }

    /// Adds an answer.
    pub(super) fn add(&mut self, timings: &Timings) {
        self.generated += timings.generated_tokens;
        // The first answer is the one that may have had to compute the prompt.
        if self.first.is_none() {
            (self.first, self.cached) = (Some(*timings), timings.cached_tokens);
        }
    }

    pub(super) fn usage(&self) -> Usage {
        Usage {
            prompt_tokens: self.prompt,
            completion_tokens: self.generated,
            total_tokens: self.prompt + self.generated,
            prompt_tokens_details: PromptDetails { cached_tokens: self.cached },
        }
    }

    pub(super) fn times(&self) -> Times {
        let timings = self.first.unwrap_or_default();
        Times {
            first_token_seconds: timings.prompt_time.as_secs_f64(),
            decode_seconds: timings.decode_time.as_secs_f64(),
            decode_tokens_per_second: timings.decode_rate(),
        }
    }
}
