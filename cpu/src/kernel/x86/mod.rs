//! x86-64: kernels over vectors of 256 and 512 bits.
//!
//! [`vnni`] multiplies with `vpdpbusd`, [`maddubs`] with `vpmaddubsw`, both in [`panels`] when there are many tokens, and
//! [`amx`] with tile registers. Their bodies are generic over the vector ([`simd`]) and the layout ([`unpack`]) and are
//! inlined into the functions below, which name the instruction sets.

#![allow(clippy::needless_range_loop, reason = "the indices are constants, and several arrays of registers share one")]

mod amx;
mod codes;
mod maddubs;
mod panels;
mod simd;
mod unpack;
mod vnni;

pub(crate) use amx::products as amx_products;

use super::Block;
use crate::layout::GROUP;
use simd::{Avx2, Avx512, AvxVnni};
use unpack::{T16, T16x5, T16x5Vbmi};

/// Bytes of a tile.
const TILE: usize = 64;

/// The tiles of a group of rows, or of two side by side.
#[derive(Clone, Copy)]
struct Tiles {
    /// The first tile.
    start: *const u8,
    /// Tiles along the columns.
    count: usize,
    /// Distance between the vectors that are multiplied side by side.
    apart: usize,
    /// How far ahead to prefetch, in bytes, up to tile `turn`: within the group.
    ahead: usize,
    /// How far ahead from there on: in what comes next.
    far: usize,
    turn: usize,
    /// Whether no other thread reads from memory meanwhile.
    alone: bool,
}

impl Tiles {
    /// # Safety
    /// The block has such groups.
    #[inline(always)]
    unsafe fn new(block: &Block<'_>, group: usize, groups: usize, apart: usize) -> Tiles {
        // SAFETY: the caller's promise.
        let start = unsafe { block.tiles.as_ptr().add(group * block.group_bytes) };
        let (count, ahead) = (block.group_bytes / TILE, block.prefetch / groups);
        // Behind the end of a group comes its neighbour, which is being read already: skip it.
        let turn = count.saturating_sub(ahead / TILE);
        let far = ahead + (groups - 1) * block.group_bytes;
        Tiles { start, count, apart, ahead, far, turn, alone: block.alone }
    }

    /// Vector `n` of those that stand side by side.
    ///
    /// # Safety
    /// There is such.
    #[inline(always)]
    unsafe fn vector(self, n: usize) -> Tiles {
        // SAFETY: the caller's promise.
        unsafe { Tiles { start: self.start.add(n * self.apart), ..self } }
    }
}

/// Where the sums of [`Tiles`] go.
#[derive(Clone, Copy)]
struct Sums {
    start: *mut i32,
    /// Distance between the sums of the vectors that are multiplied side by side.
    apart: usize,
    /// Tokens that there is room for.
    tokens: usize,
}

impl Sums {
    /// # Safety
    /// The block has such a group, and `sums` has room for all.
    #[inline(always)]
    unsafe fn new(block: &Block<'_>, group: usize, apart: usize, sums: &mut [[i32; GROUP]]) -> Sums {
        // SAFETY: the caller's promise.
        let start = unsafe { sums.as_mut_ptr().add(group * block.tokens).cast() };
        Sums { start, apart, tokens: block.tokens }
    }

    /// The sums of vector `n` and `token`.
    ///
    /// # Safety
    /// There are such.
    #[inline(always)]
    unsafe fn at(self, n: usize, token: usize) -> *mut i32 {
        // SAFETY: the caller's promise.
        unsafe { self.start.add(n * self.apart + token * GROUP) }
    }

    /// Those of vector `n` alone.
    ///
    /// # Safety
    /// There is such.
    #[inline(always)]
    unsafe fn vector(self, n: usize) -> Sums {
        // SAFETY: the caller's promise.
        unsafe { Sums { start: self.at(n, 0), ..self } }
    }

    /// At most `count` tokens from `token` on.
    ///
    /// # Safety
    /// There is such a token.
    #[inline(always)]
    unsafe fn skip(self, token: usize, count: usize) -> Sums {
        // SAFETY: the caller's promise.
        unsafe { Sums { start: self.at(0, token), tokens: count.min(self.tokens - token), ..self } }
    }
}

/// Tokens of one pass if no more than `most` have their sums in registers: as evenly as they go.
fn share(tokens: usize, most: usize) -> usize {
    tokens.div_ceil(tokens.div_ceil(most))
}

/// Evaluates an expression with the number of tokens as a constant, rounded up to the next that is listed.
macro_rules! for_tokens {
    ($tokens:expr, [$($t:literal),*], |$n:ident| $call:expr) => {
        match $tokens {
            $(..=$t => {
                const $n: usize = $t;
                $call
            })*
            _ => unreachable!("the block was checked"),
        }
    };
}
use for_tokens;

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
    /// T16, `vpmaddubsw` on 256 bits.
    t16_avx2, "avx2" = maddubs::multiply::<Avx2, T16>;
    /// T16x5, `vpmaddubsw` on 256 bits.
    t16x5_avx2, "avx2" = maddubs::multiply::<Avx2, T16x5>;
    /// T16, `vpmaddubsw` on 512 bits.
    t16_avx512bw, "avx2,avx512f,avx512bw" = maddubs::multiply::<Avx512, T16>;
    /// T16x5, `vpmaddubsw` on 512 bits.
    t16x5_avx512bw, "avx2,avx512f,avx512bw" = maddubs::multiply::<Avx512, T16x5>;
    /// T16, `vpdpbusd` on 256 bits in VEX form.
    t16_avxvnni, "avx2,avxvnni" = vnni::multiply::<AvxVnni, T16>;
    /// T16x5, `vpdpbusd` on 256 bits in VEX form.
    t16x5_avxvnni, "avx2,avxvnni" = vnni::multiply::<AvxVnni, T16x5>;
    /// T16, `vpdpbusd` on 512 bits.
    t16_avx512, "avx2,avx512f,avx512bw,avx512vl,avx512vnni" = vnni::multiply::<Avx512, T16>;
    /// T16x5, `vpdpbusd` on 512 bits, unpacked by `vpermb`.
    t16x5_vbmi, "avx2,avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi" = vnni::multiply::<Avx512, T16x5Vbmi>;
    /// T16, `vpdpbusd` on 512 bits, tile registers for many tokens.
    t16_amx, "avx2,avx512f,avx512bw,avx512vl,avx512vnni" = amx::multiply::<T16>;
    /// T16x5, `vpdpbusd` on 512 bits, tile registers for many tokens, unpacked by `vpermb`.
    t16x5_amx, "avx2,avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi" = amx::multiply::<T16x5Vbmi>;
}
