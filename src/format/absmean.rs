//! Master weights of a BitNet, ternarized at load as Hugging Face's `transformers` does it.
//!
//! `m = max(mean(|W|), 1e-5)`, `s = 1 / m`, `t = clamp(round_half_even(W · s), -1, 1)`, `W' = t / s`, all in `f32`, one
//! scale for the matrix. The mean is summed in `f64` and rounded once: `torch` sums in `f32` in an order that depends
//! on its version and machine, which may differ from this in the last bits.

use rayon::prelude::*;
use serde_json::Value;

use super::FormatError;
use super::dtype::DType;
use super::floats::Float;
use super::hf_packed::quant_method;
use super::storage::TensorData;
use super::ternary::{Decoded, InvalidCode, RowDecoder, Scales, Site};

/// Floats converted at a time.
const RUN: usize = 512;

/// Whether the float matrices of the model `config` are master weights: `quant_method: bitnet`, or the models of
/// 1bitLLM, which say it by their architecture and `weight_bits` only.
pub(super) fn applies(config: &Value) -> bool {
    if let Some(method) = quant_method(config) {
        return method == "bitnet";
    }
    let architectures = config.get("architectures").and_then(Value::as_array);
    let is_bitnet = |name: &Value| name.as_str().is_some_and(|name| name.eq_ignore_ascii_case("BitnetForCausalLM"));
    architectures.is_some_and(|names| names.iter().any(is_bitnet))
        || config.get("weight_bits").and_then(Value::as_u64) == Some(1)
}

/// The decoder.
struct Absmean {
    data: TensorData,
    float: Float,
    /// The reciprocal of the mean magnitude.
    inverse: f32,
}

/// Opens a matrix of master weights; reads all of it for the mean.
pub(super) fn open(site: &Site, data: TensorData, float: Float) -> Result<Decoded, FormatError> {
    let elements = site.elements();
    let dtype = match float {
        Float::F32 => DType::F32,
        Float::F16 => DType::F16,
        Float::Bf16 => DType::Bf16,
    };
    site.check_length(dtype, &data, elements.and_then(|elements| elements.checked_mul(float.width())))?;
    // Sums of rows are added in order, so that the result does not depend on the number of threads.
    let sums: Vec<f64> =
        data.par_chunks(float.width() * site.cols.max(1)).map(|row| sum_of_magnitudes(float, row)).collect();
    if let Some(row) = sums.iter().position(|sum| !sum.is_finite()) {
        return Err(not_finite(site, &data, float, row));
    }
    let count = elements.unwrap_or(0).max(1) as f64;
    let mean = ((sums.iter().sum::<f64>() / count) as f32).max(1e-5);
    let inverse = 1.0 / mean;
    Ok((Box::new(Absmean { data, float, inverse }), Scales::One(1.0 / inverse)))
}

/// The sum of |w| over `bytes`.
fn sum_of_magnitudes(float: Float, bytes: &[u8]) -> f64 {
    /// Independent partial sums, so that additions need not wait for each other.
    const STRIPES: usize = 8;
    let mut stripes = [0.0; STRIPES];
    let mut values = [0.0; RUN];
    for bytes in bytes.chunks(RUN * float.width()) {
        let values = &mut values[..bytes.len() / float.width()];
        float.to_f32(bytes, values);
        for values in values.chunks(STRIPES) {
            for (stripe, value) in stripes.iter_mut().zip(values) {
                *stripe += f64::from(value.abs());
            }
        }
    }
    stripes.iter().sum()
}

/// The error for the first value of row `row` that is not finite.
fn not_finite(site: &Site, data: &[u8], float: Float, row: usize) -> FormatError {
    let values = (row * site.cols..(row + 1) * site.cols).map(|index| (index, float.get(data, index)));
    let (index, value) = values.into_iter().find(|(_, value)| !value.is_finite()).unwrap_or((0, f32::INFINITY));
    FormatError::NotFinite { file: site.file.to_path_buf(), tensor: site.name.to_string(), index, value }
}

impl RowDecoder for Absmean {
    fn decode(&self, row: usize, out: &mut [i8]) -> Result<(), InvalidCode> {
        let width = self.float.width();
        let bytes = &self.data[row * out.len() * width..(row + 1) * out.len() * width];
        let mut values = [0.0; RUN];
        for (out, bytes) in out.chunks_mut(RUN).zip(bytes.chunks(RUN * width)) {
            let values = &mut values[..out.len()];
            self.float.to_f32(bytes, values);
            for (out, value) in out.iter_mut().zip(values) {
                // Half to even rounds ±0.5 to 0, and what is beyond it is at least 1 before clamping.
                let scaled = *value * self.inverse;
                *out = i8::from(scaled > 0.5) - i8::from(scaled < -0.5);
            }
        }
        Ok(())
    }
}
