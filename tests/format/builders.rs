//! Small GGUF and safetensors files, built in memory, right or wrong.

use sterna::Isa;
use sterna::format::{Checkpoint, FormatError};
use sterna_cpu::dense::dequantize_row;

/// A metadata value of a GGUF file, already encoded.
pub struct Encoded {
    kind: u32,
    bytes: Vec<u8>,
}

/// A string with its length.
pub fn gguf_string(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text].concat()
}

/// A `u32` value.
pub fn u32_value(value: u32) -> Encoded {
    Encoded { kind: 4, bytes: value.to_le_bytes().to_vec() }
}

/// A value of any type, from its bytes.
pub fn raw_value(kind: u32, bytes: &[u8]) -> Encoded {
    Encoded { kind, bytes: bytes.to_vec() }
}

/// An array of any type, from the number that it claims and the bytes of its elements.
pub fn array_value(kind: u32, count: u64, bytes: &[u8]) -> Encoded {
    let bytes = [&kind.to_le_bytes()[..], &count.to_le_bytes(), bytes].concat();
    Encoded { kind: 9, bytes }
}

/// An array of strings.
pub fn strings_value(strings: &[&[u8]]) -> Encoded {
    let bytes: Vec<u8> = strings.iter().flat_map(|text| gguf_string(text)).collect();
    array_value(8, strings.len() as u64, &bytes)
}

/// A tensor of a GGUF file: name, dimensions with the fastest first, type number, bytes.
pub struct GgufTensor {
    pub name: Vec<u8>,
    pub dims: Vec<u64>,
    pub kind: u32,
    pub data: Vec<u8>,
    /// Instead of the offset that follows from the tensors before.
    pub offset: Option<u64>,
}

/// A tensor whose offset follows from those before.
pub fn gguf_tensor(name: &str, dims: &[u64], kind: u32, data: &[u8]) -> GgufTensor {
    GgufTensor { name: name.into(), dims: dims.to_vec(), kind, data: data.to_vec(), offset: None }
}

/// A tensor in a layout of the kernels, which is bytes to others, and the keys that say what it is.
pub fn own_tensor(
    name: &str,
    kind: &str,
    rows: i64,
    cols: i64,
    data: &[u8],
) -> (GgufTensor, [(&'static str, Encoded); 3]) {
    let shape: Vec<u8> = [rows, cols].iter().flat_map(|dim| dim.to_le_bytes()).collect();
    let keys = [
        ("sterna.tensors.names", strings_value(&[name.as_bytes()])),
        ("sterna.tensors.types", strings_value(&[kind.as_bytes()])),
        ("sterna.tensors.shapes", array_value(11, 2, &shape)),
    ];
    (gguf_tensor(name, &[data.len() as u64], 24, data), keys)
}

/// A GGUF file. Fields of `None` are as they should be.
#[derive(Default)]
pub struct Gguf {
    pub version: Option<u32>,
    pub tensor_count: Option<u64>,
    pub pair_count: Option<u64>,
    pub pairs: Vec<(Vec<u8>, Encoded)>,
    pub tensors: Vec<GgufTensor>,
}

impl Gguf {
    /// A file of these tensors and the one key that every file has.
    pub fn of(tensors: Vec<GgufTensor>) -> Gguf {
        let architecture = raw_value(8, &gguf_string(b"bitnet-b1.58"));
        Gguf { pairs: vec![(b"general.architecture".to_vec(), architecture)], tensors, ..Gguf::default() }
    }

    /// The same with one more key.
    pub fn with(mut self, key: &str, value: Encoded) -> Gguf {
        self.pairs.push((key.into(), value));
        self
    }

    /// A file of an [`own_tensor`].
    pub fn of_own(name: &str, kind: &str, rows: i64, cols: i64, data: &[u8]) -> Gguf {
        let (tensor, keys) = own_tensor(name, kind, rows, cols, data);
        keys.into_iter().fold(Gguf::of(vec![tensor]), |file, (key, value)| file.with(key, value))
    }

    /// The bytes of the file.
    pub fn build(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.unwrap_or(3).to_le_bytes());
        out.extend(self.tensor_count.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        out.extend(self.pair_count.unwrap_or(self.pairs.len() as u64).to_le_bytes());
        for (key, value) in &self.pairs {
            out.extend(gguf_string(key));
            out.extend(value.kind.to_le_bytes());
            out.extend(&value.bytes);
        }
        let mut data = Vec::new();
        for tensor in &self.tensors {
            out.extend(gguf_string(&tensor.name));
            out.extend((tensor.dims.len() as u32).to_le_bytes());
            tensor.dims.iter().for_each(|dim| out.extend(dim.to_le_bytes()));
            out.extend(tensor.kind.to_le_bytes());
            out.extend(tensor.offset.unwrap_or(data.len() as u64).to_le_bytes());
            data.extend(&tensor.data);
            data.resize(data.len().next_multiple_of(32), 0);
        }
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend(data);
        out
    }
}

/// A safetensors file from its header and the bytes after it.
pub fn safetensors(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

/// A safetensors file of tensors: name, type, shape, bytes.
pub fn safetensors_of(tensors: &[(&str, &str, &[usize], &[u8])]) -> Vec<u8> {
    let mut entries = Vec::new();
    let mut all = Vec::new();
    for (name, dtype, shape, data) in tensors {
        let (start, end) = (all.len(), all.len() + data.len());
        entries.push(format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{start},{end}]}}"#));
        all.extend_from_slice(data);
    }
    safetensors(&format!("{{{}}}", entries.join(",")), &all)
}

/// A folder that vanishes with the value, holding these files.
pub fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        std::fs::write(folder.path().join(name), bytes).unwrap();
    }
    folder
}

/// Bytes of `f32`s.
pub fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Bytes of `f16`s.
pub fn f16_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|&value| half::f16::from_f32(value).to_le_bytes()).collect()
}

/// Opens the GGUF file of these bytes.
pub fn open_gguf(bytes: &[u8]) -> Result<Checkpoint, FormatError> {
    let folder = folder(&[("model.gguf", bytes)]);
    Checkpoint::open(&folder.path().join("model.gguf"))
}

/// Opens a folder with this `config.json` and `model.safetensors`.
pub fn open_folder(config: &str, model: &[u8]) -> Result<Checkpoint, FormatError> {
    let folder = folder(&[("config.json", config.as_bytes()), ("model.safetensors", model)]);
    Checkpoint::open(folder.path())
}

/// Reads every tensor in every way, with the shape that the file claims, whether or not that succeeds.
pub fn exercise(checkpoint: &Checkpoint) {
    for tensor in checkpoint.tensors() {
        checkpoint.data(&tensor.name).unwrap();
        match tensor.shape[..] {
            [len] => drop(checkpoint.vector(&tensor.name, len)),
            [rows, cols] => {
                // Rows without columns cost no bytes, nor do columns without rows, so there may be any number of them.
                let some = rows.min(64);
                let width = if rows == 0 { 0 } else { cols };
                if let Ok(dense) = checkpoint.dense(&tensor.name, rows, cols) {
                    let mut out = vec![0.0; width];
                    (0..some).for_each(|row| dequantize_row(Isa::Scalar, dense.ty, dense.row(row), &mut out));
                }
                for rows in [rows, rows.saturating_mul(4)] {
                    if let Ok(matrix) = checkpoint.ternary(&tensor.name, rows, cols) {
                        let mut out = vec![0; width];
                        (0..some).for_each(|row| drop(matrix.read_row(row, &mut out)));
                    }
                }
                if let Ok(matrix) = checkpoint.grouped_ternary(&tensor.name, rows, cols) {
                    let group = matrix.group();
                    let (mut out, mut scales) = (vec![0; width], vec![0.0; width.div_ceil(group)]);
                    (0..some).for_each(|row| drop(matrix.read_row(row, group, &mut out, &mut scales)));
                }
            }
            _ => {}
        }
    }
}
