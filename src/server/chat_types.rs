//! Messages of conversations, as several APIs send them.

use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::error::ApiError;
use crate::Message;

/// A message.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub(super) struct ChatMessage {
    /// system, developer, user or assistant
    role: String,
    /// A text, or parts of type `text`
    content: Option<Content>,
}

/// What a message says.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected a string or an array of parts")]
pub(super) enum Content {
    /// A text.
    Text(String),
    /// A text in parts.
    Parts(Vec<Part>),
}

/// A part of a message.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub(super) struct Part {
    #[serde(rename = "type")]
    kind: String,
    text: Option<String>,
}

/// No conversation has more messages.
const MAX_MESSAGES: usize = 4096;

impl Content {
    /// The text of it, from the field `field`.
    ///
    /// # Errors
    /// If a part is no text.
    pub(super) fn text(self, field: &str) -> Result<String, ApiError> {
        match self {
            Content::Text(text) => Ok(text),
            Content::Parts(parts) => parts
                .into_iter()
                .map(|part| match (part.kind.as_str(), part.text) {
                    ("text" | "input_text" | "output_text", Some(text)) => Ok(text),
                    (kind, _) => {
                        let message =
                            format!("{field}: a part of type {kind:?}; this model reads parts of type text only");
                        Err(ApiError::bad_field(field, message))
                    }
                })
                .collect(),
        }
    }
}

/// The messages of a request.
///
/// # Errors
/// If there are none or too many, or one is not what a model can read.
pub(super) fn messages(messages: Vec<ChatMessage>) -> Result<Vec<Message>, ApiError> {
    if messages.is_empty() || messages.len() > MAX_MESSAGES {
        let message = format!("messages has {} messages, expected 1 to {MAX_MESSAGES}", messages.len());
        return Err(ApiError::bad_field("messages", message));
    }
    let read = |(at, message): (usize, ChatMessage)| {
        let role = match message.role.as_str() {
            "system" | "developer" => "system",
            "user" => "user",
            "assistant" => "assistant",
            other => {
                let field = format!("messages[{at}].role");
                let message = format!("{field} is {other:?}, expected system, developer, user or assistant");
                return Err(ApiError::bad_field(&field, message));
            }
        };
        let content = match message.content {
            Some(content) => content.text(&format!("messages[{at}].content"))?,
            None => String::new(),
        };
        Ok(Message { role: role.into(), content })
    };
    messages.into_iter().enumerate().map(read).collect()
}

/// Refuses what would change the answer and is not done here: `fields` with their values. An absent, false or empty one asks
/// for nothing.
///
/// # Errors
/// If one asks for something.
pub(super) fn refuse(fields: &[(&str, &Option<Value>)]) -> Result<(), ApiError> {
    let asks = |value: &Value| match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(items) => !items.is_empty(),
        Value::String(text) => text != "none" && text != "auto",
        Value::Object(object) => object.get("type").is_none_or(|kind| kind != "text"),
        _ => true,
    };
    match fields.iter().find(|(_, value)| value.as_ref().is_some_and(asks)) {
        Some((field, _)) => Err(ApiError::unsupported(field, "this server does not do that yet")),
        None => Ok(()),
    }
}
