//! The header of a GGUF file, versions 2 and 3, little endian.
//!
//! Layout: magic, version, number of tensors, number of pairs; the key-value pairs; one record per tensor (name,
//! dimensions with the fastest first, type number, offset); padding to `general.alignment`; the tensors' bytes.
//! Every count and length is checked against what is left of the file before anything is allocated for it.

use std::fmt::Arguments;
use std::path::Path;

use super::checkpoint::TensorInfo;
use super::dtype::{DType, GGUF_TL2};
use super::metadata::{Metadata, Value};
use super::{FormatError, own_types, tensor_list, tl};

/// The first four bytes of a GGUF file.
pub(super) const MAGIC: &[u8; 4] = b"GGUF";

/// What tensors are aligned to.
pub(crate) const ALIGNMENT_KEY: &str = "general.alignment";

/// Alignment of tensors if the file does not say.
const DEFAULT_ALIGNMENT: u64 = 32;

/// Elements of all metadata arrays together. The largest vocabularies in use have 262144 tokens with as many scores
/// and types and twice as many merges. Elements may take less room in the file than in memory, so that the file's
/// own length is not limit enough.
const MAX_ARRAY_ELEMENTS: u64 = 1 << 22;

/// Key-value pairs of a file. Real files have less than a hundred.
const MAX_PAIRS: u64 = 1 << 16;

/// Largest number of dimensions of a tensor, as in ggml.
const MAX_DIMENSIONS: u32 = 4;

/// What the header of a GGUF file says.
pub(super) struct Header {
    /// Format version, 2 or 3.
    pub(super) version: u32,
    /// The key-value pairs.
    pub(super) metadata: Metadata,
    /// The tensors by offset, all within the file.
    pub(super) tensors: Vec<TensorInfo>,
}

/// Reads the header of the GGUF file `bytes`.
pub(super) fn read(file: &Path, bytes: &[u8]) -> Result<Header, FormatError> {
    let mut reader = Reader { file, bytes, position: 0, elements_left: MAX_ARRAY_ELEMENTS };
    if reader.take(4, format_args!("the magic number"))? != MAGIC {
        return Err(FormatError::not_a_checkpoint(file, "the file does not begin with `GGUF`"));
    }
    let version = reader.u32(format_args!("the version"))?;
    if !(2..=3).contains(&version) {
        let reason = if (2..=3).contains(&version.swap_bytes()) {
            "the file is big endian; only little-endian GGUF is supported".to_owned()
        } else {
            format!("GGUF version {version} is not supported, only versions 2 and 3; convert the model again")
        };
        return Err(FormatError::header(file, "the version", reason));
    }
    let tensor_count = reader.u64(format_args!("the number of tensors"))?;
    let pair_count = reader.u64(format_args!("the number of key-value pairs"))?;
    // The shortest pair takes 8 + 4 + 1 bytes, the shortest record of a tensor 8 + 4 + 4 + 8.
    reader.check_count(pair_count, 13, MAX_PAIRS, format_args!("{pair_count} key-value pairs"))?;
    reader.check_count(tensor_count, 24, tensor_list::MAX_TENSORS, format_args!("{tensor_count} tensors"))?;

    let mut metadata = Metadata::default();
    for index in 0..pair_count {
        let key = reader.string(format_args!("key {index}"))?;
        let value = reader.value(key)?;
        if metadata.entries.insert(key.to_owned(), value).is_some() {
            return Err(FormatError::Duplicate { file: file.into(), kind: "key", name: key.to_owned() });
        }
    }
    if metadata.u64("split.count").is_some_and(|count| count > 1) {
        let reason = "the model is split over several GGUF files; merge them with `llama-gguf-split --merge`";
        return Err(FormatError::header(file, "`split.count`", reason));
    }
    let alignment = match metadata.get(ALIGNMENT_KEY) {
        None => DEFAULT_ALIGNMENT,
        Some(value) => match value {
            Value::U64(alignment) if alignment.is_power_of_two() && *alignment <= 1 << 30 => *alignment,
            other => {
                return Err(FormatError::header(
                    file,
                    format_args!("`{ALIGNMENT_KEY}`"),
                    format!("{other:?} is no power of two"),
                ));
            }
        },
    };

    let mut tensors = Vec::new();
    for index in 0..tensor_count {
        tensors.push(reader.tensor(index, alignment)?);
    }
    let header_end = reader.position as u64;
    let data_start = header_end.next_multiple_of(alignment);
    place(file, &mut tensors, data_start, alignment, bytes.len() as u64)?;
    own_types::restore(file, &metadata, &mut tensors)?;
    Ok(Header { version, metadata, tensors })
}

/// Turns the offsets of `tensors` into offsets in the file, sorts them, and fills in the lengths that follow from the
/// distance to the next tensor only.
fn place(
    file: &Path,
    tensors: &mut [TensorInfo],
    data_start: u64,
    alignment: u64,
    file_len: u64,
) -> Result<(), FormatError> {
    for tensor in tensors.iter_mut() {
        tensor.offset = tensor.offset.checked_add(data_start).ok_or_else(|| {
            FormatError::header(file, format_args!("tensor `{}`", tensor.name), "its offset overflows")
        })?;
    }
    tensors.sort_by_key(|tensor| tensor.offset);
    for index in 0..tensors.len() {
        let next = tensors.get(index + 1).map(|tensor| tensor.offset);
        let tensor = &mut tensors[index];
        // An offset beyond the file leaves zero bytes; `check_ranges` reports it.
        let room = next.unwrap_or(file_len).saturating_sub(tensor.offset);
        match tensor.dtype {
            DType::Unknown(GGUF_TL2) if let Some(nbytes) = tl2_bytes(tensor, room, alignment) => {
                (tensor.dtype, tensor.nbytes) = (DType::Tl2, nbytes);
            }
            DType::Unknown(_) => tensor.nbytes = room,
            // PrismML's first files have blocks of 128 under this number, which take less room.
            DType::Q2_0 if room < tensor.nbytes => {
                let elements = tensor.shape.iter().map(|&dimension| dimension as u64).product();
                let columns = tensor.shape.last().map_or(1, |&columns| columns as u64);
                if let Some(nbytes) = DType::Pq2_0.bytes(elements, columns).filter(|&nbytes| nbytes <= room) {
                    (tensor.dtype, tensor.nbytes) = (DType::Pq2_0, nbytes);
                }
            }
            // The scale may be behind the codes.
            DType::Tl1 => tensor.nbytes = with_tail(tensor.nbytes, room),
            // Nothing but its length tells the variants of this type apart: `TernaryTensor` refuses another length.
            DType::I2S if next.is_some() && room >= tensor.nbytes.saturating_add(alignment) => tensor.nbytes = room,
            _ => {}
        }
    }
    tensor_list::check_ranges(file, tensors, file_len)
}

/// Bytes of a tensor whose type number may stand for TL2, if its length says so.
fn tl2_bytes(tensor: &TensorInfo, room: u64, alignment: u64) -> Option<u64> {
    let columns = *tensor.shape.last()? as u64;
    // The header was refused if this product overflowed.
    let elements = tensor.shape.iter().map(|&dimension| dimension as u64).product();
    let codes = DType::Tl2.bytes(elements, columns)?;
    let lengths = [codes, codes.checked_next_multiple_of(tl::TAIL)?.checked_add(tl::TAIL)?];
    let fits = lengths
        .iter()
        .any(|length| length.checked_next_multiple_of(alignment) == Some(room.next_multiple_of(alignment)));
    fits.then(|| with_tail(codes, room))
}

/// Bytes of a TL1 or TL2 tensor in so much room: with the scale behind its codes, if there is room for one.
fn with_tail(codes: u64, room: u64) -> u64 {
    let whole = codes.checked_next_multiple_of(tl::TAIL).and_then(|tail| tail.checked_add(tl::TAIL));
    whole.filter(|&whole| whole <= room).unwrap_or(codes)
}

/// A position in the header of a file.
struct Reader<'a> {
    file: &'a Path,
    bytes: &'a [u8],
    position: usize,
    elements_left: u64,
}

impl<'a> Reader<'a> {
    /// The next `length` bytes, which hold `what`.
    fn take(&mut self, length: u64, what: Arguments<'_>) -> Result<&'a [u8], FormatError> {
        let rest = &self.bytes[self.position..];
        match usize::try_from(length).ok().and_then(|length| rest.get(..length)) {
            Some(taken) => {
                self.position += taken.len();
                Ok(taken)
            }
            None => Err(FormatError::Truncated {
                file: self.file.into(),
                what: what.to_string(),
                needed: length,
                available: rest.len() as u64,
            }),
        }
    }

    /// The next `N` bytes.
    fn array<const N: usize>(&mut self, what: Arguments<'_>) -> Result<[u8; N], FormatError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N as u64, what)?);
        Ok(array)
    }

    fn u32(&mut self, what: Arguments<'_>) -> Result<u32, FormatError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    fn u64(&mut self, what: Arguments<'_>) -> Result<u64, FormatError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// Refuses `count` items of at least `size` bytes if the rest of the file cannot hold them, or if they are more
    /// than `limit`.
    fn check_count(&self, count: u64, size: u64, limit: u64, what: Arguments<'_>) -> Result<(), FormatError> {
        let available = (self.bytes.len() - self.position) as u64;
        let needed = count.saturating_mul(size);
        if needed > available {
            return Err(FormatError::Truncated { file: self.file.into(), what: what.to_string(), needed, available });
        }
        if count > limit {
            return Err(FormatError::header(self.file, what, format_args!("more than {limit} are not supported")));
        }
        Ok(())
    }

    /// A string, with its length before it.
    fn string(&mut self, what: Arguments<'_>) -> Result<&'a str, FormatError> {
        let length = self.u64(what)?;
        let bytes = self.take(length, what)?;
        std::str::from_utf8(bytes).map_err(|_| FormatError::Utf8 { file: self.file.into(), what: what.to_string() })
    }

    /// The value of `key`, with its type before it.
    fn value(&mut self, key: &str) -> Result<Value, FormatError> {
        let what = format_args!("the value of key `{key}`");
        let kind = self.u32(what)?;
        Ok(match kind {
            8 => Value::String(self.string(what)?.to_owned()),
            9 => return self.array_value(key),
            6 => Value::F64(f64::from(f32::from_le_bytes(self.array(what)?))),
            12 => Value::F64(f64::from_le_bytes(self.array(what)?)),
            7 => match self.array::<1>(what)?[0] {
                0 => Value::Bool(false),
                1 => Value::Bool(true),
                other => return Err(FormatError::header(self.file, what, format_args!("{other} is no boolean"))),
            },
            0 => Value::U64(u64::from(self.array::<1>(what)?[0])),
            2 => Value::U64(u64::from(u16::from_le_bytes(self.array(what)?))),
            4 => Value::U64(u64::from(self.u32(what)?)),
            10 => Value::U64(self.u64(what)?),
            1 => Value::I64(i64::from(i8::from_le_bytes(self.array(what)?))),
            3 => Value::I64(i64::from(i16::from_le_bytes(self.array(what)?))),
            5 => Value::I64(i64::from(i32::from_le_bytes(self.array(what)?))),
            11 => Value::I64(i64::from_le_bytes(self.array(what)?)),
            other => {
                return Err(FormatError::header(self.file, what, format_args!("value type {other} does not exist")));
            }
        })
    }

    /// An array: type of its elements, their number, the elements.
    fn array_value(&mut self, key: &str) -> Result<Value, FormatError> {
        let what = format_args!("the array under key `{key}`");
        let kind = self.u32(what)?;
        let count = self.u64(what)?;
        // Bytes of an element; of a string at least the length before it.
        let size: u64 = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            8 | 10..=12 => 8,
            9 => return Err(FormatError::header(self.file, what, "arrays of arrays are not supported")),
            other => {
                return Err(FormatError::header(self.file, what, format_args!("value type {other} does not exist")));
            }
        };
        self.check_count(count, size, self.elements_left, what)?;
        self.elements_left -= count;
        if kind == 8 {
            let mut strings = Vec::with_capacity(count as usize);
            for index in 0..count {
                strings.push(self.string(format_args!("string {index} of key `{key}`"))?.to_owned());
            }
            return Ok(Value::Strings(strings));
        }
        let bytes = self.take(count * size, what)?;
        Ok(match kind {
            6 => Value::Floats(elements(bytes).map(f32::from_le_bytes).collect()),
            12 => Value::Floats(elements(bytes).map(|b| f64::from_le_bytes(b) as f32).collect()),
            0 | 7 => Value::Ints(bytes.iter().map(|&b| i64::from(b)).collect()),
            1 => Value::Ints(bytes.iter().map(|&b| i64::from(b as i8)).collect()),
            2 => Value::Ints(elements(bytes).map(|b| i64::from(u16::from_le_bytes(b))).collect()),
            3 => Value::Ints(elements(bytes).map(|b| i64::from(i16::from_le_bytes(b))).collect()),
            4 => Value::Ints(elements(bytes).map(|b| i64::from(u32::from_le_bytes(b))).collect()),
            5 => Value::Ints(elements(bytes).map(|b| i64::from(i32::from_le_bytes(b))).collect()),
            11 => Value::Ints(elements(bytes).map(i64::from_le_bytes).collect()),
            _ => {
                let ints: Result<Vec<i64>, _> = elements(bytes).map(|b| i64::try_from(u64::from_le_bytes(b))).collect();
                Value::Ints(ints.map_err(|_| FormatError::header(self.file, what, "a number exceeds 2^63 - 1"))?)
            }
        })
    }

    /// The record of tensor `index`. Its offset still counts from the start of the data, and its length is unknown
    /// where the type is.
    fn tensor(&mut self, index: u64, alignment: u64) -> Result<TensorInfo, FormatError> {
        let name = self.string(format_args!("the name of tensor {index}"))?;
        let what = format_args!("tensor `{name}`");
        let dimensions = self.u32(what)?;
        if dimensions > MAX_DIMENSIONS {
            let reason = format!("it has {dimensions} dimensions, at most {MAX_DIMENSIONS} are possible");
            return Err(FormatError::header(self.file, what, reason));
        }
        let mut shape = Vec::with_capacity(dimensions as usize);
        let mut elements = 1u64;
        for _ in 0..dimensions {
            let dimension = self.u64(what)?;
            elements = elements
                .checked_mul(dimension)
                .filter(|_| usize::try_from(dimension).is_ok())
                .ok_or_else(|| FormatError::header(self.file, what, "its dimensions overflow"))?;
            shape.push(dimension as usize);
        }
        let columns = shape.first().map_or(1, |&columns| columns as u64);
        shape.reverse();
        let dtype = DType::from_gguf(self.u32(what)?);
        let offset = self.u64(what)?;
        if !offset.is_multiple_of(alignment) {
            let reason = format!("its offset {offset} is not a multiple of the alignment {alignment}");
            return Err(FormatError::header(self.file, what, reason));
        }
        let nbytes = match dtype {
            DType::Unknown(_) => 0,
            known => known.bytes(elements, columns).ok_or_else(|| {
                let reason = format!("shape {shape:?} is not possible for type {known}");
                FormatError::header(self.file, what, reason)
            })?,
        };
        Ok(TensorInfo { name: name.to_owned(), dtype, shape, nbytes, source: 0, offset })
    }
}

/// `bytes` as arrays of `N`; the caller took a multiple of `N` bytes.
fn elements<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> + '_ {
    bytes.as_chunks::<N>().0.iter().copied()
}
