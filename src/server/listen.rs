//! The server from its first socket to its end.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum_server::Handle;
use axum_server::accept::NoDelayAcceptor;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use hyper_util::rt::TokioTimer;

use super::metrics::Metrics;
use super::routes::router;
use super::served::{Embedder, Kind, Served};
use super::state::App;
use super::{ServeOptions, tls};
use crate::Model;
use crate::engine::Batcher;

/// Why a server could not start or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The address.
    #[error("cannot listen on {address}: {reason}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        reason: std::io::Error,
    },
    /// Anybody could use the server.
    #[error(
        "{address} can be reached from other machines, and no API key is set: set one (--api-key, --api-key-file), \
         listen on 127.0.0.1, or say --insecure if everybody may use this server"
    )]
    Unprotected {
        /// The address.
        address: SocketAddr,
    },
    /// Two models with one name.
    #[error("two models are called {0}: give them other names (--alias)")]
    SameName(String),
    /// No model.
    #[error("there is no model to serve")]
    NoModel,
    /// A certificate or its key.
    #[error("{}: {reason}", file.display())]
    Certificate {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The system.
    #[error("cannot serve: {0}")]
    System(#[from] std::io::Error),
}

/// A client has to send the head of a request within this time; idle connections are closed after it.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// What is left of connections when all answers are complete has so long to get through.
const FLUSH: Duration = Duration::from_secs(5);

/// Serves models, with their names, until the process is told to stop (Ctrl-C, SIGTERM); answers that run then may finish. A
/// second signal ends at once. `started` is given the address.
///
/// # Errors
/// If the options make no sense or the system refuses a socket.
pub fn serve(
    models: Vec<(String, Model)>,
    options: ServeOptions,
    insecure: bool,
    started: impl FnOnce(SocketAddr),
) -> Result<(), ServeError> {
    let address = options.address;
    if options.keys.is_empty() && !address.ip().is_loopback() && !insecure {
        return Err(ServeError::Unprotected { address });
    }
    let tls = options.tls.as_ref().map(tls::config).transpose()?;
    // Each connection is an open file, of which a process may have few unless it asks for more.
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(limit) => tracing::debug!("at most {limit} connections at a time"),
        Err(error) => tracing::warn!("the limit of open files cannot be raised: {error}"),
    }
    let app = app(models, options)?;
    let listener = TcpListener::bind(address).map_err(|reason| ServeError::Listen { address, reason })?;
    started(listener.local_addr()?);
    // The model's own threads want the cores; these only pass bytes on.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let served = runtime.block_on(run(listener, tls, app));
    runtime.shutdown_timeout(FLUSH);
    served
}

/// The models and what serves them.
fn app(models: Vec<(String, Model)>, options: ServeOptions) -> Result<App, ServeError> {
    if models.is_empty() {
        return Err(ServeError::NoModel);
    }
    let metrics = Metrics::new();
    let mut served: Vec<Arc<Served>> = Vec::new();
    for (id, model) in models {
        if served.iter().any(|other| other.id == id) {
            return Err(ServeError::SameName(id));
        }
        let kind = match model.embeds() {
            true => Kind::Embedding(Embedder::new(model, options.batcher.queue)),
            false => Kind::Text(Box::new(Batcher::start(model, options.batcher, metrics.observer(&id))?)),
        };
        served.push(Arc::new(Served::new(id, kind)));
    }
    Ok(App::new(served, options, metrics))
}

async fn run(listener: TcpListener, tls: Option<Arc<rustls::ServerConfig>>, app: App) -> Result<(), ServeError> {
    let handle = Handle::new();
    tokio::spawn(stop_when_told(app.clone(), handle.clone()));
    let service = router(app).into_make_service();
    let mut server = axum_server::from_tcp(listener)?.handle(handle).first_request_timeout(HEAD_TIMEOUT);
    server.http_builder().http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    match tls {
        Some(config) => {
            let acceptor = RustlsAcceptor::new(RustlsConfig::from_config(config)).acceptor(NoDelayAcceptor::new());
            server.acceptor(acceptor).serve(service).await?;
        }
        None => server.acceptor(NoDelayAcceptor::new()).serve(service).await?,
    }
    Ok(())
}

/// Waits for a signal; then no connection is taken any more, and answers have the time of grace to finish.
async fn stop_when_told(app: App, handle: Handle<SocketAddr>) {
    signal().await;
    let grace = app.options().grace;
    tracing::info!("stopping: running answers have {grace:?} to finish");
    app.set_stopping();
    handle.graceful_shutdown(Some(grace + FLUSH));
    let stopping = app.clone();
    let stop = tokio::task::spawn_blocking(move || {
        std::thread::scope(|scope| {
            let stop = |served: &Arc<Served>| served.stop(grace);
            let threads: Vec<_> = stopping.models().iter().map(|served| scope.spawn(move || stop(served))).collect();
            // A thread that panicked has not finished its answers. The scope waits for those behind one that has not.
            threads.into_iter().all(|thread| thread.join().unwrap_or(false))
        })
    });
    tokio::select! {
        all = stop => {
            // Once the last connection has ended so does the runtime, perhaps before it has run this.
            if matches!(all, Ok(false)) {
                tracing::warn!("some answers were cut short: their time of grace was over");
            }
            handle.graceful_shutdown(Some(FLUSH));
        }
        () = signal() => {
            tracing::warn!("stopping at once");
            handle.shutdown();
        }
    }
}

/// Waits for the wish to stop.
async fn signal() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        // Without a handler the signal ends the process as it always did.
        if let (Ok(mut terminate), Ok(mut interrupt)) =
            (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
        {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            return;
        }
        std::future::pending::<()>().await;
    }
    #[cfg(not(unix))]
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}
