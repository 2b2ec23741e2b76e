//! NEON: `tbl`, 16 rows in a register.

use std::arch::aarch64::*;

use super::super::{Block, Form, Operand};
use super::{HEADER, LUT2, LUT3, PARTS, Shape, TOKENS, tables, total};
use crate::layout::{GROUP, LUT_ROWS, lut3};
use crate::prefetch::prefetch;

pub(in crate::kernel) const LUT2_FORM: Form = Form::Tables(tables::LUT2_PLANES);
pub(in crate::kernel) const LUT3_FORM: Form = Form::Tables(tables::LUT3_PLANES);

/// The low and the high plane of `V` registers of rows.
type Planes<const V: usize> = [[int8x16_t; V]; 2];

/// How a tile is looked up.
trait Lookup {
    const SHAPE: Shape;
    /// Bytes of the table of a run.
    const TABLE: usize;

    /// The sums of the planes over the runs of a tile, for each token and the `16 V` rows that `tile` starts at.
    ///
    /// # Safety
    /// The machine has NEON; the tile and its tables are readable.
    unsafe fn planes<const T: usize, const V: usize>(tile: *const u8, tables: [*const u8; T]) -> [Planes<V>; T];
}

/// A byte of each row.
///
/// # Safety
/// The machine has NEON; the bytes are readable.
#[inline(always)]
unsafe fn load<const V: usize>(bytes: *const u8) -> [uint8x16_t; V] {
    // SAFETY: the caller's promise.
    std::array::from_fn(|v| unsafe { vld1q_u8(bytes.add(16 * v)) })
}

/// The nibbles that are the indices of run `run` of a tile.
///
/// # Safety
/// The machine has NEON; the tile is readable.
#[inline(always)]
unsafe fn nibbles<const V: usize>(tile: *const u8, run: usize) -> [uint8x16_t; V] {
    // SAFETY: the caller's promise.
    unsafe {
        let bytes = load::<V>(tile.add(LUT_ROWS * (run / 2)));
        bytes.map(|bytes| match run % 2 {
            0 => vandq_u8(bytes, vdupq_n_u8(15)),
            _ => vshrq_n_u8::<4>(bytes),
        })
    }
}

/// # Safety
/// The machine has NEON.
#[inline(always)]
unsafe fn add<const V: usize>(planes: &mut Planes<V>, found: Planes<V>) {
    for (sum, found) in planes.as_flattened_mut().iter_mut().zip(found.as_flattened()) {
        // SAFETY: the caller's promise.
        *sum = unsafe { vaddq_s8(*sum, *found) };
    }
}

struct Lut2;

impl Lookup for Lut2 {
    const SHAPE: Shape = LUT2;
    const TABLE: usize = 32;

    #[inline(always)]
    unsafe fn planes<const T: usize, const V: usize>(tile: *const u8, tables: [*const u8; T]) -> [Planes<V>; T] {
        // SAFETY: the caller's promise.
        unsafe {
            let mut planes = [[[vdupq_n_s8(0); V]; 2]; T];
            for run in 0..LUT2.runs() {
                let index = nibbles(tile, run);
                for token in 0..T {
                    let table = [0, 16].map(|at| vld1q_s8(tables[token].add(Self::TABLE * run + at).cast()));
                    add(&mut planes[token], table.map(|table| index.map(|index| vqtbl1q_s8(table, index))));
                }
            }
            planes
        }
    }
}

/// Looks sign and magnitude up, five bits.
struct Lut3;

impl Lookup for Lut3 {
    const SHAPE: Shape = LUT3;
    const TABLE: usize = 64;

    #[inline(always)]
    unsafe fn planes<const T: usize, const V: usize>(tile: *const u8, tables: [*const u8; T]) -> [Planes<V>; T] {
        // SAFETY: the caller's promise.
        unsafe {
            let mut planes = [[[vdupq_n_s8(0); V]; 2]; T];
            let signs = load::<V>(tile.add(lut3::SIGNS));
            macro_rules! runs {
                ($($run:literal $shift:expr;)*) => {$(
                    let bytes = nibbles::<V>(tile, $run);
                    // The fifth bit from the signs, the others from the magnitudes.
                    let index: [uint8x16_t; V] = std::array::from_fn(|v| {
                        let sign: uint8x16_t = $shift(signs[v]);
                        vbslq_u8(vdupq_n_u8(16), sign, bytes[v])
                    });
                    for token in 0..T {
                        let table = tables[token].add(Self::TABLE * $run).cast::<i8>();
                        let table = [0, 32].map(|at| int8x16x2_t(vld1q_s8(table.add(at)), vld1q_s8(table.add(at + 16))));
                        add(&mut planes[token], table.map(|table| index.map(|index| vqtbl2q_s8(table, index))));
                    }
                )*};
            }
            runs! {
                0 |signs| vshrq_n_u8::<3>(signs);
                1 |signs| vshrq_n_u8::<2>(signs);
                2 |signs| vshrq_n_u8::<1>(signs);
                3 |signs| signs;
                4 |signs| vshlq_n_u8::<1>(signs);
                5 |signs| vshlq_n_u8::<2>(signs);
                6 |signs| vshlq_n_u8::<3>(signs);
                7 |signs| vshlq_n_u8::<4>(signs);
            }
            planes
        }
    }
}

/// [`super::super::Kernel`] for [`crate::Layout::Lut2`].
///
/// # Safety
/// The machine has NEON, and the block was checked.
#[target_feature(enable = "neon")]
pub(in crate::kernel) fn lut2(block: Block<'_>, sums: &mut [[i32; GROUP]]) {
    // SAFETY: NEON is there.
    unsafe { groups::<Lut2>(block, sums) }
}

/// [`super::super::Kernel`] for [`crate::Layout::Lut3`].
///
/// # Safety
/// The machine has NEON, and the block was checked.
#[target_feature(enable = "neon")]
pub(in crate::kernel) fn lut3(block: Block<'_>, sums: &mut [[i32; GROUP]]) {
    // SAFETY: NEON is there.
    unsafe { groups::<Lut3>(block, sums) }
}

/// # Safety
/// The machine has NEON.
#[inline(always)]
unsafe fn groups<L: Lookup>(block: Block<'_>, sums: &mut [[i32; GROUP]]) {
    let Operand::Tables { tables, stride } = block.operand else { unreachable!("the block was checked") };
    let groups = block.tiles.chunks_exact(block.group_bytes);
    for (tiles, sums) in groups.zip(sums.chunks_exact_mut(block.tokens * PARTS)) {
        // As many registers of rows as share a table that was read without the sums leaving the registers.
        // SAFETY: the caller's promise.
        unsafe {
            match block.tokens {
                1 => group::<L, 1, 4>(tiles, tables, stride, block.prefetch, sums),
                2 => group::<L, 2, 2>(tiles, tables, stride, block.prefetch, sums),
                _ => group::<L, TOKENS, 2>(tiles, tables, stride, block.prefetch, sums),
            }
        }
    }
}

/// One group of rows with `T` tokens, `V` registers of rows at once.
///
/// # Safety
/// The machine has NEON.
#[inline(always)]
unsafe fn group<L: Lookup, const T: usize, const V: usize>(
    tiles: &[u8],
    tables: &[u8],
    stride: usize,
    ahead: usize,
    sums: &mut [[i32; GROUP]],
) {
    let shape = L::SHAPE;
    let (tile_bytes, tile_tables) = (shape.layout.tile_bytes(), L::TABLE * shape.runs());
    let count = tiles.len() / tile_bytes;
    assert!(tables.len() >= (T - 1) * stride + HEADER + count * tile_tables && sums.len() == T * PARTS);
    let each: [*const u8; T] = std::array::from_fn(|token| tables.as_ptr().wrapping_add(token * stride + HEADER));
    for (i, sums) in sums.iter_mut().enumerate() {
        *sums = [total(&tables[i % T * stride..]); GROUP];
    }
    // SAFETY: NEON is there; loads are of whole tiles and, by the assertion above, of tables in bounds; eight sums are
    // two registers.
    unsafe {
        let radix = vdupq_n_s8(shape.radix as i8);
        for first in (0..count).step_by(shape.tiles()) {
            for start in (0..PARTS).step_by(V) {
                let mut narrow = [[[vdupq_n_s16(0); 2]; V]; T];
                for t in first..count.min(first + shape.tiles()) {
                    let tile = tiles.as_ptr().add(t * tile_bytes);
                    if start == 0 {
                        (0..tile_bytes).step_by(64).for_each(|line| prefetch(tile.add(line), ahead));
                    }
                    let planes = L::planes::<T, V>(tile.add(16 * start), each.map(|table| table.add(t * tile_tables)));
                    for (narrow, [low, high]) in narrow.iter_mut().zip(planes) {
                        for (v, narrow) in narrow.iter_mut().enumerate() {
                            let with_low = vaddw_s8(narrow[0], vget_low_s8(low[v]));
                            narrow[0] = vmlal_s8(with_low, vget_low_s8(high[v]), vget_low_s8(radix));
                            narrow[1] = vmlal_high_s8(vaddw_high_s8(narrow[1], low[v]), high[v], radix);
                        }
                    }
                }
                for (token, narrow) in narrow.iter().enumerate() {
                    for (v, narrow) in narrow.iter().enumerate() {
                        let sums = sums[(start + v) * T + token].as_chunks_mut::<8>().0;
                        for (sums, &narrow) in sums.iter_mut().zip(narrow) {
                            let at = sums.as_mut_ptr();
                            vst1q_s32(at, vaddw_s16(vld1q_s32(at), vget_low_s16(narrow)));
                            vst1q_s32(at.add(4), vaddw_high_s16(vld1q_s32(at.add(4)), narrow));
                        }
                    }
                }
            }
        }
    }
}
