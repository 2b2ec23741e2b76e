//! Reading the JSON body of a request, with errors that name the field.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::{StatusCode, header};
use futures_util::StreamExt;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::error::ApiError;

/// The most bytes of a body; an extension of requests.
#[derive(Clone, Copy, Debug)]
pub(super) struct MaxBody(pub(super) u64);

/// Of a body that is too large, no more than this is read to throw it away.
const MAX_DISCARDED: usize = 256 << 20;

/// A body has to arrive within this time.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// The JSON body of a request.
pub(super) struct JsonBody(Value);

impl JsonBody {
    /// Its fields as `T`; fields that `T` does not have are ignored.
    ///
    /// # Errors
    /// If a field has a type that `T` does not take: the error names it.
    pub(super) fn read<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        serde_path_to_error::deserialize(&self.0).map_err(|error| {
            let (path, reason) = (error.path().to_string(), error.inner().to_string());
            match path.as_str() {
                "." => ApiError::bad_request(reason),
                path => ApiError::bad_field(path, format!("{path}: {reason}")),
            }
        })
    }
}

impl<S: Send + Sync> FromRequest<S> for JsonBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<JsonBody, ApiError> {
        let is_json = |value: &header::HeaderValue| {
            let kind = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
            kind.eq_ignore_ascii_case("application/json") || kind.to_ascii_lowercase().ends_with("+json")
        };
        // Browsers ask before they send this type to another site: no foreign page can start an answer.
        if !request.headers().get(header::CONTENT_TYPE).is_some_and(is_json) {
            let message = "the body must be JSON and say so: send the header Content-Type: application/json";
            return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "invalid_request_error", message));
        }
        let bytes = tokio::time::timeout(BODY_TIMEOUT, read(request, state)).await.map_err(|_| {
            let message = format!("the body of the request did not arrive within {BODY_TIMEOUT:?}");
            ApiError::new(StatusCode::REQUEST_TIMEOUT, "invalid_request_error", message)
        })??;
        let value: Value = serde_json::from_slice(&bytes)
            .map_err(|error| ApiError::bad_request(format!("the body is not valid JSON: {error}")))?;
        if !value.is_object() {
            return Err(ApiError::bad_request("the body must be a JSON object"));
        }
        Ok(JsonBody(value))
    }
}

/// The bytes of a body that is not too large (see [`axum::extract::DefaultBodyLimit`]).
async fn read<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes, ApiError> {
    let length = request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    let max = request.extensions().get::<MaxBody>().map_or(u64::MAX, |max| max.0);
    if length.is_some_and(|length: u64| length > max) {
        // A connection that is closed while the client sends would hide the answer from it.
        let mut chunks = request.into_body().into_data_stream();
        let mut left = MAX_DISCARDED;
        while let Some(Ok(chunk)) = chunks.next().await
            && left > chunk.len()
        {
            left -= chunk.len();
        }
        return Err(too_large());
    }
    Bytes::from_request(request, state).await.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => too_large(),
        status => {
            let message = format!("the body of the request cannot be read: {rejection}");
            ApiError::new(status, "invalid_request_error", message)
        }
    })
}

fn too_large() -> ApiError {
    let message = "the body of the request is too large (see sterna serve --max-body)";
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request_error", message)
}
