//! Anthropic's `/v1/messages`: texts.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::sse;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;
use uuid::Uuid;

use super::answers::{Answers, Ask};
use super::body::JsonBody;
use super::chat_types::{ChatMessage, Content, messages as read_messages, refuse};
use super::error::ApiError;
use super::params::{SamplingParams, max_tokens};
use super::served::Served;
use super::state::App;
use super::usage::Tally;
use super::writer::Writer;
use super::{prompt, sse as events};
use crate::engine::Event;
use crate::{FinishReason, Message};

/// A conversation to answer.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct MessagesRequest {
    /// The name of a model [default: the first one that is served]
    model: Option<String>,
    /// At most this many tokens
    max_tokens: u32,
    /// The conversation
    messages: Vec<ChatMessage>,
    /// What the model is to be
    system: Option<Content>,
    /// Texts that end the answer
    stop_sequences: Option<Vec<String>>,
    /// Send the answer piece by piece
    stream: Option<bool>,
    #[schema(value_type = Option<Vec<Object>>)]
    tools: Option<Value>,
}

/// All fields of a request.
#[derive(ToSchema)]
pub(super) struct MessagesBody {
    #[schema(inline)]
    #[serde(flatten)]
    #[expect(dead_code, reason = "describes the request for the OpenAPI document")]
    request: MessagesRequest,
    #[schema(inline)]
    #[serde(flatten)]
    #[expect(dead_code, reason = "describes the request for the OpenAPI document")]
    sampling: SamplingParams,
}

/// An error in Anthropic's shape.
pub(super) struct AnthropicError(ApiError);

impl From<ApiError> for AnthropicError {
    fn from(error: ApiError) -> AnthropicError {
        AnthropicError(error)
    }
}

impl AnthropicError {
    fn body(&self) -> Value {
        let kind = match self.0.status.as_u16() {
            503 => "overloaded_error",
            500.. => "api_error",
            404 => "not_found_error",
            413 => "request_too_large",
            _ => self.0.detail.kind,
        };
        json!({ "type": "error", "error": { "type": kind, "message": self.0.detail.message } })
    }
}

impl IntoResponse for AnthropicError {
    fn into_response(self) -> Response {
        self.0.respond_with(Json(self.body()))
    }
}

/// Answer a conversation
#[utoipa::path(post, path = "/v1/messages", tag = "anthropic", request_body = MessagesBody, responses(
    (status = 200, body = Object, description = "The answer; with `stream`, server-sent events"),
    (status = "4XX", body = Object), (status = "5XX", body = Object)))]
pub(super) async fn messages(
    State(app): State<App>,
    body: Result<JsonBody, ApiError>,
) -> Result<Response, AnthropicError> {
    let body = body?;
    let request: MessagesRequest = body.read()?;
    let sampling = body.read::<SamplingParams>()?.with_stop(request.stop_sequences.clone());
    refuse(&[("tools", &request.tools)])?;
    let served = app.model(request.model.as_deref())?;
    let options = sampling.options(served.model(), max_tokens("max_tokens", Some(request.max_tokens))?)?;
    let mut conversation = Vec::new();
    if let Some(system) = request.system {
        conversation.push(Message { role: "system".into(), content: system.text("system")? });
    }
    conversation.extend(read_messages(request.messages)?);
    let tokens = prompt::of_chat(&served, conversation).await?;
    let stops = options.stop.clone();
    let ask =
        Ask { prompts: vec![tokens], choices: 1, options, logprobs: None, timeout: app.options().request_timeout };
    let tally = Tally::new(ask.prompt_tokens());
    let answers = Answers::start(&served, ask)?;
    let id = format!("msg_{}", Uuid::new_v4().simple());
    let mut writer = MessageWriter { served, id, tally, stops, last: None };
    if request.stream.unwrap_or(false) {
        return Ok(events::stream(answers, writer));
    }
    let answer = answers.collect().await?.pop().unwrap_or_default();
    writer.tally.add(&answer.timings);
    writer.last = answer.ids.last().copied();
    let mut message = writer.message(json!([{ "type": "text", "text": answer.text }]));
    (message["stop_reason"], message["stop_sequence"]) = writer.stop_reason(answer.finish);
    Ok(Json(message).into_response())
}

/// Writes the answer, at once or piece by piece.
struct MessageWriter {
    served: Arc<Served>,
    id: String,
    tally: Tally,
    stops: Vec<String>,
    /// The last token.
    last: Option<u32>,
}

impl MessageWriter {
    fn message(&self, content: Value) -> Value {
        json!({
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.served.id,
            "content": content,
            "stop_reason": null,
            "stop_sequence": null,
            "usage": self.usage(),
        })
    }

    fn usage(&self) -> Value {
        let usage = self.tally.usage();
        let cached = usage.prompt_tokens_details.cached_tokens;
        json!({
            "input_tokens": usage.prompt_tokens - cached,
            "cache_read_input_tokens": cached,
            "cache_creation_input_tokens": 0,
            "output_tokens": usage.completion_tokens,
        })
    }

    /// Why the answer ended, and the text that ended it where there is but one that can have.
    fn stop_reason(&self, finish: Option<FinishReason>) -> (Value, Value) {
        match finish {
            None => (Value::Null, Value::Null),
            Some(FinishReason::Length | FinishReason::Context) => ("max_tokens".into(), Value::Null),
            Some(FinishReason::Stop) if self.last.is_some_and(|id| self.served.model().is_end(id)) => {
                ("end_turn".into(), Value::Null)
            }
            Some(FinishReason::Stop) => {
                let stop = if let [stop] = &self.stops[..] { stop.as_str().into() } else { Value::Null };
                ("stop_sequence".into(), stop)
            }
        }
    }
}

/// An event named `kind`.
fn event_of(kind: &'static str, mut data: Value) -> sse::Event {
    data["type"] = kind.into();
    events::json(&data).event(kind)
}

impl Writer for MessageWriter {
    type Piece = sse::Event;

    fn begin(&mut self) -> Vec<sse::Event> {
        let block = json!({ "type": "text", "text": "" });
        vec![
            event_of("message_start", json!({ "message": self.message(json!([])) })),
            event_of("content_block_start", json!({ "index": 0, "content_block": block })),
        ]
    }

    fn event(&mut self, _: usize, event: Event) -> Vec<sse::Event> {
        match event {
            Event::Token { token, .. } => {
                self.last = Some(token.id);
                if token.text.is_empty() {
                    return Vec::new();
                }
                let delta = json!({ "type": "text_delta", "text": token.text });
                vec![event_of("content_block_delta", json!({ "index": 0, "delta": delta }))]
            }
            Event::Finished { reason, timings } => {
                self.tally.add(&timings);
                let (reason, sequence) = self.stop_reason(Some(reason));
                let delta = json!({ "stop_reason": reason, "stop_sequence": sequence });
                vec![
                    event_of("content_block_stop", json!({ "index": 0 })),
                    event_of("message_delta", json!({ "delta": delta, "usage": self.usage() })),
                    event_of("message_stop", json!({})),
                ]
            }
            Event::Failed(failure) => {
                vec![event_of("error", AnthropicError(failure.into()).body())]
            }
        }
    }

    fn end(&mut self) -> Vec<sse::Event> {
        Vec::new()
    }
}
