//! Ollama's `/api/chat`, `/api/generate` and `/api/tags`.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use serde::Deserialize;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use utoipa::ToSchema;

use super::answers::{Answers, Ask, finish_name};
use super::body::JsonBody;
use super::chat_types::{ChatMessage, messages, refuse};
use super::error::ApiError;
use super::params::{SamplingParams, max_tokens};
use super::prompt;
use super::served::Served;
use super::state::App;
use super::usage::Tally;
use super::writer::{Writer, pieces};
use crate::engine::Event;
use crate::{FinishReason, Message, Timings};

/// A conversation to answer.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct OllamaChat {
    model: Option<String>,
    messages: Vec<ChatMessage>,
    /// Send the answer piece by piece [default: true]
    stream: Option<bool>,
    options: Option<OllamaOptions>,
    #[schema(value_type = Option<Object>)]
    format: Option<Value>,
    #[schema(value_type = Option<Vec<Object>>)]
    tools: Option<Value>,
}

/// A question to answer, or a text to continue.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct OllamaGenerate {
    model: Option<String>,
    prompt: String,
    /// What the model is to be
    system: Option<String>,
    /// Continue the prompt as it is
    raw: Option<bool>,
    /// Send the answer piece by piece [default: true]
    stream: Option<bool>,
    options: Option<OllamaOptions>,
    #[schema(value_type = Option<Object>)]
    format: Option<Value>,
}

/// How an answer is chosen.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
pub(super) struct OllamaOptions {
    #[serde(flatten)]
    sampling: SamplingParams,
    /// At most this many tokens; below 1 for no limit
    num_predict: Option<i64>,
}

/// An error in Ollama's shape.
pub(super) struct OllamaError(ApiError);

impl From<ApiError> for OllamaError {
    fn from(error: ApiError) -> OllamaError {
        OllamaError(error)
    }
}

impl IntoResponse for OllamaError {
    fn into_response(self) -> Response {
        self.0.respond_with(Json(json!({ "error": self.0.detail.message })))
    }
}

/// A model by Ollama's name, in which a tag may follow a colon.
fn model(app: &App, name: Option<&str>) -> Result<Arc<Served>, ApiError> {
    match name.and_then(|name| name.strip_suffix(":latest")) {
        Some(name) => app.model(Some(name)),
        None => app.model(name),
    }
}

/// Answer a conversation
#[utoipa::path(post, path = "/api/chat", tag = "ollama", request_body = OllamaChat, responses(
    (status = 200, body = Object, description = "The answer; without `stream: false`, lines of JSON"),
    (status = "4XX", body = Object), (status = "5XX", body = Object)))]
pub(super) async fn chat(State(app): State<App>, body: Result<JsonBody, ApiError>) -> Result<Response, OllamaError> {
    let request: OllamaChat = body?.read()?;
    refuse(&[("tools", &request.tools), ("format", &request.format)])?;
    let served = model(&app, request.model.as_deref())?;
    let tokens = prompt::of_chat(&served, messages(request.messages)?).await?;
    answer(&app, served, tokens, request.options, request.stream, Form::Chat).await
}

/// Answer a question, or continue a text
#[utoipa::path(post, path = "/api/generate", tag = "ollama", request_body = OllamaGenerate, responses(
    (status = 200, body = Object, description = "The answer; without `stream: false`, lines of JSON"),
    (status = "4XX", body = Object), (status = "5XX", body = Object)))]
pub(super) async fn generate(
    State(app): State<App>,
    body: Result<JsonBody, ApiError>,
) -> Result<Response, OllamaError> {
    let request: OllamaGenerate = body?.read()?;
    refuse(&[("format", &request.format)])?;
    let served = model(&app, request.model.as_deref())?;
    let tokens = match request.raw {
        Some(true) => prompt::of_text(&served, request.prompt).await?,
        _ => {
            let system = request.system.map(|content| Message { role: "system".into(), content });
            let question = Message { role: "user".into(), content: request.prompt };
            prompt::of_chat(&served, system.into_iter().chain([question]).collect()).await?
        }
    };
    answer(&app, served, tokens, request.options, request.stream, Form::Generate).await
}

/// List the models
#[utoipa::path(get, path = "/api/tags", tag = "ollama", responses((status = 200, body = Object)))]
pub(super) async fn tags(State(app): State<App>) -> Json<Value> {
    let card = |served: &Arc<Served>| {
        let at = OffsetDateTime::from_unix_timestamp(served.created as i64).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        json!({
            "name": served.id,
            "model": served.id,
            "modified_at": at.format(&Rfc3339).unwrap_or_default(),
            "details": { "family": served.model().config().architecture, "format": "gguf" },
        })
    };
    Json(json!({ "models": app.models().iter().map(card).collect::<Vec<_>>() }))
}

/// The version
#[utoipa::path(get, path = "/api/version", tag = "ollama", responses((status = 200, body = Object)))]
pub(super) async fn version() -> Json<Value> {
    Json(json!({ "version": env!("CARGO_PKG_VERSION") }))
}

/// Where the text of an answer stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Chat,
    Generate,
}

async fn answer(
    app: &App,
    served: Arc<Served>,
    tokens: Vec<u32>,
    options: Option<OllamaOptions>,
    stream: Option<bool>,
    form: Form,
) -> Result<Response, OllamaError> {
    let OllamaOptions { sampling, num_predict } = options.unwrap_or_default();
    let max = num_predict.filter(|&tokens| tokens > 0).map(|tokens| u32::try_from(tokens).unwrap_or(u32::MAX));
    let options = sampling.options(served.model(), max_tokens("num_predict", max)?)?;
    let ask =
        Ask { prompts: vec![tokens], choices: 1, options, logprobs: None, timeout: app.options().request_timeout };
    let tally = Tally::new(ask.prompt_tokens());
    let answers = Answers::start(&served, ask)?;
    let mut writer = LineWriter { served, form, tally, timings: Timings::default() };
    if stream.unwrap_or(true) {
        let body = Body::from_stream(pieces(answers, writer).map(Ok::<_, Infallible>));
        let mut response = body.into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
        return Ok(response);
    }
    let answer = answers.collect().await?.pop().unwrap_or_default();
    writer.timings = answer.timings;
    Ok(Json(writer.object(&answer.text, answer.finish)).into_response())
}

/// Writes the answer, at once or line by line.
struct LineWriter {
    served: Arc<Served>,
    form: Form,
    tally: Tally,
    timings: Timings,
}

impl LineWriter {
    fn object(&self, text: &str, finish: Option<FinishReason>) -> Value {
        let mut object = json!({
            "model": self.served.id,
            "created_at": OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default(),
            "done": finish.is_some(),
        });
        match self.form {
            Form::Chat => object["message"] = json!({ "role": "assistant", "content": text }),
            Form::Generate => object["response"] = text.into(),
        }
        if let Some(reason) = finish {
            let nanoseconds = |time: std::time::Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
            let Timings { prompt_time, decode_time, generated_tokens, .. } = self.timings;
            object["done_reason"] = finish_name(reason).into();
            object["total_duration"] = nanoseconds(prompt_time + decode_time).into();
            object["load_duration"] = 0.into();
            object["prompt_eval_count"] = self.tally.usage().prompt_tokens.into();
            object["prompt_eval_duration"] = nanoseconds(prompt_time).into();
            object["eval_count"] = generated_tokens.into();
            object["eval_duration"] = nanoseconds(decode_time).into();
        }
        object
    }
}

impl Writer for LineWriter {
    type Piece = String;

    fn begin(&mut self) -> Vec<String> {
        Vec::new()
    }

    fn event(&mut self, _: usize, event: Event) -> Vec<String> {
        let object = match event {
            Event::Token { token, .. } if token.text.is_empty() => return Vec::new(),
            Event::Token { token, .. } => self.object(&token.text, None),
            Event::Finished { reason, timings } => {
                self.timings = timings;
                self.object("", Some(reason))
            }
            Event::Failed(failure) => json!({ "error": ApiError::from(failure).detail.message }),
        };
        vec![format!("{object}\n")]
    }

    fn end(&mut self) -> Vec<String> {
        Vec::new()
    }
}
