//! `/v1/completions`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::sse;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use super::answers::{Answers, Ask, finish_name};
use super::body::JsonBody;
use super::chat::StreamOptions;
use super::chat_types::refuse;
use super::error::{ApiError, ErrorBody};
use super::logprobs::CompletionLogprobs;
use super::params::{MAX_CHOICES, SamplingParams, choices, max_tokens};
use super::prompt::Input;
use super::served::{Served, now};
use super::state::App;
use super::usage::{Tally, Times, Usage};
use super::writer::Writer;
use super::{prompt, sse as events};
use crate::engine::{Event, TokenLogprobs};

/// A text to continue.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct CompletionRequest {
    /// The name of a model [default: the first one that is served]
    model: Option<String>,
    /// The text or texts, or their tokens
    prompt: Input,
    /// At most this many tokens [default: 16]
    max_tokens: Option<u32>,
    /// How many answers to each text
    n: Option<u32>,
    /// Send the answer piece by piece
    stream: Option<bool>,
    /// How it is sent
    stream_options: Option<StreamOptions>,
    /// Tell the log-probability of each token, and of so many others, at most 5
    logprobs: Option<u32>,
    /// Put the text in front of its answer
    echo: Option<bool>,
    #[schema(value_type = Option<String>)]
    suffix: Option<Value>,
}

/// All fields of a completion request.
#[derive(ToSchema)]
pub(super) struct CompletionBody {
    #[schema(inline)]
    #[serde(flatten)]
    #[expect(dead_code, reason = "describes the request for the OpenAPI document")]
    completion: CompletionRequest,
    #[schema(inline)]
    #[serde(flatten)]
    #[expect(dead_code, reason = "describes the request for the OpenAPI document")]
    sampling: SamplingParams,
}

/// Continued texts, or a piece of them.
#[derive(Serialize, ToSchema)]
pub(super) struct CompletionResponse {
    id: String,
    object: &'static str,
    created: u64,
    model: String,
    choices: Vec<CompletionChoice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timings: Option<Times>,
}

/// One of them.
#[derive(Serialize, ToSchema)]
struct CompletionChoice {
    index: usize,
    text: String,
    logprobs: Option<CompletionLogprobs>,
    finish_reason: Option<&'static str>,
}

/// The length of an answer whose request says nothing of it, as in OpenAI's API.
const DEFAULT_MAX_TOKENS: usize = 16;

/// More than this many alternatives of a token are not told.
const MAX_LOGPROBS: u32 = 5;

/// Continue a text
#[utoipa::path(post, path = "/v1/completions", tag = "openai", request_body = CompletionBody, responses(
    (status = 200, body = CompletionResponse, description = "The continuation; with `stream`, server-sent events"),
    (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn completions(State(app): State<App>, body: JsonBody) -> Result<Response, ApiError> {
    let request: CompletionRequest = body.read()?;
    let sampling: SamplingParams = body.read()?;
    refuse(&[("suffix", &request.suffix)])?;
    let served = app.model(request.model.as_deref())?;
    let max = max_tokens("max_tokens", request.max_tokens)?.or(Some(DEFAULT_MAX_TOKENS));
    let options = sampling.options(served.model(), max)?;
    let choices = choices(request.n)?;
    if let Some(logprobs) = request.logprobs.filter(|&logprobs| logprobs > MAX_LOGPROBS) {
        let message = format!("logprobs is {logprobs}, expected a number from 0 to {MAX_LOGPROBS}");
        return Err(ApiError::bad_field("logprobs", message));
    }
    let echo = request.echo.unwrap_or(false);
    if echo && request.logprobs.is_some() {
        return Err(ApiError::unsupported("echo", "the probabilities of the prompt are not told"));
    }
    let prompts = tokens_of(&served, request.prompt, choices).await?;
    let mut heads = vec![String::new(); prompts.len() * choices];
    if echo {
        let tokenizer = served.model().tokenizer()?;
        for (head, nth) in heads.iter_mut().zip(0..) {
            *head = tokenizer.decode(&prompts[nth / choices], true)?;
        }
    }
    let timeout = app.options().request_timeout;
    let ask = Ask { prompts, choices, options, logprobs: request.logprobs.map(|top| top as usize), timeout };
    let tally = Tally::new(ask.prompt_tokens());
    let answers = Answers::start(&served, ask)?;
    let id = format!("cmpl-{}", Uuid::new_v4().simple());
    let offsets = heads.iter().map(|head| head.chars().count()).collect();
    let usage = StreamOptions::wants_usage(request.stream_options);
    let mut writer = CompletionWriter { served, id, created: now(), heads, offsets, usage, tally };
    if request.stream.unwrap_or(false) {
        return Ok(events::stream(answers, writer));
    }
    let answers = answers.collect().await?;
    let choice = |(index, answer): (usize, super::answers::Answer)| {
        writer.tally.add(&answer.timings);
        CompletionChoice {
            text: std::mem::take(&mut writer.heads[index]) + &answer.text,
            logprobs: writer.logprobs(index, &answer.logprobs),
            finish_reason: answer.finish.map(finish_name),
            index,
        }
    };
    let choices = answers.into_iter().enumerate().map(choice).collect();
    let usage = (writer.tally.usage(), writer.tally.times());
    Ok(Json(writer.response(choices, Some(usage))).into_response())
}

/// The tokens of each prompt.
async fn tokens_of(served: &Arc<Served>, given: Input, choices: usize) -> Result<Vec<Vec<u32>>, ApiError> {
    let texts = match given {
        Input::Tokens(tokens) => return Ok(vec![tokens]),
        Input::TokenLists(lists) if !lists.is_empty() => {
            few_enough(lists.len(), choices)?;
            return Ok(lists);
        }
        Input::TokenLists(_) => Vec::new(),
        Input::Text(text) => vec![text],
        Input::Texts(texts) => texts,
    };
    few_enough(texts.len(), choices)?;
    let mut prompts = Vec::with_capacity(texts.len());
    for text in texts {
        prompts.push(prompt::of_text(served, text).await?);
    }
    Ok(prompts)
}

/// Refuses more answers than one request may ask for.
fn few_enough(prompts: usize, choices: usize) -> Result<(), ApiError> {
    if prompts == 0 || prompts * choices > 4 * MAX_CHOICES as usize {
        let message =
            format!("prompt: {prompts} texts with {choices} answers each; at most {} answers", 4 * MAX_CHOICES);
        return Err(ApiError::bad_field("prompt", message));
    }
    Ok(())
}

/// Writes the answers piece by piece.
struct CompletionWriter {
    served: Arc<Served>,
    id: String,
    created: u64,
    /// What is put in front of each answer.
    heads: Vec<String>,
    /// Characters of each answer so far.
    offsets: Vec<usize>,
    usage: bool,
    tally: Tally,
}

impl CompletionWriter {
    fn response(&self, choices: Vec<CompletionChoice>, usage: Option<(Usage, Times)>) -> CompletionResponse {
        let (usage, timings) = usage.unzip();
        let (id, model) = (self.id.clone(), self.served.id.clone());
        CompletionResponse { id, object: "text_completion", created: self.created, model, choices, usage, timings }
    }

    fn logprobs(&mut self, index: usize, tokens: &[TokenLogprobs]) -> Option<CompletionLogprobs> {
        let tokenizer = self.served.model().tokenizer().ok().filter(|_| !tokens.is_empty())?;
        Some(CompletionLogprobs::new(tokenizer, tokens, &mut self.offsets[index]))
    }

    fn piece(
        &self,
        index: usize,
        text: String,
        logprobs: Option<CompletionLogprobs>,
        finish_reason: Option<&'static str>,
    ) -> sse::Event {
        events::json(&self.response(vec![CompletionChoice { index, text, logprobs, finish_reason }], None))
    }
}

impl Writer for CompletionWriter {
    type Piece = sse::Event;

    fn begin(&mut self) -> Vec<sse::Event> {
        let heads = std::mem::take(&mut self.heads).into_iter().enumerate();
        heads.filter(|(_, head)| !head.is_empty()).map(|(index, head)| self.piece(index, head, None, None)).collect()
    }

    fn event(&mut self, index: usize, event: Event) -> Vec<sse::Event> {
        match event {
            Event::Token { token, logprobs: None } if token.text.is_empty() => Vec::new(),
            Event::Token { token, logprobs } => {
                let logprobs = self.logprobs(index, logprobs.as_slice());
                vec![self.piece(index, token.text, logprobs, None)]
            }
            Event::Finished { reason, timings } => {
                self.tally.add(&timings);
                vec![self.piece(index, String::new(), None, Some(finish_name(reason)))]
            }
            Event::Failed(failure) => vec![events::error(failure)],
        }
    }

    fn end(&mut self) -> Vec<sse::Event> {
        let mut last = Vec::new();
        if self.usage {
            last.push(events::json(&self.response(Vec::new(), Some((self.tally.usage(), self.tally.times())))));
        }
        last.push(events::done());
        last
    }
}
