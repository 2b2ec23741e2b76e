//! AVX2: `vpshufb`. Two registers of 32 rows are looked up together, two such pairs are a group.

use std::arch::x86_64::*;

use super::super::{Block, Form, Operand};
use super::{HEADER, LUT2, LUT3, Lanes, PARTS, Shape, TOKENS, finish, tables_x86, total};
use crate::layout::{GROUP, LUT_ROWS, lut3};
use crate::prefetch::prefetch;

pub(in crate::kernel) const LUT2_FORM: Form = Form::Tables(tables_x86::LUT2);
pub(in crate::kernel) const LUT3_FORM: Form = Form::Tables(tables_x86::LUT3);

/// Bytes of the table of a run: two planes of 16.
const TABLE: usize = 32;

/// Pairs of registers that hold a byte of each row of a group.
const PAIRS: usize = LUT_ROWS / 64;

/// How a tile is looked up.
trait Lookup {
    const SHAPE: Shape;

    /// The sums of the planes (low, high) over the runs of a tile, for each token and the two halves of the 64 rows that
    /// `tile` starts at.
    ///
    /// # Safety
    /// The machine has AVX2; the tile and its tables are readable.
    unsafe fn planes<const T: usize>(tile: *const u8, tables: [*const u8; T]) -> [[[__m256i; 2]; 2]; T];
}

/// Adds what two halves of indices find in the table of a run; `sign` is applied to what was found.
///
/// # Safety
/// The machine has AVX2; the table is readable.
#[inline(always)]
unsafe fn add(planes: &mut [[__m256i; 2]; 2], table: *const u8, index: [__m256i; 2], sign: Option<[__m256i; 2]>) {
    for plane in 0..2 {
        // SAFETY: the caller's promise.
        unsafe {
            let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.add(16 * plane).cast()));
            for half in 0..2 {
                let mut found = _mm256_shuffle_epi8(table, index[half]);
                if let Some(sign) = sign {
                    found = _mm256_sign_epi8(found, sign[half]);
                }
                planes[half][plane] = _mm256_add_epi8(planes[half][plane], found);
            }
        }
    }
}

/// The nibbles of both halves of 64 bytes: low, high.
///
/// # Safety
/// The machine has AVX2; the bytes are readable.
#[inline(always)]
unsafe fn nibbles(bytes: *const u8) -> [[__m256i; 2]; 2] {
    // SAFETY: the caller's promise.
    unsafe {
        let mask = _mm256_set1_epi8(15);
        let (a, b) = (_mm256_loadu_si256(bytes.cast()), _mm256_loadu_si256(bytes.add(32).cast()));
        let (high_a, high_b) = (_mm256_srli_epi16::<4>(a), _mm256_srli_epi16::<4>(b));
        [
            [_mm256_and_si256(a, mask), _mm256_and_si256(b, mask)],
            [_mm256_and_si256(high_a, mask), _mm256_and_si256(high_b, mask)],
        ]
    }
}

struct Lut2;

impl Lookup for Lut2 {
    const SHAPE: Shape = LUT2;

    #[inline(always)]
    unsafe fn planes<const T: usize>(tile: *const u8, tables: [*const u8; T]) -> [[[__m256i; 2]; 2]; T] {
        // SAFETY: the caller's promise.
        unsafe {
            let mut planes = [[[_mm256_setzero_si256(); 2]; 2]; T];
            for i in 0..4 {
                let index = nibbles(tile.add(LUT_ROWS * i));
                for token in 0..T {
                    for j in 0..2 {
                        add(&mut planes[token], tables[token].add(TABLE * (2 * i + j)), index[j], None);
                    }
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
    unsafe fn planes<const T: usize>(tile: *const u8, tables: [*const u8; T]) -> [[[__m256i; 2]; 2]; T] {
        // SAFETY: the caller's promise.
        unsafe {
            let mut planes = [[[_mm256_setzero_si256(); 2]; 2]; T];
            let signs = tile.add(lut3::SIGNS);
            let mut signs = [_mm256_loadu_si256(signs.cast()), _mm256_loadu_si256(signs.add(32).cast())];
            for i in 0..4 {
                let index = nibbles(tile.add(LUT_ROWS * i));
                for j in 0..2 {
                    // The highest bit is the sign; where it is not set, the index keeps the byte from being zero, which
                    // would erase what was found. For the index 0 that is zero anyhow.
                    let sign = [_mm256_or_si256(signs[0], index[j][0]), _mm256_or_si256(signs[1], index[j][1])];
                    for token in 0..T {
                        add(&mut planes[token], tables[token].add(TABLE * (2 * i + j)), index[j], Some(sign));
                    }
                    signs = [_mm256_add_epi8(signs[0], signs[0]), _mm256_add_epi8(signs[1], signs[1])];
                }
            }
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
        // SAFETY: the caller's promise.
        unsafe {
            match block.tokens {
                1 => group::<L, 1>(tiles, tables, stride, block.prefetch, sums),
                2 => group::<L, 2>(tiles, tables, stride, block.prefetch, sums),
                _ => group::<L, TOKENS>(tiles, tables, stride, block.prefetch, sums),
            }
        }
    }
}

/// One group of rows with `T` tokens.
///
/// # Safety
/// The machine has AVX2.
#[inline(always)]
unsafe fn group<L: Lookup, const T: usize>(
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
        let (even, odd) = (_mm256_set1_epi32(1), _mm256_set1_epi32(1 << 16));
        let mut wide = [[[[_mm256_setzero_si256(); 2]; PAIRS]; 4]; T];
        let mut t = 0;
        while t < count {
            let end = count.min(t + shape.tiles());
            let mut narrow = [[[[_mm256_setzero_si256(); 2]; PAIRS]; 2]; T];
            while t < end {
                let tile = tiles.as_ptr().add(t * tile_bytes);
                for line in (0..tile_bytes).step_by(64) {
                    prefetch(tile.add(line), ahead);
                }
                let mut here = each;
                for table in &mut here {
                    *table = table.add(t * tile_tables);
                }
                for pair in 0..PAIRS {
                    let planes = L::planes(tile.add(64 * pair), here);
                    for token in 0..T {
                        for half in 0..2 {
                            let [low, high] = planes[token][half];
                            let mixed = [_mm256_unpacklo_epi8(low, high), _mm256_unpackhi_epi8(low, high)];
                            for i in 0..2 {
                                let sum = &mut narrow[token][i][pair][half];
                                *sum = _mm256_add_epi16(*sum, _mm256_maddubs_epi16(join, mixed[i]));
                            }
                        }
                    }
                }
                t += 1;
            }
            for token in 0..T {
                for (i, wide) in wide[token].as_flattened_mut().as_flattened_mut().iter_mut().enumerate() {
                    let narrow = narrow[token].as_flattened().as_flattened();
                    let (from, parity) = (i % narrow.len(), if i < narrow.len() { even } else { odd });
                    *wide = _mm256_add_epi32(*wide, _mm256_madd_epi16(narrow[from], parity));
                }
            }
        }
        for token in 0..T {
            let mut lanes: Lanes = [[[0; 4]; PARTS]; 4];
            for i in 0..2 {
                let (even, odd) = (wide[token][i].as_flattened(), wide[token][2 + i].as_flattened());
                for (v, (&even, &odd)) in even.iter().zip(odd).enumerate() {
                    let (low, high) = (_mm256_unpacklo_epi32(even, odd), _mm256_unpackhi_epi32(even, odd));
                    _mm256_storeu_si256(lanes[2 * i].as_mut_ptr().add(2 * v).cast(), low);
                    _mm256_storeu_si256(lanes[2 * i + 1].as_mut_ptr().add(2 * v).cast(), high);
                }
            }
            finish(&lanes, total(&tables[token * stride..]), &mut sums[token..], T);
        }
    }
}
