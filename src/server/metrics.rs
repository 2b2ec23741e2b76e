//! Figures for Prometheus.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use super::served::Kind;
use super::state::App;
use crate::engine::{Observer, Step};

/// The model that a figure is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfModel {
    model: String,
}

/// The kind of a request and how it ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfRoute {
    route: String,
    status: u16,
}

type Histograms = Family<OfModel, Histogram, fn() -> Histogram>;

/// All figures of a server.
pub(super) struct Metrics {
    registry: Registry,
    requests: Family<OfRoute, Counter>,
    first_token: Histograms,
    next_token: Histograms,
    queue_time: Histograms,
    step_time: Histograms,
    batch: Histograms,
    prompt_tokens: Family<OfModel, Counter>,
    cached_tokens: Family<OfModel, Counter>,
    generated_tokens: Family<OfModel, Counter>,
    preemptions: Family<OfModel, Counter>,
    device_errors: Family<OfModel, Counter>,
    running: Family<OfModel, Gauge>,
    queued: Family<OfModel, Gauge>,
    cache_used: Family<OfModel, Gauge<f64, AtomicU64>>,
}

/// From a millisecond to two minutes.
fn times() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 18))
}

/// From 1 to 256.
fn sizes() -> Histogram {
    Histogram::new(exponential_buckets(1.0, 2.0, 9))
}

impl Metrics {
    pub(super) fn new() -> Metrics {
        let mut registry = Registry::with_prefix("sterna");
        let metrics = Metrics {
            registry: Registry::default(),
            requests: Family::default(),
            first_token: Family::new_with_constructor(times),
            next_token: Family::new_with_constructor(times),
            queue_time: Family::new_with_constructor(times),
            step_time: Family::new_with_constructor(times),
            batch: Family::new_with_constructor(sizes),
            prompt_tokens: Family::default(),
            cached_tokens: Family::default(),
            generated_tokens: Family::default(),
            preemptions: Family::default(),
            device_errors: Family::default(),
            running: Family::default(),
            queued: Family::default(),
            cache_used: Family::default(),
        };
        registry.register("requests", "Requests by route and status", metrics.requests.clone());
        let time = |registry: &mut Registry, name, help, family: &Histograms| {
            registry.register_with_unit(name, help, Unit::Seconds, family.clone());
        };
        time(&mut registry, "time_to_first_token", "Time from a request to its first token", &metrics.first_token);
        time(&mut registry, "inter_token_latency", "Time from one token of an answer to the next", &metrics.next_token);
        time(&mut registry, "queue_time", "Time that a request waited", &metrics.queue_time);
        time(&mut registry, "step_time", "Time of a pass through the model", &metrics.step_time);
        registry.register("batch_size", "Answers that got a token in a pass", metrics.batch.clone());
        registry.register("prompt_tokens", "Tokens of prompts", metrics.prompt_tokens.clone());
        registry.register("cached_tokens", "Tokens of prompts that were known already", metrics.cached_tokens.clone());
        registry.register("generated_tokens", "Tokens of answers", metrics.generated_tokens.clone());
        registry.register("preemptions", "Answers that gave their place in the cache up", metrics.preemptions.clone());
        registry.register("device_errors", "Failures of devices", metrics.device_errors.clone());
        registry.register("requests_running", "Requests that are being answered", metrics.running.clone());
        registry.register("requests_queued", "Requests that wait", metrics.queued.clone());
        registry.register("cache_used_ratio", "Share of the key-value cache in use", metrics.cache_used.clone());
        Metrics { registry, ..metrics }
    }

    /// Counts a request.
    pub(super) fn request(&self, route: &str, status: u16) {
        self.requests.get_or_create(&OfRoute { route: route.to_owned(), status }).inc();
    }

    /// What observes the batcher of a model.
    pub(super) fn observer(&self, model: &str) -> impl Observer + use<> {
        let of = OfModel { model: model.to_owned() };
        ModelMetrics {
            first_token: self.first_token.get_or_create(&of).clone(),
            next_token: self.next_token.get_or_create(&of).clone(),
            queue_time: self.queue_time.get_or_create(&of).clone(),
            step_time: self.step_time.get_or_create(&of).clone(),
            batch: self.batch.get_or_create(&of).clone(),
            prompt_tokens: self.prompt_tokens.get_or_create(&of).clone(),
            cached_tokens: self.cached_tokens.get_or_create(&of).clone(),
            generated_tokens: self.generated_tokens.get_or_create(&of).clone(),
            preemptions: self.preemptions.get_or_create(&of).clone(),
            device_errors: self.device_errors.get_or_create(&of).clone(),
        }
    }
}

/// The figures of one model.
struct ModelMetrics {
    first_token: Histogram,
    next_token: Histogram,
    queue_time: Histogram,
    step_time: Histogram,
    batch: Histogram,
    prompt_tokens: Counter,
    cached_tokens: Counter,
    generated_tokens: Counter,
    preemptions: Counter,
    device_errors: Counter,
}

impl Observer for ModelMetrics {
    fn admitted(&self, waited: Duration, prompt_tokens: usize, cached_tokens: usize) {
        self.queue_time.observe(waited.as_secs_f64());
        self.prompt_tokens.inc_by(prompt_tokens as u64);
        self.cached_tokens.inc_by(cached_tokens as u64);
    }

    fn first_token(&self, after: Duration) {
        self.first_token.observe(after.as_secs_f64());
    }

    fn next_token(&self, after: Duration) {
        self.next_token.observe(after.as_secs_f64());
    }

    fn step(&self, step: &Step) {
        self.step_time.observe(step.time.as_secs_f64());
        self.generated_tokens.inc_by(step.answers as u64);
        if step.answers > 0 {
            self.batch.observe(step.answers as f64);
        }
    }

    fn preempted(&self) {
        self.preemptions.inc();
    }

    fn device_error(&self) {
        self.device_errors.inc();
    }
}

/// Metrics for Prometheus
#[utoipa::path(get, path = "/metrics", tag = "operation", responses((status = 200, content_type = "text/plain")))]
pub(super) async fn metrics(State(app): State<App>) -> impl IntoResponse {
    let metrics = app.metrics();
    for served in app.models() {
        let Kind::Text(batcher) = &served.kind else { continue };
        let (of, load) = (OfModel { model: served.id.clone() }, batcher.load());
        metrics.running.get_or_create(&of).set(load.running as i64);
        metrics.queued.get_or_create(&of).set(load.queued as i64);
        let used = load.pages - load.free_pages - load.retained_pages;
        metrics.cache_used.get_or_create(&of).set(used as f64 / load.pages.max(1) as f64);
    }
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = prometheus_client::encoding::text::encode(&mut text, &metrics.registry);
    ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
}
