//! Writes GGUF files as a stream: the header first, then each tensor's bytes in the order of the plan.
//!
//! The file appears under its name only when it is complete: until then it has a temporary name beside it.

use std::fs::{self, File};
use std::io::{BufWriter, ErrorKind, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;

use rayon::prelude::*;

use super::dtype::DType;
use super::gguf::{ALIGNMENT_KEY, MAGIC};
use super::metadata::{Metadata, Value};
use super::{FormatError, own_types};

/// The version that is written.
pub(super) const VERSION: u32 = 3;

/// Tensors start at multiples of this, unless the metadata say otherwise.
const ALIGNMENT: u64 = 32;

/// Largest alignment that is written.
const MAX_ALIGNMENT: u64 = 4096;

/// Bytes that are collected before they are handed to the system; larger parts go there as they are.
const BUFFER: usize = 64 << 10;

/// A tensor that will be written.
#[derive(Clone, Debug)]
pub struct TensorPlan {
    /// Its name.
    pub name: String,
    /// How its elements are stored.
    pub dtype: DType,
    /// Its dimensions, outermost first: `[rows, columns]` of a matrix.
    pub shape: Vec<usize>,
}

impl TensorPlan {
    /// Its length in bytes, if the type can be written and its rows are whole blocks.
    pub(crate) fn nbytes(&self) -> Option<u64> {
        let elements = self.shape.iter().try_fold(1u64, |product, &dim| product.checked_mul(dim as u64))?;
        self.stored_as().gguf_id()?;
        self.dtype.bytes(elements, *self.shape.last()? as u64)
    }

    /// The type that the record of the tensor has.
    fn stored_as(&self) -> DType {
        if own_types::is_own(self.dtype) { DType::I8 } else { self.dtype }
    }
}

/// A GGUF file that is being written.
#[derive(Debug)]
pub struct GgufWriter {
    out: BufWriter<File>,
    path: PathBuf,
    temporary: PathBuf,
    /// Names and bytes of the tensors.
    tensors: Vec<(String, u64)>,
    alignment: u64,
    /// The tensor that is being written, and how much of it there is.
    current: usize,
    written: u64,
    /// It has its own name now.
    complete: bool,
}

impl GgufWriter {
    /// Creates the file and writes its header.
    ///
    /// # Errors
    /// If `path` exists and `overwrite` is not set, a tensor's type cannot be written with its shape, or the disk fails.
    pub fn create(
        path: &Path,
        metadata: &Metadata,
        tensors: &[TensorPlan],
        overwrite: bool,
    ) -> Result<GgufWriter, FormatError> {
        if !overwrite && path.exists() {
            let exists = std::io::Error::new(ErrorKind::AlreadyExists, "the file exists already");
            return Err(FormatError::Io { file: path.into(), reason: exists });
        }
        let alignment = match metadata.get(ALIGNMENT_KEY) {
            None => ALIGNMENT,
            Some(Value::U64(alignment)) if alignment.is_power_of_two() && *alignment <= MAX_ALIGNMENT => *alignment,
            Some(other) => {
                let reason = format!("{other:?} is no power of two up to {MAX_ALIGNMENT}");
                return Err(FormatError::header(path, ALIGNMENT_KEY, reason));
            }
        };
        let own_types = own_types::describe(tensors);
        let mut header = Vec::new();
        header.extend(MAGIC);
        header.extend(VERSION.to_le_bytes());
        header.extend((tensors.len() as u64).to_le_bytes());
        header.extend(((metadata.entries.len() + own_types.len()) as u64).to_le_bytes());
        let entries = metadata.entries.iter().map(|(key, value)| (key.as_str(), value));
        for (key, value) in entries.chain(own_types.iter().map(|(key, value)| (*key, value))) {
            put_string(&mut header, key);
            put_value(&mut header, value);
        }
        let (mut offset, mut planned) = (0, Vec::with_capacity(tensors.len()));
        for tensor in tensors {
            let (Some(nbytes), Some(id)) = (tensor.nbytes(), tensor.stored_as().gguf_id()) else {
                let reason = format!("a tensor of shape {:?} cannot be stored as {}", tensor.shape, tensor.dtype);
                return Err(FormatError::header(path, format_args!("tensor `{}`", tensor.name), reason));
            };
            put_string(&mut header, &tensor.name);
            let dimensions = match own_types::is_own(tensor.dtype) {
                true => vec![nbytes],
                false => tensor.shape.iter().rev().map(|&dim| dim as u64).collect(),
            };
            header.extend((dimensions.len() as u32).to_le_bytes());
            dimensions.iter().for_each(|dim| header.extend(dim.to_le_bytes()));
            header.extend(id.to_le_bytes());
            header.extend(u64::to_le_bytes(offset));
            offset += nbytes.next_multiple_of(alignment);
            planned.push((tensor.name.clone(), nbytes));
        }
        header.resize(header.len().next_multiple_of(alignment as usize), 0);

        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.partial", std::process::id()));
        let temporary = path.with_file_name(name);
        let file = File::create(&temporary).map_err(FormatError::io(&temporary))?;
        let mut writer = GgufWriter {
            out: BufWriter::with_capacity(BUFFER, file),
            path: path.into(),
            temporary,
            tensors: planned,
            alignment,
            current: 0,
            written: 0,
            complete: false,
        };
        writer.put(&header)?;
        Ok(writer)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), FormatError> {
        self.out.write_all(bytes).map_err(FormatError::io(&self.temporary))
    }

    /// Writes the next bytes of the current tensor; a complete tensor is followed by the next of the plan.
    ///
    /// # Errors
    /// If the bytes reach beyond the tensor, or the disk fails.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), FormatError> {
        let Some((name, nbytes)) = self.tensors.get(self.current) else {
            return Err(FormatError::header(&self.path, "the tensors", "more bytes than the plan has"));
        };
        if self.written + bytes.len() as u64 > *nbytes {
            let reason = format!("more than its {nbytes} bytes were given");
            return Err(FormatError::header(&self.path, format_args!("tensor `{name}`"), reason));
        }
        let nbytes = *nbytes;
        self.put(bytes)?;
        self.written += bytes.len() as u64;
        if self.written == nbytes {
            let padding = nbytes.next_multiple_of(self.alignment) - nbytes;
            self.put(&[0; MAX_ALIGNMENT as usize][..padding as usize])?;
            (self.current, self.written) = (self.current + 1, 0);
        }
        Ok(())
    }

    /// Writes `count` parts of the current tensor in their order, made by `make` on all cores meanwhile; `progress` is told
    /// of bytes as they are written and may stop it.
    ///
    /// # Errors
    /// As [`GgufWriter::write`]; those of `make`; and if `progress` stops it.
    pub fn write_parts(
        &mut self,
        count: usize,
        make: impl Fn(usize) -> Result<Vec<u8>, FormatError> + Sync,
        progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<(), FormatError> {
        /// Parts that are made at a time; as many again wait, and as many are being written.
        const BATCH: usize = 32;
        let (make, stopped) = (&make, FormatError::Stopped { file: self.path.clone() });
        let (made, to_write) = sync_channel(1);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for start in (0..count).step_by(BATCH) {
                    let batch = start..count.min(start + BATCH);
                    let parts: Result<Vec<Vec<u8>>, _> = batch.into_par_iter().map(make).collect();
                    let is_last = parts.is_err();
                    // Nobody receives once writing has failed or was stopped.
                    if made.send(parts).is_err() || is_last {
                        break;
                    }
                }
            });
            for parts in to_write {
                for part in parts? {
                    self.write(&part)?;
                    if progress(part.len() as u64).is_break() {
                        return Err(stopped);
                    }
                }
            }
            Ok(())
        })
    }

    /// Puts the complete file in its place.
    ///
    /// # Errors
    /// If tensors are missing, or the disk fails.
    pub fn finish(self) -> Result<(), FormatError> {
        self.complete()?.keep()
    }

    /// The complete file, still under its temporary name.
    ///
    /// # Errors
    /// As [`GgufWriter::finish`].
    pub fn complete(mut self) -> Result<CompleteFile, FormatError> {
        if let Some((name, nbytes)) = self.tensors.get(self.current) {
            let reason = format!("{} of its {nbytes} bytes were given", self.written);
            return Err(FormatError::header(&self.path, format_args!("tensor `{name}`"), reason));
        }
        self.out.flush().map_err(FormatError::io(&self.temporary))?;
        Ok(CompleteFile { writer: self })
    }
}

/// A file of which every byte is written, under its temporary name; it vanishes unless it is kept.
#[derive(Debug)]
pub struct CompleteFile {
    writer: GgufWriter,
}

impl CompleteFile {
    /// Where it is for now.
    pub fn temporary_path(&self) -> &Path {
        &self.writer.temporary
    }

    /// Waits until the disk has it.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn sync(&self) -> Result<(), FormatError> {
        self.writer.out.get_ref().sync_all().map_err(FormatError::io(self.temporary_path()))
    }

    /// Puts it in its place.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn keep(mut self) -> Result<(), FormatError> {
        fs::rename(self.temporary_path(), &self.writer.path).map_err(FormatError::io(&self.writer.path))?;
        self.writer.complete = true;
        Ok(())
    }
}

impl Drop for GgufWriter {
    fn drop(&mut self) {
        if !self.complete {
            // The error that brought us here is already on its way.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// Writes the number of a type, then the value, in the widths that llama.cpp's converters use.
fn put_value(out: &mut Vec<u8>, value: &Value) {
    let mut array = |kind: u32, len: usize| {
        out.extend(9u32.to_le_bytes());
        out.extend(kind.to_le_bytes());
        out.extend((len as u64).to_le_bytes());
    };
    match value {
        Value::U64(v) => match u32::try_from(*v) {
            Ok(v) => {
                out.extend(4u32.to_le_bytes());
                out.extend(v.to_le_bytes());
            }
            Err(_) => {
                out.extend(10u32.to_le_bytes());
                out.extend(v.to_le_bytes());
            }
        },
        Value::I64(v) => {
            out.extend(11u32.to_le_bytes());
            out.extend(v.to_le_bytes());
        }
        Value::F64(v) => {
            out.extend(6u32.to_le_bytes());
            out.extend((*v as f32).to_le_bytes());
        }
        Value::Bool(v) => {
            out.extend(7u32.to_le_bytes());
            out.push(u8::from(*v));
        }
        Value::String(v) => {
            out.extend(8u32.to_le_bytes());
            put_string(out, v);
        }
        Value::Strings(v) => {
            array(8, v.len());
            v.iter().for_each(|text| put_string(out, text));
        }
        Value::Floats(v) => {
            array(6, v.len());
            v.iter().for_each(|v| out.extend(v.to_le_bytes()));
        }
        Value::Ints(v) if v.iter().all(|&v| i32::try_from(v).is_ok()) => {
            array(5, v.len());
            v.iter().for_each(|&v| out.extend((v as i32).to_le_bytes()));
        }
        Value::Ints(v) => {
            array(11, v.len());
            v.iter().for_each(|v| out.extend(v.to_le_bytes()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{Checkpoint, Description};

    fn metadata() -> Metadata {
        let mut metadata = Metadata::default();
        for (key, value) in [
            ("general.architecture", Value::String("bitnet-b1.58".into())),
            ("a", Value::U64(7)),
            ("b", Value::U64(1 << 40)),
            ("c", Value::I64(-3)),
            ("d", Value::F64(0.5)),
            ("e", Value::Bool(true)),
            ("f", Value::Strings(vec!["x".into(), String::new(), "ä".into()])),
            ("g", Value::Floats(vec![1.0, -2.5])),
            ("h", Value::Ints(vec![1, -1])),
            ("i", Value::Ints(vec![1 << 40])),
        ] {
            metadata.entries.insert(key.into(), value);
        }
        metadata
    }

    fn plan(name: &str, dtype: DType, shape: &[usize]) -> TensorPlan {
        TensorPlan { name: name.into(), dtype, shape: shape.into() }
    }

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x.gguf");
        let plans = [plan("v", DType::F32, &[3]), plan("m", DType::F16, &[2, 5])];
        let mut writer = GgufWriter::create(&path, &metadata(), &plans, false).expect("a writer");
        let v: Vec<u8> = [1.0f32, 2.0, 3.0].iter().flat_map(|v| v.to_le_bytes()).collect();
        writer.write(&v[..5]).expect("room");
        assert!(!path.exists(), "the file appears when it is complete");
        writer.write(&v[5..]).expect("room");
        writer.write(&[7; 20]).expect("room");
        assert!(writer.write(&[0]).is_err(), "there is no third tensor");
        writer.finish().expect("complete");
        let checkpoint = Checkpoint::open(&path).expect("a GGUF file");
        let Description::Gguf { version: 3, metadata: read } = checkpoint.description() else { panic!("no GGUF") };
        assert_eq!(*read, metadata());
        assert_eq!(checkpoint.vector("v", 3).expect("v"), [1.0, 2.0, 3.0]);
        assert_eq!(*checkpoint.data("m").expect("m"), [7; 20]);
        assert!(GgufWriter::create(&path, &metadata(), &plans, false).is_err(), "it is not overwritten");
    }

    #[test]
    fn incomplete_files_vanish() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x.gguf");
        let plans = [plan("v", DType::F32, &[3])];
        let mut writer = GgufWriter::create(&path, &metadata(), &plans, false).expect("a writer");
        writer.write(&[0; 8]).expect("room");
        let error = writer.finish().expect_err("four bytes are missing").to_string();
        assert!(error.contains("`v`") && error.contains("8 of its 12"), "{error}");
        assert_eq!(fs::read_dir(folder.path()).expect("the folder").count(), 0);
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let path = Path::new("never.gguf");
        let error = GgufWriter::create(path, &metadata(), &[plan("w", DType::Tq2_0, &[4, 100])], true);
        assert!(error.expect_err("100 is no multiple of 256").to_string().contains("TQ2_0"));
    }
}
