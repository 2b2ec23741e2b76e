//! `/v1/models`.

use axum::Json;
use axum::extract::{Path, State};
use serde::Serialize;
use utoipa::ToSchema;

use super::error::{ApiError, ErrorBody};
use super::served::{Kind, Served};
use super::state::App;

/// The models that are served.
#[derive(Serialize, ToSchema)]
pub(super) struct ModelList {
    object: &'static str,
    data: Vec<ModelCard>,
}

/// A model.
#[derive(Serialize, ToSchema)]
pub(super) struct ModelCard {
    id: String,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
    /// Tokens that a prompt and its answer may have together.
    context_length: usize,
    /// Whether the model was trained on conversations.
    has_chat_template: bool,
    /// `text` or `embedding`.
    kind: &'static str,
}

impl ModelCard {
    fn new(served: &Served) -> ModelCard {
        ModelCard {
            id: served.id.clone(),
            object: "model",
            created: served.created,
            owned_by: "sterna",
            context_length: served.model().context(),
            has_chat_template: served.has_chat_template(),
            kind: match served.kind {
                Kind::Text(_) => "text",
                Kind::Embedding(_) => "embedding",
            },
        }
    }
}

/// List the models
#[utoipa::path(get, path = "/v1/models", tag = "openai",
    responses((status = 200, body = ModelList), (status = "4XX", body = ErrorBody)))]
pub(super) async fn list(State(app): State<App>) -> Json<ModelList> {
    Json(ModelList { object: "list", data: app.models().iter().map(|served| ModelCard::new(served)).collect() })
}

/// One of the models
#[utoipa::path(get, path = "/v1/models/{model}", tag = "openai", params(("model" = String, Path, description = "Its name")),
    responses((status = 200, body = ModelCard), (status = "4XX", body = ErrorBody)))]
pub(super) async fn get(State(app): State<App>, Path(model): Path<String>) -> Result<Json<ModelCard>, ApiError> {
    Ok(Json(ModelCard::new(&*app.model(Some(&model))?)))
}
