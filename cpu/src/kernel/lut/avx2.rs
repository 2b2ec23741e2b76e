//! AVX2: `vpshufb`, 32 rows in a register.

use std::arch::x86_64::*;

use super::super::{Block, Form, Operand};
use super::{HEADER, LUT2, LUT3, Lanes, PARTS, Shape, TOKENS, finish, tables_x86, total};
use crate::layout::{GROUP, LUT_ROWS, lut3};
use crate::prefetch::prefetch;

pub(in crate::kernel) const LUT2_FORM: Form = Form::Tables(tables_x86::LUT2);
pub(in crate::kernel) const LUT3_FORM: Form = Form::Tables(tables_x86::LUT3);

/// Bytes of the table of a run: two planes of 16.
const TABLE: usize = 32;

/// The low and the high plane of `V` registers of rows.
type Planes<const V: usize> = [[__m256i; V]; 2];

/// How a tile is looked up.
trait Lookup {
    const SHAPE: Shape;

    /// The sums of the planes over the runs of a tile, for each token and the `32 V` rows that `tile` starts at.
    ///
    /// # Safety
    /// The machine has AVX2; the tile and its tables are readable.
    unsafe fn planes<const T: usize, const V: usize>(tile: *const u8, tables: [*const u8; T]) -> [Planes<V>; T];
}

/// A byte of each row.
///
/// # Safety
/// The machine has AVX2; the bytes are readable.
#[inline(always)]
unsafe fn load<const V: usize>(bytes: *const u8) -> [__m256i; V] {
    // SAFETY: the caller's promise.
    std::array::from_fn(|v| unsafe { _mm256_loadu_si256(bytes.add(32 * v).cast()) })
}

/// The nibbles that are the indices of run `run` of a tile.
///
/// # Safety
/// The machine has AVX2; the tile is readable.
#[inline(always)]
unsafe fn nibbles<const V: usize>(tile: *const u8, run: usize) -> [__m256i; V] {
    // SAFETY: the caller's promise.
    unsafe {
        let bytes = load::<V>(tile.add(LUT_ROWS * (run / 2)));
        let shifted = if run.is_multiple_of(2) { bytes } else { bytes.map(|bytes| _mm256_srli_epi16::<4>(bytes)) };
        shifted.map(|bytes| _mm256_and_si256(bytes, _mm256_set1_epi8(15)))
    }
}

/// Adds what the indices find in the table of a run to the planes; `sign` is applied to what was found.
///
/// # Safety
/// The machine has AVX2; the table is readable.
#[inline(always)]
unsafe fn add<const V: usize>(
    planes: &mut Planes<V>,
    table: *const u8,
    index: &[__m256i; V],
    sign: Option<&[__m256i; V]>,
) {
    // SAFETY: the caller's promise.
    let table = [0, 16].map(|at| unsafe { _mm256_broadcastsi128_si256(_mm_loadu_si128(table.add(at).cast())) });
    for v in 0..V {
        for plane in 0..2 {
            // SAFETY: the caller's promise.
            unsafe {
                let found = _mm256_shuffle_epi8(table[plane], index[v]);
                let found = if let Some(sign) = sign { _mm256_sign_epi8(found, sign[v]) } else { found };
                planes[plane][v] = _mm256_add_epi8(planes[plane][v], found);
            }
        }
    }
}

struct Lut2;

impl Lookup for Lut2 {
    const SHAPE: Shape = LUT2;

    #[inline(always)]
    unsafe fn planes<const T: usize, const V: usize>(tile: *const u8, tables: [*const u8; T]) -> [Planes<V>; T] {
        // SAFETY: the caller's promise.
        unsafe {
            let mut planes = [[[_mm256_setzero_si256(); V]; 2]; T];
            for run in 0..LUT2.runs() {
                let index = nibbles(tile, run);
                for token in 0..T {
                    add(&mut planes[token], tables[token].add(TABLE * run), &index, None);
                }
            }
            planes
        }
    }
}

struct Lut3;

impl Lookup for Lut3 {
    const SHAPE: Shape = LUT3;

    #[inline(always)]
    unsafe fn planes<const T: usize, const V: usize>(tile: *const u8, tables: [*const u8; T]) -> [Planes<V>; T] {
        // SAFETY: the caller's promise.
        unsafe {
            let mut planes = [[[_mm256_setzero_si256(); V]; 2]; T];
            macro_rules! runs {
                ($($run:literal)*) => {$(
                    let index = nibbles(tile, $run);
                    // The highest bit is the sign. Where it is not set, the index keeps the byte from being zero, which
                    // would erase what was found; for the index 0 that is zero anyhow.
                    let signs = load::<V>(tile.add(lut3::SIGNS)).map(|signs| _mm256_slli_epi16::<$run>(signs));
                    let sign = std::array::from_fn(|v| _mm256_or_si256(signs[v], index[v]));
                    for token in 0..T {
                        add(&mut planes[token], tables[token].add(TABLE * $run), &index, Some(&sign));
                    }
                )*};
            }
            runs!(0 1 2 3 4 5 6 7);
            planes
        }
    }
}

/// [`super::super::Kernel`] for [`crate::Layout::Lut2`].
///
/// # Safety
/// The machine has AVX2, and the block was checked.
#[target_feature(enable = "avx2")]
pub(in crate::kernel) fn lut2(block: Block<'_>, sums: &mut [[i32; GROUP]]) {
    // SAFETY: AVX2 is there.
    unsafe { groups::<Lut2>(block, sums) }
}

/// [`super::super::Kernel`] for [`crate::Layout::Lut3`].
///
/// # Safety
/// The machine has AVX2, and the block was checked.
#[target_feature(enable = "avx2")]
pub(in crate::kernel) fn lut3(block: Block<'_>, sums: &mut [[i32; GROUP]]) {
    // SAFETY: AVX2 is there.
    unsafe { groups::<Lut3>(block, sums) }
}

/// # Safety
/// The machine has AVX2.
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
                _ => group::<L, TOKENS, 1>(tiles, tables, stride, block.prefetch, sums),
            }
        }
    }
}

/// One group of rows with `T` tokens, `V` registers of rows at once.
///
/// # Safety
/// The machine has AVX2.
#[inline(always)]
unsafe fn group<L: Lookup, const T: usize, const V: usize>(
    tiles: &[u8],
    tables: &[u8],
    stride: usize,
    ahead: usize,
    sums: &mut [[i32; GROUP]],
) {
    let shape = L::SHAPE;
    let (tile_bytes, tile_tables) = (shape.layout.tile_bytes(), TABLE * shape.runs());
    let count = tiles.len() / tile_bytes;
    assert!(tables.len() >= (T - 1) * stride + HEADER + count * tile_tables && sums.len() == T * PARTS);
    let each: [*const u8; T] = std::array::from_fn(|token| tables.as_ptr().wrapping_add(token * stride + HEADER));
    // SAFETY: AVX2 is there; loads are of whole tiles and, by the assertion above, of tables in bounds, and need no
    // alignment; a store goes to an array of its size.
    unsafe {
        let join = _mm256_set1_epi16(i16::from_le_bytes([1, shape.radix as u8]));
        let parity = [_mm256_set1_epi32(1), _mm256_set1_epi32(1 << 16)];
        // even and odd rows of the low and high halves of the lanes, by register of rows.
        let mut wide = [[[[_mm256_setzero_si256(); 2]; 2]; LUT_ROWS / 32]; T];
        for first in (0..count).step_by(shape.tiles()) {
            for start in (0..LUT_ROWS / 32).step_by(V) {
                let mut narrow = [[[_mm256_setzero_si256(); 2]; V]; T];
                for t in first..count.min(first + shape.tiles()) {
                    let tile = tiles.as_ptr().add(t * tile_bytes);
                    if start == 0 {
                        (0..tile_bytes).step_by(64).for_each(|line| prefetch(tile.add(line), ahead));
                    }
                    let planes = L::planes::<T, V>(tile.add(32 * start), each.map(|table| table.add(t * tile_tables)));
                    for token in 0..T {
                        for v in 0..V {
                            let (low, high) = (planes[token][0][v], planes[token][1][v]);
                            let pairs = [_mm256_unpacklo_epi8(low, high), _mm256_unpackhi_epi8(low, high)];
                            for i in 0..2 {
                                let sum = &mut narrow[token][v][i];
                                *sum = _mm256_add_epi16(*sum, _mm256_maddubs_epi16(join, pairs[i]));
                            }
                        }
                    }
                }
                for token in 0..T {
                    for v in 0..V {
                        for i in 0..2 {
                            for odd in 0..2 {
                                let sum = &mut wide[token][start + v][i][odd];
                                *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(narrow[token][v][i], parity[odd]));
                            }
                        }
                    }
                }
            }
        }
        for token in 0..T {
            let mut lanes: Lanes = [[[0; 4]; PARTS]; 4];
            for (v, halves) in wide[token].iter().enumerate() {
                for (i, &[even, odd]) in halves.iter().enumerate() {
                    let (low, high) = (_mm256_unpacklo_epi32(even, odd), _mm256_unpackhi_epi32(even, odd));
                    _mm256_storeu_si256(lanes[2 * i].as_mut_ptr().add(2 * v).cast(), low);
                    _mm256_storeu_si256(lanes[2 * i + 1].as_mut_ptr().add(2 * v).cast(), high);
                }
            }
            finish(&lanes, total(&tables[token * stride..]), &mut sums[token..], T);
        }
    }
}
