//! CPU kernels for ternary transformers: packed matrices, never models.
//!
//! Every kernel exists once per instruction set ([`Isa`]) and each gives the same bits: integer dot products are
//! exact, float kernels follow one canonical order of operations (16 striped partial sums, a fixed tree, FMA).
//!
//! Activations are quantized ([`Activations`]), multiplied with packed matrices ([`TernaryMatrix`], [`fn@linear`]) on a
//! [`Pool`] of threads; [`norm`], [`rope`], [`mod@attention`] over the cache in [`kv`], [`activation`] and [`dense`] are
//! what lies between the products.
//! [`grouped`] has matrices and activations with a scale for each group of columns.

pub mod activation;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx;
pub mod attention;
pub mod buffer;
pub mod dense;
pub mod grouped;
pub mod head;
pub mod isa;
mod kernel;
pub mod kv;
pub mod layout;
pub mod linear;
pub mod machine;
pub mod math;
pub mod norm;
pub mod pool;
mod prefetch;
pub mod quant;
mod readers;
pub mod rope;
mod simd;

pub use buffer::{AlignedBuf, SharedBytes, SharedError};
pub use isa::Isa;
pub use kernel::{Kernels, Method, Mismatch, Tuning};
pub use layout::{Layout, TernaryMatrix};
pub use linear::{LinearJob, linear};
pub use pool::{Pool, for_each_row};
pub use quant::Activations;
pub use readers::Readers;
