//! The search for the best logits by intervals that hold them: the int8 copy of the matrix gives every logit within an
//! interval, and only rows whose interval reaches up to the best are multiplied exactly. All of it is part of the
//! submission of the token.

use wgpu::{BindGroup, BufferUsages};

use super::GpuError;
use super::answer::{self, ANSWER};
use super::best::{QUESTION, question};
use super::device::{Gpu, Memory};
use super::head::Asked;
use super::int8_rows::{GROUP, Int8Rows};
use super::kernels::{CHUNKS, FEW_TOKENS, Kernel, SEGMENT, TAKERS};
use super::record::{Queue, Recorder, grid};
use super::rows::DenseRows;
use crate::backend::outputs::Outputs;

/// Intervals of a submission take at most this many bytes.
const INTERVAL_BYTES: u64 = 64 << 20;

/// Classes of logits by their distance from the best.
const CLASSES: usize = 256;

/// Rows that may become candidates for the weight of their logits: at most so many, and one in so many. Having to ask for
/// all logits afterwards costs more than these.
const FEW: usize = 8192;
const FEW_OF: usize = 4;

/// Bytes of what is known of a part of the vocabulary, and of an input's rounding.
const PART_BYTES: usize = 16;
const ROUNDED_BYTES: usize = 24;

/// The inputs in 16 bits.
#[derive(Debug)]
pub(super) struct Planes {
    pub(super) values: Memory,
    pub(super) rounded: Memory,
}

impl Planes {
    /// Room for `inputs` inputs of `hidden` numbers; kernels for several read beyond the last.
    pub(super) fn new(gpu: &Gpu, inputs: usize, hidden: usize) -> Result<Planes, GpuError> {
        let inputs = inputs + FEW_TOKENS;
        Ok(Planes {
            values: gpu.memory("inputs of the head", (2 * inputs * hidden) as u64)?,
            rounded: gpu.memory("inputs of the head", (inputs * ROUNDED_BYTES) as u64)?,
        })
    }

    /// Bytes of that.
    pub(super) fn bytes(inputs: usize, hidden: usize) -> usize {
        (inputs + FEW_TOKENS) * (2 * hidden + ROUNDED_BYTES)
    }
}

/// What a search works on.
#[derive(Clone, Copy)]
pub(super) struct Searched<'a> {
    pub(super) copy: &'a Int8Rows,
    pub(super) rows: &'a DenseRows,
    pub(super) inputs: &'a Memory,
    pub(super) planes: &'a Planes,
    /// First and last output of a dispatch.
    pub(super) range: &'a Memory,
}

/// Buffers for some outputs, and what is bound to them.
#[derive(Debug)]
pub(super) struct Search {
    /// Outputs at a time.
    pub(super) outputs: usize,
    vocab: usize,
    row_bytes: u64,
    asked: Memory,
    answers: Memory,
    readback: Memory,
    intervals: Vec<(BindGroup, [u32; 3], u64)>,
    classes: BindGroup,
    candidates: BindGroup,
    rescore: Vec<BindGroup>,
    rescore_kernel: Kernel,
    answer: BindGroup,
    /// What only kernels see; it counts as held as long as it is bound.
    _between: [Memory; 7],
}

impl Search {
    /// Buffers for `outputs` outputs at a time, of which there are no more than [`Search::at_once`].
    pub(super) fn new(queue: &Queue, of: Searched<'_>, outputs: usize) -> Result<Search, GpuError> {
        let (gpu, programs) = (queue.gpu(), &queue.programs);
        let vocab = of.rows.vocab;
        let memory = |bytes: usize| gpu.memory("candidates", (outputs * bytes) as u64);
        let groups = vocab.div_ceil(GROUP);
        let intervals = gpu.memory("intervals of logits", (outputs * groups * GROUP * 8) as u64)?;
        let (tops, classes) = (memory(4 * groups)?, memory(4 * CHUNKS * CLASSES)?);
        let (candidates, exact) = (memory(4 * SEGMENTS)?, memory(4 * SEGMENTS)?);
        let (parts, asked) = (memory((CHUNKS + 1) * PART_BYTES)?, memory(4 * QUESTION)?);
        let answers = memory(4 * ANSWER)?;
        let reads = BufferUsages::MAP_READ | BufferUsages::COPY_DST;
        let readback = gpu.buffer("candidates to be read", (outputs * 4 * ANSWER) as u64, reads)?;
        let part = groups.div_ceil(CHUNKS).max(1);
        let few = FEW.min(vocab / FEW_OF);
        let vocabulary = gpu.uniform("the vocabulary", &[vocab, groups, part, few].map(|n| n as u32))?;
        let multiply = of.copy.pieces.iter().map(|piece| {
            let [values, rounded] = [&of.planes.values, &of.planes.rounded];
            let buffers =
                [&piece.params, of.range, &asked, &piece.values, &piece.bounds, values, rounded, &intervals, &tops];
            Ok((programs.bind(Kernel::Intervals(1), &buffers)?, grid(piece.groups), piece.bytes()))
        });
        let rescore_kernel = Kernel::Rescore(of.rows.ty);
        let rescore = of.rows.pieces.iter().map(|piece| {
            let buffers = [&piece.for_head, of.range, &piece.memory, of.inputs, &candidates, &parts, &exact];
            programs.bind(rescore_kernel, &buffers)
        });
        Ok(Search {
            outputs,
            vocab,
            row_bytes: of.rows.row_bytes(),
            intervals: multiply.collect::<Result<_, GpuError>>()?,
            rescore: rescore.collect::<Result<_, _>>()?,
            rescore_kernel,
            classes: programs.bind(Kernel::Classes, &[&vocabulary, &intervals, &asked, &tops, &classes])?,
            candidates: programs
                .bind(Kernel::Candidates, &[&vocabulary, &intervals, &asked, &tops, &classes, &candidates, &parts])?,
            answer: programs.bind(Kernel::Answer, &[&candidates, &parts, &asked, &exact, &answers])?,
            asked,
            answers,
            readback,
            _between: [vocabulary, intervals, tops, classes, candidates, exact, parts],
        })
    }

    /// Compiles the kernels of a decode step.
    pub(super) fn prepare(queue: &mut Queue, rows: &DenseRows) -> Result<(), GpuError> {
        for kernel in [Kernel::HeadInput, Kernel::Intervals(1), Kernel::Candidates, Kernel::Rescore(rows.ty)] {
            queue.prepare(kernel)?;
        }
        queue.prepare(Kernel::Answer).map(drop)
    }

    /// Says what is wanted, before the submission.
    pub(super) fn ask(&self, queue: &mut Queue, group: &[Asked<'_>]) {
        let questions: Vec<u32> = group.iter().flat_map(|&(_, best)| question(best)).collect();
        queue.write(&self.asked, bytemuck::cast_slice(&questions));
    }

    /// Records the search, behind the norm.
    pub(super) fn record(&self, recorder: &mut Recorder<'_>, group: &[Asked<'_>]) -> Result<(), GpuError> {
        let outputs = group.len() as u32;
        let at_once = [1, 4].into_iter().find(|&most| most >= outputs).unwrap_or(FEW_TOKENS as u32);
        for &(ref bound, [x, y, _], bytes) in &self.intervals {
            let times = outputs.div_ceil(at_once);
            recorder.dispatch(Kernel::Intervals(at_once), bound, [x, y, times], bytes * u64::from(times))?;
        }
        let ends = u64::from(outputs) * self.vocab as u64 * 8;
        let parts = [CHUNKS as u32, outputs, 1];
        if group.iter().any(|(_, best)| best.is_some_and(|best| best.temperature.is_some())) {
            recorder.dispatch(Kernel::Classes, &self.classes, parts, ends / 2)?;
        }
        recorder.dispatch(Kernel::Candidates, &self.candidates, parts, ends)?;
        let takers = [((CHUNKS + 1) * TAKERS) as u32, 1, outputs];
        // What is read is counted when it is known.
        self.rescore.iter().try_for_each(|bound| recorder.dispatch(self.rescore_kernel, bound, takers, 0))?;
        recorder.dispatch(Kernel::Answer, &self.answer, [outputs, 1, 1], 0)
    }

    /// Hands over what was recorded and puts the answers into `out`; outputs whose answer says too little go to
    /// `unclear`. Returns the bytes of the rows that were multiplied exactly.
    pub(super) fn finish(
        &self,
        mut recorder: Recorder<'_>,
        group: &[Asked<'_>],
        out: &mut Outputs,
        unclear: &mut Vec<usize>,
    ) -> Result<u64, GpuError> {
        let size = (group.len() * 4 * ANSWER) as u64;
        recorder.copy(&self.answers, 0, &self.readback, 0, size);
        recorder.read(&self.readback, size, |bytes| {
            let mut rows = 0;
            let answers = bytemuck::cast_slice::<u8, u32>(bytes).chunks_exact(ANSWER);
            for (answer, &(output, best)) in answers.zip(group) {
                rows += answer::rows(answer);
                if best.is_none_or(|best| !answer::candidates(answer, &best, out.candidates_mut(output))) {
                    unclear.push(output);
                }
            }
            rows * self.row_bytes
        })
    }

    /// Outputs whose intervals fit into one buffer.
    pub(super) fn at_once(gpu: &Gpu, vocab: usize) -> usize {
        let bytes = (8 * vocab.next_multiple_of(GROUP)).max(4 * SEGMENTS);
        (gpu.max_binding().min(INTERVAL_BYTES) / bytes as u64).max(1) as usize
    }

    /// Bytes that the buffers for up to `outputs` outputs take, beside the inputs.
    pub(super) fn bytes(gpu: &Gpu, vocab: usize, outputs: usize) -> usize {
        let groups = vocab.div_ceil(GROUP);
        let parts = 4 * CHUNKS * CLASSES + 8 * SEGMENTS + (CHUNKS + 1) * PART_BYTES;
        Search::at_once(gpu, vocab).min(outputs) * (groups * (GROUP * 8 + 4) + parts + 4 * QUESTION + 8 * ANSWER)
    }
}

/// Candidates that an output has room for.
const SEGMENTS: usize = (CHUNKS + 1) * SEGMENT;
