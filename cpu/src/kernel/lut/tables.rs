//! The tables of a token.

use super::super::TableBuilder;
use super::HEADER;
use crate::layout::{lut2, lut3, lut5};

/// The weights that the indices stand for, by place in the run.
macro_rules! weights {
    ($layout:ident, $entries:literal) => {{
        let mut all = [[0i16; $entries]; $layout::RUN];
        let mut index = 0;
        while index < $entries {
            let weights = $layout::weights(index);
            let mut place = 0;
            while place < $layout::RUN {
                all[place][index] = weights[place] as i16;
                place += 1;
            }
            index += 1;
        }
        all
    }};
}
#[cfg(target_arch = "x86_64")]
pub(super) use weights;

static LUT2: [[i16; 16]; lut2::RUN] = weights!(lut2, 16);
static LUT3: [[i16; 16]; lut3::RUN] = weights!(lut3, 16);
static LUT5: [[i16; 128]; lut5::RUN] = weights!(lut5, 128);

/// The sums of a run by index.
#[inline(always)]
fn sums<const N: usize, const RUN: usize>(weights: &[[i16; N]; RUN], q: &[i8; RUN]) -> [i16; N] {
    let mut sums = [0i16; N];
    for (weights, &q) in weights.iter().zip(q) {
        for (sum, w) in sums.iter_mut().zip(weights) {
            *sum += w * i16::from(q);
        }
    }
    sums
}

/// `sum = low + radix · high` with the smallest low: `high` is `sum / radix`, rounded. The radix is odd, so there are no
/// ties, and the planes of `-sum` are those of `sum`, negated.
#[cfg(any(test, target_arch = "aarch64"))]
#[inline(always)]
pub(super) const fn split(sum: i16, radix: i16) -> (i8, i8) {
    let high = (sum as i32 * reciprocal(radix) as i32 + (1 << 14)) >> 15;
    ((sum - high as i16 * radix) as i8, high as i8)
}

/// `2^15 / radix`, rounded. Its error, at most ½, makes one of `|sum| / 2^16` in `high`; that is below `1 / (2 radix)`, how
/// far from a tie a quotient is at least.
pub(super) const fn reciprocal(radix: i16) -> i16 {
    (((1 << 15) + radix as i32 / 2) / radix as i32) as i16
}

/// Writes the header.
#[inline(always)]
pub(super) fn header(q: &[i8], table: &mut [u8]) {
    let total: i32 = q.iter().map(|&q| i32::from(q)).sum();
    table[..4].copy_from_slice(&total.to_ne_bytes());
}

/// Tables of 16-bit sums.
#[inline(always)]
fn build_sums<const N: usize, const RUN: usize>(weights: &[[i16; N]; RUN], q: &[i8], table: &mut [u8]) {
    header(q, table);
    for (q, table) in q.as_chunks().0.iter().zip(table[HEADER..].chunks_exact_mut(2 * N)) {
        table.copy_from_slice(bytemuck::cast_slice(&sums(weights, q)));
    }
}

/// Tables of two planes: all low bytes of a run, then all high bytes. `MIRROR`: each plane has the negated entries behind
/// the others.
#[cfg(target_arch = "aarch64")]
fn build_planes<const RUN: usize, const RADIX: i16, const MIRROR: bool>(
    weights: &[[i16; 16]; RUN],
    q: &[i8],
    table: &mut [u8],
) {
    header(q, table);
    let size = if MIRROR { 32 } else { 16 };
    for (q, table) in q.as_chunks().0.iter().zip(table[HEADER..].chunks_exact_mut(2 * size)) {
        let planes = sums(weights, q).map(|sum| split(sum, RADIX));
        let (low, high) = bytemuck::cast_slice_mut::<u8, i8>(table).split_at_mut(size);
        for (plane, values) in [(low, planes.map(|p| p.0)), (high, planes.map(|p| p.1))] {
            plane[..16].copy_from_slice(&values);
            if MIRROR {
                plane[16..].copy_from_slice(&values.map(|v| -v));
            }
        }
    }
}

pub(super) const fn bytes(cols: usize, run: usize, table: usize) -> usize {
    HEADER + cols / run * table
}

/// Tables of 16-bit sums, for [`super::portable`].
pub(super) const LUT2_SUMS: TableBuilder =
    TableBuilder { bytes: |cols| bytes(cols, lut2::RUN, 32), build: |q, table| build_sums(&LUT2, q, table) };
pub(super) const LUT3_SUMS: TableBuilder =
    TableBuilder { bytes: |cols| bytes(cols, lut3::RUN, 32), build: |q, table| build_sums(&LUT3, q, table) };
pub(super) const LUT5_SUMS: TableBuilder =
    TableBuilder { bytes: |cols| bytes(cols, lut5::RUN, 256), build: |q, table| build_sums(&LUT5, q, table) };

/// Planes of 16 bytes, for [`super::neon`].
#[cfg(target_arch = "aarch64")]
pub(super) const LUT2_PLANES: TableBuilder = TableBuilder {
    bytes: |cols| bytes(cols, lut2::RUN, 32),
    build: |q, table| build_planes::<_, { super::LUT2.radix as i16 }, false>(&LUT2, q, table),
};
/// Planes of 32 bytes, magnitudes and the same negated, for [`super::neon`].
#[cfg(target_arch = "aarch64")]
pub(super) const LUT3_PLANES: TableBuilder = TableBuilder {
    bytes: |cols| bytes(cols, lut3::RUN, 64),
    build: |q, table| build_planes::<_, { super::LUT3.radix as i16 }, true>(&LUT3, q, table),
};
