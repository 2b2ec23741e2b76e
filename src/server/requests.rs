//! A line in the log and a figure for each request.

use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;

use super::state::App;

/// The header that names a request.
pub(super) const REQUEST_ID: &str = "x-request-id";

/// Counts a request and tells of it. A stream has only begun then.
pub(super) async fn observe(State(app): State<App>, request: Request, next: Next) -> Response {
    let start = Instant::now();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let route = request.extensions().get::<MatchedPath>().map_or("other", MatchedPath::as_str).to_owned();
    let id = request.headers().get(REQUEST_ID).and_then(|id| id.to_str().ok()).unwrap_or_default().to_owned();
    let response = next.run(request).await;
    let status = response.status().as_u16();
    app.metrics().request(&route, status);
    let ms = start.elapsed().as_millis();
    tracing::info!(%method, path, status, ms, id, "request");
    response
}
