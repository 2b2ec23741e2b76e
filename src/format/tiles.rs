//! T16 and T16x5 of this program: the tiles that the CPU's kernels read, then one `f32` scale, then 60 unused bytes.
//!
//! The tiles are those of [`TernaryMatrix`]: a file whose tensors begin at multiples of 64 runs where it is mapped. For
//! other layouts and devices, rows are decoded as those of every other encoding.

use sterna_cpu::{Layout, SharedBytes, TernaryMatrix};

use super::FormatError;
use super::dtype::{DType, TILES_TAIL};
use super::storage::TensorData;
use super::ternary::{Decoded, InvalidCode, RowDecoder, Scales, Site};

/// The decoder.
struct Tiles {
    layout: Layout,
    tiles: TensorData,
}

/// Opens a matrix of tiles.
pub(super) fn open(site: &Site, dtype: DType, layout: Layout, data: TensorData) -> Result<Decoded, FormatError> {
    let elements = site.elements().and_then(|elements| dtype.bytes(elements as u64, site.cols as u64));
    site.check_length(dtype, &data, elements.and_then(|bytes| usize::try_from(bytes).ok()))?;
    let tiles = data.len() - TILES_TAIL as usize;
    // The length has just been checked, so the tail is there.
    let scale = site.check_scale(f32::from_le_bytes(data[tiles..].as_chunks::<4>().0[0]))?;
    Ok((Box::new(Tiles { layout, tiles: data.part(0..tiles) }), Scales::One(scale)))
}

impl RowDecoder for Tiles {
    fn decode(&self, row: usize, out: &mut [i8]) -> Result<(), InvalidCode> {
        if self.layout.read_row(&self.tiles, row, out) { Ok(()) } else { Err(InvalidCode) }
    }

    fn in_place(&self, layout: Layout, rows: usize, cols: usize) -> Option<TernaryMatrix> {
        if layout != self.layout {
            return None;
        }
        // Tiles that lie elsewhere than at a multiple of 64 are copied, row by row.
        TernaryMatrix::over(layout, rows, cols, SharedBytes::new(self.tiles.clone())).ok()
    }
}
