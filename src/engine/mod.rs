//! The engine: sequences over a paged key-value cache, sampling, stop rules, and the public [`Model`] and [`Session`].

mod adjustments;
mod answer;
mod batcher;
mod devices;
mod embed;
mod error;
mod generate;
mod kv_cache;
mod model;
mod plan;
mod sampler;
mod scheduler;
mod stop;

pub use batcher::{
    Batcher, BatcherOptions, Event, EventSink, Failure, Load, Logprob, Observer, Refusal, Request, Step, TokenLogprobs,
};
pub use error::Error;
pub use generate::{FinishReason, GenerateOptions, Generation, Timings, Token};
pub use model::{Model, OpenOptions, Session, tokenizer_of};
pub(crate) use model::{default_sampling, load_tokenizer};
pub use plan::{plan_model, plan_shape};
pub use sampler::{Sampler, Sampling};
pub use scheduler::{Engine, SequenceId, Sink, Work};
