//! A model that is served.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::Semaphore;

use super::error::ApiError;
use crate::Model;
use crate::engine::{Batcher, Load};

/// A model and what serves it.
pub(super) struct Served {
    /// The name that requests give.
    pub(super) id: String,
    /// When it was opened, in seconds since 1970.
    pub(super) created: u64,
    pub(super) kind: Kind,
}

/// What a model is for.
pub(super) enum Kind {
    /// To answer.
    Text(Box<Batcher>),
    /// To embed texts, for one request at a time.
    Embedding(Embedder),
}

/// Embeds texts, one request at a time.
pub(super) struct Embedder {
    model: Model,
    turn: Semaphore,
    waiting: AtomicUsize,
    queue: usize,
}

impl Served {
    pub(super) fn new(id: String, kind: Kind) -> Served {
        Served { id, created: now(), kind }
    }

    pub(super) fn model(&self) -> &Model {
        match &self.kind {
            Kind::Text(batcher) => batcher.model(),
            Kind::Embedding(embedder) => &embedder.model,
        }
    }

    /// What answers with this model.
    ///
    /// # Errors
    /// If it only embeds texts.
    pub(super) fn batcher(&self) -> Result<&Batcher, ApiError> {
        match &self.kind {
            Kind::Text(batcher) => Ok(batcher),
            Kind::Embedding(_) => Err(ApiError::bad_field(
                "model",
                format!("{} is an embedding model and writes no text: use /v1/embeddings", self.id),
            )),
        }
    }

    /// What embeds with this model.
    ///
    /// # Errors
    /// If it was trained to write.
    pub(super) fn embedder(&self) -> Result<&Embedder, ApiError> {
        match &self.kind {
            Kind::Embedding(embedder) => Ok(embedder),
            Kind::Text(_) => Err(ApiError::bad_field(
                "model",
                format!("{} writes text and embeds none: serve an embedding model beside it", self.id),
            )),
        }
    }

    /// What it is busy with.
    pub(super) fn load(&self) -> Load {
        match &self.kind {
            Kind::Text(batcher) => batcher.load(),
            Kind::Embedding(embedder) => embedder.load(),
        }
    }

    /// Lets running answers finish within `grace`; returns whether all did.
    pub(super) fn stop(&self, grace: Duration) -> bool {
        match &self.kind {
            Kind::Text(batcher) => batcher.stop(grace),
            // Requests are short, and the connections wait for them.
            Kind::Embedding(_) => true,
        }
    }

    /// Whether conversations have a form that the model knows.
    pub(super) fn has_chat_template(&self) -> bool {
        self.model().tokenizer().is_ok_and(|tokenizer| tokenizer.chat_template().is_some())
    }
}

impl Embedder {
    /// At most `queue` requests wait.
    pub(super) fn new(model: Model, queue: usize) -> Embedder {
        Embedder { model, turn: Semaphore::new(1), waiting: AtomicUsize::new(0), queue }
    }

    /// What it is busy with.
    fn load(&self) -> Load {
        let running = 1 - self.turn.available_permits();
        let waiting = self.waiting.load(Ordering::Relaxed);
        Load { running, queued: waiting.saturating_sub(running), ..Load::default() }
    }

    /// Runs `f` when it is this request's turn, where it may block.
    ///
    /// # Errors
    /// If too many wait, or `f` fails.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        f: impl FnOnce(&Model) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let waiting = Waiting::new(&self.waiting);
        if waiting.before >= self.queue.max(1) {
            return Err(ApiError::busy(format!("{} requests are waiting already; try again later", waiting.before)));
        }
        let turn = self.turn.acquire().await;
        let model = self.model.clone();
        let result = tokio::task::spawn_blocking(move || f(&model)).await;
        drop((turn, waiting));
        result.map_err(|_| ApiError::internal("an error inside sterna"))?
    }
}

/// Counts a request while it waits, however its wait ends.
struct Waiting<'a> {
    count: &'a AtomicUsize,
    before: usize,
}

impl Waiting<'_> {
    fn new(count: &AtomicUsize) -> Waiting<'_> {
        Waiting { before: count.fetch_add(1, Ordering::Relaxed), count }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}
