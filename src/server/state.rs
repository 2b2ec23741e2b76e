//! What all requests share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::http::StatusCode;

use super::ServeOptions;
use super::error::ApiError;
use super::metrics::Metrics;
use super::served::Served;

/// The server.
#[derive(Clone)]
pub(super) struct App(Arc<Inner>);

struct Inner {
    models: Vec<Arc<Served>>,
    options: ServeOptions,
    metrics: Metrics,
    stopping: AtomicBool,
}

impl App {
    pub(super) fn new(models: Vec<Arc<Served>>, options: ServeOptions, metrics: Metrics) -> App {
        App(Arc::new(Inner { models, options, metrics, stopping: AtomicBool::new(false) }))
    }

    pub(super) fn options(&self) -> &ServeOptions {
        &self.0.options
    }

    pub(super) fn models(&self) -> &[Arc<Served>] {
        &self.0.models
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// The model of a request; the first one if it names none.
    ///
    /// # Errors
    /// If there is none of that name.
    pub(super) fn model(&self, name: Option<&str>) -> Result<Arc<Served>, ApiError> {
        let models = self.models();
        let found = match name {
            Some(name) => models.iter().find(|model| model.id == name),
            None => models.first(),
        };
        found.cloned().ok_or_else(|| {
            let known: Vec<&str> = models.iter().map(|model| model.id.as_str()).collect();
            let message = format!("there is no model {:?} here, only: {}", name.unwrap_or_default(), known.join(", "));
            ApiError::new(StatusCode::NOT_FOUND, "invalid_request_error", message)
                .with_param("model")
                .with_code("model_not_found")
        })
    }

    /// Says that the server is about to stop.
    pub(super) fn set_stopping(&self) {
        self.0.stopping.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.0.stopping.load(Ordering::Relaxed)
    }
}
