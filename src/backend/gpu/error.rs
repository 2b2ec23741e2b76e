//! What a GPU may report.

use super::fit::Needed;
use crate::size::text as size;

/// Why a GPU could not do its work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GpuError {
    /// No adapter is as asked for.
    #[error("no GPU {asked}; this machine has: {found}")]
    NoAdapter {
        /// What was asked for.
        asked: String,
        /// What there is.
        found: String,
    },
    /// The adapter lacks something that every kernel needs.
    #[error("{adapter}: {reason}")]
    Unsuitable {
        /// The adapter.
        adapter: String,
        /// What it lacks.
        reason: String,
    },
    /// The device's memory is full.
    #[error(
        "{adapter}: no memory for {what} ({needed} bytes more; {held} bytes are in use): use a shorter context, the exact \
         head (--head exact), fewer blocks on the GPU (--placement) or the CPU"
    )]
    OutOfMemory {
        /// The adapter.
        adapter: String,
        /// What it was for.
        what: String,
        /// Bytes that were asked for.
        needed: u64,
        /// Bytes that were given before.
        held: u64,
    },
    /// Something is larger than the device lets a kernel see.
    #[error("{adapter}: {what} takes {needed} bytes, a kernel of this device sees at most {limit}: {remedy}")]
    TooLarge {
        /// The adapter.
        adapter: String,
        /// What is too large.
        what: String,
        /// Its bytes.
        needed: u64,
        /// The limit.
        limit: u64,
        /// What would help.
        remedy: String,
    },
    /// The model takes more than the device has.
    #[error(
        "{adapter}: the model takes {} there (weights {}, embedding and head {}, cache {}, buffers {}), of {} \
         ({source_of_budget}); {remedy} fit",
        size(needed.total()), size(needed.blocks), size(needed.dense), size(needed.cache), size(needed.scratch),
        size(*free),
    )]
    DoesNotFit {
        /// The adapter.
        adapter: String,
        /// What the model takes.
        needed: Box<Needed>,
        /// Bytes that are free.
        free: u64,
        /// Who says so.
        source_of_budget: &'static str,
        /// What would fit.
        remedy: String,
    },
    /// The device does not answer.
    #[error("{adapter}: no answer within {seconds} s")]
    Timeout {
        /// The adapter.
        adapter: String,
        /// How long was waited.
        seconds: u64,
    },
    /// The device is gone: a crashed or reset driver, a device that was unplugged.
    #[error("{adapter}: the device was lost: {reason}")]
    Lost {
        /// The adapter.
        adapter: String,
        /// What the driver says.
        reason: String,
    },
    /// The device refused an operation.
    #[error("{adapter}: {reason}")]
    Failed {
        /// The adapter.
        adapter: String,
        /// What it says.
        reason: String,
    },
    /// The kernels lack something that the model needs.
    #[error("{adapter}: the model has {feature}, which run on the CPU only (--device cpu)")]
    Unsupported {
        /// The adapter.
        adapter: String,
        /// What the model has.
        feature: &'static str,
    },
    /// The cache cannot have this number type.
    #[error("{adapter}: the key-value cache is {found} there, expected f16 or f32 (--kv)")]
    KvType {
        /// The adapter.
        adapter: String,
        /// What was asked for.
        found: &'static str,
    },
}
