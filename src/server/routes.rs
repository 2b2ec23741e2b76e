//! Which path leads where, and what every request goes through.

use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowOrigin, Any, CorsLayer};
use tower_http::request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer};
use utoipa::OpenApi;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::body::MaxBody;
use super::error::ApiError;
use super::requests::REQUEST_ID;
use super::state::App;
use super::{
    access, anthropic, chat, completions, embeddings, health, metrics, models, ollama, page, requests, responses,
    status, tokens,
};

#[derive(OpenApi)]
#[openapi(
    info(title = "Sterna", description = "Ternary language models over HTTP. The API is that of OpenAI; \
        parts of Anthropic's and Ollama's are served too.", license(name = "MIT OR Apache-2.0")),
    tags((name = "openai", description = "OpenAI's API"), (name = "anthropic", description = "Anthropic's API"),
        (name = "ollama", description = "Ollama's API"), (name = "tokens", description = "Tokens of texts"),
        (name = "operation", description = "Health and figures"))
)]
struct Document;

/// What needs a key.
fn protected() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(chat::chat))
        .routes(routes!(completions::completions))
        .routes(routes!(responses::responses))
        .routes(routes!(embeddings::embeddings))
        .routes(routes!(models::list))
        .routes(routes!(models::get))
        .routes(routes!(tokens::tokenize))
        .routes(routes!(tokens::detokenize))
        .routes(routes!(anthropic::messages))
        .routes(routes!(ollama::chat))
        .routes(routes!(ollama::generate))
        .routes(routes!(ollama::tags))
        .routes(routes!(ollama::version))
        .routes(routes!(metrics::metrics))
        .routes(routes!(status::status))
}

/// What anybody may ask.
fn public() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(health::health)).routes(routes!(health::ready))
}

/// The description of the API.
pub fn openapi() -> utoipa::openapi::OpenApi {
    let (_, mut document) =
        OpenApiRouter::with_openapi(Document::openapi()).merge(protected()).merge(public()).split_for_parts();
    let key = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
    document.components.get_or_insert_default().security_schemes.insert("key".into(), key.into());
    document
}

/// The whole server.
pub(super) fn router(app: App) -> Router {
    let options = app.options().clone();
    let (api, _) = protected().split_for_parts();
    let (public, _) = public().split_for_parts();
    let document = axum::Json(openapi());
    let router = api
        .route_layer(from_fn_with_state(app.clone(), access::require_key))
        .merge(public.route("/openapi.json", get(async move || document)));
    let mut router = router
        .method_not_allowed_fallback(wrong_method)
        .fallback(page_or_nothing)
        .layer(DefaultBodyLimit::max(options.max_body))
        .layer(Extension(MaxBody(options.max_body as u64)))
        .layer(from_fn_with_state(app.clone(), requests::observe))
        .layer(from_fn_with_state(app.clone(), access::check_host))
        .layer(CatchPanicLayer::custom(|_| ApiError::internal("an error inside sterna").into_response()))
        .layer(from_fn(no_sniffing));
    if !options.origins.is_empty() {
        router = router.layer(cors(&options.origins));
    }
    let id = HeaderName::from_static(REQUEST_ID);
    router
        .layer(PropagateRequestIdLayer::new(id.clone()))
        .layer(SetRequestIdLayer::new(id, MakeRequestUuid))
        .with_state(app)
}

/// Pages of these origins may use the API.
fn cors(origins: &[String]) -> CorsLayer {
    let layer = CorsLayer::new().allow_methods(Any).allow_headers([
        header::AUTHORIZATION,
        header::CONTENT_TYPE,
        HeaderName::from_static("x-api-key"),
        HeaderName::from_static("anthropic-version"),
    ]);
    if origins.iter().any(|origin| origin == "*") {
        return layer.allow_origin(Any);
    }
    layer.allow_origin(AllowOrigin::list(origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok())))
}

/// Tells browsers to take every answer for what it says it is.
async fn no_sniffing(request: axum::extract::Request, next: axum::middleware::Next) -> Response {
    let mut response = next.run(request).await;
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// A file of the page, or word that there is nothing.
async fn page_or_nothing(State(app): State<App>, method: Method, uri: Uri, headers: HeaderMap) -> Response {
    if app.options().page
        && matches!(method, Method::GET | Method::HEAD)
        && let Some(file) = page::find(uri.path(), &headers)
    {
        return file;
    }
    let message = format!("there is nothing at {}; /openapi.json lists what there is", uri.path());
    ApiError::new(StatusCode::NOT_FOUND, "invalid_request_error", message).with_code("unknown_url").into_response()
}

async fn wrong_method(method: Method, uri: Uri) -> ApiError {
    let message = format!("{} does not take {method}; /openapi.json says what it takes", uri.path());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "invalid_request_error", message)
}
