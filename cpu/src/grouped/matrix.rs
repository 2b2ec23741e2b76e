//! Packed matrices with a scale for each row of each group of columns.

use rayon::prelude::*;

use crate::buffer::{AlignedBuf, SharedBytes, SharedError, Stored};
use crate::layout::{GROUP, Layout};
use crate::readers::Readers;

/// Rows of a block: with so many, the kernels are called seldom enough.
pub(super) const BLOCK_ROWS: usize = 128;

/// How the codes of a block are packed.
pub(super) const LAYOUT: Layout = Layout::T16;

/// Most columns of a group: the sum over a group, with activations of 24 bits, fits into 32.
const MAX_GROUP: usize = 256;

/// Whether `cols` columns can be a group: a multiple of 64 up to 256.
pub fn is_group(cols: usize) -> bool {
    cols > 0 && cols.is_multiple_of(64) && cols <= MAX_GROUP
}

/// How scales are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScaleType {
    /// Half precision.
    F16,
    /// Single precision.
    F32,
}

impl ScaleType {
    /// Bytes of a scale.
    const fn bytes(self) -> usize {
        match self {
            ScaleType::F16 => 2,
            ScaleType::F32 => 4,
        }
    }
}

/// A ternary matrix with a scale for each row and group of columns.
///
/// It is cut into blocks of 128 rows and these into pieces of one group of columns each, which follow each other: first
/// the codes of a piece, in tiles as [`Layout::T16`] has them, then its 128 scales. So a product reads one sequential
/// stream. Rows and columns are padded with zeros.
#[derive(Clone, Debug)]
pub struct GroupedMatrix {
    rows: usize,
    cols: usize,
    group: usize,
    scales: ScaleType,
    blocks: Stored<u8>,
}

impl GroupedMatrix {
    /// Packs a matrix of `rows` × `cols`, on all cores, in the memory that is nearest to the threads which will read it.
    /// `read_row` fills in the values of a row, -1, 0 and 1, and its scales, one for each `group` columns.
    ///
    /// # Panics
    /// If the group is none ([`is_group`]).
    ///
    /// # Errors
    /// The first error of `read_row` that is seen.
    pub fn pack_near<E: Send>(
        near: Readers<'_>,
        rows: usize,
        cols: usize,
        group: usize,
        scales: ScaleType,
        read_row: impl Fn(usize, &mut [i8], &mut [f32]) -> Result<(), E> + Sync,
    ) -> Result<GroupedMatrix, E> {
        assert!(is_group(group), "grouped matrix: columns of a group");
        let mut blocks = AlignedBuf::<u8>::streamed(GroupedMatrix::bytes_of(rows, cols, group, scales));
        near.touch(&mut blocks, rows);
        let pieces = cols.div_ceil(group);
        let row_buffers = || (vec![0i8; pieces * group], vec![0.0f32; pieces]);
        let block_bytes = GroupedMatrix::bytes_of(1, cols, group, scales).max(1);
        blocks.par_chunks_exact_mut(block_bytes).enumerate().try_for_each_init(
            row_buffers,
            |buffers, (block, bytes)| {
                let (values, row_scales) = buffers;
                for r in 0..BLOCK_ROWS {
                    values.fill(0);
                    row_scales.fill(0.0);
                    let row = block * BLOCK_ROWS + r;
                    if row < rows {
                        read_row(row, &mut values[..cols], row_scales)?;
                    }
                    pack_row(values, row_scales, r, group, scales, bytes);
                }
                Ok(())
            },
        )?;
        Ok(GroupedMatrix { rows, cols, group, scales, blocks: Stored::Own(blocks) })
    }

    /// A matrix over blocks that are there already, as [`GroupedMatrix::blocks`] shows them; they are not copied. What they
    /// hold is not looked at: bytes that are no codes give wrong sums, and nothing worse.
    ///
    /// # Panics
    /// If the group is none ([`is_group`]).
    ///
    /// # Errors
    /// If there are not as many bytes as the matrix has, or they do not begin at a multiple of 64.
    pub fn over(
        rows: usize,
        cols: usize,
        group: usize,
        scales: ScaleType,
        blocks: SharedBytes,
    ) -> Result<GroupedMatrix, SharedError> {
        assert!(is_group(group), "grouped matrix: columns of a group");
        SharedError::check(&blocks, GroupedMatrix::bytes_of(rows, cols, group, scales))?;
        Ok(GroupedMatrix { rows, cols, group, scales, blocks: Stored::Shared(blocks) })
    }

    /// The same in memory of its own, if it was [`GroupedMatrix::over`] that of somebody else.
    #[must_use]
    pub fn copied_near(self, near: Readers<'_>) -> GroupedMatrix {
        GroupedMatrix { blocks: self.blocks.copied(near, self.rows), ..self }
    }

    /// Whether it lies in memory of somebody else.
    pub fn is_shared(&self) -> bool {
        matches!(self.blocks, Stored::Shared(_))
    }

    /// Bytes of such a matrix.
    pub fn bytes_of(rows: usize, cols: usize, group: usize, scales: ScaleType) -> usize {
        rows.div_ceil(BLOCK_ROWS) * cols.div_ceil(group) * (code_bytes(group) + BLOCK_ROWS * scales.bytes())
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Columns of a group.
    pub fn group(&self) -> usize {
        self.group
    }

    /// How the scales are kept.
    pub fn scale_type(&self) -> ScaleType {
        self.scales
    }

    /// Bytes of the matrix.
    pub fn bytes(&self) -> usize {
        self.blocks.len()
    }

    /// All blocks, one after the other.
    pub fn blocks(&self) -> &[u8] {
        &self.blocks
    }

    /// Number of blocks of rows.
    pub(super) fn row_blocks(&self) -> usize {
        self.rows.div_ceil(BLOCK_ROWS)
    }

    /// Groups of columns.
    pub(super) fn pieces(&self) -> usize {
        self.cols.div_ceil(self.group)
    }

    /// The pieces of a block of rows: tiles and scales.
    pub(super) fn block(&self, block: usize) -> impl Iterator<Item = (&[u8], &[u8])> {
        let code_bytes = code_bytes(self.group);
        let piece_bytes = code_bytes + BLOCK_ROWS * self.scales.bytes();
        let block_bytes = self.pieces() * piece_bytes;
        let pieces = self.blocks[block * block_bytes..(block + 1) * block_bytes].chunks_exact(piece_bytes);
        pieces.map(move |piece| piece.split_at(code_bytes))
    }

    /// Reads a row back: its values and its scales.
    ///
    /// # Panics
    /// If there is no such row, or a length is wrong.
    pub fn unpack_row(&self, row: usize, values: &mut [i8], scales: &mut [f32]) {
        assert!(row < self.rows && values.len() == self.cols && scales.len() == self.pieces(), "unpack_row");
        read_row(&self.blocks, self.group, self.scales, row, values, scales);
    }
}

/// Reads row `row` of a matrix, of which `blocks` are the bytes and whose rows are as long as `values`, with its scales.
/// Returns whether all values are -1, 0 and 1.
///
/// # Panics
/// If `blocks` do not reach to the row, or there are not as many scales as groups.
pub fn read_row(
    blocks: &[u8],
    group: usize,
    kind: ScaleType,
    row: usize,
    values: &mut [i8],
    scales: &mut [f32],
) -> bool {
    assert_eq!(scales.len(), values.len().div_ceil(group), "read_row: number of scales");
    let code_bytes = code_bytes(group);
    let (r, group_bytes) = (row % BLOCK_ROWS, code_bytes / (BLOCK_ROWS / GROUP));
    let piece_bytes = code_bytes + BLOCK_ROWS * kind.bytes();
    let block_bytes = scales.len() * piece_bytes;
    let block = &blocks[row / BLOCK_ROWS * block_bytes..][..block_bytes];
    for ((piece, values), scale) in block.chunks_exact(piece_bytes).zip(values.chunks_mut(group)).zip(scales) {
        let (codes, piece_scales) = piece.split_at(code_bytes);
        LAYOUT.unpack_row(&codes[r / GROUP * group_bytes..][..group_bytes], r % GROUP, values);
        *scale = match kind {
            ScaleType::F16 => half::f16::from_le_bytes(piece_scales.as_chunks().0[r]).to_f32(),
            ScaleType::F32 => f32::from_le_bytes(piece_scales.as_chunks().0[r]),
        };
    }
    values.iter().all(|value| (-1..=1).contains(value))
}

/// Packs rows from a multiple of 128 on, `values` and `scales`, as [`GroupedMatrix::blocks`] has them; rows that are missing
/// in the last block are zero.
///
/// # Panics
/// If these are not whole rows with as many scales as groups, or the group is none ([`is_group`]).
pub fn pack_rows(values: &[i8], cols: usize, scales: &[f32], group: usize, kind: ScaleType, out: &mut Vec<u8>) {
    assert!(is_group(group) && cols > 0 && values.len().is_multiple_of(cols), "pack_rows: whole rows");
    let pieces = cols.div_ceil(group);
    assert_eq!(scales.len(), values.len() / cols * pieces, "pack_rows: number of scales");
    let mut padded = vec![0i8; pieces * group];
    for (values, scales) in values.chunks(BLOCK_ROWS * cols).zip(scales.chunks(BLOCK_ROWS * pieces)) {
        let start = out.len();
        out.resize(start + GroupedMatrix::bytes_of(1, cols, group, kind), 0);
        for r in 0..BLOCK_ROWS {
            padded.fill(0);
            if let Some(row) = values.get(r * cols..(r + 1) * cols) {
                padded[..cols].copy_from_slice(row);
            }
            let scales = scales.get(r * pieces..(r + 1) * pieces).unwrap_or_default();
            pack_row(&padded, scales, r, group, kind, &mut out[start..]);
        }
    }
}

/// Puts row `r` of a block, padded to whole groups, where it belongs. Without scales it is one of padding.
fn pack_row(values: &[i8], scales: &[f32], r: usize, group: usize, kind: ScaleType, block: &mut [u8]) {
    let code_bytes = code_bytes(group);
    let group_bytes = code_bytes / (BLOCK_ROWS / GROUP);
    let pieces = block.chunks_exact_mut(code_bytes + BLOCK_ROWS * kind.bytes());
    for ((values, piece), n) in values.chunks_exact(group).zip(pieces).zip(0..) {
        let (codes, piece_scales) = piece.split_at_mut(code_bytes);
        LAYOUT.pack_row(values, r % GROUP, &mut codes[r / GROUP * group_bytes..][..group_bytes]);
        let scale = scales.get(n).copied().unwrap_or(0.0);
        match kind {
            ScaleType::F16 => {
                piece_scales[2 * r..2 * r + 2].copy_from_slice(&half::f16::from_f32(scale).to_le_bytes());
            }
            ScaleType::F32 => piece_scales[4 * r..4 * r + 4].copy_from_slice(&scale.to_le_bytes()),
        }
    }
}

/// Bytes of the codes of a piece.
const fn code_bytes(group: usize) -> usize {
    LAYOUT.bytes(BLOCK_ROWS, group)
}
