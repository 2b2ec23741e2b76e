//! `/tokenize` and `/detokenize`.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::body::JsonBody;
use super::chat_types::{ChatMessage, messages};
use super::error::{ApiError, ErrorBody};
use super::prompt;
use super::state::App;

/// A text, or a conversation, to cut into tokens.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct TokenizeRequest {
    model: Option<String>,
    /// The text
    #[serde(alias = "content")]
    prompt: Option<String>,
    /// A conversation instead, in the form of the model's chat template
    messages: Option<Vec<ChatMessage>>,
    /// Put in front what the model wants there [default: true]
    add_special_tokens: Option<bool>,
}

/// The tokens of a text.
#[derive(Serialize, ToSchema)]
pub(super) struct TokenizeResponse {
    tokens: Vec<u32>,
    count: usize,
    max_model_len: usize,
}

/// Tokens to turn into text.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct DetokenizeRequest {
    model: Option<String>,
    tokens: Vec<u32>,
}

/// The text of tokens.
#[derive(Serialize, ToSchema)]
pub(super) struct DetokenizeResponse {
    prompt: String,
}

/// The tokens of a text
#[utoipa::path(post, path = "/tokenize", tag = "tokens", request_body = TokenizeRequest, responses(
    (status = 200, body = TokenizeResponse), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn tokenize(State(app): State<App>, body: JsonBody) -> Result<Json<TokenizeResponse>, ApiError> {
    let request: TokenizeRequest = body.read()?;
    let served = app.model(request.model.as_deref())?;
    let tokens = match (request.prompt, request.messages) {
        (Some(text), None) if request.add_special_tokens == Some(false) => {
            let served = served.clone();
            prompt::blocking(move || Ok(served.model().tokenizer()?.encode(&text, false)?)).await?
        }
        (Some(text), None) => prompt::of_text(&served, text).await?,
        (None, Some(conversation)) => prompt::of_chat(&served, messages(conversation)?).await?,
        _ => return Err(ApiError::bad_field("prompt", "give either prompt or messages")),
    };
    Ok(Json(TokenizeResponse { count: tokens.len(), tokens, max_model_len: served.model().context() }))
}

/// The text of tokens
#[utoipa::path(post, path = "/detokenize", tag = "tokens", request_body = DetokenizeRequest, responses(
    (status = 200, body = DetokenizeResponse), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn detokenize(State(app): State<App>, body: JsonBody) -> Result<Json<DetokenizeResponse>, ApiError> {
    let DetokenizeRequest { model, tokens } = body.read()?;
    let served = app.model(model.as_deref())?;
    let vocab = served.model().config().vocab_size;
    if let Some(id) = tokens.iter().find(|&&id| id as usize >= vocab) {
        let message = format!("tokens: {id} is not a token id below {vocab}");
        return Err(ApiError::bad_field("tokens", message));
    }
    let prompt = prompt::blocking(move || Ok(served.model().tokenizer()?.decode(&tokens, false)?)).await?;
    Ok(Json(DetokenizeResponse { prompt }))
}
