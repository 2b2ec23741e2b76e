//! Ternary matrices in the memory of a device.

use bytemuck::{Pod, Zeroable};
use sterna_cpu::TernaryMatrix;

use super::GpuError;
use super::device::{Gpu, Memory};

/// `Linear` of the shaders.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Params {
    groups: u32,
    first_group: u32,
    tiles: u32,
    stride: u32,
    scale: [f32; 4],
}

/// Some groups of 16 rows of a matrix: what one kernel can see.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) weights: Memory,
    pub(super) params: Memory,
    pub(super) groups: usize,
}

/// A matrix in layout T16, in as few pieces as the device's limits allow.
#[derive(Debug)]
pub(super) struct GpuLinear {
    pub(super) pieces: Vec<Piece>,
    /// Multiply-adds for one token.
    pub(super) work: u64,
}

impl GpuLinear {
    /// Uploads `matrix`, whose layout is T16. `scale` are the scales of the parts it was joined from, `stride` is the
    /// distance between rows of its output, in the elements that the kernel writes.
    pub(super) fn upload(
        gpu: &Gpu,
        what: &str,
        matrix: &TernaryMatrix,
        scale: [f32; 4],
        stride: usize,
    ) -> Result<GpuLinear, GpuError> {
        let group_bytes = matrix.group_bytes();
        let at_once = (gpu.max_binding() as usize / group_bytes).max(1);
        let pieces = matrix
            .tiles()
            .chunks(at_once * group_bytes)
            .enumerate()
            .map(|(i, bytes)| {
                let groups = bytes.len() / group_bytes;
                let params = Params {
                    groups: groups as u32,
                    first_group: (i * at_once) as u32,
                    tiles: matrix.col_tiles() as u32,
                    stride: stride as u32,
                    scale,
                };
                Ok(Piece { weights: gpu.upload(what, bytes)?, params: gpu.uniform(what, &params)?, groups })
            })
            .collect::<Result<_, GpuError>>()?;
        Ok(GpuLinear { pieces, work: (matrix.rows() * matrix.cols()) as u64 })
    }

    /// Bytes of the weights.
    pub(super) fn bytes(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.weights.size()).sum()
    }
}
