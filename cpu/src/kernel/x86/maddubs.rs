//! Kernels over `vpmaddubsw`, whose 16-bit sums are widened before they can overflow.

use super::panels::{self, Products, codes_of, for_shares, sums_so_far};
use super::simd::Simd;
use super::unpack::Unpack;
use super::{Sums, TILE, Tiles, for_tokens, share};
use crate::kernel::operand::{Panel, Rows, Source};
use crate::kernel::{Block, MAX_TOKENS, Operand};
use crate::layout::GROUP;
use crate::prefetch::prefetch;

/// Tiles whose sums fit into 16 bits: a field adds at most 2 · 2 · 128 = 512 to a lane, and 64 fit.
const fn tiles_of_one_sum(fields: usize) -> usize {
    63 / fields
}

/// Tiles whose fields 1 and 3 fit into 16 bits as four times the code: 2 · 2048 a tile.
const TILES_OF_SCALED: usize = 7;

/// Tokens whose sums are in registers on 256 bits: 8 sums leave room for what becomes of a product (with 12 one sum is
/// always in memory, and the chain of its additions is what takes the time).
const NARROW: usize = 4;

/// [`crate::kernel::Kernel`] for rows and panels.
///
/// # Safety
/// The machine has what `S` and `L` need, and the block was checked.
#[inline(always)]
pub(super) unsafe fn multiply<S: Simd, L: Unpack<S>>(block: Block<'_>, sums: &mut [[i32; GROUP]]) {
    // SAFETY: the caller's promise.
    unsafe {
        match block.operand {
            Operand::Rows { q, stride } => groups::<S, L>(block, Rows::new(q, stride), sums),
            Operand::Panels { quads, stride } => panels::multiply::<S, L, Maddubs>(block, quads, stride, sums),
            Operand::Squares { .. } | Operand::Tables { .. } => unreachable!("the block was checked"),
        }
    }
}

/// # Safety
/// As [`multiply`].
#[inline(always)]
unsafe fn groups<S: Simd, L: Unpack<S>>(block: Block<'_>, q: Rows, sums: &mut [[i32; GROUP]]) {
    let tokens = block.tokens;
    for group in 0..block.groups() {
        // SAFETY: the block was checked: the groups are in `tiles`, their sums in `sums`.
        unsafe {
            let (tiles, out) = (Tiles::new(&block, group, 1, S::BYTES), Sums::new(&block, group, S::BYTES / 4, sums));
            if S::BYTES == TILE {
                match tokens == 1 && L::FIELDS == 4 {
                    true => one::<S, 1>(tiles, q, out),
                    false => for_tokens!(tokens, [1, 2, 3, 4, 8, 12], |T| many::<S, L, 1, T>(tiles, q, out)),
                }
                continue;
            }
            if tokens == 1 && L::FIELDS == 4 {
                one::<S, 2>(tiles, q, out);
                continue;
            }
            if tokens > NARROW {
                spread::<S, L>(tiles, q, out);
                continue;
            }
            for first in (0..tokens).step_by(share(tokens, NARROW)) {
                let (q, out) = (q.skip(first), out.skip(first, share(tokens, NARROW)));
                for_tokens!(out.tokens, [1, 2, 3, 4], |T| many::<S, L, 2, T>(tiles, q, out));
            }
        }
    }
}

/// One token with a whole group of T16, `N` vectors. The codes are used where they stand: after one shift, two masks
/// serve four fields.
///
/// # Safety
/// The machine has what `S` needs; `tiles`, `q` and `out` hold what they are asked for.
#[inline(always)]
unsafe fn one<S: Simd, const N: usize>(tiles: Tiles, q: Rows, out: Sums) {
    // SAFETY: the caller's promise.
    unsafe {
        // Of the fields as they are, and of those times four.
        let mut wide = [[S::zero(); 2]; N];
        for first in (0..tiles.count).step_by(TILES_OF_SCALED) {
            let mut sums = [[S::zero(); 2]; N];
            for t in first..tiles.count.min(first + TILES_OF_SCALED) {
                let tile = tiles.start.add(t * TILE);
                prefetch(tile, tiles.ahead);
                let mut bytes = [S::zero(); N];
                for n in 0..N {
                    bytes[n] = S::load(tile.add(n * tiles.apart));
                }
                for pair in 0..2 {
                    for scaled in 0..2 {
                        let four = S::four(q.at(4 * t + 2 * pair + scaled, 0));
                        for n in 0..N {
                            let codes = S::and(bytes[n], S::bytes(3 << (2 * scaled)));
                            sums[n][scaled] = S::add16(sums[n][scaled], S::products(codes, four));
                        }
                    }
                    for n in 0..N {
                        bytes[n] = S::shift16(bytes[n], 4);
                    }
                }
            }
            for n in 0..N {
                for scaled in 0..2 {
                    wide[n][scaled] = S::add32(wide[n][scaled], S::widen(sums[n][scaled]));
                }
            }
        }
        for n in 0..N {
            S::store(out.at(n, 0), S::add32(wide[n][0], S::shift32(wide[n][1], 2)));
        }
    }
}

/// Up to `T` tokens with `N` vectors side by side: a sum for each vector and token.
///
/// # Safety
/// The machine has what `S` and `L` need; `tiles`, `q` and `out` hold what they are asked for.
#[inline(always)]
unsafe fn many<S: Simd, L: Unpack<S>, const N: usize, const T: usize>(tiles: Tiles, q: Rows, out: Sums) {
    let run = tiles_of_one_sum(L::FIELDS);
    // SAFETY: the caller's promise.
    unsafe {
        let mut wide = [[S::zero(); T]; N];
        for first in (0..tiles.count).step_by(run) {
            let mut sums = [[S::zero(); T]; N];
            for t in first..tiles.count.min(first + run) {
                let tile = tiles.start.add(t * TILE);
                prefetch(tile, tiles.ahead);
                let mut halves = [L::unpack(S::load(tile)); N];
                for n in 1..N {
                    halves[n] = L::unpack(S::load(tile.add(n * tiles.apart)));
                }
                macro_rules! field {
                    ($field:literal) => {
                        if $field < L::FIELDS {
                            let mut codes = [S::zero(); N];
                            for n in 0..N {
                                codes[n] = L::codes(halves[n], $field);
                            }
                            for token in 0..T {
                                let four = S::four(q.at(t * L::FIELDS + $field, token));
                                for n in 0..N {
                                    let product = S::products(codes[n], four);
                                    sums[n][token] = S::pinned(S::add16(sums[n][token], product));
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
                    wide[n][token] = S::add32(wide[n][token], S::widen(sums[n][token]));
                }
            }
        }
        for n in 0..N {
            for token in 0..T {
                if token < out.tokens {
                    S::store(out.at(n, token), wide[n][token]);
                }
            }
        }
    }
}

/// Up to [`MAX_TOKENS`] tokens with a group on 256 bits, [`NARROW`] at a time: the first of them leave the codes of some
/// tiles in memory for the others, because taking a tile apart needs the units that add.
///
/// # Safety
/// As [`many`], and `q` holds a multiple of [`NARROW`] tokens.
#[inline(always)]
unsafe fn spread<S: Simd, L: Unpack<S>>(tiles: Tiles, q: Rows, out: Sums) {
    /// At least the fields of the tiles of one sum.
    const FIELDS: usize = 64;
    let run = tiles_of_one_sum(L::FIELDS);
    // SAFETY: the caller's promise.
    unsafe {
        let mut wide = [[[S::zero(); NARROW]; 2]; MAX_TOKENS.div_ceil(NARROW)];
        let mut spread = [[S::zero(); 2]; FIELDS];
        for first in (0..tiles.count).step_by(run) {
            let count = run.min(tiles.count - first);
            let mut sums = [[S::zero(); NARROW]; 2];
            for t in 0..count {
                let tile = tiles.start.add((first + t) * TILE);
                prefetch(tile, tiles.ahead);
                let halves = [L::unpack(S::load(tile)), L::unpack(S::load(tile.add(tiles.apart)))];
                macro_rules! field {
                    ($field:literal) => {
                        if $field < L::FIELDS {
                            let codes = [L::codes(halves[0], $field), L::codes(halves[1], $field)];
                            spread[t * L::FIELDS + $field] = codes;
                            add_products::<S, _, 2, NARROW>(&mut sums, codes, q, (first + t) * L::FIELDS + $field);
                        }
                    };
                }
                field!(0);
                field!(1);
                field!(2);
                field!(3);
                field!(4);
            }
            widen::<S, 2, NARROW>(&mut wide[0], sums);
            for (wide, token) in wide.iter_mut().zip((0..out.tokens).step_by(NARROW)).skip(1) {
                let q = q.skip(token);
                let mut sums = [[S::zero(); NARROW]; 2];
                for (i, codes) in spread[..count * L::FIELDS].iter().enumerate() {
                    // In registers: left alone, they are loaded for each token.
                    let codes = codes.map(|codes| S::pinned(codes));
                    add_products::<S, _, 2, NARROW>(&mut sums, codes, q, first * L::FIELDS + i);
                }
                widen::<S, 2, NARROW>(wide, sums);
            }
        }
        for (wide, first) in wide.iter().zip((0..out.tokens).step_by(NARROW)) {
            for n in 0..2 {
                for t in 0..NARROW.min(out.tokens - first) {
                    S::store(out.at(n, first + t), wide[n][t]);
                }
            }
        }
    }
}

/// Adds the products of codes with four columns of the tokens.
///
/// # Safety
/// The machine has what `S` needs, and `q` holds such tokens.
#[inline(always)]
unsafe fn add_products<S: Simd, A: Source, const N: usize, const T: usize>(
    sums: &mut [[S::V; T]; N],
    codes: [S::V; N],
    q: A,
    quad: usize,
) {
    // SAFETY: the caller's promise.
    unsafe {
        for t in 0..T {
            let four = S::four(q.at(quad, t));
            for n in 0..N {
                sums[n][t] = S::pinned(S::add16(sums[n][t], S::products(codes[n], four)));
            }
        }
    }
}

/// Adds sums of 16 bits to those of 32.
///
/// # Safety
/// The machine has what `S` needs.
#[inline(always)]
unsafe fn widen<S: Simd, const N: usize, const T: usize>(wide: &mut [[S::V; T]; N], sums: [[S::V; T]; N]) {
    // SAFETY: the caller's promise.
    unsafe {
        for n in 0..N {
            for t in 0..T {
                wide[n][t] = S::add32(wide[n][t], S::widen(sums[n][t]));
            }
        }
    }
}

/// Products with a panel: a sum of 16 bits for each vector and token, widened in time.
#[derive(Clone, Copy)]
pub(super) struct Maddubs;

impl<S: Simd> Products<S> for Maddubs {
    #[inline(always)]
    unsafe fn add<const N: usize>(codes: *const u8, quads: usize, q: Panel, out: Sums, first: bool) {
        // SAFETY: the caller's promise.
        unsafe {
            if S::BYTES == TILE {
                for_tokens!(out.tokens, [4, 8, 12], |T| add::<S, N, T>(codes, quads, q, out, first));
            } else {
                for_shares!(q, out, NARROW, [4], |q, out, T| add::<S, N, T>(codes, quads, q, out, first));
            }
        }
    }
}

/// [`Products::add`] for `T` tokens.
///
/// # Safety
/// As [`Products::add`].
#[inline(always)]
unsafe fn add<S: Simd, const N: usize, const T: usize>(
    codes: *const u8,
    quads: usize,
    q: Panel,
    out: Sums,
    first: bool,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut wide = sums_so_far::<S, N, T>(out, first);
        let run = tiles_of_one_sum(1);
        for start in (0..quads).step_by(run) {
            let mut sums = [[S::zero(); T]; N];
            for quad in start..quads.min(start + run) {
                add_products::<S, Panel, N, T>(&mut sums, codes_of::<S, N>(codes, quad), q, quad);
            }
            widen::<S, N, T>(&mut wide, sums);
        }
        for n in 0..N {
            for t in 0..T {
                S::store(out.at(n, t), wide[n][t]);
            }
        }
    }
}
