//! An open checkpoint: its description, its list of tensors, and access to their contents.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sterna_cpu::dense::DenseType;
use sterna_cpu::head::Int8Rows;
use sterna_cpu::{SharedBytes, SharedError};

use super::dense::DenseTensor;
use super::dtype::DType;
use super::floats::Float;
use super::grouped::GroupedTensor;
use super::i2_s::I2sLayout;
use super::kernel_config::KernelConfig;
use super::metadata::Metadata;
use super::storage::{Storage, TensorData};
use super::ternary::{self, TernaryTensor};
use super::{FormatError, TensorPlan, gguf, gguf_writer, huggingface, own_types, tensor_list};

/// What a tensor is, without its contents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// The name, as the file has it.
    pub name: String,
    /// How its elements are stored.
    pub dtype: DType,
    /// Its dimensions as stored, outermost first: `[rows, columns]` of a matrix. (Packed `U8` matrices of Hugging
    /// Face have a quarter of the rows.)
    pub shape: Vec<usize>,
    /// Its length in bytes.
    pub nbytes: u64,
    /// Which of the checkpoint's files holds it.
    pub(super) source: usize,
    /// Where in that file it begins.
    pub(super) offset: u64,
}

/// One file that holds tensors.
pub(super) struct Source {
    /// The path, for messages.
    pub(super) path: Arc<Path>,
    /// The bytes.
    pub(super) storage: Arc<Storage>,
}

/// What a checkpoint says about its model.
#[derive(Clone, Debug, PartialEq)]
pub enum Description {
    /// A GGUF file.
    Gguf {
        /// Version of the format, 2 or 3.
        version: u32,
        /// The key-value pairs.
        metadata: Metadata,
    },
    /// A Hugging Face directory.
    HuggingFace {
        /// The contents of `config.json`.
        config: serde_json::Value,
    },
}

/// What the user has to say where a file does not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenOptions {
    /// The layout of I2_S tensors.
    pub i2s_layout: I2sLayout,
    /// How the matrices of TL1 and TL2 tensors are cut.
    pub kernel_config: KernelConfig,
    /// Matrices that could be read where the file is mapped are copied to memory, as far as the CPU multiplies them, if all of
    /// them together take at most so many bytes.
    pub copy_up_to: u64,
}

/// A checkpoint, open for reading. To share it, put it in an [`Arc`]; what it hands out does not borrow from it.
pub struct Checkpoint {
    path: PathBuf,
    options: OpenOptions,
    description: Description,
    sources: Vec<Source>,
    tensors: Vec<TensorInfo>,
    /// Indices of `tensors`, sorted by name.
    by_name: Vec<usize>,
    side_files: Option<huggingface::Files>,
    /// Whether what could be read in the file is copied.
    copies: bool,
}

impl Checkpoint {
    /// Opens a GGUF file or a Hugging Face directory. A `.safetensors` file or a `config.json` stands for the
    /// directory that it is in; a `.safetensors` file that is not part of the directory's model is used in place of
    /// it, with the directory's `config.json`.
    ///
    /// # Errors
    /// If the path holds no checkpoint, or its headers are damaged.
    pub fn open(path: &Path) -> Result<Checkpoint, FormatError> {
        Self::open_with(path, OpenOptions::default())
    }

    /// As [`open`](Self::open), with options.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_with(path: &Path, options: OpenOptions) -> Result<Checkpoint, FormatError> {
        let kind = std::fs::metadata(path).map_err(FormatError::io(path))?;
        if kind.is_dir() {
            return Self::open_directory(path, path, None, options);
        }
        // Opening a pipe would wait for its writer.
        if !kind.is_file() {
            return Err(FormatError::not_a_checkpoint(path, huggingface::EXPECTED));
        }
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if name.ends_with(".safetensors") {
            return Self::open_directory(path, directory, Some(name), options);
        }
        if name == huggingface::CONFIG {
            return Self::open_directory(path, directory, None, options);
        }
        let storage = Storage::map(path)?;
        if !storage.starts_with(gguf::MAGIC) {
            let reason = format!("the file does not begin with `GGUF`; {}", huggingface::EXPECTED);
            return Err(FormatError::not_a_checkpoint(path, reason));
        }
        let header = gguf::read(path, &storage)?;
        let source = Source { path: path.into(), storage: Arc::new(storage) };
        let description = Description::Gguf { version: header.version, metadata: header.metadata };
        Self::new(path, options, description, vec![source], header.tensors, None)
    }

    /// Opens a Hugging Face directory whose files are embedded in the program: `files` are names and contents.
    /// `name` stands for the path in messages.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn from_static(name: &str, files: &[(&str, &'static [u8])]) -> Result<Checkpoint, FormatError> {
        let files: BTreeMap<String, &'static [u8]> =
            files.iter().map(|&(name, bytes)| (name.to_owned(), bytes)).collect();
        let root = Path::new(name);
        Self::from_files(root, root, huggingface::Files::Static(files), None, OpenOptions::default())
    }

    /// A checkpoint that has the header of a GGUF file and nothing behind it: enough to lay out a graph and to count bytes,
    /// but its tensors cannot be read. `name` stands for the path in messages.
    ///
    /// # Errors
    /// If two tensors have the same name, or one cannot be in such a file.
    pub fn without_data(name: &str, metadata: Metadata, plans: &[TensorPlan]) -> Result<Checkpoint, FormatError> {
        let path = Path::new(name);
        let info = |plan: &TensorPlan| {
            let reason = || FormatError::header(path, format_args!("tensor `{}`", plan.name), "it has no such type");
            let nbytes = plan.nbytes().ok_or_else(reason)?;
            let TensorPlan { name, dtype, shape } = plan.clone();
            Ok(TensorInfo { name, dtype, shape, nbytes, source: 0, offset: 0 })
        };
        let tensors = plans.iter().map(info).collect::<Result<_, FormatError>>()?;
        let source = Source { path: path.into(), storage: Arc::new(Storage::Static(&[])) };
        let description = Description::Gguf { version: gguf_writer::VERSION, metadata };
        Self::new(path, OpenOptions::default(), description, vec![source], tensors, None)
    }

    fn open_directory(
        path: &Path,
        directory: &Path,
        only: Option<&str>,
        options: OpenOptions,
    ) -> Result<Checkpoint, FormatError> {
        let files = huggingface::Files::Directory(directory.to_path_buf());
        Self::from_files(path, directory, files, only, options)
    }

    fn from_files(
        path: &Path,
        root: &Path,
        files: huggingface::Files,
        only: Option<&str>,
        options: OpenOptions,
    ) -> Result<Checkpoint, FormatError> {
        let contents = huggingface::read(root, &files, only)?;
        let description = Description::HuggingFace { config: contents.config };
        Self::new(path, options, description, contents.sources, contents.tensors, Some(files))
    }

    fn new(
        path: &Path,
        options: OpenOptions,
        description: Description,
        sources: Vec<Source>,
        tensors: Vec<TensorInfo>,
        side_files: Option<huggingface::Files>,
    ) -> Result<Checkpoint, FormatError> {
        let by_name = tensor_list::index_names(&tensors).map_err(|second| {
            let TensorInfo { name, source, .. } = &tensors[second];
            FormatError::Duplicate { file: sources[*source].path.to_path_buf(), kind: "tensor", name: name.clone() }
        })?;
        tracing::debug!(path = %path.display(), tensors = tensors.len(), files = sources.len(), "opened checkpoint");
        let own_bytes: u64 = tensors.iter().filter(|t| own_types::is_own(t.dtype)).map(|t| t.nbytes).sum();
        let (path, copies) = (path.to_path_buf(), own_bytes > 0 && own_bytes <= options.copy_up_to);
        Ok(Checkpoint { path, options, description, sources, tensors, by_name, side_files, copies })
    }

    /// The path that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the checkpoint says about its model.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// The options it was opened with.
    pub fn options(&self) -> &OpenOptions {
        &self.options
    }

    /// Whether matrices that could be read where the file is mapped are to be copied to memory.
    pub fn copies(&self) -> bool {
        self.copies
    }

    /// The contents of a side file of a Hugging Face directory, such as `tokenizer.json`; `None` if there is no such
    /// file, or if the checkpoint is a GGUF file.
    ///
    /// # Errors
    /// If the file cannot be read, has more than 256 MiB, or is not in the directory itself.
    pub fn file(&self, name: &str) -> Result<Option<TensorData>, FormatError> {
        self.side_files.as_ref().map_or(Ok(None), |files| files.read(name))
    }

    /// All tensors, file by file in the order of their bytes.
    pub fn tensors(&self) -> impl Iterator<Item = &TensorInfo> {
        self.tensors.iter()
    }

    /// The tensor of that name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        let found = self.by_name.binary_search_by(|&index| self.tensors[index].name.as_str().cmp(name)).ok()?;
        Some(&self.tensors[self.by_name[found]])
    }

    /// The bytes of a tensor, not copied.
    ///
    /// # Errors
    /// If there is no such tensor.
    pub fn data(&self, name: &str) -> Result<TensorData, FormatError> {
        self.data_of(self.require(name)?)
    }

    /// Says that the bytes of a tensor are not needed for now, so that a mapped file does not count as memory in use. They
    /// can still be read.
    pub fn release(&self, name: &str) {
        if let Ok(data) = self.data(name) {
            data.release(0..data.len());
        }
    }

    /// A vector of `len` floats, such as the weights of a norm, from `F32`, `F16` or `BF16`.
    ///
    /// # Errors
    /// If there is no such tensor, if its type or shape is another one, or if an element is not finite.
    pub fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>, FormatError> {
        let info = self.require(name)?;
        self.require_shape(info, &[len])?;
        let float = Float::of(info.dtype).ok_or_else(|| self.wrong_type(info, "F32, F16 or BF16"))?;
        let mut values = vec![0.0; len];
        float.to_f32(&self.data_of(info)?, &mut values);
        match values.iter().position(|value| !value.is_finite()) {
            None => Ok(values),
            Some(index) => Err(FormatError::NotFinite {
                file: self.file_of(info).to_path_buf(),
                tensor: info.name.clone(),
                index,
                value: values[index],
            }),
        }
    }

    /// A matrix that is not ternary, as stored: the embedding or the head.
    ///
    /// # Errors
    /// If there is no such tensor, if its shape is not `[rows, cols]`, or if its type is none of `F32`, `F16`, `BF16`,
    /// `Q8_0`, `Q6_K`, `Q5_0`, `Q4_0`.
    pub fn dense(&self, name: &str, rows: usize, cols: usize) -> Result<DenseTensor, FormatError> {
        let ty = self.dense_type(name, rows, cols)?;
        Ok(DenseTensor { ty, rows, cols, data: self.data(name)? })
    }

    /// The number type of a matrix that is not ternary.
    ///
    /// # Errors
    /// As [`dense`](Self::dense).
    pub fn dense_type(&self, name: &str, rows: usize, cols: usize) -> Result<DenseType, FormatError> {
        let info = self.require(name)?;
        self.require_shape(info, &[rows, cols])?;
        DenseTensor::number_type(info.dtype).ok_or_else(|| {
            self.wrong_type(
                info,
                "F32, F16, BF16, Q8_0, Q6_K, Q5_0 or Q4_0 for a matrix that is not ternary; convert the model again \
                 with one of these for embedding and output",
            )
        })
    }

    /// An int8 copy of a dense matrix of `rows` × `cols`, whose rows and bounds are two tensors. Only the bounds are read.
    /// `None` if there are no such tensors.
    ///
    /// # Errors
    /// If one of the two is missing, has another type or shape, or holds a bound that can be none.
    pub fn int8_rows(
        &self,
        values: &str,
        bounds: &str,
        rows: usize,
        cols: usize,
    ) -> Result<Option<Int8Rows>, FormatError> {
        let Some(info) = self.tensor(values) else { return Ok(None) };
        self.require_shape(info, &[rows, Int8Rows::stride_of(cols)])?;
        if info.dtype != DType::I8 {
            return Err(self.wrong_type(info, "I8"));
        }
        let invalid = |what: &str, reason: String| {
            FormatError::header(self.file_of(info), format_args!("tensor `{what}`"), reason)
        };
        self.require_shape(self.require(bounds)?, &[rows, 4])?;
        let bytes = self.data(bounds)?;
        let float = Float::of(self.require(bounds)?.dtype).filter(|float| *float == Float::F32);
        let float = float.ok_or_else(|| invalid(bounds, "its type is not F32".into()))?;
        let mut numbers = vec![0.0; 4 * rows];
        float.to_f32(&bytes, &mut numbers);
        match Int8Rows::over(rows, cols, SharedBytes::new(self.data_of(info)?), numbers) {
            Ok(copy) => Ok(Some(copy)),
            // A file with another alignment: the copy is made anew.
            Err(SharedError::Alignment) => Ok(None),
            Err(error) => Err(invalid(bounds, error.to_string())),
        }
    }

    /// Checks that tensor `name` is there and a matrix or vector of the given shape, outermost dimension first. Packed
    /// matrices count with the rows that they hold.
    ///
    /// # Errors
    /// If there is no such tensor, or its shape is another one.
    pub fn check_shape(&self, name: &str, expected: &[usize]) -> Result<(), FormatError> {
        let info = self.require(name)?;
        let is_packed = info.dtype == DType::U8
            && matches!((info.shape[..].first(), expected), (Some(&packed), &[rows, cols])
                if info.shape[1..] == [cols] && packed.checked_mul(4) == Some(rows));
        if is_packed { Ok(()) } else { self.require_shape(info, expected) }
    }

    /// A ternary matrix of `rows` (output features) × `cols` (input features), with its scale.
    ///
    /// Reads what it takes to know the scale: a few bytes of T16, packed `U8` and I2_S tensors, the block scales of TQ1_0
    /// and TQ2_0, all of a matrix of floats.
    ///
    /// # Errors
    /// If there is no such tensor, if its shape or type is another one, if its scale is missing or not positive, if
    /// it has several scales, or if it is not ternary.
    pub fn ternary(&self, name: &str, rows: usize, cols: usize) -> Result<TernaryTensor, FormatError> {
        ternary::open(self, self.require(name)?, rows, cols)
    }

    /// A ternary matrix of `rows` (output features) × `cols` (input features) whose scales may belong to groups of columns.
    /// One with a single scale is a matrix of equal groups.
    ///
    /// # Errors
    /// As [`Checkpoint::ternary`], but for several scales.
    pub fn grouped_ternary(&self, name: &str, rows: usize, cols: usize) -> Result<GroupedTensor, FormatError> {
        ternary::open_grouped(self, self.require(name)?, rows, cols)
    }

    /// The path of the file that holds `info`.
    pub(super) fn file_of(&self, info: &TensorInfo) -> &Arc<Path> {
        &self.sources[info.source].path
    }

    /// The tensor of that name, or an error with similar names.
    pub(super) fn require(&self, name: &str) -> Result<&TensorInfo, FormatError> {
        self.tensor(name).ok_or_else(|| FormatError::MissingTensor {
            file: self.path.clone(),
            tensor: name.to_owned(),
            near: tensor_list::near_names(name, self.tensors.iter().map(|tensor| tensor.name.as_str())),
        })
    }

    /// Refuses a tensor of another shape than `expected`.
    pub(super) fn require_shape(&self, info: &TensorInfo, expected: &[usize]) -> Result<(), FormatError> {
        if info.shape == expected {
            return Ok(());
        }
        Err(FormatError::Shape {
            file: self.file_of(info).to_path_buf(),
            tensor: info.name.clone(),
            expected: expected.to_vec(),
            found: info.shape.clone(),
        })
    }

    /// The error for a tensor of another type than `expected`.
    pub(super) fn wrong_type(&self, info: &TensorInfo, expected: &'static str) -> FormatError {
        FormatError::Type {
            file: self.file_of(info).to_path_buf(),
            tensor: info.name.clone(),
            expected,
            found: info.dtype.to_string(),
        }
    }

    /// The bytes of `info`.
    pub(super) fn data_of(&self, info: &TensorInfo) -> Result<TensorData, FormatError> {
        let storage = &self.sources[info.source].storage;
        let range = usize::try_from(info.offset).ok().zip(usize::try_from(info.nbytes).ok());
        range
            .and_then(|(start, length)| TensorData::new(Arc::clone(storage), start..start.checked_add(length)?))
            .ok_or_else(|| FormatError::Truncated {
                file: self.file_of(info).to_path_buf(),
                what: format!("tensor `{}` at offset {}", info.name, info.offset),
                needed: info.nbytes,
                available: (storage.len() as u64).saturating_sub(info.offset),
            })
    }

    /// The float in a tensor of one element, `None` if there is no such tensor. It belongs to the weight `owner`.
    pub(super) fn scale_tensor(&self, name: &str, owner: &TensorInfo) -> Result<Option<f32>, FormatError> {
        let Some(info) = self.tensor(name) else { return Ok(None) };
        let float = Float::of(info.dtype).ok_or_else(|| self.wrong_type(info, "F32, F16 or BF16 for a scale"))?;
        let data = self.data_of(info)?;
        if data.len() == float.width() {
            return Ok(Some(float.get(&data, 0)));
        }
        let (first, other) = match data.len() {
            0 => return Err(FormatError::header(self.file_of(info), format_args!("tensor `{name}`"), "it is empty")),
            _ => (float.get(&data, 0), float.get(&data, 1)),
        };
        Err(FormatError::GroupScales {
            file: self.file_of(info).to_path_buf(),
            tensor: owner.name.clone(),
            first,
            other,
            row: 1,
        })
    }
}

impl fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Checkpoint({}, {} tensors)", self.path.display(), self.tensors.len())
    }
}
