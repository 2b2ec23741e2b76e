//! Ternary matrices whose scales belong to groups of columns, whatever their encoding.

use std::fmt;

use rayon::prelude::*;
use sterna_cpu::Readers;
use sterna_cpu::grouped::{GroupedMatrix, ScaleType};

use super::FormatError;
use super::storage::TensorData;
use super::ternary::{RowDecoder, Site, read_values};

/// Columns that one scale counts for where a matrix has only one.
const WHOLE: usize = 512;

/// The scales of a matrix: one for each row and group of columns.
pub(super) struct Groups {
    cols: usize,
    kind: ScaleType,
    read: Box<ReadScales>,
}

/// Fills in the scales of a row.
type ReadScales = dyn Fn(usize, &mut [f32]) + Send + Sync;

impl Groups {
    /// Groups of `cols` columns.
    pub(super) fn new(
        cols: usize,
        kind: ScaleType,
        read: impl Fn(usize, &mut [f32]) + Send + Sync + 'static,
    ) -> Groups {
        Groups { cols, kind, read: Box::new(read) }
    }

    /// The `f16` at byte `at` of each block of `BYTES` bytes that holds `cols` columns. `data` has been checked to be whole
    /// rows of blocks.
    pub(super) fn of_blocks<const BYTES: usize>(data: TensorData, cols: usize, at: usize) -> Groups {
        Groups::new(cols, ScaleType::F16, move |row, out| {
            let blocks = data[row * out.len() * BYTES..].as_chunks::<BYTES>().0;
            for (block, out) in blocks.iter().zip(out) {
                *out = half::f16::from_le_bytes([block[at], block[at + 1]]).to_f32();
            }
        })
    }

    /// One scale for all.
    pub(super) fn one(scale: f32) -> Groups {
        Groups::new(WHOLE, ScaleType::F32, move |_, out| out.fill(scale))
    }

    /// The one scale of a matrix all of whose groups have the same; groups of zeros may have the scale zero.
    pub(super) fn single(&self, site: &Site) -> Result<f32, FormatError> {
        let pieces = site.cols.div_ceil(self.cols);
        // Rows without columns cost no bytes, so there may be any number of them.
        let rows = if pieces == 0 { 0 } else { site.rows };
        let find = |of: &(dyn Fn(f32) -> bool + Sync)| {
            (0..rows).into_par_iter().find_map_first(|row| {
                // Rows have few groups; the vector is nothing beside reading them.
                let mut scales = vec![0.0; pieces];
                (self.read)(row, &mut scales);
                scales.into_iter().find(|&scale| of(scale)).map(|scale| (row, scale))
            })
        };
        let Some((_, first)) = find(&|scale| scale != 0.0) else { return Ok(1.0) };
        match find(&|scale| scale != first && scale != 0.0) {
            None => site.check_scale(first),
            Some((row, other)) => Err(FormatError::GroupScales {
                file: site.file.to_path_buf(),
                tensor: site.name.to_string(),
                first,
                other,
                row,
            }),
        }
    }

    /// Groups of twice as many columns, if both halves have the same scale everywhere: what is quantized in groups of 128
    /// is often stored in blocks of 64.
    pub(super) fn merged(self, site: &Site) -> Groups {
        let pieces = site.cols.div_ceil(self.cols);
        let rows = if pieces == 0 { 0 } else { site.rows };
        let pairs = (0..rows).into_par_iter().all(|row| {
            let mut scales = vec![0.0; pieces];
            (self.read)(row, &mut scales);
            scales.chunks(2).all(|pair| pair[0] == pair[pair.len() - 1])
        });
        if !pairs {
            return self;
        }
        let read = self.read;
        Groups::new(2 * self.cols, self.kind, move |row, out| {
            let mut scales = vec![0.0; pieces];
            read(row, &mut scales);
            out.iter_mut().zip(scales.into_iter().step_by(2)).for_each(|(out, scale)| *out = scale);
        })
    }
}

/// A ternary matrix `W[r, c] = t[r, c] · d[r, c / group]` with `t` in {-1, 0, 1}, still encoded. It keeps the checkpoint's
/// bytes alive and can be read from many threads.
pub struct GroupedTensor {
    site: Site,
    groups: Groups,
    /// Multiplies all scales.
    factor: f32,
    decoder: Box<dyn RowDecoder>,
    /// Whether what could be read in the file is copied.
    copy: bool,
}

impl GroupedTensor {
    pub(super) fn new(
        site: Site,
        decoder: Box<dyn RowDecoder>,
        groups: Groups,
        factor: f32,
        copy: bool,
    ) -> GroupedTensor {
        GroupedTensor { site, groups, factor, decoder, copy }
    }

    /// The number of rows (output features).
    pub fn rows(&self) -> usize {
        self.site.rows
    }

    /// The length of a row (input features).
    pub fn cols(&self) -> usize {
        self.site.cols
    }

    /// Columns that share a scale: a power of two.
    pub fn group(&self) -> usize {
        self.groups.cols
    }

    /// How the scales can be kept without loss.
    pub fn scale_type(&self) -> ScaleType {
        if self.factor == 1.0 { self.groups.kind } else { ScaleType::F32 }
    }

    /// Packs the matrix in groups of `group` columns, on all cores, near to `readers`; `order` says which row of the file
    /// comes where, if they do not stay where they are. A matrix that the file holds so is read there, or copied if the
    /// checkpoint was opened so.
    ///
    /// # Errors
    /// As [`GroupedTensor::read_row`].
    pub fn pack(
        &self,
        group: usize,
        readers: Readers<'_>,
        order: Option<&(dyn Fn(usize) -> usize + Sync)>,
    ) -> Result<GroupedMatrix, FormatError> {
        if order.is_none()
            && self.factor == 1.0
            && let Some(matrix) = self.decoder.grouped_in_place(group, self.site.rows, self.site.cols)
        {
            return Ok(if self.copy { matrix.copied_near(readers) } else { matrix });
        }
        let source_row = |row| order.map_or(row, |order| order(row));
        let read_row =
            |row, values: &mut [i8], scales: &mut [f32]| self.read_row(source_row(row), group, values, scales);
        GroupedMatrix::pack_near(readers, self.site.rows, self.site.cols, group, self.scale_type(), read_row)
    }

    /// Decodes row `row`: values of -1, 0, 1 and the scales of groups of `group` columns, which divide those of the file.
    ///
    /// # Errors
    /// If there is no such row, a length is not right, the row holds an invalid code, or a scale is not a finite number.
    pub fn read_row(&self, row: usize, group: usize, values: &mut [i8], scales: &mut [f32]) -> Result<(), FormatError> {
        read_values(&self.site, &*self.decoder, row, values)?;
        let (own, pieces) = (self.groups.cols, self.site.cols.div_ceil(group.max(1)));
        if !own.is_multiple_of(group) || scales.len() != pieces {
            let reason = format!("its groups of {own} columns cannot be read as {} groups of {group}", scales.len());
            return Err(FormatError::header(&self.site.file, format_args!("tensor `{}`", self.site.name), reason));
        }
        (self.groups.read)(row, &mut scales[..self.site.cols.div_ceil(own)]);
        // From the last to the first: a scale moves to no place that is still to be read.
        for piece in (0..pieces).rev() {
            scales[piece] = self.factor * scales[piece * group / own];
        }
        match scales.iter().find(|scale| !scale.is_finite()) {
            None => Ok(()),
            Some(&value) => Err(FormatError::Scale {
                file: self.site.file.to_path_buf(),
                tensor: self.site.name.to_string(),
                value,
            }),
        }
    }
}

impl fmt::Debug for GroupedTensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Site { name, rows, cols, .. } = &self.site;
        write!(f, "GroupedTensor({name}, {rows} × {cols}, groups of {})", self.groups.cols)
    }
}
