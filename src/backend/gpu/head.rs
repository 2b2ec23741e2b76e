//! The head on a GPU: final norm, vocabulary matrix, and the best logits.

use std::sync::Arc;

use wgpu::{BindGroup, BufferUsages};

use super::GpuError;
use super::best::{FOUND, can_ask, candidates, question};
use super::device::{Gpu, Memory};
use super::kernels::{ASKED, CHUNKS, FEW_TOKENS, Kernel};
use super::record::{Queue, Recorder, grid};
use super::rows::DenseRows;
use super::workspace::{Workspace, padded};
use crate::backend::outputs::{Entry, Outputs};
use crate::backend::{BackendError, Best, Candidates};
use crate::graph::Graph;
use crate::model::ModelConfig;

/// Logits of a submission take at most this many bytes.
const LOGITS_BYTES: u64 = 64 << 20;

/// Rows of a workgroup.
const ROWS: usize = 4;

/// Final norm, vocabulary matrix and what it is multiplied with.
#[derive(Debug)]
pub(super) struct GpuHead {
    rows: Arc<DenseRows>,
    norm: Memory,
    hidden: usize,
    /// Size of the vocabulary and of a part of it that is searched together.
    vocabulary: Memory,
    part: usize,
    /// First and last output of a dispatch.
    range: Memory,
    /// Outputs whose logits fit at a time.
    at_once: usize,
    buffers: Option<Buffers>,
    /// Outputs of the pass so far.
    outputs: usize,
}

/// Buffers for some outputs, and what is bound to them.
#[derive(Debug)]
struct Buffers {
    /// Outputs of a pass.
    capacity: usize,
    wanted: Memory,
    asked: Memory,
    logits: Memory,
    found: Memory,
    readback: Memory,
    inputs: Memory,
    multiply: Vec<BindGroup>,
    best: BindGroup,
    /// Bound to the workspace of the stage.
    final_norm: Option<BindGroup>,
}

/// A wanted output: row of the part of the batch at hand, and what is wanted of it.
pub(super) type Wanted<'a> = (usize, Option<Best<'a>>);

impl GpuHead {
    pub(super) fn build(graph: &Graph, gpu: &Gpu, rows: Arc<DenseRows>) -> Result<GpuHead, BackendError> {
        let mut norm = graph.final_norm()?;
        let hidden = padded(norm.len());
        norm.resize(hidden, 0.0);
        let part = rows.vocab.div_ceil(CHUNKS).max(1);
        Ok(GpuHead {
            norm: gpu.upload("the final norm", bytemuck::cast_slice(&norm))?,
            vocabulary: gpu.uniform("the vocabulary", &[rows.vocab as u32, part as u32])?,
            range: gpu.buffer("outputs", 16, BufferUsages::UNIFORM | BufferUsages::COPY_DST)?,
            at_once: at_once(gpu, rows.vocab),
            rows,
            hidden,
            part,
            buffers: None,
            outputs: 0,
        })
    }

    /// Compiles the kernels of a decode step.
    pub(super) fn prepare(&self, queue: &mut Queue) -> Result<(), GpuError> {
        for kernel in [Kernel::FinalNorm, Kernel::Head(self.rows.ty, 1), Kernel::Best] {
            queue.prepare(kernel)?;
        }
        Ok(())
    }

    /// Starts a pass with `outputs` outputs.
    pub(super) fn begin(&mut self, queue: &Queue, outputs: usize, out: &mut Outputs) -> Result<(), GpuError> {
        out.clear(self.rows.vocab);
        self.outputs = 0;
        if self.buffers.as_ref().is_none_or(|buffers| buffers.capacity < outputs) {
            let capacity = outputs.next_power_of_two();
            self.buffers = Some(self.new_buffers(queue, capacity)?);
        }
        Ok(())
    }

    fn new_buffers(&self, queue: &Queue, capacity: usize) -> Result<Buffers, GpuError> {
        let gpu = queue.gpu();
        let at_once = self.at_once.min(capacity);
        let logits_bytes = (at_once * self.rows.vocab * 4) as u64;
        let found_bytes = (at_once * FOUND * 4) as u64;
        // Kernels for several inputs read beyond the last.
        let inputs = gpu.memory("inputs of the head", ((capacity + FEW_TOKENS) * self.hidden * 4) as u64)?;
        let logits = gpu.memory("logits", logits_bytes)?;
        let (wanted, asked) = (
            gpu.memory("wanted rows", 8 * capacity as u64)?,
            gpu.memory("wanted logits", (at_once * (ASKED + 2) * 4) as u64)?,
        );
        let found = gpu.memory("the best logits", found_bytes)?;
        let reads = BufferUsages::MAP_READ | BufferUsages::COPY_DST;
        let readback = gpu.buffer("logits to be read", logits_bytes + found_bytes, reads)?;
        let multiply = self.rows.pieces.iter().map(|piece| {
            let buffers = [&piece.for_head, &self.range, &piece.memory, &inputs, &logits];
            queue.programs.bind(Kernel::Head(self.rows.ty, 1), &buffers)
        });
        let multiply = multiply.collect::<Result<_, _>>()?;
        let best = queue.programs.bind(Kernel::Best, &[&self.vocabulary, &logits, &asked, &found])?;
        Ok(Buffers { capacity, wanted, asked, logits, found, readback, inputs, multiply, best, final_norm: None })
    }

    /// Forgets what is bound to the workspace, which has been replaced.
    pub(super) fn unbind(&mut self) {
        if let Some(buffers) = &mut self.buffers {
            buffers.final_norm = None;
        }
    }

    /// Records the norm of the wanted rows behind the blocks, then computes their logits and reads what is wanted of
    /// them. Takes the recorder: the logits are part of its submission.
    pub(super) fn finish(
        &mut self,
        queue: &mut Queue,
        w: &Workspace,
        wanted: &[Wanted<'_>],
        record: impl FnOnce(&mut Recorder<'_>) -> Result<(), GpuError>,
        out: &mut Outputs,
    ) -> Result<(), GpuError> {
        let first = self.outputs;
        self.outputs += wanted.len();
        let buffers = self.buffers.as_mut().expect("a pass has begun");
        if buffers.final_norm.is_none() {
            let bindings = [&w.hidden, &self.norm, &buffers.wanted, &buffers.inputs];
            buffers.final_norm = Some(queue.programs.bind(Kernel::FinalNorm, &bindings)?);
        }
        let places: Vec<[u32; 2]> = wanted.iter().zip(first..).map(|(&(row, _), to)| [row as u32, to as u32]).collect();
        queue.write(&buffers.wanted, bytemuck::cast_slice(&places));
        let mut record = Some(record);
        for (i, group) in wanted.chunks(self.at_once).enumerate() {
            let start = first + i * self.at_once;
            self.write_group(queue, start, group);
            let mut recorder = queue.record();
            if let Some(record) = record.take() {
                record(&mut recorder)?;
                let buffers = self.buffers.as_ref().expect("a pass has begun");
                let norm = buffers.final_norm.as_ref().expect("bound above");
                recorder.dispatch(Kernel::FinalNorm, norm, [wanted.len() as u32, 1, 1], 0)?;
            }
            self.record_group(&mut recorder, group)?;
            let (submission, size) = self.copy_group(recorder, group);
            self.read_group(queue, submission, size, group, out)?;
        }
        Ok(())
    }

    /// Whether the best logits are found by the GPU.
    fn is_best(&self, best: Option<Best<'_>>) -> bool {
        best.is_some_and(|best| can_ask(&best))
    }

    fn write_group(&self, queue: &mut Queue, start: usize, group: &[Wanted<'_>]) {
        let buffers = self.buffers.as_ref().expect("a pass has begun");
        queue.write(&self.range, bytemuck::cast_slice(&[start as u32, (start + group.len()) as u32]));
        if group.iter().any(|&(_, best)| self.is_best(best)) {
            let questions: Vec<u32> = group.iter().flat_map(|(_, best)| question(best.as_ref())).collect();
            queue.write(&buffers.asked, bytemuck::cast_slice(&questions));
        }
    }

    /// The logits of a group and, where they are wanted, the best of them.
    fn record_group(&self, recorder: &mut Recorder<'_>, group: &[Wanted<'_>]) -> Result<(), GpuError> {
        let buffers = self.buffers.as_ref().expect("a pass has begun");
        let at_once = match group.len() {
            1 => 1,
            2..=4 => 4,
            _ => FEW_TOKENS,
        };
        for (piece, bound) in self.rows.pieces.iter().zip(&buffers.multiply) {
            let mut grid = grid(piece.rows.div_ceil(ROWS));
            grid[2] = group.len().div_ceil(at_once) as u32;
            let bytes = piece.memory.size() * u64::from(grid[2]);
            recorder.dispatch(Kernel::Head(self.rows.ty, at_once as u32), bound, grid, bytes)?;
        }
        if group.iter().any(|&(_, best)| self.is_best(best)) {
            let bytes = (group.len() * self.rows.vocab * 4) as u64;
            recorder.dispatch(Kernel::Best, &buffers.best, [CHUNKS as u32, group.len() as u32, 1], bytes)?;
        }
        Ok(())
    }

    /// Copies what is wanted to where it can be read: in the order of the outputs, all logits or the best.
    fn copy_group(&self, mut recorder: Recorder<'_>, group: &[Wanted<'_>]) -> (wgpu::SubmissionIndex, u64) {
        let buffers = self.buffers.as_ref().expect("a pass has begun");
        let mut size = 0;
        for (i, &(_, best)) in group.iter().enumerate() {
            let (from, bytes) = match self.is_best(best) {
                true => (&buffers.found, 4 * FOUND as u64),
                false => (&buffers.logits, 4 * self.rows.vocab as u64),
            };
            recorder.copy(from, i as u64 * bytes, &buffers.readback, size, bytes);
            size += bytes;
        }
        (recorder.submit(), size)
    }

    fn read_group(
        &self,
        queue: &mut Queue,
        submission: wgpu::SubmissionIndex,
        size: u64,
        group: &[Wanted<'_>],
        out: &mut Outputs,
    ) -> Result<(), GpuError> {
        let buffers = self.buffers.as_ref().expect("a pass has begun");
        queue.counters.readback += size;
        let gpu = Arc::clone(queue.gpu());
        let mut unclear = Vec::new();
        gpu.read(submission, &buffers.readback, size, |bytes| {
            let mut words = bytemuck::cast_slice::<u8, u32>(bytes);
            for &(_, best) in group {
                let Some(best) = best.filter(|best| can_ask(best)) else {
                    let (row, rest) = words.split_at(self.rows.vocab);
                    out.push(Entry::Full(0));
                    out.make_full(out.len() - 1).copy_from_slice(bytemuck::cast_slice(row));
                    words = rest;
                    continue;
                };
                let (found, rest) = words.split_at(FOUND);
                words = rest;
                let index = out.free_candidates();
                if out.candidates.len() <= index {
                    out.candidates.resize_with(index + 1, Candidates::default);
                }
                if !candidates(found, self.rows.vocab, self.part, &best, &mut out.candidates[index]) {
                    unclear.push(out.len());
                }
                out.push(Entry::Best(index));
            }
        })?;
        for output in unclear {
            self.all_logits(queue, output, out)?;
        }
        Ok(())
    }

    /// Puts all logits in the place of output `output` of the pass.
    pub(super) fn all_logits(&self, queue: &mut Queue, output: usize, out: &mut Outputs) -> Result<(), GpuError> {
        let group: [Wanted<'_>; 1] = [(0, None)];
        self.write_group(queue, output, &group);
        let mut recorder = queue.record();
        self.record_group(&mut recorder, &group)?;
        let (submission, size) = self.copy_group(recorder, &group);
        queue.counters.readback += size;
        let buffers = self.buffers.as_ref().expect("a pass has begun");
        queue.gpu().read(submission, &buffers.readback, size, |bytes| {
            out.make_full(output).copy_from_slice(bytemuck::cast_slice(bytes));
        })
    }

    /// Bytes that the buffers for `outputs` outputs take.
    pub(super) fn scratch_bytes(gpu: &Gpu, config: &ModelConfig, outputs: usize) -> u64 {
        let at_once = at_once(gpu, config.vocab_size).min(outputs);
        let inputs = (outputs + FEW_TOKENS) * padded(config.hidden_size) * 4 + 8 * outputs;
        (inputs + at_once * 4 * (2 * config.vocab_size + 2 * FOUND + ASKED + 2)) as u64
    }

    /// Bytes of the matrix.
    pub(super) fn bytes(&self) -> u64 {
        self.rows.bytes()
    }
}

/// Outputs whose logits and answers each fit into one buffer.
fn at_once(gpu: &Gpu, vocab: usize) -> usize {
    (gpu.max_binding().min(LOGITS_BYTES) / (4 * vocab.max(FOUND) as u64)).max(1) as usize
}
