//! Checkpoint files: what is in them, and how their bytes become numbers.
//!
//! [`Checkpoint::open`] opens a GGUF file or a Hugging Face directory, memory-mapped: only headers are read, tensors
//! when they are asked for. A ternary matrix becomes a [`TernaryTensor`], whatever its encoding: rows of -1, 0, 1 and
//! one scale, or a [`GroupedTensor`], which has a scale for each group of columns. Everything in a file is checked before it is used; a bad file gives a [`FormatError`], never a panic,
//! and no allocation that its own length does not warrant.
//!
//! | in the file | module |
//! |---|---|
//! | packed `uint8` of Hugging Face (`quant_method: bitnet`) | `hf_packed` |
//! | float master weights of a BitNet, ternarized at load | `absmean` |
//! | I2_S, TQ1_0, TQ2_0, Q2_0, PQ2_0, PTQ1_0 of GGUF | `i2_s`, `tq1_0`, `tq2_0`, `q2_0` |
//! | TL1, TL2 of bitnet.cpp | `tl1`, `tl2`, cut as `kernel_config` says |
//! | T16, T16x5: the kernels' own layouts in a GGUF file | `tiles`, with scales of groups `grouped_tiles`; how they are named `own_types` |
//! | floats that are ternary already | `dense_ternary` |
//! | embedding and head: floats, Q8_0, Q6_K, Q5_0, Q4_0 | `dense` |
//!
//! A new encoding of ternary matrices is one module that implements `ternary::RowDecoder`, and one line in
//! `ternary::decoded`.

mod absmean;
mod checkpoint;
mod dense;
mod dense_ternary;
mod dtype;
mod encode;
mod encode_dense;
mod error;
mod floats;
mod gguf;
mod gguf_writer;
mod grouped;
mod grouped_tiles;
mod hf_packed;
mod huggingface;
mod i2_s;
mod kernel_config;
pub mod metadata;
mod own_types;
mod q2_0;
mod safetensors;
mod storage;
mod tensor_list;
mod ternary;
mod tiles;
mod tl;
mod tl1;
mod tl2;
mod tq1_0;
mod tq2_0;

pub use checkpoint::{Checkpoint, Description, OpenOptions, TensorInfo};
pub use dense::DenseTensor;
pub use dtype::{DType, Group};
pub use encode::Encoding;
pub use encode_dense::DenseEncoding;
pub use error::FormatError;
pub(crate) use gguf::ALIGNMENT_KEY;
pub use gguf_writer::{CompleteFile, GgufWriter, TensorPlan};
pub use grouped::GroupedTensor;
pub use i2_s::I2sLayout;
pub use kernel_config::KernelConfig;
pub use metadata::{Metadata, Value};
pub(crate) use own_types::OWN_TYPE_KEYS;
pub use storage::TensorData;
pub use ternary::TernaryTensor;
