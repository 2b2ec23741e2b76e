//! AArch64: kernels over vectors of 128 bits, four rows of a tile each.
//!
//! [`lanes`] multiplies with `sdot`, or with `smlal` where that is missing: a lane is a row. [`pairs`] multiplies with
//! `smmla`, whose result is two rows by two tokens. The bodies are generic over the layout ([`unpack`]) and are inlined
//! into the functions below, which name the instruction sets.
#![allow(clippy::needless_range_loop, reason = "the indices are constants, and several arrays of registers share one")]

mod lanes;
mod pairs;
mod unpack;

use super::operand::{Rows, Source};
use super::{Block, Operand};
use crate::layout::GROUP;
use lanes::{Sdot, Smlal};
use unpack::{T16, T16x5};

/// Bytes of a tile.
const TILE: usize = 64;

/// Registers of a tile, and of the sums of a token: four rows each.
const PARTS: usize = 4;

/// Defines [`super::Kernel`]s: a body, compiled for instruction sets.
macro_rules! kernels {
    ($($(#[$meta:meta])* $name:ident, $features:literal = $body:path;)*) => {
        $(
            $(#[$meta])*
            ///
            /// # Safety
            /// The machine has the instruction sets, and the block was checked.
            #[target_feature(enable = $features)]
            pub(super) fn $name(block: Block<'_>, sums: &mut [[i32; GROUP]]) {
                // SAFETY: the instruction sets are enabled; the rest is the caller's promise.
                unsafe { $body(block, sums) }
            }
        )*
    };
}

kernels! {
    /// T16, `smlal`.
    t16_neon, "neon" = lanes::multiply::<Smlal, T16>;
    /// T16x5, `smlal`.
    t16x5_neon, "neon" = lanes::multiply::<Smlal, T16x5>;
    /// T16, `sdot`.
    t16_dot, "neon,dotprod" = lanes::multiply::<Sdot, T16>;
    /// T16x5, `sdot`.
    t16x5_dot, "neon,dotprod" = lanes::multiply::<Sdot, T16x5>;
    /// T16, `sdot` for one token and `smmla` for more.
    t16_i8mm, "neon,dotprod,i8mm" = dot_or_pairs::<T16>;
    /// T16x5, `sdot` for one token and `smmla` for more.
    t16x5_i8mm, "neon,dotprod,i8mm" = dot_or_pairs::<T16x5>;
}

/// # Safety
/// The machine has `sdot` and `smmla`, and the block was checked.
#[inline(always)]
unsafe fn dot_or_pairs<L: unpack::Unpack>(block: Block<'_>, sums: &mut [[i32; GROUP]]) {
    // SAFETY: the caller's promise.
    unsafe {
        match block.tokens {
            1 => lanes::multiply::<Sdot, L>(block, sums),
            _ => pairs::multiply::<L>(block, sums),
        }
    }
}

/// The tiles of a group, some of the tokens, and where their sums go.
#[derive(Clone, Copy)]
struct Part {
    tiles: *const u8,
    /// Tiles along the columns.
    count: usize,
    ahead: usize,
    q: Rows,
    /// The sums of the first token; the next token's are [`GROUP`] further.
    sums: *mut i32,
    /// Tokens that there is room for: kernels may read up to a multiple of four.
    tokens: usize,
}

/// Calls `work` for each group with four tokens at a time.
///
/// # Safety
/// The block was checked, and `sums` with it.
#[inline(always)]
unsafe fn for_each_part(block: Block<'_>, sums: &mut [[i32; GROUP]], work: impl Fn(Part)) {
    let Operand::Rows { q, stride } = block.operand else { unreachable!("the block was checked") };
    let q = Rows::new(q, stride);
    for group in 0..block.groups() {
        for token in (0..block.tokens).step_by(4) {
            // SAFETY: the groups are in `tiles`, their sums in `sums`, the tokens in `q`.
            unsafe {
                work(Part {
                    tiles: block.tiles.as_ptr().add(group * block.group_bytes),
                    count: block.group_bytes / TILE,
                    ahead: block.prefetch,
                    q: q.skip(token),
                    sums: sums.as_mut_ptr().add(group * block.tokens + token).cast(),
                    tokens: 4.min(block.tokens - token),
                });
            }
        }
    }
}
