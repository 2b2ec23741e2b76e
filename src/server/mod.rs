//! Serves models over HTTP: OpenAI's API, parts of Anthropic's and Ollama's, and a page to talk with a model.
//!
//! A request is read and checked (`body`, `params`), its text becomes tokens (`prompt`), and the model's
//! [`Batcher`](crate::engine::Batcher) answers it together with all others. `answers` brings the events of the batcher's
//! thread to the handlers, one file for each kind of request, which write them as one JSON object or as a stream of
//! server-sent events (`sse`). Who may ask is decided in `access`; `listen` owns sockets, TLS and the end of the process.

mod access;
mod answers;
mod anthropic;
mod body;
mod chat;
mod chat_types;
mod completions;
mod embeddings;
mod error;
mod health;
mod listen;
mod logprobs;
mod metrics;
mod models;
mod ollama;
mod options;
mod page;
mod params;
mod prompt;
mod requests;
mod responses;
mod routes;
mod served;
mod sse;
mod state;
mod status;
mod tls;
mod tokens;
mod usage;
mod writer;

pub use listen::{ServeError, serve};
pub use options::{Keys, ServeOptions, TlsFiles};
pub use routes::openapi;
