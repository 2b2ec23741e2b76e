//! What can be wrong with a checkpoint beyond its bytes.

use std::path::PathBuf;

use crate::format::FormatError;

/// Why a checkpoint cannot become a graph.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The file itself is at fault.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The architecture is none that this version runs.
    #[error(
        "{file}: the architecture {name:?} is not supported; this version runs BitNetForCausalLM, BitnetForCausalLM, \
         LlamaForCausalLM, MiniCPMForCausalLM, Qwen3ForCausalLM, Qwen3Model, Gemma3ForCausalLM and Gemma3TextModel folders, and \
         GGUF files of the architectures bitnet, bitnet-b1.58, bitnet-25, llama, minicpm and qwen3"
    )]
    UnknownArchitecture {
        /// The checkpoint.
        file: PathBuf,
        /// The architecture it names.
        name: String,
    },
    /// The architecture is known, and not run.
    #[error("{file}: the architecture {name:?} is not run: {reason}")]
    Refused {
        /// The checkpoint.
        file: PathBuf,
        /// The architecture it names.
        name: String,
        /// Why, and what would run.
        reason: &'static str,
    },
    /// A hyper-parameter that the architecture needs is absent.
    #[error("{file}: the key {key} is missing (expected {expected})")]
    MissingKey {
        /// The checkpoint.
        file: PathBuf,
        /// The key of config.json or of the GGUF metadata.
        key: String,
        /// What it should hold.
        expected: &'static str,
    },
    /// A hyper-parameter has a value that no model can have, or one that this version does not run.
    #[error("{file}: {key} is {found}, expected {expected}")]
    BadValue {
        /// The checkpoint.
        file: PathBuf,
        /// The key of config.json or of the GGUF metadata.
        key: String,
        /// The value.
        found: String,
        /// What is accepted.
        expected: String,
    },
    /// Tensors that the graph would leave out: running without them would give garbage.
    #[error(
        "{file}: {count} tensors are not part of the {architecture} architecture (first: {first}); running without \
         them would give wrong answers, so the file is refused"
    )]
    UnexpectedTensors {
        /// The checkpoint.
        file: PathBuf,
        /// The architecture that was built.
        architecture: String,
        /// How many there are.
        count: usize,
        /// The first of them.
        first: String,
    },
}
