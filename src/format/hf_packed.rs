//! Packed ternary weights of Hugging Face checkpoints (`quant_method: bitnet`).
//!
//! `weight` is `U8 [rows / 4, cols]`. With `R = rows / 4`, the byte at `[i, k]` holds column `k` of the rows `i`,
//! `i + R`, `i + 2R`, `i + 3R` in its 2-bit fields, lowest first, each as `t + 1`. `weight_scale` is one float; with
//! `linear_class: autobitlinear` the weights are multiplied with it, otherwise divided by it, and nothing in the
//! tensors tells which.

use serde_json::Value;

use super::FormatError;
use super::checkpoint::{Checkpoint, TensorInfo};
use super::dtype::DType;
use super::storage::TensorData;
use super::ternary::{Decoded, InvalidCode, RowDecoder, Scales, Site};

/// The decoder.
struct HfPacked {
    data: TensorData,
    /// A quarter of the number of rows.
    packed_rows: usize,
}

/// The name of the scale of the weight `info`.
pub(super) fn scale_name(info: &TensorInfo) -> String {
    format!("{}_scale", info.name)
}

/// The `quantization_config.quant_method` of `config`.
pub(super) fn quant_method(config: &Value) -> Option<&str> {
    config.get("quantization_config")?.get("quant_method")?.as_str()
}

/// Opens the packed matrix `info` of the model `config`.
pub(super) fn open(
    site: &Site,
    checkpoint: &Checkpoint,
    info: &TensorInfo,
    config: &Value,
) -> Result<Decoded, FormatError> {
    if quant_method(config) != Some("bitnet") {
        return Err(checkpoint.wrong_type(
            info,
            "a float type, since config.json does not say `quant_method: bitnet`; only BitNet's packing is read",
        ));
    }
    if !site.rows.is_multiple_of(4) {
        return Err(FormatError::header(
            &site.file,
            format_args!("tensor `{}`", site.name),
            format_args!("{} rows cannot be packed by four", site.rows),
        ));
    }
    let packed_rows = site.rows / 4;
    checkpoint.require_shape(info, &[packed_rows, site.cols])?;
    let data = checkpoint.data_of(info)?;
    site.check_length(DType::U8, &data, packed_rows.checked_mul(site.cols))?;

    let name = scale_name(info);
    let weight_scale = match checkpoint.scale_tensor(&name, info)? {
        Some(weight_scale) => site.check_scale(weight_scale)?,
        None => return Err(checkpoint.require(&name).err().unwrap_or_else(|| checkpoint.wrong_type(info, "a scale"))),
    };
    let linear_class = config.get("quantization_config").and_then(|quantization| quantization.get("linear_class"));
    let multiplies = linear_class.and_then(Value::as_str) == Some("autobitlinear");
    let scale = if multiplies { weight_scale } else { 1.0 / weight_scale };
    Ok((Box::new(HfPacked { data, packed_rows }), Scales::One(scale)))
}

impl RowDecoder for HfPacked {
    fn decode(&self, row: usize, out: &mut [i8]) -> Result<(), InvalidCode> {
        let start = row % self.packed_rows * out.len();
        let bytes = &self.data[start..start + out.len()];
        // A constant shift per loop lets the compiler use vectors.
        match row / self.packed_rows {
            0 => decode_field::<0>(bytes, out),
            1 => decode_field::<2>(bytes, out),
            2 => decode_field::<4>(bytes, out),
            _ => decode_field::<6>(bytes, out),
        }
    }
}

/// Decodes the 2-bit field at bit `SHIFT` of each byte.
pub(super) fn decode_field<const SHIFT: u32>(bytes: &[u8], out: &mut [i8]) -> Result<(), InvalidCode> {
    let mut bad = 0;
    for (out, &byte) in out.iter_mut().zip(bytes) {
        let code = (byte >> SHIFT) & 3;
        bad |= code & (code >> 1);
        *out = code as i8 - 1;
    }
    InvalidCode::check(bad)
}
