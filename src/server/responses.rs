//! `/v1/responses`: texts only, and nothing is kept.

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
use super::chat_types::{ChatMessage, messages, refuse};
use super::error::{ApiError, ErrorBody};
use super::params::{SamplingParams, max_tokens};
use super::served::{Served, now};
use super::state::App;
use super::usage::Tally;
use super::writer::Writer;
use super::{prompt, sse as events};
use crate::engine::Event;
use crate::{FinishReason, Message};

/// What is to be answered.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct ResponsesRequest {
    /// The name of a model [default: the first one that is served]
    model: Option<String>,
    /// A question, or a conversation
    input: Input,
    /// What the model is to be
    instructions: Option<String>,
    /// At most this many tokens
    max_output_tokens: Option<u32>,
    /// Send the answer piece by piece
    stream: Option<bool>,
    #[schema(value_type = Option<Vec<Object>>)]
    tools: Option<Value>,
    #[schema(value_type = Option<String>)]
    previous_response_id: Option<Value>,
    #[schema(value_type = Option<bool>)]
    background: Option<Value>,
    text: Option<TextOptions>,
    #[schema(value_type = Option<Object>)]
    metadata: Option<Value>,
}

/// A question or a conversation.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected a string or an array of messages")]
enum Input {
    /// A question.
    Text(String),
    /// A conversation.
    Messages(Vec<ChatMessage>),
}

/// The form of the answer.
#[derive(Debug, Deserialize, ToSchema)]
struct TextOptions {
    #[schema(value_type = Option<Object>)]
    format: Option<Value>,
}

/// All fields of a request.
#[derive(ToSchema)]
pub(super) struct ResponsesBody {
    #[schema(inline)]
    #[serde(flatten)]
    #[expect(dead_code, reason = "describes the request for the OpenAPI document")]
    request: ResponsesRequest,
    #[schema(inline)]
    #[serde(flatten)]
    #[expect(dead_code, reason = "describes the request for the OpenAPI document")]
    sampling: SamplingParams,
}

/// Answer a question
#[utoipa::path(post, path = "/v1/responses", tag = "openai", request_body = ResponsesBody, responses(
    (status = 200, body = Object, description = "The answer; with `stream`, server-sent events"),
    (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn responses(State(app): State<App>, body: JsonBody) -> Result<Response, ApiError> {
    let request: ResponsesRequest = body.read()?;
    let sampling: SamplingParams = body.read()?;
    refuse(&[
        ("tools", &request.tools),
        ("text.format", &request.text.and_then(|text| text.format)),
        ("previous_response_id", &request.previous_response_id),
        ("background", &request.background),
    ])?;
    let served = app.model(request.model.as_deref())?;
    let max = max_tokens("max_output_tokens", request.max_output_tokens)?;
    let options = sampling.options(served.model(), max)?;
    let mut conversation = Vec::new();
    if let Some(content) = &request.instructions {
        conversation.push(Message { role: "system".into(), content: content.clone() });
    }
    match request.input {
        Input::Text(content) => conversation.push(Message { role: "user".into(), content }),
        Input::Messages(given) => conversation.extend(messages(given)?),
    }
    let tokens = prompt::of_chat(&served, conversation).await?;
    let head = json!({
        "id": format!("resp_{}", Uuid::new_v4().simple()),
        "object": "response",
        "created_at": now(),
        "model": served.id,
        "instructions": request.instructions,
        "max_output_tokens": request.max_output_tokens,
        "metadata": request.metadata.filter(Value::is_object).unwrap_or_else(|| json!({})),
        "temperature": options.sampling.temperature,
        "top_p": options.sampling.top_p,
        "error": null,
        "parallel_tool_calls": true,
        "previous_response_id": null,
        "store": false,
        "text": { "format": { "type": "text" } },
        "tool_choice": "auto",
        "tools": [],
        "truncation": "disabled",
    });
    let timeout = app.options().request_timeout;
    let ask = Ask { prompts: vec![tokens], choices: 1, options, logprobs: None, timeout };
    let tally = Tally::new(ask.prompt_tokens());
    let answers = Answers::start(&served, ask)?;
    let item = format!("msg_{}", Uuid::new_v4().simple());
    let mut writer = ResponseWriter { served, head, item, tally, text: String::new(), finish: None, number: 0 };
    if request.stream.unwrap_or(false) {
        return Ok(events::stream(answers, writer));
    }
    for answer in answers.collect().await? {
        writer.tally.add(&answer.timings);
        (writer.text, writer.finish) = (answer.text, answer.finish);
    }
    Ok(Json(writer.response()).into_response())
}

/// Writes the answer, at once or piece by piece.
struct ResponseWriter {
    served: Arc<Served>,
    /// What does not change.
    head: Value,
    /// The name of the message.
    item: String,
    tally: Tally,
    text: String,
    finish: Option<FinishReason>,
    /// Events so far.
    number: usize,
}

impl ResponseWriter {
    /// The response as it is now.
    fn response(&self) -> Value {
        let mut response = self.head.clone();
        let is_cut = matches!(self.finish, Some(FinishReason::Length | FinishReason::Context));
        let status = match self.finish {
            None => "in_progress",
            Some(_) if is_cut => "incomplete",
            Some(_) => "completed",
        };
        response["status"] = status.into();
        response["incomplete_details"] = if is_cut { json!({ "reason": "max_output_tokens" }) } else { Value::Null };
        response["output"] = if self.finish.is_some() { json!([self.message(status)]) } else { json!([]) };
        response["usage"] = match self.finish {
            None => Value::Null,
            Some(_) => {
                let usage = self.tally.usage();
                json!({
                    "input_tokens": usage.prompt_tokens,
                    "input_tokens_details": { "cached_tokens": usage.prompt_tokens_details.cached_tokens },
                    "output_tokens": usage.completion_tokens,
                    "output_tokens_details": { "reasoning_tokens": 0 },
                    "total_tokens": usage.total_tokens,
                })
            }
        };
        response
    }

    fn message(&self, status: &str) -> Value {
        let content = if self.finish.is_some() { json!([self.part()]) } else { json!([]) };
        json!({ "type": "message", "id": self.item, "status": status, "role": "assistant", "content": content })
    }

    fn part(&self) -> Value {
        json!({ "type": "output_text", "text": self.text, "annotations": [], "logprobs": [] })
    }

    /// An event named `kind`.
    fn event_of(&mut self, kind: &'static str, mut data: Value) -> sse::Event {
        data["type"] = kind.into();
        data["sequence_number"] = self.number.into();
        self.number += 1;
        events::json(&data).event(kind)
    }

    /// An event about the text.
    fn event_of_text(&mut self, kind: &'static str, key: &str, value: Value) -> sse::Event {
        let mut data = json!({ "item_id": self.item, "output_index": 0, "content_index": 0 });
        data[key] = value;
        if kind.starts_with("response.output_text") {
            data["logprobs"] = json!([]);
        }
        self.event_of(kind, data)
    }
}

impl Writer for ResponseWriter {
    type Piece = sse::Event;

    fn begin(&mut self) -> Vec<sse::Event> {
        let response = self.response();
        let message = self.message("in_progress");
        vec![
            self.event_of("response.created", json!({ "response": response })),
            self.event_of("response.in_progress", json!({ "response": response })),
            self.event_of("response.output_item.added", json!({ "output_index": 0, "item": message })),
            self.event_of_text("response.content_part.added", "part", self.part()),
        ]
    }

    fn event(&mut self, _: usize, event: Event) -> Vec<sse::Event> {
        match event {
            Event::Token { token, .. } if token.text.is_empty() => Vec::new(),
            Event::Token { token, .. } => {
                self.text += &token.text;
                vec![self.event_of_text("response.output_text.delta", "delta", token.text.into())]
            }
            Event::Finished { reason, timings } => {
                self.tally.add(&timings);
                self.finish = Some(reason);
                let response = self.response();
                let kind = match response["status"] == "completed" {
                    true => "response.completed",
                    false => "response.incomplete",
                };
                let item = response["output"][0].clone();
                vec![
                    self.event_of_text("response.output_text.done", "text", self.text.clone().into()),
                    self.event_of_text("response.content_part.done", "part", self.part()),
                    self.event_of("response.output_item.done", json!({ "output_index": 0, "item": item })),
                    self.event_of(kind, json!({ "response": response })),
                ]
            }
            Event::Failed(failure) => {
                let error = ApiError::from(failure);
                tracing::warn!("{}: {}", self.served.id, error.detail.message);
                let mut response = self.response();
                response["status"] = "failed".into();
                response["error"] = json!({ "code": "server_error", "message": error.detail.message });
                vec![self.event_of("response.failed", json!({ "response": response }))]
            }
        }
    }

    fn end(&mut self) -> Vec<sse::Event> {
        Vec::new()
    }
}
