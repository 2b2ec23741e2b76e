//! Kernels over `vpdpbusd`.
//!
//! [`few`] streams one group of rows, with a sum for each field so that the dependent chains are short; [`many`] keeps
//! one sum for each token and vector of rows, 24 of 512 bits or 12 of 256, and so does [`Vnni`] with panels.

use super::panels::{self, Products, codes_of, for_shares, sums_so_far};
use super::simd::Dot;
use super::unpack::Unpack;
use super::{Sums, TILE, Tiles, for_tokens, share};
use crate::kernel::operand::{Panel, Rows, Source};
use crate::kernel::{Block, Operand};
use crate::layout::GROUP;
use crate::prefetch::{prefetch, prefetch_far};

/// Tokens whose sums are in registers on 256 bits: 12 sums leave four of 16 registers.
const NARROW: usize = 6;

/// [`crate::kernel::Kernel`] for rows and panels.
///
/// # Safety
/// The machine has what `S` and `L` need, and the block was checked.
#[inline(always)]
pub(super) unsafe fn multiply<S: Dot, L: Unpack<S>>(block: Block<'_>, sums: &mut [[i32; GROUP]]) {
    // SAFETY: the caller's promise. That a vector is a whole tile or half of one is known when this is compiled.
    unsafe {
        match (block.operand, S::BYTES == TILE) {
            (Operand::Rows { q, stride }, true) => wide_rows::<S, L>(block, Rows::new(q, stride), sums),
            (Operand::Rows { q, stride }, false) => narrow::<S, L>(block, Rows::new(q, stride), sums),
            (Operand::Panels { quads, stride }, _) => panels::multiply::<S, L, Vnni>(block, quads, stride, sums),
            (Operand::Squares { .. } | Operand::Tables { .. }, _) => unreachable!("the block was checked"),
        }
    }
}

/// 512 bits, where a tile is one vector, and up to twelve rows.
///
/// # Safety
/// As [`multiply`].
#[inline(always)]
unsafe fn wide_rows<S: Dot, L: Unpack<S>>(block: Block<'_>, q: Rows, sums: &mut [[i32; GROUP]]) {
    let tokens = block.tokens;
    // As many as have all their sums in registers.
    if tokens > if L::FIELDS == 4 { 6 } else { 4 } {
        for group in (0..block.groups()).step_by(2) {
            // SAFETY: the block was checked: the groups are in `tiles`, their sums in `sums`.
            unsafe {
                let together = 2.min(block.groups() - group);
                let tiles = Tiles::new(&block, group, together, block.group_bytes);
                let out = Sums::new(&block, group, GROUP * tokens, sums);
                match together {
                    2 => for_tokens!(tokens, [6, 8, 12], |T| many::<S, L, 2, T>(tiles, q, out)),
                    _ => for_tokens!(tokens, [6, 8, 12], |T| many::<S, L, 1, T>(tiles, q, out)),
                }
            }
        }
        return;
    }
    for group in 0..block.groups() {
        // SAFETY: as above.
        unsafe {
            let (tiles, out) = (Tiles::new(&block, group, 1, 0), Sums::new(&block, group, 0, sums));
            match tokens {
                1 => few::<S, L, 1, 2, 1>(tiles, q, out),
                _ => for_tokens!(tokens, [2, 3, 4, 5, 6], |T| few::<S, L, 1, 1, T>(tiles, q, out)),
            }
        }
    }
}

/// 256 bits: a tile is two vectors.
///
/// # Safety
/// As [`multiply`].
#[inline(always)]
unsafe fn narrow<S: Dot, L: Unpack<S>>(block: Block<'_>, q: Rows, sums: &mut [[i32; GROUP]]) {
    let tokens = block.tokens;
    for group in 0..block.groups() {
        // SAFETY: the block was checked: the groups are in `tiles`, their sums in `sums`, the tokens in `q`.
        unsafe {
            let (tiles, out) = (Tiles::new(&block, group, 1, S::BYTES), Sums::new(&block, group, GROUP / 2, sums));
            if tokens == 1 {
                few::<S, L, 2, 1, 1>(tiles, q, out);
                continue;
            }
            if tokens <= 3 {
                // Half a group after the other: then a sum for each field fits into the registers.
                for n in 0..2 {
                    let (tiles, out) = (tiles.vector(n), out.vector(n));
                    for_tokens!(tokens, [2, 3], |T| few::<S, L, 1, 1, T>(tiles, q, out));
                }
                continue;
            }
            for first in (0..tokens).step_by(share(tokens, NARROW)) {
                let (q, out) = (q.skip(first), out.skip(first, share(tokens, NARROW)));
                for_tokens!(out.tokens, [2, 4, 6], |T| many::<S, L, 2, T>(tiles, q, out));
            }
        }
    }
}

/// `T` tokens with `N` vectors side by side, in steps of `U` tiles: a sum for each field, tile, vector and token.
///
/// # Safety
/// The machine has what `S` and `L` need; `tiles`, `q` and `out` hold what they are asked for.
#[inline(always)]
unsafe fn few<S: Dot, L: Unpack<S>, const N: usize, const U: usize, const T: usize>(tiles: Tiles, q: Rows, out: Sums) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums = [[[[S::zero(); 5]; T]; N]; U];
        macro_rules! tile {
            ($t:expr, $sums:expr) => {
                let (t, sums) = ($t, $sums);
                let tile = tiles.start.add(t * TILE);
                // One thread waits for the lines that it asked for, of which more can be on their way to the second cache
                // (four fields gain nothing: they want their tiles in the first). Several wait for the memory, which
                // then brings lines to the second cache that nobody uses.
                match L::FIELDS > 4 && tiles.alone {
                    true => prefetch_far(tile, 2 * tiles.ahead),
                    false => prefetch(tile, tiles.ahead),
                }
                for n in 0..N {
                    let scaled = L::unpack_scaled(S::load(tile.add(n * tiles.apart)));
                    for field in 0..L::FIELDS {
                        let codes = L::scaled(scaled, field);
                        for token in 0..T {
                            let sum = &mut sums[n][token][field];
                            *sum = S::dot(*sum, codes, S::four(q.at(t * L::FIELDS + field, token)));
                        }
                    }
                }
            };
        }
        let whole = tiles.count / U * U;
        for first in (0..whole).step_by(U) {
            for u in 0..U {
                tile!(first + u, &mut sums[u]);
            }
        }
        for t in whole..tiles.count {
            tile!(t, &mut sums[0]);
        }
        for n in 0..N {
            for token in 0..T {
                let mut total = sums[0][n][token];
                for u in 1..U {
                    for field in 0..L::FIELDS {
                        total[field] = S::add32(total[field], sums[u][n][token][field]);
                    }
                }
                S::store(out.at(n, token), L::unscale(total));
            }
        }
    }
}

/// Up to `T` tokens with `N` vectors side by side: a sum for each vector and token.
///
/// # Safety
/// As [`few`].
#[inline(always)]
unsafe fn many<S: Dot, L: Unpack<S>, const N: usize, const T: usize>(tiles: Tiles, q: Rows, out: Sums) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums = [[S::zero(); T]; N];
        for t in 0..tiles.count {
            // Of 256 bits, the two vectors are halves of one tile, and the next tile is what comes next.
            let ahead = if S::BYTES == TILE && t >= tiles.turn { tiles.far } else { tiles.ahead };
            let tile = tiles.start.add(t * TILE);
            let mut half = [L::unpack(S::load(tile)); N];
            prefetch(tile, ahead);
            for n in 1..N {
                let tile = tile.add(n * tiles.apart);
                half[n] = L::unpack(S::load(tile));
                // Halves of one tile share its line.
                if S::BYTES == TILE {
                    prefetch(tile, ahead);
                }
            }
            macro_rules! field {
                ($field:literal) => {
                    if $field < L::FIELDS {
                        let mut codes = [S::zero(); N];
                        for n in 0..N {
                            codes[n] = L::codes(half[n], $field);
                        }
                        for token in 0..T {
                            let four = S::four(q.at(t * L::FIELDS + $field, token));
                            for n in 0..N {
                                sums[n][token] = S::pinned(S::dot(sums[n][token], codes[n], four));
                            }
                        }
                    }
                };
            }
            field!(0);
            field!(1);
            field!(2);
            field!(3);
            field!(4);
        }
        for n in 0..N {
            for token in 0..T {
                if token < out.tokens {
                    S::store(out.at(n, token), sums[n][token]);
                }
            }
        }
    }
}

/// Products with a panel: a sum for each vector and token.
#[derive(Clone, Copy)]
pub(super) struct Vnni;

impl<S: Dot> Products<S> for Vnni {
    #[inline(always)]
    unsafe fn add<const N: usize>(codes: *const u8, quads: usize, q: Panel, out: Sums, first: bool) {
        // SAFETY: the caller's promise.
        unsafe {
            if S::BYTES == TILE {
                for_tokens!(out.tokens, [4, 8, 12], |T| add::<S, N, T>(codes, quads, q, out, first));
            } else {
                for_shares!(q, out, NARROW, [4, 6], |q, out, T| add::<S, N, T>(codes, quads, q, out, first));
            }
        }
    }
}

/// [`Products::add`] for `T` tokens.
///
/// # Safety
/// As [`Products::add`].
#[inline(always)]
unsafe fn add<S: Dot, const N: usize, const T: usize>(
    codes: *const u8,
    quads: usize,
    q: Panel,
    out: Sums,
    first: bool,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums = sums_so_far::<S, N, T>(out, first);
        for quad in 0..quads {
            let codes = codes_of::<S, N>(codes, quad);
            for token in 0..T {
                let four = S::four(q.at(quad, token));
                for n in 0..N {
                    sums[n][token] = S::pinned(S::dot(sums[n][token], codes[n], four));
                }
            }
        }
        for n in 0..N {
            for token in 0..T {
                S::store(out.at(n, token), sums[n][token]);
            }
        }
    }
}
