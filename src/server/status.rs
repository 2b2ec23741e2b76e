//! What the page shows of the server.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::served::Kind;
use super::state::App;
use crate::engine::Load;

/// What the server is busy with.
#[derive(Serialize, ToSchema)]
pub(super) struct Status {
    version: &'static str,
    models: Vec<ModelStatus>,
    requests: Requests,
    /// Of all models together, of late.
    tokens_per_second: f64,
    /// Of all models together, since the start.
    generated_tokens: u64,
}

#[derive(Serialize, ToSchema)]
struct ModelStatus {
    id: String,
    architecture: String,
    /// Positions of a sequence.
    context: usize,
    /// Answers that are computed together at most.
    parallel: usize,
    /// What computes.
    backend: String,
    /// The matrix kernels of the CPU.
    kernels: String,
    /// Which backend serves which layer.
    placement: String,
    kv: Pages,
}

#[derive(Serialize, ToSchema)]
struct Pages {
    pages: usize,
    free_pages: usize,
    /// Pages of earlier prompts, which are given up when others need them.
    retained_pages: usize,
}

#[derive(Serialize, ToSchema)]
struct Requests {
    running: usize,
    queued: usize,
}

/// Models, devices and load, for the page
#[utoipa::path(get, path = "/sterna/status", tag = "operation", responses((status = 200, body = Status)))]
pub(super) async fn status(State(app): State<App>) -> Json<Status> {
    let loads: Vec<Load> = app.models().iter().map(|served| served.load()).collect();
    let models = app.models().iter().zip(&loads).map(|(served, load)| {
        let model = served.model();
        ModelStatus {
            id: served.id.clone(),
            architecture: model.config().architecture.clone(),
            context: model.context(),
            parallel: match &served.kind {
                Kind::Text(batcher) => batcher.options().parallel,
                Kind::Embedding(_) => 1,
            },
            backend: model.backend().to_owned(),
            kernels: model.kernels().name().to_owned(),
            placement: model.placement().to_owned(),
            kv: Pages { pages: load.pages, free_pages: load.free_pages, retained_pages: load.retained_pages },
        }
    });
    Json(Status {
        version: env!("CARGO_PKG_VERSION"),
        models: models.collect(),
        requests: Requests {
            running: loads.iter().map(|load| load.running).sum(),
            queued: loads.iter().map(|load| load.queued).sum(),
        },
        tokens_per_second: loads.iter().map(|load| load.tokens_per_second).sum(),
        generated_tokens: loads.iter().map(|load| load.generated_tokens).sum(),
    })
}
