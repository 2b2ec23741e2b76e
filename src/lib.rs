//! Sterna runs ternary ("1-bit", BitNet b1.58) large language models: weights are -1, 0, +1, activations int8.
//!
//! ```no_run
//! use sterna::{GenerateOptions, Model, OpenOptions};
//!
//! let model = Model::open("demo", &OpenOptions::default())?;
//! let mut session = model.session();
//! for token in session.generate("Once upon a time", GenerateOptions::default())? {
//!     print!("{}", token?.text);
//! }
//! # Ok::<(), sterna::Error>(())
//! ```
//!
//! Data flows one way: [`mod@format`] opens a checkpoint, [`model`] lays out its [`graph`], a [`backend`] turns layers into
//! stages, the [`engine`] runs sequences through them. `docs/architecture.md` tells the whole.

pub mod backend;
pub mod bench;
pub mod convert;
pub mod demo;
pub mod engine;
pub mod format;
pub mod graph;
#[cfg(feature = "hub")]
pub mod hub;
pub mod model;
pub mod perplexity;
pub mod plan;
#[cfg(feature = "server")]
pub mod server;
pub mod size;
pub mod source;
pub mod synth;
pub mod tokenizer;
pub mod tune;

pub use backend::{Device, HeadKind};
pub use engine::{
    Error, FinishReason, GenerateOptions, Generation, Model, OpenOptions, Sampling, Session, Timings, Token,
};
pub use sterna_cpu::kv::KvType;
pub use sterna_cpu::{Isa, Layout, Method, Tuning};
pub use tokenizer::Message;
