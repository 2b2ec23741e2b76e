//! A checkpoint of any kind, written again as a GGUF file in another encoding.
//!
//! `plan` lists the tensors of the new file and what each is made of, `metadata` says what belongs in its header. Tensors are
//! written as a stream: no more than some hundred rows are in memory. The ternary values stay what they are, and so do
//! their scales, so that the logits of the new file are those of the old one, bit for bit, unless the head is encoded anew.

mod metadata;
mod plan;
mod verify;

use std::ops::{ControlFlow, Range};
use std::path::Path;

use sterna_cpu::dense::{DenseMatrix, DenseType, dequantize_row};
use sterna_cpu::head::Int8Rows;
use sterna_cpu::{Isa, Pool};

use crate::engine::Error;
use crate::format::{
    CompleteFile, DType, DenseEncoding, DenseTensor, Encoding, FormatError, GgufWriter, Metadata, TensorPlan,
};
use crate::graph::{Graph, LinearSpec, RowOrder};
use crate::model::ActivationKind;
use plan::{DensePart, Job, Planned};
pub use verify::{Comparison, compare};

/// How a checkpoint is written again.
#[derive(Clone, Copy, Debug)]
pub struct ConvertOptions {
    /// The encoding of the ternary matrices.
    pub encoding: Encoding,
    /// The encoding of embedding and head; `None` for that which they have.
    pub head: Option<DenseEncoding>,
}

/// A conversion that is possible.
#[derive(Debug)]
pub struct Conversion<'a> {
    graph: &'a Graph,
    options: ConvertOptions,
    metadata: Metadata,
    tensors: Vec<Planned>,
    isa: Isa,
}

impl<'a> Conversion<'a> {
    /// Lays out the new file. Reads the scales of the matrices for encodings that round them, and nothing else of the weights.
    ///
    /// # Errors
    /// If a matrix does not fit the encoding, a scale cannot be told, or the metadata cannot be expressed.
    pub fn new(graph: &'a Graph, options: ConvertOptions) -> Result<Conversion<'a>, Error> {
        let options = ConvertOptions { encoding: plan::fitting(graph, options.encoding)?, ..options };
        let tensors = plan::tensors(graph, options)?;
        let metadata = metadata::of(graph, options)?;
        Ok(Conversion {
            graph,
            options,
            metadata,
            tensors,
            isa: Isa::from_env().map_err(crate::backend::BackendError::from)?,
        })
    }

    /// Bytes of all tensors of the new file.
    pub fn bytes(&self) -> u64 {
        self.tensors.iter().filter_map(|tensor| tensor.plan.nbytes()).sum()
    }

    /// Whether the new file computes the same logits, bit for bit.
    pub fn is_exact(&self) -> bool {
        let same = |name: &str| {
            let before = self.graph.checkpoint().tensor(name).map(|tensor| tensor.dtype);
            self.options.head.is_none_or(|head| Some(head.dtype()) == before)
        };
        same(self.graph.embedding_name()) && same(self.graph.head_name())
    }

    /// Writes the file, under a temporary name in the folder of `path`; [`CompleteFile::keep`] gives it its own. `progress` is
    /// told of bytes as they are written and may stop it. Nothing is left behind if it does not succeed.
    ///
    /// # Errors
    /// If `path` exists and `overwrite` is not set, the source is damaged, or the disk fails.
    pub fn write(
        &self,
        path: &Path,
        overwrite: bool,
        progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<CompleteFile, Error> {
        let plans: Vec<TensorPlan> = self.tensors.iter().map(|tensor| tensor.plan.clone()).collect();
        let mut writer = GgufWriter::create(path, &self.metadata, &plans, overwrite)?;
        let graph = self.graph;
        for Planned { job, .. } in &self.tensors {
            match job {
                Job::Floats(values) => writer.write(bytemuck::cast_slice(values))?,
                Job::Norm { name, len } => writer.write(bytemuck::cast_slice(&self.graph.norm(name, *len)?))?,
                Job::Ternary { spec, order } if graph.config().activations != ActivationKind::Int8 => {
                    self.grouped(&mut writer, spec, *order, progress)?;
                }
                Job::Ternary { spec, order } => self.ternary(&mut writer, spec, *order, progress)?,
                Job::Dequantized { name } => self.dequantized(&mut writer, name, progress)?,
                Job::Copy { name } => writer.write(&graph.checkpoint().data(name)?)?,
                Job::Dense { name, part } => self.dense(&mut writer, name, *part, progress)?,
            }
        }
        let file = writer.complete()?;
        file.sync()?;
        Ok(file)
    }

    /// The rows of a ternary matrix, in `order`.
    fn ternary(
        &self,
        writer: &mut GgufWriter,
        spec: &LinearSpec,
        order: RowOrder,
        progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<(), FormatError> {
        let source = self.graph.checkpoint().ternary(&spec.name, spec.rows, spec.cols)?;
        let (encoding, cols) = (self.options.encoding, spec.cols);
        let part = |rows: Range<usize>| {
            let mut weights = vec![0i8; rows.len() * cols];
            for (row, out) in rows.zip(weights.chunks_exact_mut(cols)) {
                source.read_row(spec.order.source_row(order.kernel_row(row)), out)?;
            }
            let mut bytes = Vec::with_capacity(weights.len() / 3);
            encoding.encode(&weights, cols, source.scale(), &mut bytes);
            Ok(bytes)
        };
        write_rows(writer, spec.rows, part, progress)?;
        let mut tail = Vec::new();
        encoding.finish(source.scale(), &mut tail);
        writer.write(&tail)?;
        self.graph.checkpoint().release(&spec.name);
        Ok(())
    }

    /// The rows of a ternary matrix with scales of groups, in `order`.
    fn grouped(
        &self,
        writer: &mut GgufWriter,
        spec: &LinearSpec,
        order: RowOrder,
        progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<(), FormatError> {
        let source = self.graph.checkpoint().grouped_ternary(&spec.name, spec.rows, spec.cols)?;
        let (encoding, cols) = (self.options.encoding, spec.cols);
        // `plan::fitting` leaves encodings that have groups.
        let group = encoding.group().unwrap_or(cols);
        let pieces = cols.div_ceil(group);
        let part = |rows: Range<usize>| {
            let (mut weights, mut scales) = (vec![0i8; rows.len() * cols], vec![0.0; rows.len() * pieces]);
            let out = weights.chunks_exact_mut(cols).zip(scales.chunks_exact_mut(pieces));
            for (row, (values, scales)) in rows.zip(out) {
                source.read_row(spec.order.source_row(order.kernel_row(row)), group, values, scales)?;
            }
            let mut bytes = Vec::with_capacity(weights.len() / 3);
            encoding.encode_grouped(&weights, cols, &scales, &mut bytes);
            Ok(bytes)
        };
        write_rows(writer, spec.rows, part, progress)?;
        self.graph.checkpoint().release(&spec.name);
        Ok(())
    }

    /// The rows of a ternary embedding or head, in the encoding that was asked for.
    fn dequantized(
        &self,
        writer: &mut GgufWriter,
        name: &str,
        progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<(), FormatError> {
        let config = self.graph.config();
        let source = self.graph.checkpoint().grouped_ternary(name, config.vocab_size, config.hidden_size)?;
        // Only with an encoding there is such a job.
        let encoding = self.options.head.unwrap_or(DenseEncoding::F16);
        let group = source.group();
        let part = |row: usize| {
            let (mut values, mut scales) = (vec![0; source.cols()], vec![0.0; source.cols().div_ceil(group)]);
            source.read_row(row, group, &mut values, &mut scales)?;
            let of_groups = values.chunks(group).zip(&scales);
            let numbers: Vec<f32> =
                of_groups.flat_map(|(values, &scale)| values.iter().map(move |&v| f32::from(v) * scale)).collect();
            self.encode_row(name, row, encoding, &numbers)
        };
        writer.write_parts(source.rows(), part, progress)
    }

    /// A row of a dense matrix in an encoding.
    fn encode_row(
        &self,
        name: &str,
        row: usize,
        encoding: DenseEncoding,
        numbers: &[f32],
    ) -> Result<Vec<u8>, FormatError> {
        let mut bytes = Vec::new();
        encoding.encode(numbers, &mut bytes).map_err(|column| {
            let reason =
                format!("{} in row {row}, column {column}, is no number of {}", numbers[column], encoding.dtype());
            FormatError::header(self.graph.checkpoint().path(), format_args!("tensor `{name}`"), reason)
        })?;
        Ok(bytes)
    }

    /// The rows of a matrix that is not ternary, or what an int8 copy has of them.
    fn dense(
        &self,
        writer: &mut GgufWriter,
        name: &str,
        wanted: DensePart,
        progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<(), FormatError> {
        /// Rows that are made at once.
        const ROWS: usize = 256;
        let config = self.graph.config();
        let source = self.graph.checkpoint().dense(name, config.vocab_size, config.hidden_size)?;
        let part = |part: usize| {
            let rows = part * ROWS..source.rows.min((part + 1) * ROWS);
            let (ty, bytes) = self.dense_rows(&source, name, rows.clone())?;
            let matrix = DenseMatrix { ty, rows: rows.len(), cols: source.cols, bytes: &bytes };
            let copy = || Int8Rows::pack(&Pool::new(1), self.isa, matrix, |_| ());
            Ok(match wanted {
                DensePart::Rows => bytes,
                DensePart::CopyValues => bytemuck::cast_slice(copy().values()).to_vec(),
                DensePart::CopyBounds => bytemuck::cast_slice(copy().bounds()).to_vec(),
            })
        };
        writer.write_parts(source.rows.div_ceil(ROWS), part, progress)?;
        self.graph.checkpoint().release(name);
        Ok(())
    }

    /// Some rows of a dense matrix as the new file has them, and their type.
    fn dense_rows(
        &self,
        source: &DenseTensor,
        name: &str,
        rows: Range<usize>,
    ) -> Result<(DenseType, Vec<u8>), FormatError> {
        let encoding = self.options.head.and_then(|head| Some((head, DenseTensor::number_type(head.dtype())?)));
        let Some((encoding, ty)) = encoding.filter(|&(_, ty)| ty != source.ty) else {
            return Ok((source.ty, rows.flat_map(|row| source.row(row)).copied().collect()));
        };
        let (mut numbers, mut bytes) = (vec![0.0; source.cols], Vec::new());
        for row in rows {
            dequantize_row(self.isa, source.ty, source.row(row), &mut numbers);
            bytes.extend(self.encode_row(name, row, encoding, &numbers)?);
        }
        Ok((ty, bytes))
    }
}

/// Writes the rows of a ternary matrix, as many at a time as can be encoded apart from others.
fn write_rows(
    writer: &mut GgufWriter,
    rows: usize,
    encoded: impl Fn(Range<usize>) -> Result<Vec<u8>, FormatError> + Sync,
    progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<(), FormatError> {
    let part = |part: usize| {
        let first = part * Encoding::ROWS;
        encoded(first..rows.min(first + Encoding::ROWS))
    };
    writer.write_parts(rows.div_ceil(Encoding::ROWS), part, progress)
}

/// The type that the dense matrix `name` has in the new file.
fn dense_dtype(graph: &Graph, options: ConvertOptions, name: &str) -> DType {
    let before = graph.checkpoint().tensor(name).map_or(DType::F16, |tensor| tensor.dtype);
    options.head.map_or(before, DenseEncoding::dtype)
}
