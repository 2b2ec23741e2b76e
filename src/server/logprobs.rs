//! Log-probabilities as OpenAI's API shapes them.

use serde::Serialize;
use utoipa::ToSchema;

use crate::engine::{Logprob, TokenLogprobs};
use crate::tokenizer::Tokenizer;

/// Of the tokens of a chat answer.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct ChatLogprobs {
    pub(super) content: Vec<ChatLogprob>,
}

/// Of one token and those that were likely in its place.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct ChatLogprob {
    #[serde(flatten)]
    token: NamedLogprob,
    top_logprobs: Vec<NamedLogprob>,
}

/// A token and its log-probability.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct NamedLogprob {
    token: String,
    logprob: f32,
    /// The token's bytes, where they are text by themselves.
    bytes: Option<Vec<u8>>,
}

/// JSON has no infinity: tokens that cannot come have this, as in OpenAI's API.
const IMPOSSIBLE: f32 = -9999.0;

impl NamedLogprob {
    fn new(tokenizer: &Tokenizer, token: Logprob) -> NamedLogprob {
        let text = text_of(tokenizer, token.id);
        let bytes = (!text.contains(char::REPLACEMENT_CHARACTER)).then(|| text.clone().into_bytes());
        NamedLogprob { token: text, logprob: token.logprob.max(IMPOSSIBLE), bytes }
    }
}

impl ChatLogprob {
    pub(super) fn new(tokenizer: &Tokenizer, token: &TokenLogprobs) -> ChatLogprob {
        ChatLogprob {
            token: NamedLogprob::new(tokenizer, token.token),
            top_logprobs: token.top.iter().map(|&top| NamedLogprob::new(tokenizer, top)).collect(),
        }
    }
}

/// Of the tokens of a completion.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub(super) struct CompletionLogprobs {
    tokens: Vec<String>,
    token_logprobs: Vec<f32>,
    top_logprobs: Vec<std::collections::BTreeMap<String, f32>>,
    /// Where each token begins, in characters of the answer.
    text_offset: Vec<usize>,
}

impl CompletionLogprobs {
    /// Those of some tokens that begin `offset` characters behind the beginning; moves `offset` behind them.
    pub(super) fn new(tokenizer: &Tokenizer, tokens: &[TokenLogprobs], offset: &mut usize) -> CompletionLogprobs {
        let mut logprobs = CompletionLogprobs::default();
        for token in tokens {
            let text = text_of(tokenizer, token.token.id);
            logprobs.text_offset.push(*offset);
            *offset += text.chars().count();
            logprobs.tokens.push(text);
            logprobs.token_logprobs.push(token.token.logprob.max(IMPOSSIBLE));
            let named = |top: &Logprob| (text_of(tokenizer, top.id), top.logprob.max(IMPOSSIBLE));
            logprobs.top_logprobs.push(token.top.iter().map(named).collect());
        }
        logprobs
    }
}

/// The text of a token by itself.
fn text_of(tokenizer: &Tokenizer, id: u32) -> String {
    tokenizer.decode(&[id], false).unwrap_or_default()
}
