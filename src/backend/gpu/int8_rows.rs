//! The int8 copy of the head's matrix in the memory of a device, and what is known of the error of each row.
//!
//! As on the CPU, a row is `w = ŵ + e` with `ŵ` in int8; the bounds of `e` are of what the device multiplies exactly,
//! numbers included that it may take for 0.

use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;
use sterna_cpu::Isa;
use sterna_cpu::dense::{DenseType, dequantize_row};
use sterna_cpu::head::{RowBound, quantize_row};

use super::GpuError;
use super::device::{Gpu, Memory};
use super::rows::{SLAB_BYTES, converted, number_type, row_bytes};
use crate::backend::Progress;
use crate::format::DenseTensor;

/// Rows of a group, and columns of a tile.
pub(super) const GROUP: usize = 16;
const TILE: usize = 4;

/// Columns up to which sums of products stay within 32 bits.
const MAX_COLS: usize = 1 << 16;

/// Sizes beyond which bounds are not worth having: products of single precision might overflow.
const LARGEST: f32 = 1e18;

/// `Copy` of the shaders.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Params {
    groups: u32,
    first_group: u32,
    tiles: u32,
    vocab: u32,
}

/// `Bounds` of the shaders: those of four rows.
#[derive(Clone, Copy, Default, Pod, Zeroable)]
#[repr(C)]
struct Bounds {
    scale: [f32; 4],
    error: [f32; 4],
    worst: [f32; 4],
    norm: [f32; 4],
}

/// Adjacent groups of 16 rows: what one kernel can see.
#[derive(Debug)]
pub(super) struct Int8Piece {
    pub(super) values: Memory,
    pub(super) bounds: Memory,
    pub(super) params: Memory,
    pub(super) groups: usize,
}

impl Int8Piece {
    /// Bytes of values and bounds.
    pub(super) fn bytes(&self) -> u64 {
        self.values.size() + self.bounds.size()
    }
}

/// The copy, in as few pieces as the device's limits allow.
#[derive(Debug)]
pub(super) struct Int8Rows {
    pub(super) pieces: Vec<Int8Piece>,
}

impl Int8Rows {
    /// Whether kernels can multiply rows of so many columns.
    pub(super) const fn suits(cols: usize) -> bool {
        cols <= MAX_COLS
    }

    /// Makes the copy of `tensor`, on all cores, slab by slab.
    pub(super) fn upload(gpu: &Gpu, tensor: &DenseTensor, progress: &dyn Progress) -> Result<Int8Rows, GpuError> {
        const WHAT: &str = "the int8 copy of the head";
        progress.expect(Int8Rows::bytes_of(tensor.rows, tensor.cols));
        let (groups, group_bytes) = (tensor.rows.div_ceil(GROUP), group_bytes(tensor.cols));
        let at_once = (gpu.max_binding() as usize / group_bytes.max(BOUNDS_BYTES)).max(1);
        let slab = (SLAB_BYTES / (GROUP * row_bytes(tensor.ty, tensor.cols))).max(1);
        let mut pieces = Vec::new();
        for first in (0..groups).step_by(at_once) {
            let count = at_once.min(groups - first);
            let piece = Int8Piece {
                values: gpu.memory(WHAT, (count * group_bytes) as u64)?,
                bounds: gpu.memory(WHAT, (count * BOUNDS_BYTES) as u64)?,
                params: gpu.uniform(
                    WHAT,
                    &Params {
                        groups: count as u32,
                        first_group: first as u32,
                        tiles: tensor.cols.div_ceil(TILE) as u32,
                        vocab: tensor.rows as u32,
                    },
                )?,
                groups: count,
            };
            for start in (0..count).step_by(slab) {
                let groups = slab.min(count - start);
                let (values, bounds) = quantized(tensor, first + start, groups);
                gpu.write(&piece.values, (start * group_bytes) as u64, &values)?;
                gpu.write(&piece.bounds, (start * BOUNDS_BYTES) as u64, bytemuck::cast_slice(&bounds))?;
                progress.advance((groups * (group_bytes + BOUNDS_BYTES)) as u64);
            }
            pieces.push(piece);
        }
        Ok(Int8Rows { pieces })
    }

    /// Bytes that the copy of so many rows will take.
    pub(super) fn bytes_of(rows: usize, cols: usize) -> u64 {
        (rows.div_ceil(GROUP) * (group_bytes(cols) + BOUNDS_BYTES)) as u64
    }

    /// Bytes of all rows and bounds.
    pub(super) fn bytes(&self) -> u64 {
        self.pieces.iter().map(Int8Piece::bytes).sum()
    }
}

/// Bytes of the bounds of a group.
const BOUNDS_BYTES: usize = GROUP / 4 * size_of::<Bounds>();

/// Bytes of the values of a group.
const fn group_bytes(cols: usize) -> usize {
    cols.div_ceil(TILE) * TILE * GROUP
}

/// Values and bounds of `groups` groups from `first`.
fn quantized(tensor: &DenseTensor, first: usize, groups: usize) -> (Vec<u8>, Vec<Bounds>) {
    let rows = first * GROUP..((first + groups) * GROUP).min(tensor.rows);
    let row_bytes = row_bytes(tensor.ty, tensor.cols);
    let source = converted(tensor, rows.clone(), row_bytes);
    let file_bytes = tensor.data.len() / tensor.rows;
    tensor.data.release(rows.start * file_bytes..rows.end * file_bytes);
    let (ty, isa) = (number_type(tensor.ty), Isa::detect());
    let used_bytes = ty.row_bytes(tensor.cols).expect("floats have blocks of one");
    let stride = tensor.cols.div_ceil(TILE) * TILE;
    let mut values = vec![0; groups * group_bytes(tensor.cols)];
    let mut bounds = vec![Bounds::default(); groups * GROUP / 4];
    let sources = source.par_chunks(GROUP * row_bytes);
    (sources, values.par_chunks_exact_mut(group_bytes(tensor.cols)), bounds.par_chunks_exact_mut(GROUP / 4))
        .into_par_iter()
        .for_each_init(
            || (vec![0.0f32; tensor.cols], vec![0i8; stride]),
            |(widened, row), (source, values, bounds)| {
                for (r, source) in source.chunks_exact(row_bytes).enumerate() {
                    dequantize_row(isa, ty, &source[..used_bytes], widened);
                    let bound = quantize_row(isa, widened, &mut row[..tensor.cols]);
                    set(&mut bounds[r / 4], r % 4, with_flushed(bound, ty, widened));
                    for (tile, four) in row.chunks_exact(TILE).enumerate() {
                        let at = (tile * GROUP + r) * TILE;
                        values[at..at + TILE].copy_from_slice(bytemuck::cast_slice(four));
                    }
                }
            },
        );
    (values, bounds)
}

/// Puts the bound of a row into its place; errors below 0 say that there is none.
fn set(bounds: &mut Bounds, at: usize, bound: RowBound) {
    let is_useful = bound.error < LARGEST && bound.norm < LARGEST;
    let bound = if is_useful { bound } else { RowBound { error: -1.0, ..RowBound::default() } };
    bounds.scale[at] = bound.scale;
    bounds.error[at] = bound.error;
    bounds.worst[at] = bound.worst;
    bounds.norm[at] = bound.norm;
}

/// The bound of a row of which a device may take the subnormal numbers for 0. (Those of single precision and of bfloat16
/// are within what the kernels add to every bound.)
fn with_flushed(bound: RowBound, ty: DenseType, row: &[f32]) -> RowBound {
    if ty != DenseType::F16 {
        return bound;
    }
    let smallest = half::f16::MIN_POSITIVE.to_f32();
    let flushed = row.iter().map(|x| x.abs()).filter(|&x| x < smallest);
    let (square, largest) = flushed.fold((0.0f64, 0.0f32), |(s, m), x| (s + f64::from(x) * f64::from(x), m.max(x)));
    // A little more for the rounding here.
    let error = (square.sqrt() * 1.000_001) as f32;
    RowBound { error: (bound.error + error) * 1.000_001, worst: (bound.worst + largest) * 1.000_001, ..bound }
}
