//! What a backend may report.

use crate::format::FormatError;

/// Why a backend could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// A weight cannot be read.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The instruction set that was asked for is unknown or absent.
    #[error(transparent)]
    Isa(#[from] sterna_cpu::isa::IsaError),
    /// No backend has this name.
    #[error("there is no backend {name:?}; this build has: {known}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// The names that exist.
        known: String,
    },
}
