//! Sterna runs ternary (BitNet b1.58) large language models.

pub mod format;
pub mod tokenizer;
