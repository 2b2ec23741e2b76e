//! Logits by all the exact rows, and the best of them.

use wgpu::{BindGroup, BufferUsages};

use super::GpuError;
use super::best::{FOUND, QUESTION, can_ask, candidates, question};
use super::device::{Gpu, Memory};
use super::head::Asked;
use super::kernels::{CHUNKS, FEW_TOKENS, Kernel};
use super::record::{Queue, Recorder, grid};
use super::rows::DenseRows;
use crate::backend::Best;
use crate::backend::outputs::Outputs;

/// Logits of a submission take at most this many bytes.
const LOGITS_BYTES: u64 = 64 << 20;

/// Rows of a workgroup.
const ROWS: usize = 4;

/// Buffers for some outputs, and what is bound to them.
#[derive(Debug)]
pub(super) struct ExactLogits {
    /// Outputs at a time.
    pub(super) outputs: usize,
    vocab: usize,
    /// Logits that are searched together.
    part: usize,
    asked: Memory,
    logits: Memory,
    found: Memory,
    readback: Memory,
    multiply: Vec<BindGroup>,
    best: BindGroup,
    /// Seen by kernels only; it counts as held as long as it is bound.
    _vocabulary: Memory,
}

/// What is wanted of an output, if the kernel can tell the best; else all its logits are.
fn best_of<'a>(&(_, best): &Asked<'a>) -> Option<Best<'a>> {
    best.filter(can_ask)
}

impl ExactLogits {
    /// Buffers for up to `outputs` outputs at a time, whose inputs are `range` of `inputs`.
    pub(super) fn new(
        queue: &Queue,
        rows: &DenseRows,
        inputs: &Memory,
        range: &Memory,
        outputs: usize,
    ) -> Result<ExactLogits, GpuError> {
        let (gpu, programs) = (queue.gpu(), &queue.programs);
        let outputs = at_once(gpu, rows.vocab).min(outputs);
        let part = rows.vocab.div_ceil(CHUNKS).max(1);
        let (logits_bytes, found_bytes) = ((outputs * rows.vocab * 4) as u64, (outputs * FOUND * 4) as u64);
        let logits = gpu.memory("logits", logits_bytes)?;
        let asked = gpu.memory("wanted logits", (outputs * QUESTION * 4) as u64)?;
        let found = gpu.memory("the best logits", found_bytes)?;
        let reads = BufferUsages::MAP_READ | BufferUsages::COPY_DST;
        let readback = gpu.buffer("logits to be read", logits_bytes + found_bytes, reads)?;
        let vocabulary = gpu.uniform("the vocabulary", &[rows.vocab as u32, part as u32])?;
        let multiply = rows.pieces.iter().map(|piece| {
            programs.bind(Kernel::Head(rows.ty, 1), &[&piece.for_head, range, &piece.memory, inputs, &logits])
        });
        Ok(ExactLogits {
            outputs,
            vocab: rows.vocab,
            part,
            multiply: multiply.collect::<Result<_, _>>()?,
            best: programs.bind(Kernel::Best, &[&vocabulary, &logits, &asked, &found])?,
            asked,
            logits,
            found,
            readback,
            _vocabulary: vocabulary,
        })
    }

    /// Says what is wanted, before the submission.
    pub(super) fn ask(&self, queue: &mut Queue, group: &[Asked<'_>]) {
        if group.iter().any(|asked| best_of(asked).is_some()) {
            let questions: Vec<u32> = group.iter().flat_map(|asked| question(best_of(asked))).collect();
            queue.write(&self.asked, bytemuck::cast_slice(&questions));
        }
    }

    /// Records the logits of a group and, where they are wanted, the best of them.
    pub(super) fn record(
        &self,
        recorder: &mut Recorder<'_>,
        rows: &DenseRows,
        group: &[Asked<'_>],
    ) -> Result<(), GpuError> {
        let at_once = match group.len() {
            1 => 1,
            2..=4 => 4,
            _ => FEW_TOKENS,
        };
        for (piece, bound) in rows.pieces.iter().zip(&self.multiply) {
            let mut grid = grid(piece.rows.div_ceil(ROWS));
            grid[2] = group.len().div_ceil(at_once) as u32;
            let bytes = piece.memory.size() * u64::from(grid[2]);
            recorder.dispatch(Kernel::Head(rows.ty, at_once as u32), bound, grid, bytes)?;
        }
        if group.iter().any(|asked| best_of(asked).is_some()) {
            let bytes = (group.len() * self.vocab * 4) as u64;
            recorder.dispatch(Kernel::Best, &self.best, [CHUNKS as u32, group.len() as u32, 1], bytes)?;
        }
        Ok(())
    }

    /// Hands over what was recorded and puts the answers into `out`: all logits or the best. Outputs of which the best
    /// say too little go to `unclear`.
    pub(super) fn finish(
        &self,
        mut recorder: Recorder<'_>,
        group: &[Asked<'_>],
        out: &mut Outputs,
        unclear: &mut Vec<usize>,
    ) -> Result<(), GpuError> {
        let mut size = 0;
        for (i, asked) in group.iter().enumerate() {
            let (from, words) =
                if best_of(asked).is_some() { (&self.found, FOUND) } else { (&self.logits, self.vocab) };
            let bytes = 4 * words as u64;
            recorder.copy(from, i as u64 * bytes, &self.readback, size, bytes);
            size += bytes;
        }
        recorder.read(&self.readback, size, |bytes| {
            let mut words = bytemuck::cast_slice::<u8, u32>(bytes);
            for asked in group {
                let best = best_of(asked);
                let (answer, rest) = words.split_at(if best.is_some() { FOUND } else { self.vocab });
                words = rest;
                match best {
                    None => out.make_full(asked.0).copy_from_slice(bytemuck::cast_slice(answer)),
                    Some(best) => {
                        if !candidates(answer, self.vocab, self.part, &best, out.candidates_mut(asked.0)) {
                            unclear.push(asked.0);
                        }
                    }
                }
            }
        })
    }

    /// Bytes that the buffers for up to `outputs` outputs take.
    pub(super) fn bytes(gpu: &Gpu, vocab: usize, outputs: usize) -> usize {
        at_once(gpu, vocab).min(outputs) * 4 * (2 * vocab + 2 * FOUND + QUESTION)
    }
}

/// Outputs whose logits and answers each fit into one buffer.
fn at_once(gpu: &Gpu, vocab: usize) -> usize {
    (gpu.max_binding().min(LOGITS_BYTES) / (4 * vocab.max(FOUND) as u64)).max(1) as usize
}
