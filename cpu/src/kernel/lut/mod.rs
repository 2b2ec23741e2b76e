//! Kernels that look sums up instead of multiplying, in the manner of T-MAC, TL1 and TL2.
//!
//! Their layouts store the index of a run of 2, 3 or 5 weights ([`crate::layout`]). For each run, the table of a token
//! holds `Σ w · q` for every index, so that one look-up does the work of as many products; byte shuffles look up 16 to
//! 64 rows at once. A sum has more than eight bits: a table has two planes of bytes, and `sum = low + radix · high`. The
//! radix is chosen such that the planes of all runs of a tile add up within int8. Then they are joined to 16 bits, which
//! hold several tiles, and these to 32. Nothing is rounded anywhere.
//!
//! | | \|sum\| | radix | \|low\| | \|high\| | runs of a tile | in int8 | \|sum\| of a tile | tiles in 16 bits |
//! |---|---|---|---|---|---|---|---|---|
//! | Lut2 | 2 · 128 | 31 | 15 | 8 | 8 | 120, 64 | 2048 | 15 |
//! | Lut3 | 3 · 128 | 31 | 15 | 12 | 8 | 120, 96 | 3072 | 10 |
//! | Lut5 | 5 · 128 | 41 | 20 | 16 | 6 | 120, 96 | 3840 | 8 |

#[cfg(target_arch = "x86_64")]
pub(super) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(super) mod avx512;
#[cfg(target_arch = "aarch64")]
pub(super) mod neon;
pub(super) mod portable;
mod tables;
#[cfg(target_arch = "x86_64")]
mod tables_x86;

use crate::layout::{GROUP, LUT_ROWS, Layout, lut2, lut3, lut5};

/// Bytes before the tables of a token: the sum of its values, for sums over codes, and room up to a cache line.
const HEADER: usize = 64;

/// Parts of a group, see [`super::Kernel`].
const PARTS: usize = LUT_ROWS / GROUP;

/// Tokens that share unpacked indices; the sums of more would not fit into the registers.
pub(super) const TOKENS: usize = 3;

/// What the kernels for a layout have in common.
struct Shape {
    layout: Layout,
    /// Weights of a run.
    run: usize,
    /// Largest magnitude of the sum of a run.
    most: usize,
    radix: usize,
}

impl Shape {
    const fn runs(&self) -> usize {
        self.layout.tile_cols() / self.run
    }

    /// Tiles whose sums fit into 16 bits.
    const fn tiles(&self) -> usize {
        i16::MAX as usize / (self.runs() * self.most)
    }
}

const LUT2: Shape = Shape { layout: Layout::Lut2, run: lut2::RUN, most: 128 * lut2::RUN, radix: 31 };
const LUT3: Shape = Shape { layout: Layout::Lut3, run: lut3::RUN, most: 128 * lut3::RUN, radix: 31 };
const LUT5: Shape = Shape { layout: Layout::Lut5, run: lut5::RUN, most: 128 * lut5::RUN, radix: 41 };

/// The sum of the values of a token, which its table begins with.
fn total(table: &[u8]) -> i32 {
    i32::from_ne_bytes(*table.first_chunk().expect("a table has a header"))
}

/// Four sums of each 128-bit lane of the registers that hold a group: of rows `16 lane + 4 i …` in the part `i`.
#[cfg(target_arch = "x86_64")]
type Lanes = [[[i32; 4]; PARTS]; 4];

/// Puts the sums of a group with one of `tokens` tokens into the order of the rows and makes them sums over codes.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn finish(lanes: &Lanes, total: i32, sums: &mut [[i32; GROUP]], tokens: usize) {
    for (lane, sums) in sums.iter_mut().step_by(tokens).enumerate() {
        for (i, sums) in sums.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            *sums = lanes[i][lane].map(|sum| sum + total);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planes_and_tiles_stay_in_bounds() {
        for (shape, tiles) in [(LUT2, 15), (LUT3, 10), (LUT5, 8)] {
            let radix = shape.radix as i32;
            for sum in -(shape.most as i32)..=shape.most as i32 {
                let (low, high) = tables::split(sum as i16, radix as i16);
                assert_eq!(i32::from(low) + radix * i32::from(high), sum);
                assert_eq!(tables::split(-sum as i16, radix as i16), (-low, -high));
                let most = shape.runs() as i32 * i32::from(low.abs().max(high.abs()));
                assert!(most <= 127, "the planes of a tile fit into int8");
            }
            assert_eq!(shape.tiles(), tiles);
            assert!((tiles + 1) * shape.runs() * shape.most > i16::MAX as usize);
        }
    }
}
