//! Matrices that are not ternary: the embedding and the head.

use sterna_cpu::dense::{DenseMatrix, DenseType};

use super::dtype::DType;
use super::storage::TensorData;

/// A matrix that is not ternary, as stored, rows contiguous.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DenseTensor {
    /// Its number type.
    pub ty: DenseType,
    /// The number of rows.
    pub rows: usize,
    /// The length of a row; whole blocks of the number type.
    pub cols: usize,
    /// Its bytes.
    pub data: TensorData,
}

impl DenseTensor {
    /// The number type of a tensor type, if a dense matrix can have it.
    pub(crate) fn number_type(dtype: DType) -> Option<DenseType> {
        Some(match dtype {
            DType::F32 => DenseType::F32,
            DType::F16 => DenseType::F16,
            DType::Bf16 => DenseType::Bf16,
            DType::Q8_0 => DenseType::Q8_0,
            DType::Q6K => DenseType::Q6K,
            DType::Q5_0 => DenseType::Q5_0,
            DType::Q4_0 => DenseType::Q4_0,
            _ => return None,
        })
    }

    /// The bytes of row `row`.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, row: usize) -> &[u8] {
        // The checkpoint has checked that the bytes are those of `rows` rows.
        let bytes = self.data.len() / self.rows;
        &self.data[row * bytes..(row + 1) * bytes]
    }

    /// The matrix as the kernels take it.
    pub fn matrix(&self) -> DenseMatrix<'_> {
        DenseMatrix { ty: self.ty, rows: self.rows, cols: self.cols, bytes: &self.data }
    }
}
