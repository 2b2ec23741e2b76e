//! From texts and conversations to tokens.

use std::sync::Arc;

use serde::Deserialize;
use utoipa::ToSchema;

use super::error::ApiError;
use super::served::Served;
use crate::{Message, Model};

/// Texts in a request, or their tokens.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected a string, an array of strings, tokens, or an array of arrays of tokens")]
pub(super) enum Input {
    /// A text.
    Text(String),
    /// Several.
    Texts(Vec<String>),
    /// The tokens of a text.
    Tokens(Vec<u32>),
    /// Those of several.
    TokenLists(Vec<Vec<u32>>),
}

/// No token of any vocabulary is longer than this many bytes, so that a longer text cannot fit.
const LONGEST_TOKEN: usize = 256;

/// Runs `f`, which may take long, beside the threads that answer requests.
///
/// # Errors
/// If `f` fails.
pub(super) async fn blocking<T: Send + 'static>(
    f: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(f).await.map_err(|_| ApiError::internal("an error inside sterna"))?
}

/// The tokens of a conversation whose last message is to be answered.
///
/// # Errors
/// If the chat template refuses it, or it is too long.
pub(super) async fn of_chat(served: &Arc<Served>, messages: Vec<Message>) -> Result<Vec<u32>, ApiError> {
    let served = Arc::clone(served);
    blocking(move || {
        let model = served.model();
        fits(model, messages.iter().map(|message| message.content.len()).sum())?;
        let tokenizer = model.tokenizer()?;
        if served.has_chat_template() {
            return Ok(tokenizer.encode_chat(&messages, true)?);
        }
        // A model that was not trained on conversations goes on with whatever was said.
        let text: String = messages.iter().map(|message| message.content.as_str()).collect();
        Ok(tokenizer.encode(&text, true)?)
    })
    .await
}

/// The tokens of a text to continue.
///
/// # Errors
/// If it is too long.
pub(super) async fn of_text(served: &Arc<Served>, text: String) -> Result<Vec<u32>, ApiError> {
    let served = Arc::clone(served);
    blocking(move || {
        fits(served.model(), text.len())?;
        Ok(served.model().tokenizer()?.encode(&text, true)?)
    })
    .await
}

/// Refuses a text so long that it need not even be counted.
fn fits(model: &Model, bytes: usize) -> Result<(), ApiError> {
    let context = model.context();
    if bytes > context.saturating_mul(LONGEST_TOKEN) {
        let message = format!("a prompt of {bytes} bytes does not fit into the context of {context} tokens");
        return Err(ApiError::bad_request(message).with_code("context_length_exceeded"));
    }
    Ok(())
}
