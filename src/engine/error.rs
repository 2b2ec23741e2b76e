//! Everything that opening or running a model may report.

use crate::backend::BackendError;
use crate::format::FormatError;
use crate::graph::planner::PlanError;
use crate::graph::{ExecutorError, PlacementError};
use crate::model::ModelError;
use crate::tokenizer::TokenizerError;

/// An error of the library. Each says which file or option is at fault and what would help.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The checkpoint's bytes.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The checkpoint's contents.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The vocabulary, or a text that it cannot take.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// A device.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// A device in the middle of a pass.
    #[error(transparent)]
    Executor(#[from] ExecutorError),
    /// A placement that cannot be read.
    #[error(transparent)]
    Placement(#[from] PlacementError),
    /// The model fits nowhere.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The checkpoint has no vocabulary.
    #[error("{file}: no tokenizer was found ({looked_for}); give token ids instead of text")]
    NoTokenizer {
        /// The checkpoint.
        file: String,
        /// What was looked for.
        looked_for: &'static str,
    },
    /// A token id beyond the vocabulary.
    #[error("token id {id} is not in the vocabulary of {vocab_size} tokens")]
    TokenOutOfRange {
        /// The id.
        id: u32,
        /// Number of tokens that the model knows.
        vocab_size: usize,
    },
    /// A prompt without a single token.
    #[error("the prompt is empty: at least one token is needed")]
    EmptyPrompt,
    /// More tokens than a sequence may hold.
    #[error("{needed} tokens do not fit into the context of {context}; shorten the prompt or raise --ctx")]
    ContextFull {
        /// Tokens that the sequence would have.
        needed: usize,
        /// Tokens that it may have.
        context: usize,
    },
    /// All pages of the key-value cache are in use by other sequences.
    #[error("the key-value cache is full: {pages} pages are in use; close a session or open the model with more")]
    CacheFull {
        /// Pages in the cache.
        pages: usize,
    },
    /// The logits hold a value that is not a number.
    #[error("the model computed logits that are not numbers; its weights are damaged")]
    NotANumber,
    /// An option with a value that makes no sense.
    #[error("{option} is {found}, expected {expected}")]
    BadOption {
        /// Its name.
        option: &'static str,
        /// Its value.
        found: String,
        /// What is accepted.
        expected: &'static str,
    },
}
