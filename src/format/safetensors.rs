//! The header of a safetensors file.
//!
//! Layout: the length of the header as `u64`, the header in JSON (`{"name": {"dtype", "shape", "data_offsets"}}`),
//! the tensors' bytes. The header is read entry by entry straight into [`TensorInfo`]s. (The `safetensors` crate
//! collects it in a map, where a repeated name is lost without a word, and buffers all of it on the way.)

use std::fmt;
use std::path::Path;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::checkpoint::TensorInfo;
use super::dtype::DType;
use super::{FormatError, tensor_list};

/// Longest header that is read; the format's own limit.
const MAX_HEADER: u64 = 100_000_000;

/// Largest number of dimensions of a tensor.
const MAX_DIMENSIONS: usize = 8;

/// Reads the header of the safetensors file `bytes`. The tensors get `source` as the index of their file, and are
/// sorted by offset, all within the file.
pub(super) fn read(file: &Path, bytes: &[u8], source: usize) -> Result<Vec<TensorInfo>, FormatError> {
    let truncated = |what: &str, needed: u64, available: u64| FormatError::Truncated {
        file: file.into(),
        what: what.to_owned(),
        needed,
        available,
    };
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        return Err(truncated("the length of the safetensors header", 8, bytes.len() as u64));
    };
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER {
        let reason = format!("its length {length} exceeds {MAX_HEADER}; this is no safetensors file, or a damaged one");
        return Err(FormatError::header(file, "the header", reason));
    }
    let header = usize::try_from(length).ok().and_then(|length| rest.get(..length));
    let header = header.ok_or_else(|| truncated("the safetensors header", length, rest.len() as u64))?;
    let Records(records) =
        serde_json::from_slice(header).map_err(|reason| FormatError::Json { file: file.into(), reason })?;

    let data_start = 8 + length;
    let mut tensors = Vec::with_capacity(records.len());
    for (name, record) in records {
        let what = format_args!("tensor `{name}`");
        let Some(dtype) = DType::from_safetensors(&record.dtype) else {
            return Err(FormatError::header(file, what, format_args!("type `{}` does not exist", record.dtype)));
        };
        let (start, end) = record.data_offsets;
        let Some(nbytes) = end.checked_sub(start) else {
            return Err(FormatError::header(file, what, "it ends before it begins"));
        };
        let Some(offset) = start.checked_add(data_start) else {
            return Err(FormatError::header(file, what, "its offset overflows"));
        };
        let elements = record.shape.0.iter().try_fold(1u64, |product, &n| product.checked_mul(n as u64));
        let Some(elements) = elements else {
            return Err(FormatError::header(file, what, "its dimensions overflow"));
        };
        if dtype.block().is_some() {
            let expected = dtype.bytes(elements, 1).unwrap_or(u64::MAX);
            if expected != nbytes {
                return Err(FormatError::Size {
                    file: file.into(),
                    tensor: name,
                    dtype: dtype.to_string(),
                    expected,
                    found: nbytes,
                });
            }
        }
        tensors.push(TensorInfo { name, dtype, shape: record.shape.0, nbytes, source, offset });
    }
    tensors.sort_by_key(|tensor| tensor.offset);
    tensor_list::check_ranges(file, &tensors, bytes.len() as u64)?;
    Ok(tensors)
}

/// One entry of the header.
#[derive(Deserialize)]
struct Record {
    dtype: String,
    shape: Shape,
    data_offsets: (u64, u64),
}

/// A short list of dimensions.
struct Shape(Vec<usize>);

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Shape, D::Error> {
        struct ShapeVisitor;
        impl<'de> Visitor<'de> for ShapeVisitor {
            type Value = Shape;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "at most {MAX_DIMENSIONS} dimensions")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Shape, A::Error> {
                let mut shape = Vec::new();
                while let Some(dimension) = sequence.next_element::<usize>()? {
                    if shape.len() == MAX_DIMENSIONS {
                        return Err(A::Error::invalid_length(MAX_DIMENSIONS + 1, &self));
                    }
                    shape.push(dimension);
                }
                Ok(Shape(shape))
            }
        }
        deserializer.deserialize_seq(ShapeVisitor)
    }
}

/// All entries of the header in the order of the file, without `__metadata__`.
struct Records(Vec<(String, Record)>);

impl<'de> Deserialize<'de> for Records {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Records, D::Error> {
        struct RecordsVisitor;
        impl<'de> Visitor<'de> for RecordsVisitor {
            type Value = Records;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map from tensor names to dtype, shape and data_offsets")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Records, A::Error> {
                let mut records = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<IgnoredAny>()?;
                    } else if records.len() as u64 == tensor_list::MAX_TENSORS {
                        return Err(A::Error::custom("too many tensors"));
                    } else {
                        records.push((name, map.next_value()?));
                    }
                }
                Ok(Records(records))
            }
        }
        deserializer.deserialize_map(RecordsVisitor)
    }
}
