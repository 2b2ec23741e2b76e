//! Grouped T16 of this program: the blocks that the CPU's kernels read, codes and scales.
//!
//! They are those of [`GroupedMatrix`] with scales in half precision: a file whose tensors begin at multiples of 64 runs where
//! it is mapped.

use sterna_cpu::SharedBytes;
use sterna_cpu::grouped::{self, GroupedMatrix, ScaleType};

use super::FormatError;
use super::dtype::DType;
use super::grouped::Groups;
use super::storage::TensorData;
use super::ternary::{Decoded, InvalidCode, RowDecoder, Scales, Site};

/// The decoder.
struct GroupedTiles {
    cols: usize,
    group: usize,
    blocks: TensorData,
}

/// Opens a matrix with groups of `group` columns.
pub(super) fn open(site: &Site, dtype: DType, group: usize, data: TensorData) -> Result<Decoded, FormatError> {
    let length = site.elements().and_then(|elements| dtype.bytes(elements as u64, site.cols as u64));
    site.check_length(dtype, &data, length.and_then(|length| usize::try_from(length).ok()))?;
    let (blocks, cols) = (data.clone(), site.cols);
    let groups = Groups::new(group, ScaleType::F16, move |row, out| {
        let mut values = vec![0; cols];
        grouped::read_row(&blocks, group, ScaleType::F16, row, &mut values, out);
    });
    Ok((Box::new(GroupedTiles { cols: site.cols, group, blocks: data }), Scales::Groups(groups)))
}

impl RowDecoder for GroupedTiles {
    fn decode(&self, row: usize, out: &mut [i8]) -> Result<(), InvalidCode> {
        let mut scales = vec![0.0; self.cols.div_ceil(self.group)];
        match grouped::read_row(&self.blocks, self.group, ScaleType::F16, row, out, &mut scales) {
            true => Ok(()),
            false => Err(InvalidCode),
        }
    }

    fn grouped_in_place(&self, group: usize, rows: usize, cols: usize) -> Option<GroupedMatrix> {
        if group != self.group {
            return None;
        }
        // Blocks that lie elsewhere than at a multiple of 64 are copied, row by row.
        GroupedMatrix::over(rows, cols, group, ScaleType::F16, SharedBytes::new(self.blocks.clone())).ok()
    }
}
