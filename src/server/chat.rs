//! `/v1/chat/completions`.

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
use super::chat_types::{ChatMessage, messages, refuse};
use super::error::{ApiError, ErrorBody};
use super::logprobs::{ChatLogprob, ChatLogprobs};
use super::params::{SamplingParams, choices, max_tokens};
use super::served::{Served, now};
use super::state::App;
use super::usage::{Tally, Times, Usage};
use super::writer::Writer;
use super::{prompt, sse as events};
use crate::engine::Event;
use std::sync::Arc;

/// A conversation to answer.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct ChatRequest {
    /// The name of a model [default: the first one that is served]
    model: Option<String>,
    /// The conversation
    messages: Vec<ChatMessage>,
    /// At most this many tokens
    max_completion_tokens: Option<u32>,
    /// The old name of `max_completion_tokens`
    max_tokens: Option<u32>,
    /// How many answers
    n: Option<u32>,
    /// Send the answer piece by piece
    stream: Option<bool>,
    /// How it is sent
    stream_options: Option<StreamOptions>,
    /// Tell the log-probability of each token
    logprobs: Option<bool>,
    /// And those of so many others, at most 20
    top_logprobs: Option<u32>,
    #[schema(value_type = Option<Object>)]
    response_format: Option<Value>,
    #[schema(value_type = Option<Vec<Object>>)]
    tools: Option<Value>,
}

/// What a stream holds beside the answer.
#[derive(Clone, Copy, Debug, Default, Deserialize, ToSchema)]
pub(super) struct StreamOptions {
    /// Tell the number of tokens and times in a last piece
    include_usage: Option<bool>,
}

impl StreamOptions {
    /// Whether the last piece tells the number of tokens.
    pub(super) fn wants_usage(options: Option<StreamOptions>) -> bool {
        options.and_then(|options| options.include_usage).unwrap_or(false)
    }
}

/// All fields of a chat request.
#[derive(ToSchema)]
pub(super) struct ChatBody {
    #[schema(inline)]
    #[serde(flatten)]
    #[expect(dead_code, reason = "describes the request for the OpenAPI document")]
    chat: ChatRequest,
    #[schema(inline)]
    #[serde(flatten)]
    #[expect(dead_code, reason = "describes the request for the OpenAPI document")]
    sampling: SamplingParams,
}

/// Answers to a conversation.
#[derive(Serialize, ToSchema)]
pub(super) struct ChatResponse {
    id: String,
    object: &'static str,
    created: u64,
    model: String,
    choices: Vec<ChatChoice>,
    usage: Usage,
    timings: Times,
}

/// One answer.
#[derive(Serialize, ToSchema)]
struct ChatChoice {
    index: usize,
    message: AnswerMessage,
    logprobs: Option<ChatLogprobs>,
    finish_reason: Option<&'static str>,
}

/// What an answer says.
#[derive(Serialize, ToSchema)]
struct AnswerMessage {
    role: &'static str,
    content: String,
    refusal: Option<String>,
}

/// A piece of an answer.
#[derive(Serialize)]
struct ChatChunk<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: &'a [ChunkChoice],
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timings: Option<Times>,
}

#[derive(Serialize)]
struct ChunkChoice {
    index: usize,
    delta: Delta,
    logprobs: Option<ChatLogprobs>,
    finish_reason: Option<&'static str>,
}

#[derive(Default, Serialize)]
struct Delta {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
}

/// More than this many alternatives of a token are not told.
const MAX_TOP_LOGPROBS: u32 = 20;

/// Answer a conversation
#[utoipa::path(post, path = "/v1/chat/completions", tag = "openai", request_body = ChatBody, responses(
    (status = 200, body = ChatResponse, description = "The answer; with `stream`, server-sent events"),
    (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn chat(State(app): State<App>, body: JsonBody) -> Result<Response, ApiError> {
    let request: ChatRequest = body.read()?;
    let sampling: SamplingParams = body.read()?;
    refuse(&[("tools", &request.tools), ("response_format", &request.response_format)])?;
    let served = app.model(request.model.as_deref())?;
    let max = match request.max_completion_tokens {
        Some(max) => max_tokens("max_completion_tokens", Some(max))?,
        None => max_tokens("max_tokens", request.max_tokens)?,
    };
    let options = sampling.options(served.model(), max)?;
    let choices = choices(request.n)?;
    let logprobs = top_logprobs(&request)?;
    let tokens = prompt::of_chat(&served, messages(request.messages)?).await?;
    let timeout = app.options().request_timeout;
    let ask = Ask { prompts: vec![tokens], choices, options, logprobs, timeout };
    let tally = Tally::new(ask.prompt_tokens());
    let answers = Answers::start(&served, ask)?;
    let id = format!("chatcmpl-{}", Uuid::new_v4().simple());
    if request.stream.unwrap_or(false) {
        let usage = StreamOptions::wants_usage(request.stream_options);
        return Ok(events::stream(answers, ChatWriter { served, id, created: now(), choices, usage, tally }));
    }
    whole(&served, id, answers, tally).await
}

fn top_logprobs(request: &ChatRequest) -> Result<Option<usize>, ApiError> {
    let top = request.top_logprobs.unwrap_or(0);
    if top > MAX_TOP_LOGPROBS {
        let message = format!("top_logprobs is {top}, expected a number from 0 to {MAX_TOP_LOGPROBS}");
        return Err(ApiError::bad_field("top_logprobs", message));
    }
    if top > 0 && request.logprobs != Some(true) {
        return Err(ApiError::bad_field("top_logprobs", "top_logprobs needs logprobs: true"));
    }
    Ok((request.logprobs == Some(true)).then_some(top as usize))
}

/// The answers as one object.
async fn whole(served: &Arc<Served>, id: String, answers: Answers, mut tally: Tally) -> Result<Response, ApiError> {
    let created = now();
    let answers = answers.collect().await?;
    let tokenizer = served.model().tokenizer()?;
    let choices = answers.into_iter().enumerate().map(|(index, answer)| {
        tally.add(&answer.timings);
        let content: Vec<_> = answer.logprobs.iter().map(|token| ChatLogprob::new(tokenizer, token)).collect();
        ChatChoice {
            index,
            message: AnswerMessage { role: "assistant", content: answer.text, refusal: None },
            logprobs: (!content.is_empty()).then_some(ChatLogprobs { content }),
            finish_reason: answer.finish.map(finish_name),
        }
    });
    let choices = choices.collect();
    let (usage, timings) = (tally.usage(), tally.times());
    let model = served.id.clone();
    Ok(Json(ChatResponse { id, object: "chat.completion", created, model, choices, usage, timings }).into_response())
}

/// Writes the answers piece by piece.
struct ChatWriter {
    served: Arc<Served>,
    id: String,
    created: u64,
    choices: usize,
    usage: bool,
    tally: Tally,
}

impl ChatWriter {
    fn chunk(&self, choices: &[ChunkChoice], usage: Option<(Usage, Times)>) -> sse::Event {
        let (usage, timings) = usage.unzip();
        let (id, model) = (self.id.as_str(), self.served.id.as_str());
        let object = "chat.completion.chunk";
        events::json(&ChatChunk { id, object, created: self.created, model, choices, usage, timings })
    }

    fn piece(&self, index: usize, delta: Delta, logprobs: Option<ChatLogprobs>) -> sse::Event {
        self.chunk(&[ChunkChoice { index, delta, logprobs, finish_reason: None }], None)
    }
}

impl Writer for ChatWriter {
    type Piece = sse::Event;

    fn begin(&mut self) -> Vec<sse::Event> {
        let role = |index| {
            let delta = Delta { role: Some("assistant"), content: Some(String::new()) };
            self.piece(index, delta, None)
        };
        (0..self.choices).map(role).collect()
    }

    fn event(&mut self, index: usize, event: Event) -> Vec<sse::Event> {
        match event {
            // Nothing is certain yet.
            Event::Token { token, logprobs: None } if token.text.is_empty() => Vec::new(),
            Event::Token { token, logprobs } => {
                let tokenizer = self.served.model().tokenizer().ok();
                let content =
                    tokenizer.zip(logprobs).map(|(tokenizer, logprobs)| ChatLogprob::new(tokenizer, &logprobs));
                let logprobs = content.map(|content| ChatLogprobs { content: vec![content] });
                vec![self.piece(index, Delta { role: None, content: Some(token.text) }, logprobs)]
            }
            Event::Finished { reason, timings } => {
                self.tally.add(&timings);
                let finish_reason = Some(finish_name(reason));
                vec![self.chunk(&[ChunkChoice { index, delta: Delta::default(), logprobs: None, finish_reason }], None)]
            }
            Event::Failed(failure) => vec![events::error(failure)],
        }
    }

    fn end(&mut self) -> Vec<sse::Event> {
        let mut last = Vec::new();
        if self.usage {
            last.push(self.chunk(&[], Some((self.tally.usage(), self.tally.times()))));
        }
        last.push(events::done());
        last
    }
}
