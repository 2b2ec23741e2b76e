//! The tables of a token as planes of bytes, for x86-64.

use std::arch::x86_64::*;

use super::super::TableBuilder;
use super::tables::{bytes, header, reciprocal, weights};
use super::{HEADER, LUT2 as LUT2_SHAPE, LUT3 as LUT3_SHAPE, LUT5 as LUT5_SHAPE, Shape};
use crate::layout::{lut2, lut3, lut5};

/// A low plane of 16 bytes, then a high one.
pub(super) const LUT2: TableBuilder = TableBuilder { bytes: |cols| bytes(cols, lut2::RUN, 32), build: build_lut2 };

/// Magnitudes: a low plane of 16 bytes, then a high one.
pub(super) const LUT3: TableBuilder = TableBuilder { bytes: |cols| bytes(cols, lut3::RUN, 32), build: build_lut3 };

/// A low plane of 32 bytes, then a high one: 16 magnitudes and the same negated.
pub(super) const LUT3_MIRRORED: TableBuilder =
    TableBuilder { bytes: |cols| bytes(cols, lut3::RUN, 64), build: build_lut3_mirrored };

/// Magnitudes: a low plane of 128 bytes, then a high one.
pub(super) const LUT5: TableBuilder = TableBuilder { bytes: |cols| bytes(cols, lut5::RUN, 256), build: build_lut5 };

/// # Safety
/// The machine has AVX2.
#[target_feature(enable = "avx2")]
fn build_lut2(q: &[i8], table: &mut [u8]) {
    static WEIGHTS: [[i16; 16]; lut2::RUN] = weights!(lut2, 16);
    build16::<_, false>(LUT2_SHAPE, &WEIGHTS, q, table);
}

/// # Safety
/// The machine has AVX2.
#[target_feature(enable = "avx2")]
fn build_lut3(q: &[i8], table: &mut [u8]) {
    build16::<_, false>(LUT3_SHAPE, &LUT3_WEIGHTS, q, table);
}

/// # Safety
/// The machine has AVX2.
#[target_feature(enable = "avx2")]
fn build_lut3_mirrored(q: &[i8], table: &mut [u8]) {
    build16::<_, true>(LUT3_SHAPE, &LUT3_WEIGHTS, q, table);
}

static LUT3_WEIGHTS: [[i16; 16]; lut3::RUN] = weights!(lut3, 16);

/// The int8 values as 16-bit numbers, the runs of a tile at a time: what a broadcast from memory can take.
#[inline(always)]
fn widen<const RUN: usize, const RUNS: usize>(q: &[[i8; RUN]], wide: &mut [[i16; RUN]; RUNS]) {
    for (wide, q) in wide.as_flattened_mut().iter_mut().zip(q.as_flattened()) {
        *wide = i16::from(*q);
    }
}

/// Tables of 16 sums.
///
/// # Safety
/// The machine has AVX2.
#[target_feature(enable = "avx2")]
fn build16<const RUN: usize, const MIRROR: bool>(shape: Shape, weights: &[[i16; 16]; RUN], q: &[i8], table: &mut [u8]) {
    header(q, table);
    // SAFETY: the arrays have the size of a register.
    let weights = weights.each_ref().map(|w| unsafe { _mm256_loadu_si256(w.as_ptr().cast()) });
    let reciprocal = _mm256_set1_epi16(reciprocal(shape.radix as i16));
    let radix = _mm256_set1_epi16(shape.radix as i16);
    let mut wide = [[0i16; RUN]; 8];
    let bytes = if MIRROR { 64 } else { 32 };
    let runs = q.as_chunks().0.chunks_exact(8);
    for (runs, tables) in runs.zip(table[HEADER..].chunks_exact_mut(8 * bytes)) {
        widen(runs, &mut wide);
        for (q, table) in wide.iter().zip(tables.chunks_exact_mut(bytes)) {
            let mut sum = _mm256_setzero_si256();
            for (&q, &weight) in q.iter().zip(&weights) {
                sum = _mm256_add_epi16(sum, _mm256_sign_epi16(_mm256_set1_epi16(q), weight));
            }
            let high = _mm256_mulhrs_epi16(sum, reciprocal);
            let low = _mm256_sub_epi16(sum, _mm256_mullo_epi16(high, radix));
            let planes = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi16(low, high));
            let at = table.as_mut_ptr().cast::<__m256i>();
            // SAFETY: a table has one register, with the negated entries two.
            unsafe {
                if MIRROR {
                    let negated = _mm256_sub_epi8(_mm256_setzero_si256(), planes);
                    _mm256_storeu_si256(at, _mm256_permute2x128_si256::<0x20>(planes, negated));
                    _mm256_storeu_si256(at.add(1), _mm256_permute2x128_si256::<0x31>(planes, negated));
                } else {
                    _mm256_storeu_si256(at, planes);
                }
            }
        }
    }
}

/// What the sums of a table of Lut5 are made of: `81a + 27b + 9c + 3d + e = 27 upper + lower - 13`.
struct Halves {
    /// The weights a and b of each `upper`, 0 to 4.
    upper: [[i16; 32]; 2],
    /// The weights c, d and e of each `lower`, 0 to 26.
    lower: [[i16; 32]; 3],
    /// `upper` and `lower` of the magnitudes, 32 a register, in the order in which packing puts them right.
    of: [[[i16; 32]; 2]; 4],
}

static HALVES: Halves = {
    let mut halves = Halves { upper: [[0; 32]; 2], lower: [[0; 32]; 3], of: [[[0; 32]; 2]; 4] };
    let mut i = 0;
    while i < 27 {
        // Digits 0, 1, 2 of the number, less one.
        halves.lower[0][i] = i as i16 / 9 - 1;
        halves.lower[1][i] = i as i16 / 3 % 3 - 1;
        halves.lower[2][i] = i as i16 % 3 - 1;
        if i < 5 {
            halves.upper[0][i] = (i as i16 + 4) / 3 - 1;
            halves.upper[1][i] = (i as i16 + 4) % 3 - 1;
        }
        i += 1;
    }
    let mut magnitude = 0;
    while magnitude < 122 {
        // Packing takes eight sums of one register, then eight of the next, in each 128-bit lane.
        let register = magnitude / 64 * 2 + magnitude / 8 % 2;
        let at = magnitude % 64 / 16 * 8 + magnitude % 8;
        halves.of[register][0][at] = (magnitude as i16 + 13) / 27;
        halves.of[register][1][at] = (magnitude as i16 + 13) % 27;
        magnitude += 1;
    }
    halves
};

/// # Safety
/// The machine has AVX-512 BW.
#[target_feature(enable = "avx512f,avx512bw")]
fn build_lut5(q: &[i8], table: &mut [u8]) {
    header(q, table);
    // SAFETY: the array has the size of a register.
    let load = |array: &[i16; 32]| unsafe { _mm512_loadu_si512(array.as_ptr().cast()) };
    let upper = [load(&HALVES.upper[0]), load(&HALVES.upper[1])];
    let lower = [load(&HALVES.lower[0]), load(&HALVES.lower[1]), load(&HALVES.lower[2])];
    let of = [0, 1, 2, 3].map(|register| [load(&HALVES.of[register][0]), load(&HALVES.of[register][1])]);
    let reciprocal = _mm512_set1_epi16(reciprocal(LUT5_SHAPE.radix as i16));
    let radix = _mm512_set1_epi16(LUT5_SHAPE.radix as i16);
    let mut wide = [[0i16; lut5::RUN]; lut5::RUNS];
    let runs = q.as_chunks().0.chunks_exact(lut5::RUNS);
    for (runs, tables) in runs.zip(table[HEADER..].chunks_exact_mut(lut5::RUNS * 256)) {
        widen(runs, &mut wide);
        for (q, table) in wide.iter().zip(tables.chunks_exact_mut(256)) {
            let product = |i: usize, weights| _mm512_mullo_epi16(_mm512_set1_epi16(q[i]), weights);
            let upper = _mm512_add_epi16(product(0, upper[0]), product(1, upper[1]));
            let pair = _mm512_add_epi16(product(2, lower[0]), product(3, lower[1]));
            let lower = _mm512_add_epi16(pair, product(4, lower[2]));
            let planes = of.map(|[u, l]| {
                let sum = _mm512_add_epi16(_mm512_permutexvar_epi16(u, upper), _mm512_permutexvar_epi16(l, lower));
                let high = _mm512_mulhrs_epi16(sum, reciprocal);
                [_mm512_sub_epi16(sum, _mm512_mullo_epi16(high, radix)), high]
            });
            let at = table.as_mut_ptr().cast::<__m512i>();
            for (half, planes) in planes.as_chunks().0.iter().enumerate() {
                let [[low, high], [next_low, next_high]] = *planes;
                // SAFETY: a table has four registers.
                unsafe {
                    _mm512_storeu_si512(at.add(half), _mm512_packs_epi16(low, next_low));
                    _mm512_storeu_si512(at.add(2 + half), _mm512_packs_epi16(high, next_high));
                }
            }
        }
    }
}
