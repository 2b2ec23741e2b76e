//! Conversion of stored floats to `f32`, from bytes of any alignment.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::dtype::DType;

/// A type of floats in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Float {
    F32,
    F16,
    Bf16,
}

impl Float {
    /// The float type that `dtype` is, if it is one.
    pub(super) fn of(dtype: DType) -> Option<Float> {
        match dtype {
            DType::F32 => Some(Float::F32),
            DType::F16 => Some(Float::F16),
            DType::Bf16 => Some(Float::Bf16),
            _ => None,
        }
    }

    /// Its name as a type of tensors.
    pub(super) fn dtype(self) -> DType {
        match self {
            Float::F32 => DType::F32,
            Float::F16 => DType::F16,
            Float::Bf16 => DType::Bf16,
        }
    }

    /// Bytes of one float.
    pub(super) fn width(self) -> usize {
        match self {
            Float::F32 => 4,
            Float::F16 | Float::Bf16 => 2,
        }
    }

    /// The float at `index` of `bytes`.
    pub(super) fn get(self, bytes: &[u8], index: usize) -> f32 {
        let mut value = [0.0];
        self.to_f32(&bytes[index * self.width()..], &mut value);
        value[0]
    }

    /// Converts as many floats as `out` holds from the start of `bytes`.
    pub(super) fn to_f32(self, bytes: &[u8], out: &mut [f32]) {
        /// Floats converted at a time, through an aligned copy.
        const RUN: usize = 64;
        match self {
            Float::F32 => {
                for (out, bytes) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                    *out = f32::from_le_bytes(*bytes);
                }
            }
            Float::Bf16 => {
                for (out, bytes) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                    *out = bf16::from_le_bytes(*bytes).to_f32();
                }
            }
            Float::F16 => {
                for (out, bytes) in out.chunks_mut(RUN).zip(bytes.chunks(2 * RUN)) {
                    let mut run = [f16::ZERO; RUN];
                    for (half, bytes) in run.iter_mut().zip(bytes.as_chunks::<2>().0) {
                        *half = f16::from_le_bytes(*bytes);
                    }
                    run[..out.len()].convert_to_f32_slice(out);
                }
            }
        }
    }
}
