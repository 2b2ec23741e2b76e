//! Rows of the embedding.

use sterna_cpu::{Isa, dense};

use crate::backend::BackendError;
use crate::format::{DenseTensor, GroupedTensor};
use crate::graph::Vocabulary;

/// The embedding, read from the file row by row.
pub(super) enum Embedding {
    /// Numbers of some type.
    Dense(DenseTensor),
    /// Ternary rows, with memory for the values and the scales of one.
    Ternary { tensor: GroupedTensor, values: Vec<i8>, scales: Vec<f32> },
}

impl Embedding {
    pub(super) fn new(matrix: Vocabulary) -> Embedding {
        match matrix {
            Vocabulary::Dense(tensor) => Embedding::Dense(tensor),
            Vocabulary::Ternary(tensor) => Embedding::Ternary {
                values: vec![0; tensor.cols()],
                scales: vec![0.0; tensor.cols().div_ceil(tensor.group())],
                tensor,
            },
        }
    }

    /// Reads the row of token `id` to `out`.
    pub(super) fn read(&mut self, isa: Isa, id: usize, out: &mut [f32]) -> Result<(), BackendError> {
        match self {
            Embedding::Dense(tensor) => dense::dequantize_row(isa, tensor.ty, tensor.row(id), out),
            Embedding::Ternary { tensor, values, scales } => {
                let group = tensor.group();
                tensor.read_row(id, group, values, scales)?;
                for ((out, values), scale) in out.chunks_mut(group).zip(values.chunks(group)).zip(scales) {
                    out.iter_mut().zip(values).for_each(|(out, &value)| *out = f32::from(value) * *scale);
                }
            }
        }
        Ok(())
    }
}
