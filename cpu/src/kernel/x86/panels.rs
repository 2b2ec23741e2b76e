//! Products with many tokens: the codes of some columns lie in the first-level cache while all panels of tokens are
//! multiplied with them. Left in their tiles, they would be taken apart for every panel, on units that multiply too.

use super::codes::Codes;
use super::simd::Simd;
use super::unpack::Unpack;
use super::{Sums, TILE, Tiles};
use crate::kernel::operand::Panel;
use crate::kernel::{Block, MAX_TOKENS, Quads};
use crate::layout::GROUP;

/// How codes are multiplied with a panel.
pub(super) trait Products<S: Simd>: Copy {
    /// Multiplies `quads` quads of columns of `N` vectors, `[quad][vector]`, with the tokens of `out`, at most
    /// [`MAX_TOKENS`] and a multiple of [`crate::kernel::ROUND`]. The sums are added to what `out` holds, or, if they are
    /// the first, overwrite it.
    ///
    /// # Safety
    /// The machine has what `S` needs; `codes`, `q` and `out` hold what they are asked for.
    unsafe fn add<const N: usize>(codes: *const u8, quads: usize, q: Panel, out: Sums, first: bool);
}

/// [`crate::kernel::Kernel`] for panels, `stride` quads apart.
///
/// # Safety
/// The machine has what `S` and `L` need, and the block was checked.
#[inline(always)]
pub(super) unsafe fn multiply<S: Simd, L: Unpack<S>, P: Products<S>>(
    block: Block<'_>,
    quads: &[Quads],
    stride: usize,
    sums: &mut [[i32; GROUP]],
) {
    let wide = S::BYTES == TILE;
    for group in (0..block.groups()).step_by(if wide { 2 } else { 1 }) {
        // SAFETY: the block was checked: the groups are in `tiles`, their sums in `sums`, the tokens in `quads`.
        unsafe {
            // Two groups side by side, or the halves of one.
            let groups = if wide { 2.min(block.groups() - group) } else { 1 };
            let (apart, sums_apart) =
                if wide { (block.group_bytes, GROUP * block.tokens) } else { (S::BYTES, GROUP / 2) };
            let tiles = Tiles::new(&block, group, groups, apart);
            let out = Sums::new(&block, group, sums_apart, sums);
            if wide && groups == 1 {
                vectors::<S, L, P, 1>(tiles, quads, stride, out);
            } else {
                vectors::<S, L, P, 2>(tiles, quads, stride, out);
            }
        }
    }
}

/// `N` vectors of rows with all tokens.
///
/// # Safety
/// As [`multiply`]; `tiles`, `quads` and `out` hold what they are asked for.
#[inline(always)]
unsafe fn vectors<S: Simd, L: Unpack<S>, P: Products<S>, const N: usize>(
    tiles: Tiles,
    quads: &[Quads],
    stride: usize,
    out: Sums,
) {
    let mut codes = Codes::new();
    for first in (0..tiles.count).step_by(Codes::tiles(L::FIELDS)) {
        let end = tiles.count.min(first + Codes::tiles(L::FIELDS));
        // SAFETY: the caller's promise; there are such tiles, and a panel for each step of tokens.
        unsafe {
            codes.fill::<S, L, N>(tiles, first, end, 1);
            for token in (0..out.tokens).step_by(MAX_TOKENS) {
                let panel = quads.as_ptr().add(token / MAX_TOKENS * stride + first * L::FIELDS);
                let out = out.skip(token, MAX_TOKENS);
                P::add::<N>(codes.start(), (end - first) * L::FIELDS, Panel::new(panel.cast()), out, first == 0);
            }
        }
    }
}

/// The sums of `N` vectors and `T` tokens, or zeros.
///
/// # Safety
/// As [`Products::add`].
#[inline(always)]
pub(super) unsafe fn sums_so_far<S: Simd, const N: usize, const T: usize>(out: Sums, first: bool) -> [[S::V; T]; N] {
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums = [[S::zero(); T]; N];
        if !first {
            for n in 0..N {
                for token in 0..T {
                    sums[n][token] = S::load(out.at(n, token).cast());
                }
            }
        }
        sums
    }
}

/// The codes of a quad of columns, in registers: left alone, they are loaded for each token.
///
/// # Safety
/// As [`Products::add`].
#[inline(always)]
pub(super) unsafe fn codes_of<S: Simd, const N: usize>(codes: *const u8, quad: usize) -> [S::V; N] {
    // SAFETY: the caller's promise.
    unsafe {
        let mut of = [S::zero(); N];
        for n in 0..N {
            of[n] = S::pinned(S::load(codes.add((quad * N + n) * S::BYTES)));
        }
        of
    }
}

/// Runs `add::<S, N, T>` over shares of the tokens of `out`, at most `most` each, `T` the next that is listed.
macro_rules! for_shares {
    ($q:ident, $out:ident, $most:expr, [$($t:literal),*], |$share:ident, $to:ident, $n:ident| $call:expr) => {{
        let share = share($out.tokens, $most);
        for first in (0..$out.tokens).step_by(share) {
            let ($share, $to) = ($q.skip(first), $out.skip(first, share));
            for_tokens!($to.tokens, [$($t),*], |$n| $call);
        }
    }};
}
pub(super) use for_shares;
