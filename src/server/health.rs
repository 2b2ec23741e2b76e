//! Whether the server lives, and whether it can take requests.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::served::Kind;
use super::state::App;

/// How the server is.
#[derive(Serialize, ToSchema)]
pub(super) struct Health {
    /// `ok`, or what is wrong.
    status: String,
}

fn health_of(problem: Option<String>) -> (StatusCode, Json<Health>) {
    match problem {
        None => (StatusCode::OK, Json(Health { status: "ok".into() })),
        Some(status) => (StatusCode::SERVICE_UNAVAILABLE, Json(Health { status })),
    }
}

/// Why a model cannot be run any more.
fn failure(app: &App) -> Option<String> {
    app.models().iter().find_map(|served| match &served.kind {
        Kind::Text(batcher) => batcher.failure(),
        Kind::Embedding(_) => None,
    })
}

/// Whether the process works: if not, start it anew
#[utoipa::path(get, path = "/health", tag = "operation",
    responses((status = 200, body = Health), (status = 503, body = Health)))]
pub(super) async fn health(State(app): State<App>) -> (StatusCode, Json<Health>) {
    health_of(failure(&app))
}

/// Whether requests are taken now: if not, send them to another replica
#[utoipa::path(get, path = "/ready", tag = "operation",
    responses((status = 200, body = Health), (status = 503, body = Health)))]
pub(super) async fn ready(State(app): State<App>) -> (StatusCode, Json<Health>) {
    if app.is_stopping() {
        return health_of(Some("stopping".into()));
    }
    let is_full = |batcher: &crate::engine::Batcher| batcher.load().queued >= batcher.options().queue;
    let full = app.models().iter().any(|served| matches!(&served.kind, Kind::Text(batcher) if is_full(batcher)));
    health_of(failure(&app).or_else(|| full.then(|| "the queue is full".into())))
}
