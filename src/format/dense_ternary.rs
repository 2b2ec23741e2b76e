//! Matrices of floats whose values are -s, 0 and s, for one s or one for each group of columns: what converters write where
//! a row does not divide into blocks of a ternary type, and how some ternary models are published.

use rayon::prelude::*;
use sterna_cpu::grouped::ScaleType;

use super::FormatError;
use super::floats::Float;
use super::grouped::Groups;
use super::storage::TensorData;
use super::ternary::{Decoded, InvalidCode, RowDecoder, Scales, Site};

/// The decoder. All values have been checked.
struct DenseTernary {
    data: TensorData,
    float: Float,
}

/// Opens a matrix of floats and checks all of its values.
pub(super) fn open(site: &Site, data: TensorData, float: Float) -> Result<Decoded, FormatError> {
    let length = site.elements().and_then(|elements| elements.checked_mul(float.width()));
    site.check_length(float.dtype(), &data, length)?;
    let first = match float {
        Float::F32 => first_not_zero::<4>(&data),
        Float::F16 | Float::Bf16 => first_not_zero::<2>(&data),
    };
    let Some(first) = first else {
        return Ok((Box::new(DenseTernary { data, float }), Scales::One(1.0)));
    };
    let scale = site.check_scale(float.get(&data, first).abs())?;
    let offending = match float {
        Float::F32 => first_other::<4>(&data, first),
        Float::F16 | Float::Bf16 => first_other::<2>(&data, first),
    };
    match offending {
        None => Ok((Box::new(DenseTernary { data, float }), Scales::One(scale))),
        Some(index) => Err(FormatError::NotTernary {
            file: site.file.to_path_buf(),
            tensor: site.name.to_string(),
            row: index / site.cols,
            column: index % site.cols,
            value: float.get(&data, index),
            scale,
        }),
    }
}

/// Columns of groups that are looked for, the largest first.
const GROUPS: [usize; 4] = [512, 256, 128, 64];

/// Opens a matrix of floats with a scale for each group of columns, the largest groups that fit, and checks all of its
/// values.
pub(super) fn open_grouped(site: &Site, data: TensorData, float: Float) -> Result<Decoded, FormatError> {
    let length = site.elements().and_then(|elements| elements.checked_mul(float.width()));
    site.check_length(float.dtype(), &data, length)?;
    let width = site.cols;
    // Rows without columns cost no bytes, so there may be any number of them.
    let rows = if width == 0 { 0 } else { site.rows };
    let magnitudes = move |data: &[u8], row: usize| {
        let mut values = vec![0.0; width];
        float.to_f32(&data[row * width * float.width()..], &mut values);
        values.iter_mut().for_each(|value| *value = value.abs());
        values
    };
    let scale_of = |values: &[f32]| values.iter().copied().find(|&value| value != 0.0);
    let mut offending = None;
    for cols in GROUPS {
        offending = (0..rows).into_par_iter().find_map_first(|row| {
            magnitudes(&data, row).chunks(cols).enumerate().find_map(|(group, values)| {
                let scale = scale_of(values)?;
                // What is not a number is no scale, and differs from every other.
                let other = values.iter().position(|&v| v != 0.0 && !(v == scale && scale.is_finite()))?;
                Some((row, group * cols + other, values[other], scale))
            })
        });
        if offending.is_none() {
            let kind = if float == Float::F16 { ScaleType::F16 } else { ScaleType::F32 };
            let values = data.clone();
            let groups = Groups::new(cols, kind, move |row, out| {
                for (values, out) in magnitudes(&values, row).chunks(cols).zip(out) {
                    *out = scale_of(values).unwrap_or(0.0);
                }
            });
            return Ok((Box::new(DenseTernary { data, float }), Scales::Groups(groups)));
        }
    }
    let (row, column, value, scale) = offending.unwrap_or_default();
    let (file, tensor) = (site.file.to_path_buf(), site.name.to_string());
    Err(FormatError::NotTernary { file, tensor, row, column, value, scale })
}

/// The bits of a little-endian float without its sign.
fn magnitude<const WIDTH: usize>(mut bytes: [u8; WIDTH]) -> [u8; WIDTH] {
    bytes[WIDTH - 1] &= 0x7f;
    bytes
}

/// The index of the first float that is not zero.
fn first_not_zero<const WIDTH: usize>(data: &[u8]) -> Option<usize> {
    data.as_chunks::<WIDTH>().0.iter().position(|&bytes| magnitude(bytes) != [0; WIDTH])
}

/// The index of the first float that is neither zero nor of the magnitude of that at `first`.
fn first_other<const WIDTH: usize>(data: &[u8], first: usize) -> Option<usize> {
    /// Floats that one task looks at.
    const RUN: usize = 1 << 14;
    let (values, _) = data.as_chunks::<WIDTH>();
    let scale = magnitude(values[first]);
    let is_other = |&bytes: &[u8; WIDTH]| {
        let magnitude = magnitude(bytes);
        magnitude != scale && magnitude != [0; WIDTH]
    };
    values.par_chunks(RUN).enumerate().find_map_first(|(run, values)| {
        // Without an early exit the usual case, none, takes vector instructions.
        let any = values.iter().fold(false, |any, value| any | is_other(value));
        if any { Some(run * RUN + values.iter().position(is_other)?) } else { None }
    })
}

impl RowDecoder for DenseTernary {
    fn decode(&self, row: usize, out: &mut [i8]) -> Result<(), InvalidCode> {
        let row_bytes = out.len() * self.float.width();
        let bytes = &self.data[row * row_bytes..(row + 1) * row_bytes];
        match self.float {
            Float::F32 => {
                for (out, bytes) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                    let bits = i32::from_le_bytes(*bytes);
                    *out = sign(bits < 0, bits & i32::MAX != 0);
                }
            }
            Float::F16 | Float::Bf16 => {
                for (out, bytes) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                    let bits = i16::from_le_bytes(*bytes);
                    *out = sign(bits < 0, bits & i16::MAX != 0);
                }
            }
        }
        Ok(())
    }
}

/// The ternary value of a float.
fn sign(negative: bool, not_zero: bool) -> i8 {
    i8::from(not_zero) - 2 * i8::from(negative && not_zero)
}
