//! Checkpoint files: what is in them, and how their bytes become numbers.

pub mod metadata;

pub use metadata::{Metadata, Value};
