//! Who may ask: API keys, names of the host.

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::error::ApiError;
use super::state::App;

/// Lets a request to the API pass if it has a key, where one is needed.
pub(super) async fn require_key(State(app): State<App>, request: Request, next: Next) -> Response {
    let keys = &app.options().keys;
    if !keys.is_empty() && !key_of(request.headers()).is_some_and(|key| keys.contains(key)) {
        let message = "this server needs an API key: send the header Authorization: Bearer KEY";
        return ApiError::new(StatusCode::UNAUTHORIZED, "authentication_error", message)
            .with_code("invalid_api_key")
            .into_response();
    }
    next.run(request).await
}

/// The key in the headers, as clients of OpenAI or of Anthropic send it.
fn key_of(headers: &HeaderMap) -> Option<&str> {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let bearer =
        bearer.and_then(|value| value.split_once(' ')).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    bearer.map(|(_, key)| key.trim()).or_else(|| headers.get("x-api-key").and_then(|value| value.to_str().ok()))
}

/// Refuses requests to names that this server does not go by, where no key protects it.
pub(super) async fn check_host(State(app): State<App>, request: Request, next: Next) -> Response {
    let options = app.options();
    let host = request.headers().get(header::HOST).and_then(|value| value.to_str().ok());
    let host = host.or_else(|| request.uri().host()).unwrap_or_default();
    if options.keys.is_empty() && !is_known(host, &options.hosts) {
        let message = format!("this server does not go by the name {host:?}; allow it with sterna serve --host-name");
        return ApiError::new(StatusCode::MISDIRECTED_REQUEST, "invalid_request_error", message).into_response();
    }
    next.run(request).await
}

/// Whether `host` (with a port or without) is an IP address, `localhost` or one of `names`.
fn is_known(host: &str, names: &[String]) -> bool {
    let name = match host.strip_prefix('[') {
        Some(address) => address.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    // HTTP/1.0 has no host; nor does any browser speak it.
    name.is_empty()
        || name.parse::<std::net::IpAddr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || name.to_ascii_lowercase().ends_with(".localhost")
        || names.iter().any(|known| known == "*" || known.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_given_names_are_known() {
        let names = ["llm.example".to_owned()];
        for host in
            ["127.0.0.1:8080", "[::1]:80", "[::1]", "localhost", "a.localhost:1", "LLM.example:443", "10.0.0.1", ""]
        {
            assert!(is_known(host, &names), "{host}");
        }
        for host in ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:80", "llm.example.org"] {
            assert!(!is_known(host, &names), "{host}");
        }
        assert!(is_known("any.example", &["*".to_owned()]));
    }

    #[test]
    fn keys_come_in_two_headers() {
        let headers = |name: &'static str, value: &'static str| {
            HeaderMap::from_iter([(header::HeaderName::from_static(name), header::HeaderValue::from_static(value))])
        };
        assert_eq!(key_of(&headers("authorization", "Bearer  abc ")), Some("abc"));
        assert_eq!(key_of(&headers("authorization", "bearer abc")), Some("abc"));
        assert_eq!(key_of(&headers("x-api-key", "abc")), Some("abc"));
        assert_eq!(key_of(&headers("authorization", "Basic abc")), None);
        assert_eq!(key_of(&HeaderMap::new()), None);
    }
}
