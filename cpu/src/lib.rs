//! CPU kernels for ternary transformers: packed matrices, never models.
//!
//! Every kernel exists once per instruction set ([`Isa`]) and each gives the same bits: integer dot products are
//! exact, float kernels follow one canonical order of operations (16 striped partial sums, a fixed tree, FMA).

pub mod buffer;
pub mod isa;
pub mod pool;

pub use buffer::AlignedBuf;
pub use isa::Isa;
pub use pool::Pool;
