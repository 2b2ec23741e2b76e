//! The codes of some columns, taken out of their tiles once for many tokens.

use std::mem::MaybeUninit;

use super::simd::Simd;
use super::unpack::Unpack;
use super::{TILE, Tiles};
use crate::prefetch::prefetch;

/// Quads of columns of a [`Codes`], at most: with the activations that meet them, they stay in the first-level cache.
const QUADS: usize = 160;

/// Codes of two vectors of rows side by side, `[quad of columns][vector]`, of up to [`QUADS`] quads.
#[repr(C, align(64))]
pub(super) struct Codes(MaybeUninit<[[u8; 2 * TILE]; QUADS]>);

impl Codes {
    pub(super) fn new() -> Codes {
        Codes(MaybeUninit::uninit())
    }

    /// Tiles that are taken apart at a time: the columns of whole squares ([`crate::kernel::Square`]).
    pub(super) const fn tiles(fields: usize) -> usize {
        QUADS / fields / 16 * 16
    }

    pub(super) fn start(&self) -> *const u8 {
        self.0.as_ptr().cast()
    }

    /// Takes `N` vectors of the tiles from `first` to `end` apart, [`Codes::tiles`] at most, and adds quads of code 0 up to
    /// a multiple of `round`.
    ///
    /// # Safety
    /// The machine has what `S` and `L` need; there are such tiles; `round` divides 16.
    #[inline(always)]
    pub(super) unsafe fn fill<S: Simd, L: Unpack<S>, const N: usize>(
        &mut self,
        tiles: Tiles,
        first: usize,
        end: usize,
        round: usize,
    ) {
        // SAFETY: the caller's promise; `N` vectors of each quad fit.
        unsafe {
            let mut out = self.0.as_mut_ptr().cast::<u8>();
            for t in first..end {
                let ahead = if S::BYTES == TILE && t >= tiles.turn { tiles.far } else { tiles.ahead };
                let tile = tiles.start.add(t * TILE);
                for n in 0..N {
                    let tile = tile.add(n * tiles.apart);
                    // Halves of one tile share its line.
                    if n == 0 || S::BYTES == TILE {
                        prefetch(tile, ahead);
                    }
                    let half = L::unpack(S::load(tile));
                    for field in 0..L::FIELDS {
                        S::store(out.add((field * N + n) * S::BYTES).cast(), L::codes(half, field));
                    }
                }
                out = out.add(L::FIELDS * N * S::BYTES);
            }
            let quads = (end - first) * L::FIELDS;
            for _ in 0..(quads.next_multiple_of(round) - quads) * N {
                S::store(out.cast(), S::zero());
                out = out.add(S::BYTES);
            }
        }
    }
}
