//! Streams of server-sent events.

use std::convert::Infallible;
use std::time::Duration;

use axum::http::HeaderValue;
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use serde::Serialize;

use super::answers::Answers;
use super::error::{ApiError, ErrorBody};
use super::writer::{Writer, pieces};

/// Proxies give connections up on which nothing comes for long, as while a long prompt is computed.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// The events of answers as a stream.
pub(super) fn stream(answers: Answers, writer: impl Writer<Piece = sse::Event>) -> Response {
    let events = pieces(answers, writer).map(Ok::<_, Infallible>);
    let mut response = Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response();
    // nginx would hold the tokens back to send them together.
    response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// An event whose data are JSON.
pub(super) fn json(data: &impl Serialize) -> sse::Event {
    // What is written here has only text as keys and no value that JSON lacks.
    sse::Event::default().json_data(data).unwrap_or_default()
}

/// An event of OpenAI's that tells of an error.
pub(super) fn error(error: impl Into<ApiError>) -> sse::Event {
    json(&ErrorBody { error: error.into().detail })
}

/// The end of OpenAI's streams.
pub(super) fn done() -> sse::Event {
    sse::Event::default().data("[DONE]")
}
