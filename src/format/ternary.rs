//! Ternary matrices, whatever their encoding: rows of -1, 0, 1 and one scale.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use sterna_cpu::grouped::GroupedMatrix;
use sterna_cpu::{Layout, TernaryMatrix};

use super::checkpoint::{Checkpoint, Description, TensorInfo};
use super::dtype::DType;
use super::floats::Float;
use super::grouped::{GroupedTensor, Groups};
use super::storage::TensorData;
use super::{
    FormatError, absmean, dense_ternary, grouped_tiles, hf_packed, i2_s, metadata, q2_0, tiles, tl1, tl2, tq1_0, tq2_0,
};

/// A ternary matrix `W = t · scale` with `t` in {-1, 0, 1}, still encoded. It keeps the checkpoint's bytes alive and
/// can be read from many threads.
pub struct TernaryTensor {
    site: Site,
    scale: f32,
    decoder: Box<dyn RowDecoder>,
}

impl TernaryTensor {
    /// The name of the tensor.
    pub fn name(&self) -> &str {
        &self.site.name
    }

    /// The number of rows (output features).
    pub fn rows(&self) -> usize {
        self.site.rows
    }

    /// The length of a row (input features).
    pub fn cols(&self) -> usize {
        self.site.cols
    }

    /// What the ternary values are to be multiplied with; positive and finite. It is 1 for a matrix of zeros whose
    /// encoding holds no other scale.
    pub fn scale(&self) -> f32 {
        self.scale
    }

    /// Decodes row `row` to -1, 0, 1.
    ///
    /// # Errors
    /// If there is no such row, if `out` does not have the length of a row, or if the row holds an invalid code.
    pub fn read_row(&self, row: usize, out: &mut [i8]) -> Result<(), FormatError> {
        read_values(&self.site, &*self.decoder, row, out)
    }
}

/// Decodes row `row` of a matrix to -1, 0, 1.
pub(super) fn read_values(
    site: &Site,
    decoder: &dyn RowDecoder,
    row: usize,
    out: &mut [i8],
) -> Result<(), FormatError> {
    let Site { file, name, rows, cols } = site;
    if row >= *rows || out.len() != *cols {
        return Err(FormatError::Row {
            file: file.to_path_buf(),
            tensor: name.to_string(),
            row,
            length: out.len(),
            rows: *rows,
            columns: *cols,
        });
    }
    decoder.decode(row, out).map_err(|InvalidCode| FormatError::Code {
        file: file.to_path_buf(),
        tensor: name.to_string(),
        row,
    })
}

impl TernaryTensor {
    /// The matrix where it is, not copied, if the file holds it in `layout`. Its bytes are not looked at: codes that stand
    /// for no ternary value, which [`TernaryTensor::read_row`] refuses, give wrong sums.
    pub fn in_place(&self, layout: Layout) -> Option<TernaryMatrix> {
        self.decoder.in_place(layout, self.site.rows, self.site.cols)
    }
}

impl fmt::Debug for TernaryTensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Site { name, rows, cols, .. } = &self.site;
        write!(f, "TernaryTensor({name}, {rows} × {cols}, scale {})", self.scale)
    }
}

/// One encoding of ternary matrices.
pub(super) trait RowDecoder: Send + Sync {
    /// Decodes row `row`, which exists, to `out`, which has its length. The constructor of the decoder has checked
    /// that the bytes of all rows are there.
    fn decode(&self, row: usize, out: &mut [i8]) -> Result<(), InvalidCode>;

    /// The matrix where it is, if it lies there as the kernels for `layout` read it.
    fn in_place(&self, _layout: Layout, _rows: usize, _cols: usize) -> Option<TernaryMatrix> {
        None
    }

    /// The matrix where it is, if it lies there as the kernels for groups of `group` columns read it.
    fn grouped_in_place(&self, _group: usize, _rows: usize, _cols: usize) -> Option<GroupedMatrix> {
        None
    }
}

/// A row holds a code that stands for no ternary value.
#[derive(Debug)]
pub(super) struct InvalidCode;

impl InvalidCode {
    /// An error if `bad`, an OR over bytes of 2-bit codes passed through [`invalid_codes`], has a bit set.
    pub(super) fn check(bad: u8) -> Result<(), InvalidCode> {
        if bad == 0 { Ok(()) } else { Err(InvalidCode) }
    }
}

/// Not zero if one of the four 2-bit codes in `byte` is 3, which stands for no ternary value.
pub(super) fn invalid_codes(byte: u8) -> u8 {
    byte & (byte >> 1) & 0x55
}

/// A matrix and where it is.
pub(super) struct Site {
    pub(super) file: Arc<Path>,
    pub(super) name: Arc<str>,
    pub(super) rows: usize,
    pub(super) cols: usize,
}

impl Site {
    fn new(checkpoint: &Checkpoint, info: &TensorInfo, rows: usize, cols: usize) -> Site {
        Site { file: Arc::clone(checkpoint.file_of(info)), name: info.name.as_str().into(), rows, cols }
    }

    /// The number of elements; `None` on overflow.
    pub(super) fn elements(&self) -> Option<usize> {
        self.rows.checked_mul(self.cols)
    }

    /// An error about this matrix.
    pub(super) fn invalid(&self, reason: String) -> FormatError {
        FormatError::header(&self.file, format_args!("tensor `{}`", self.name), reason)
    }

    /// Refuses `data` of another length than `expected` bytes.
    pub(super) fn check_length(&self, dtype: DType, data: &[u8], expected: Option<usize>) -> Result<(), FormatError> {
        if expected == Some(data.len()) {
            return Ok(());
        }
        Err(FormatError::Size {
            file: self.file.to_path_buf(),
            tensor: self.name.to_string(),
            dtype: dtype.to_string(),
            expected: expected.map_or(u64::MAX, |expected| expected as u64),
            found: data.len() as u64,
        })
    }

    /// Refuses a scale that is not positive and finite.
    pub(super) fn check_scale(&self, value: f32) -> Result<f32, FormatError> {
        if value.is_finite() && value > 0.0 {
            return Ok(value);
        }
        Err(FormatError::Scale { file: self.file.to_path_buf(), tensor: self.name.to_string(), value })
    }
}

/// The `f16` at the end of a block, as bits.
pub(super) fn block_scale_bits<const BLOCK_BYTES: usize>(block: &[u8; BLOCK_BYTES]) -> u16 {
    u16::from_le_bytes([block[BLOCK_BYTES - 2], block[BLOCK_BYTES - 1]])
}

/// Whether the bits of an `f16` are those of +0 or -0.
pub(super) fn is_zero(bits: u16) -> bool {
    bits & 0x7fff == 0
}

/// What the values are to be multiplied with.
pub(super) enum Scales {
    /// All with the same number.
    One(f32),
    /// Those of a row and group of columns with one number.
    Groups(Groups),
}

/// A decoder and its scales.
pub(super) type Decoded = (Box<dyn RowDecoder>, Scales);

/// The ternary matrix `info` of `rows` × `cols`, which has one scale.
pub(super) fn open(
    checkpoint: &Checkpoint,
    info: &TensorInfo,
    rows: usize,
    cols: usize,
) -> Result<TernaryTensor, FormatError> {
    let site = Site::new(checkpoint, info, rows, cols);
    let (decoder, scales) = decoded(&site, checkpoint, info, false)?;
    let scale = match scales {
        Scales::One(scale) => scale,
        Scales::Groups(groups) => groups.single(&site)?,
    };
    let scale = match checkpoint.description() {
        Description::Gguf { metadata, .. } => metadata::exact_scale(metadata, &info.name, scale),
        Description::HuggingFace { .. } => scale,
    };
    let scale = site.check_scale(scale * factor(&site, checkpoint, info)?)?;
    Ok(TernaryTensor { site, scale, decoder })
}

/// The ternary matrix `info` of `rows` × `cols`, which may have a scale for each group of columns.
pub(super) fn open_grouped(
    checkpoint: &Checkpoint,
    info: &TensorInfo,
    rows: usize,
    cols: usize,
) -> Result<GroupedTensor, FormatError> {
    let site = Site::new(checkpoint, info, rows, cols);
    let (decoder, scales) = decoded(&site, checkpoint, info, true)?;
    let groups = match scales {
        Scales::One(scale) => Groups::one(site.check_scale(scale)?),
        Scales::Groups(groups) => groups,
    };
    let factor = factor(&site, checkpoint, info)?;
    Ok(GroupedTensor::new(site, decoder, groups, factor, checkpoint.copies()))
}

/// The decoder of `info` and the scales that its encoding holds. Floats may have `grouped` scales if that is asked for.
fn decoded(site: &Site, checkpoint: &Checkpoint, info: &TensorInfo, grouped: bool) -> Result<Decoded, FormatError> {
    let data = match info.dtype {
        // The packed matrix has its own shape, which `hf_packed` checks.
        DType::U8 => None,
        _ => {
            checkpoint.require_shape(info, &[site.rows, site.cols])?;
            Some(checkpoint.data_of(info)?)
        }
    };
    match (&checkpoint.description(), info.dtype, data) {
        (Description::HuggingFace { config }, DType::U8, None) => hf_packed::open(site, checkpoint, info, config),
        (Description::HuggingFace { config }, dtype, Some(data)) => match Float::of(dtype) {
            Some(float) => from_floats(site, checkpoint, info, config, float, data, grouped),
            None => Err(unusable(checkpoint, info)),
        },
        (Description::Gguf { .. }, dtype, Some(data)) => match (dtype, dtype.layout(), Float::of(dtype)) {
            (_, Some(layout), _) => tiles::open(site, dtype, layout, data),
            (DType::T16Grouped(group), ..) => grouped_tiles::open(site, dtype, group.cols(), data),
            (DType::I2S, ..) => i2_s::open(site, data, checkpoint.options().i2s_layout),
            (DType::Tq1_0 | DType::Ptq1_0, ..) => tq1_0::open(site, dtype, data),
            (DType::Tq2_0, ..) => tq2_0::open(site, data),
            (DType::Q2_0 | DType::Pq2_0, ..) => q2_0::open(site, dtype, data),
            (DType::Tl1, ..) => tl1::open(site, checkpoint, &data),
            (DType::Tl2, ..) => tl2::open(site, checkpoint, &data),
            // The converters' way out where rows do not divide into blocks.
            (_, _, Some(float)) if grouped => dense_ternary::open_grouped(site, data, float),
            (_, _, Some(float)) => dense_ternary::open(site, data, float),
            _ => Err(unusable(checkpoint, info)),
        },
        _ => Err(unusable(checkpoint, info)),
    }
}

/// What llama.cpp multiplies the product with: an optional `blk.N.attn_q.scale` and its like.
fn factor(site: &Site, checkpoint: &Checkpoint, info: &TensorInfo) -> Result<f32, FormatError> {
    let companion = match checkpoint.description() {
        Description::Gguf { .. } => info.name.strip_suffix(".weight").map(|stem| format!("{stem}.scale")),
        Description::HuggingFace { .. } => None,
    };
    match companion {
        Some(name) => site.check_scale(checkpoint.scale_tensor(&name, info)?.unwrap_or(1.0)),
        None => Ok(1.0),
    }
}

/// A matrix of floats in a Hugging Face checkpoint: master weights of a BitNet, or weights that are ternary already.
fn from_floats(
    site: &Site,
    checkpoint: &Checkpoint,
    info: &TensorInfo,
    config: &serde_json::Value,
    float: Float,
    data: TensorData,
    grouped: bool,
) -> Result<Decoded, FormatError> {
    if checkpoint.tensor(&hf_packed::scale_name(info)).is_some() {
        return Err(checkpoint.wrong_type(info, "U8 (packed ternary weights), since there is a weight_scale"));
    }
    // A linear with a norm of its own is a BitLinear, whatever config.json says.
    let has_norm = info.name.strip_suffix(".weight").is_some_and(|stem| {
        [".norm.weight", ".rms_norm.weight"].iter().any(|norm| checkpoint.tensor(&format!("{stem}{norm}")).is_some())
    });
    match has_norm || absmean::applies(config) {
        true => absmean::open(site, data, float),
        false if grouped => dense_ternary::open_grouped(site, data, float),
        false => dense_ternary::open(site, data, float),
    }
}

/// The error for a type that holds no ternary matrix.
fn unusable(checkpoint: &Checkpoint, info: &TensorInfo) -> FormatError {
    checkpoint.wrong_type(
        info,
        "a ternary matrix in T16, T16x5, I2_S, TQ2_0, TQ1_0, Q2_0, PQ2_0 or PTQ1_0 (GGUF), packed U8 or BitNet master weights (Hugging Face); convert \
         the model to one of these or use its safetensors checkpoint",
    )
}
