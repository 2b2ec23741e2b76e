//! The head on the CPU: final norm, vocabulary matrix, and which of the logits are computed.

use sterna_cpu::dense::{self, DenseMatrix};
use sterna_cpu::grouped::{self, GroupedActivations, GroupedJob, GroupedMatrix, Precision, Rounding, ScaleType};
use sterna_cpu::head::{Candidates, Finder, Head, Int8Rows};
use sterna_cpu::norm::rms_norm;
use sterna_cpu::{AlignedBuf, Isa, Kernels, Pool, Readers};

use super::linears::grouped_kernels;
use crate::backend::outputs::{Entry, Outputs};
use crate::backend::{BackendError, Batch, HeadKind};
use crate::format::DenseTensor;
use crate::graph::{Graph, Vocabulary};

/// Final norm, vocabulary matrix and, for a head of floats, its int8 copy.
pub(super) struct CpuHead {
    isa: Isa,
    norm: Vec<f32>,
    eps: f32,
    vocab: usize,
    matrix: Matrix,
    finder: Finder,
    /// Inputs of the last pass, those of full outputs first.
    normed: AlignedBuf<f32>,
    /// Row of `normed` for each output.
    rows: Vec<usize>,
    scratch: AlignedBuf<f32>,
    /// Rows that were multiplied exactly since the file's pages were given back.
    touched: usize,
}

/// The vocabulary matrix.
enum Matrix {
    /// As the file has it, with its int8 copy.
    Dense { weight: DenseTensor, copy: Option<Int8Rows> },
    /// Ternary; all logits are computed, which reads less than a third of what an int8 copy takes.
    Ternary(Box<TernaryHead>),
}

/// A ternary vocabulary matrix, its kernels and its rounded input.
struct TernaryHead {
    kernels: Kernels,
    weight: GroupedMatrix,
    input: GroupedActivations,
}

impl Matrix {
    /// The int8 copy, if there is one.
    fn copy(&self) -> Option<&Int8Rows> {
        match self {
            Matrix::Dense { copy, .. } => copy.as_ref(),
            Matrix::Ternary(_) => None,
        }
    }

    /// All logits, `[tokens, vocab]`, of the normalised rows `x`.
    fn logits(&mut self, pool: &Pool, isa: Isa, x: &[f32], scratch: &mut AlignedBuf<f32>, out: &mut [f32]) {
        match self {
            Matrix::Dense { weight, .. } => dense::logits(pool, isa, weight.matrix(), x, scratch, out),
            Matrix::Ternary(head) => {
                let TernaryHead { kernels, weight, input } = &mut **head;
                let rounding = Rounding { group: weight.group(), precision: Precision::Float };
                input.quantize(pool, kernels, x, weight.cols(), rounding, None);
                grouped::linear(pool, kernels, input, &mut [GroupedJob { weight, out, add: false }]);
            }
        }
    }
}

/// Rows of the file that may stay in memory: the system maps some 64 KiB around each.
const TOUCHED_ROWS: usize = 128;

impl CpuHead {
    /// Reads the head of `graph` and, unless the exact one is asked for, makes the copy or takes that of the file.
    pub(super) fn build(
        pool: &Pool,
        kernels: &Kernels,
        kind: HeadKind,
        graph: &Graph,
    ) -> Result<CpuHead, BackendError> {
        let isa = kernels.isa();
        let matrix = match graph.head_matrix()? {
            Vocabulary::Ternary(tensor) => {
                let (rows, group) = (tensor.rows(), tensor.group().min(Graph::MAX_GROUP));
                let weight = tensor.pack(group, Readers { pool, before: 0, all: rows }, None)?;
                let (kernels, input) = (grouped_kernels(kernels), GroupedActivations::default());
                Matrix::Ternary(Box::new(TernaryHead { kernels, weight, input }))
            }
            Vocabulary::Dense(weight) => {
                let copy = match kind == HeadKind::Int8 && Int8Rows::suits(weight.ty) {
                    false => None,
                    true => Some(match graph.head_copy()? {
                        Some(copy) if graph.checkpoint().copies() => copy.copied(pool),
                        Some(copy) => copy,
                        None => Int8Rows::pack(pool, isa, weight.matrix(), |range| weight.data.release(range)),
                    }),
                };
                Matrix::Dense { weight, copy }
            }
        };
        Ok(CpuHead {
            isa,
            norm: graph.final_norm()?,
            eps: graph.config().rms_norm_eps,
            vocab: graph.config().vocab_size,
            matrix,
            finder: Finder::default(),
            normed: AlignedBuf::default(),
            rows: Vec::new(),
            scratch: AlignedBuf::default(),
            touched: 0,
        })
    }

    /// The outputs of `batch`, whose rows of the hidden state are `hidden`.
    pub(super) fn forward(&mut self, pool: &Pool, batch: &Batch<'_>, hidden: &[f32], outputs: &mut Outputs) {
        let (vocab, width) = (self.vocab, self.norm.len());
        let has_copy = self.matrix.copy().is_some();
        let wanted = || batch.outputs().map(|(row, best)| (row, best.filter(|best| has_copy && best.is_few(vocab))));
        let full = wanted().filter(|(_, best)| best.is_none()).count();
        outputs.clear(vocab);
        self.rows.clear();
        let mut best = 0;
        for (output, (_, wanted)) in wanted().enumerate() {
            if wanted.is_some() {
                outputs.push(Entry::Best(best));
                self.rows.push(full + best);
                best += 1;
            } else {
                outputs.push(Entry::Full(output - best));
                self.rows.push(output - best);
            }
        }
        self.normed.resize(self.rows.len() * width);
        for ((row, _), &to) in wanted().zip(&self.rows) {
            let normed = &mut self.normed[to * width..][..width];
            rms_norm(self.isa, &hidden[row * width..][..width], &self.norm, self.eps, normed);
        }
        let (for_full, for_best) = self.normed.split_at(full * width);
        outputs.full.resize(full * vocab);
        if full > 0 {
            self.matrix.logits(pool, self.isa, for_full, &mut self.scratch, &mut outputs.full);
        }
        let Matrix::Dense { weight, copy: Some(copy) } = &self.matrix else { return };
        if best == 0 {
            return;
        }
        let head = Head { pool, isa: self.isa, matrix: weight.matrix(), copy };
        if outputs.candidates.len() < best {
            outputs.candidates.resize_with(best, Candidates::default);
        }
        self.finder.bound(head, for_best.chunks_exact(width));
        let wanted = wanted().enumerate().filter_map(|(output, (_, best))| Some((output, best?)));
        for ((token, x), (output, wanted)) in for_best.chunks_exact(width).enumerate().zip(wanted) {
            if self.finder.best(head, token, x, &wanted, &mut outputs.candidates[token]) {
                self.touched += outputs.candidates[token].ids.len();
            } else {
                all(pool, self.isa, head.matrix, x, &mut self.scratch, outputs.make_full(output));
            }
        }
        if self.touched > TOUCHED_ROWS {
            weight.data.release(0..weight.data.len());
            self.touched = 0;
        }
    }

    /// Puts all logits in the place of output `output` of the last pass.
    pub(super) fn all_logits(&mut self, pool: &Pool, output: usize, outputs: &mut Outputs) {
        let width = self.norm.len();
        let x = &self.normed[self.rows[output] * width..][..width];
        tracing::debug!("the best logits were not enough: computing all");
        self.matrix.logits(pool, self.isa, x, &mut self.scratch, outputs.make_full(output));
    }

    /// Bytes that the head of `graph` will take: those that are read for a token.
    pub(super) fn bytes_of(kind: HeadKind, graph: &Graph) -> Result<u64, BackendError> {
        let (rows, cols) = (graph.config().vocab_size, graph.config().hidden_size);
        if graph.head_is_ternary() {
            return Ok(GroupedMatrix::bytes_of(rows, cols, Graph::MAX_GROUP, ScaleType::F16) as u64);
        }
        let ty = graph.head_type()?;
        let bytes = match kind == HeadKind::Int8 && Int8Rows::suits(ty) {
            true => Int8Rows::bytes_of(rows, cols),
            // A matrix whose rows are not whole blocks cannot be in a file.
            false => rows * ty.row_bytes(cols).unwrap_or(0),
        };
        Ok(bytes as u64)
    }

    /// Bytes that are read for a token.
    pub(super) fn bytes_read(&self) -> u64 {
        let bytes = match &self.matrix {
            Matrix::Dense { weight, copy } => copy.as_ref().map_or(weight.data.len(), Int8Rows::bytes),
            Matrix::Ternary(head) => head.weight.bytes(),
        };
        bytes as u64
    }
}

/// All logits of one token.
fn all(pool: &Pool, isa: Isa, matrix: DenseMatrix<'_>, x: &[f32], scratch: &mut AlignedBuf<f32>, out: &mut [f32]) {
    tracing::debug!("the best logits were not enough: computing all");
    dense::logits(pool, isa, matrix, x, scratch, out);
}
