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
    /// A GPU.
    #[cfg(feature = "gpu")]
    #[error(transparent)]
    Gpu(#[from] super::gpu::GpuError),
    /// A GPU was asked for, but this build has no support for them.
    #[error("this build cannot use GPUs: build it with the feature gpu, or choose --device cpu")]
    NoGpuSupport,
    /// Prompts and generated tokens have different devices, and the cache has a number type that only the CPU has.
    #[error(
        "a key-value cache of {kv} cannot be handed over from one device to another: use --kv f16 or f32, or one placement \
         for prompts and generation"
    )]
    HandOver {
        /// The number type.
        kv: &'static str,
    },
    /// No backend has this name.
    #[error("there is no backend {name:?}; this build has: {known}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// The names that exist.
        known: String,
    },
}
