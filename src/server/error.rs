//! Errors as OpenAI's API shapes them.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::engine::{Failure, Refusal};
use crate::tokenizer::TokenizerError;

/// An error that a client is told.
#[derive(Clone, Debug)]
pub(super) struct ApiError {
    pub(super) status: StatusCode,
    pub(super) detail: ErrorDetail,
    /// Seconds after which it may work.
    retry_after: Option<u32>,
}

/// The body of an error.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct ErrorBody {
    pub(super) error: ErrorDetail,
}

/// What is wrong.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct ErrorDetail {
    /// For people.
    pub(super) message: String,
    /// The kind of error.
    #[serde(rename = "type")]
    pub(super) kind: &'static str,
    /// The field of the request that is at fault.
    pub(super) param: Option<String>,
    /// For programs.
    pub(super) code: Option<&'static str>,
}

/// Clients that came when too many were waiting should come again after so many seconds.
const RETRY_AFTER: u32 = 2;

impl ApiError {
    pub(super) fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> ApiError {
        let detail = ErrorDetail { message: message.into(), kind, param: None, code: None };
        ApiError { status, detail, retry_after: None }
    }

    /// Something in the request is wrong.
    pub(super) fn bad_request(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::BAD_REQUEST, "invalid_request_error", message)
    }

    /// A field of the request is wrong.
    pub(super) fn bad_field(field: &str, message: impl Into<String>) -> ApiError {
        ApiError::bad_request(message).with_param(field)
    }

    /// A field of the request asks for something that this server does not do.
    pub(super) fn unsupported(field: &str, what: &str) -> ApiError {
        ApiError::bad_field(field, format!("{field}: {what}")).with_code("unsupported_parameter")
    }

    pub(super) fn internal(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", message)
    }

    pub(super) fn with_param(mut self, param: &str) -> ApiError {
        self.detail.param = Some(param.to_owned());
        self
    }

    pub(super) fn with_code(mut self, code: &'static str) -> ApiError {
        self.detail.code = Some(code);
        self
    }

    /// Too many wait already.
    pub(super) fn busy(message: impl Into<String>) -> ApiError {
        let error = ApiError::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", message).with_code("queue_full");
        ApiError { retry_after: Some(RETRY_AFTER), ..error }
    }

    /// The server cannot answer now.
    fn unavailable(message: impl Into<String>, code: &'static str) -> ApiError {
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", message).with_code(code)
    }
}

impl From<crate::Error> for ApiError {
    fn from(error: crate::Error) -> ApiError {
        use crate::Error as E;
        let message = error.to_string();
        match error {
            E::ContextFull { .. } => ApiError::bad_request(message).with_code("context_length_exceeded"),
            E::EmptyPrompt | E::TokenOutOfRange { .. } => ApiError::bad_request(message),
            E::BadOption { option, .. } => ApiError::bad_field(option, message),
            E::NoTokenizer { .. } => ApiError::bad_request(message),
            E::Tokenizer(error) => error.into(),
            E::CacheFull { .. } => ApiError::unavailable(message, "cache_full"),
            _ => ApiError::internal(message),
        }
    }
}

impl From<TokenizerError> for ApiError {
    fn from(error: TokenizerError) -> ApiError {
        let message = error.to_string();
        match error {
            // A chat template that refuses the messages, or a text that the vocabulary cannot express.
            TokenizerError::Render { .. } | TokenizerError::Encode { .. } => ApiError::bad_request(message),
            _ => ApiError::internal(message),
        }
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> ApiError {
        let message = refusal.to_string();
        match refusal {
            Refusal::Invalid(error) => error.into(),
            Refusal::Busy { .. } => ApiError::busy(message),
            Refusal::Broken(_) => ApiError::unavailable(message, "device_failed"),
            Refusal::Stopping => ApiError::unavailable(message, "shutting_down"),
        }
    }
}

impl From<Failure> for ApiError {
    fn from(failure: Failure) -> ApiError {
        let message = failure.to_string();
        match failure {
            Failure::Engine(error) => error.into(),
            Failure::Broken(_) => ApiError::unavailable(message, "device_failed"),
            Failure::Timeout(_) => ApiError::new(StatusCode::GATEWAY_TIMEOUT, "timeout_error", message),
            Failure::Stopped => ApiError::unavailable(message, "shutting_down"),
        }
    }
}

impl ApiError {
    /// This status, `body`, and the headers of the error.
    pub(super) fn respond_with(&self, body: impl IntoResponse) -> Response {
        let mut response = (self.status, body).into_response();
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = Json(ErrorBody { error: self.detail.clone() });
        self.respond_with(body)
    }
}
