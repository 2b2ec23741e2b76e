//! Activations of 24 bits in three planes of int8, or of 8 bits in one, with a scale for each group of columns.

use super::Precision;
use crate::activation::{Gate, gated};
use crate::buffer::AlignedBuf;
use crate::kernel::{Kernels, Operand};
use crate::math::{ROUND, rounded};
use crate::norm::rms_norm;
use crate::pool::{Pool, SharedSlice};
use crate::quant::Activations;
use crate::simd::{Lanes, absmax, per_isa};

/// How activations are rounded.
#[derive(Clone, Copy, Debug)]
pub struct Rounding {
    /// Columns of a group.
    pub group: usize,
    /// Bits of a value.
    pub precision: Precision,
}

/// Rounded activations, `[tokens, cols]`: `x ≈ q · scale`, with `q = (256 · upper + middle) · 256 + lower` in 24 bits or int8,
/// and one scale for each token and group of columns.
#[derive(Clone, Debug, Default)]
pub struct GroupedActivations {
    /// The rows of each token: the upper, the middle and the lower bytes, or one of int8.
    planes: Activations,
    /// The numbers that were rounded, padded to whole groups.
    x: AlignedBuf<f32>,
    cols: usize,
    group: usize,
    precision: Precision,
    /// `[tokens, pieces]`
    scale: Vec<f32>,
    /// `[tokens · planes, pieces]`: sums of the bytes.
    sum: Vec<i32>,
}

impl GroupedActivations {
    /// Rounds the rows of `x`, `[tokens, cols]`, after an RMSNorm with the given weight and epsilon if there is one.
    ///
    /// # Panics
    /// If `x` does not consist of whole rows, or the weight has another length.
    pub fn quantize(
        &mut self,
        pool: &Pool,
        kernels: &Kernels,
        x: &[f32],
        cols: usize,
        rounding: Rounding,
        norm: Option<(&[f32], f32)>,
    ) {
        assert!(x.len().is_multiple_of(cols), "quantize: whole rows");
        let isa = kernels.isa();
        self.fill(pool, kernels, x.len() / cols, cols, rounding, &|token, to| {
            let x = &x[token * cols..(token + 1) * cols];
            match norm {
                None => to.copy_from_slice(x),
                Some((weight, eps)) => rms_norm(isa, x, weight, eps, to),
            }
        });
    }

    /// Rounds `function(gate) · up`, `[tokens, cols]` each, after an RMSNorm if there is one.
    ///
    /// # Panics
    /// If `gate` does not consist of whole rows, or another length differs.
    #[allow(clippy::too_many_arguments, reason = "the arguments of one kernel")]
    pub fn quantize_gated(
        &mut self,
        pool: &Pool,
        kernels: &Kernels,
        function: Gate,
        gate: &mut [f32],
        up: &[f32],
        cols: usize,
        rounding: Rounding,
        norm: Option<(&[f32], f32)>,
    ) {
        assert!(gate.len().is_multiple_of(cols) && gate.len() == up.len(), "quantize_gated: whole rows");
        let tokens = gate.len() / cols;
        let gate = SharedSlice::new(gate);
        self.fill(pool, kernels, tokens, cols, rounding, &|token, to| {
            // SAFETY: each token belongs to one task.
            let gate = unsafe { gate.range(token * cols, cols) };
            gated(kernels.isa(), function, gate, &up[token * cols..][..cols]);
            match norm {
                None => to.copy_from_slice(gate),
                Some((weight, eps)) => rms_norm(kernels.isa(), gate, weight, eps, to),
            }
        });
    }

    /// Rounds `tokens` rows of `cols`, which `row` fills in, in one parallel region.
    fn fill(
        &mut self,
        pool: &Pool,
        kernels: &Kernels,
        tokens: usize,
        cols: usize,
        Rounding { group, precision }: Rounding,
        row: &(dyn Fn(usize, &mut [f32]) + Sync),
    ) {
        let pieces = cols.div_ceil(group);
        let padded = pieces * group;
        (self.cols, self.group, self.precision) = (cols, group, precision);
        let planes = precision.planes();
        self.x.resize(tokens * padded);
        self.scale.resize(tokens * pieces, 0.0);
        self.sum.resize(tokens * planes * pieces, 0);
        let (x, scale, sum) =
            (SharedSlice::new(&mut self.x), SharedSlice::new(&mut self.scale), SharedSlice::new(&mut self.sum));
        self.planes.fill_together(pool, kernels, tokens * planes, padded, planes, &|plane_row, q, _, _| {
            let token = plane_row / planes;
            // SAFETY: the planes of a token belong to one task.
            let (x, scale, sum) = unsafe {
                (
                    x.range(token * padded, padded),
                    scale.range(token * pieces, pieces),
                    sum.range(plane_row * pieces, planes * pieces),
                )
            };
            let (values, padding) = x.split_at_mut(cols);
            row(token, values);
            padding.fill(0.0);
            round_row(kernels.isa(), x, group, precision, scale, q, sum);
        });
    }

    /// Number of tokens.
    pub fn tokens(&self) -> usize {
        self.planes.tokens() / self.precision.planes()
    }

    /// Numbers in a row.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// To how many bits they are rounded.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Columns of a group.
    pub fn group(&self) -> usize {
        self.group
    }

    /// The rounded values of a token and their scales, one for each group: `x ≈ value · scale`.
    pub fn row(&self, token: usize) -> (impl Iterator<Item = i32>, &[f32]) {
        let planes = self.precision.planes();
        let value = move |col: usize| {
            let bytes = (token * planes..(token + 1) * planes).map(|row| i32::from(self.planes.row(row)[col]));
            whole(bytes)
        };
        ((0..self.cols).map(value), self.scales(token))
    }

    /// The scales of a token.
    pub(super) fn scales(&self, token: usize) -> &[f32] {
        let pieces = self.cols.div_ceil(self.group);
        &self.scale[token * pieces..][..pieces]
    }

    /// Sum of the values of a token in a group.
    pub(super) fn sum(&self, token: usize, piece: usize) -> i32 {
        let pieces = self.cols.div_ceil(self.group);
        let planes = self.precision.planes();
        whole((token * planes..(token + 1) * planes).map(|row| self.sum[row * pieces + piece]))
    }

    /// What `kernels` read of `tokens` tokens from `token` on, in one group of columns, and how many rows these are with
    /// what may be behind the last.
    pub(super) fn operand(&self, kernels: &Kernels, token: usize, tokens: usize, piece: usize) -> (Operand<'_>, usize) {
        let planes = self.precision.planes();
        self.planes.operand_from(kernels, token * planes, tokens * planes, piece * self.group)
    }
}

/// The number that bytes, the upper one first, or sums of them make.
fn whole(bytes: impl Iterator<Item = i32>) -> i32 {
    bytes.fold(0, |value, byte| 256 * value + byte)
}

per_isa! {
    /// Rounds a row to its planes of bytes, the upper ones first; fills in the scales of its groups and, plane by plane, the
    /// sums of their bytes.
    fn round_row(
        x: &[f32],
        group: usize,
        precision: Precision,
        scales: &mut [f32],
        q: &mut [i8],
        sums: &mut [i32],
    ) = round_row_body;
}

#[inline(always)]
fn round_row_body<S: Lanes>(
    x: &[f32],
    group: usize,
    precision: Precision,
    scales: &mut [f32],
    q: &mut [i8],
    sums: &mut [i32],
) {
    let planes = precision.planes();
    let (stride, pieces) = (q.len() / planes, scales.len());
    for (piece, (x, scale)) in x.chunks_exact(group).zip(scales).enumerate() {
        let max = absmax(x);
        // Numbers beyond what can be rounded, and groups of nothing, count as zeros.
        let counts = max > 1e-30 && max < f32::INFINITY;
        let largest = precision.largest();
        let by = if counts { largest / max } else { 0.0 };
        *scale = if counts { max / largest } else { 0.0 };
        for plane in 0..planes {
            let shift = 8 * (planes - 1 - plane) as u32;
            let q = &mut q[plane * stride + piece * group..][..group];
            let mut lanes = [0i32; 16];
            for (x, q) in x.as_chunks::<16>().0.iter().zip(q.as_chunks_mut::<16>().0) {
                for i in 0..16 {
                    let byte = byte(rounded_24(x[i] * by, largest), shift);
                    lanes[i] += byte;
                    q[i] = byte as i8;
                }
            }
            sums[plane * pieces + piece] = lanes.iter().sum();
        }
    }
}

/// The nearest integer of at most 24 bits, and at most `largest`; 0 for what is not a number.
#[inline(always)]
fn rounded_24(x: f32, largest: f32) -> i32 {
    let x = if x.abs() <= largest { x } else { clamped(x, largest) };
    // In two parts, since the rounding by addition takes 22 bits.
    let high = x * (1.0 / 65536.0) + ROUND;
    let rest = (high - ROUND).mul_add(-65536.0, x);
    rounded(high) * 65536 + rounded(rest + ROUND)
}

/// What lies beyond the largest value by its rounding; 0 for what is not a number.
#[inline(always)]
fn clamped(x: f32, largest: f32) -> f32 {
    if x.is_nan() { 0.0 } else { x.clamp(-largest, largest) }
}

/// The byte from bit `shift`, when those below it are signed too.
#[inline(always)]
fn byte(value: i32, shift: u32) -> i32 {
    // Adding 128 to each byte below rounds them away.
    let above = value + (0x8080 & ((1 << shift) - 1));
    i32::from((above >> shift) as i8)
}
