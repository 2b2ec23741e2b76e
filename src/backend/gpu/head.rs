//! The head on a GPU: final norm, vocabulary matrix, and the best logits.

use std::sync::Arc;

use wgpu::{BindGroup, BufferUsages};

use super::GpuError;
use super::answer::can_search;
use super::best::can_ask;
use super::device::{Gpu, Memory};
use super::int8_rows::Int8Rows;
use super::kernels::{FEW_TOKENS, Kernel};
use super::logits::ExactLogits;
use super::record::{Queue, Recorder};
use super::rows::DenseRows;
use super::search::{Planes, Search, Searched};
use super::workspace::{Workspace, padded};
use crate::backend::outputs::{Entry, Outputs};
use crate::backend::{BackendError, Batch, Best};
use crate::graph::Graph;
use crate::model::ModelConfig;

/// Final norm, vocabulary matrix and what it is multiplied with.
#[derive(Debug)]
pub(super) struct GpuHead {
    rows: Arc<DenseRows>,
    copy: Option<Int8Rows>,
    norm: Memory,
    hidden: usize,
    /// Inputs of a dispatch: the first, and the one behind the last.
    range: Memory,
    buffers: Option<Buffers>,
    /// Number of the input of each output of the pass so far.
    inputs: Vec<usize>,
}

/// Buffers for some outputs, and what is bound to them.
#[derive(Debug)]
struct Buffers {
    /// Outputs of a pass.
    capacity: usize,
    wanted: Memory,
    inputs: Memory,
    planes: Option<Planes>,
    exact: ExactLogits,
    search: Option<Search>,
    /// Bound to the workspace of the stage.
    final_norm: Option<BindGroup>,
}

/// A wanted output: its row of the part of the batch at hand, and what is wanted of it.
pub(super) type Wanted<'a> = (usize, Option<Best<'a>>);

/// A wanted output: its number in the pass, and what is wanted of it.
pub(super) type Asked<'a> = (usize, Option<Best<'a>>);

impl GpuHead {
    pub(super) fn build(
        graph: &Graph,
        gpu: &Gpu,
        rows: Arc<DenseRows>,
        copy: Option<Int8Rows>,
    ) -> Result<GpuHead, BackendError> {
        let mut norm = graph.final_norm()?;
        let hidden = padded(norm.len());
        norm.resize(hidden, 0.0);
        Ok(GpuHead {
            norm: gpu.upload("the final norm", bytemuck::cast_slice(&norm))?,
            range: gpu.buffer("outputs", 16, BufferUsages::UNIFORM | BufferUsages::COPY_DST)?,
            rows,
            copy,
            hidden,
            buffers: None,
            inputs: Vec::new(),
        })
    }

    /// Compiles the kernels of a decode step.
    pub(super) fn prepare(&self, queue: &mut Queue) -> Result<(), GpuError> {
        match self.copy {
            Some(_) => Search::prepare(queue, &self.rows),
            None => {
                let kernels = [Kernel::FinalNorm, Kernel::Head(self.rows.ty, 1), Kernel::Best];
                kernels.into_iter().try_for_each(|kernel| queue.prepare(kernel).map(drop))
            }
        }
    }

    /// Starts the pass of `batch`.
    pub(super) fn begin(&mut self, queue: &Queue, batch: &Batch<'_>, out: &mut Outputs) -> Result<(), GpuError> {
        out.clear(self.rows.vocab);
        self.inputs.clear();
        let count = batch.outputs().count();
        let searched = batch.outputs().filter(|(_, best)| self.is_searched(best)).count();
        if self.buffers.as_ref().is_none_or(|buffers| buffers.capacity < count) {
            // The old buffers go first: there may not be room for both.
            self.buffers = None;
            self.buffers = Some(self.new_buffers(queue, count.next_power_of_two())?);
        }
        self.reserve_search(queue, searched)
    }

    fn new_buffers(&self, queue: &Queue, capacity: usize) -> Result<Buffers, GpuError> {
        let gpu = queue.gpu();
        // Kernels for several inputs read beyond the last.
        let inputs = gpu.memory("inputs of the head", ((capacity + FEW_TOKENS) * self.hidden * 4) as u64)?;
        let planes = self.copy.is_some().then(|| Planes::new(gpu, capacity, self.hidden)).transpose()?;
        Ok(Buffers {
            capacity,
            wanted: gpu.memory("wanted rows", 8 * capacity as u64)?,
            exact: ExactLogits::new(queue, &self.rows, &inputs, &self.range, capacity)?,
            inputs,
            planes,
            search: None,
            final_norm: None,
        })
    }

    /// Makes room for the search of so many outputs, as far as they are searched at once.
    fn reserve_search(&mut self, queue: &Queue, searched: usize) -> Result<(), GpuError> {
        let (Some(buffers), Some(copy)) = (&mut self.buffers, &self.copy) else { return Ok(()) };
        let Some(planes) = buffers.planes.as_ref().filter(|_| searched > 0) else { return Ok(()) };
        let outputs = Search::at_once(queue.gpu(), self.rows.vocab).min(searched.next_power_of_two());
        if buffers.search.as_ref().is_none_or(|search| search.outputs < outputs) {
            buffers.search = None;
            let of = Searched { copy, rows: &self.rows, inputs: &buffers.inputs, planes, range: &self.range };
            buffers.search = Some(Search::new(queue, of, outputs)?);
        }
        Ok(())
    }

    /// Forgets what is bound to the workspace, which has been replaced.
    pub(super) fn unbind(&mut self) {
        if let Some(buffers) = &mut self.buffers {
            buffers.final_norm = None;
        }
    }

    /// Whether the best logits are searched for by intervals.
    fn is_searched(&self, best: &Option<Best<'_>>) -> bool {
        self.copy.is_some() && best.is_some_and(|best| can_search(&best, self.rows.vocab))
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
        let [exact, searched] = self.arrange(queue, wanted, out);
        self.bind_norm(queue, w)?;
        let buffers = self.buffers.as_ref().expect("a pass has begun");
        let norm = buffers.final_norm.as_ref().expect("bound above");
        let mut record = Some(|recorder: &mut Recorder<'_>| {
            record(recorder)?;
            recorder.dispatch(self.norm_kernel(), norm, [wanted.len() as u32, 1, 1], 0)
        });
        let mut unclear = Vec::new();
        for group in exact.chunks(buffers.exact.outputs) {
            self.set_range(queue, group);
            buffers.exact.ask(queue, group);
            let mut recorder = queue.record();
            record.take().map_or(Ok(()), |record| record(&mut recorder))?;
            buffers.exact.record(&mut recorder, &self.rows, group)?;
            buffers.exact.finish(recorder, group, out, &mut unclear)?;
        }
        for group in searched.chunks(buffers.search.as_ref().map_or(1, |search| search.outputs)) {
            let search = buffers.search.as_ref().expect("room was made when the pass began");
            self.set_range(queue, group);
            search.ask(queue, group);
            let mut recorder = queue.record();
            record.take().map_or(Ok(()), |record| record(&mut recorder))?;
            search.record(&mut recorder, group)?;
            let bytes = search.finish(recorder, group, out, &mut unclear)?;
            queue.counters.read_more(Kernel::Rescore(self.rows.ty).name(), bytes);
        }
        for output in unclear {
            tracing::debug!("the best logits were not enough: computing all");
            self.all_logits(queue, output, out)?;
        }
        Ok(())
    }

    /// Gives each output its place in `out` and its input: those that are searched for lie behind the others, so that the
    /// inputs of either are next to each other. Returns the others, then those.
    fn arrange<'a>(&mut self, queue: &mut Queue, wanted: &[Wanted<'a>], out: &mut Outputs) -> [Vec<Asked<'a>>; 2] {
        let first = self.inputs.len();
        for (_, best) in wanted {
            match best.filter(can_ask) {
                Some(_) => out.push_candidates(),
                None => out.push(Entry::Full(0)),
            }
        }
        let outputs = wanted.iter().zip(first..).map(|(&(_, best), output)| (output, best));
        let (searched, exact): (Vec<_>, Vec<_>) = outputs.partition(|(_, best)| self.is_searched(best));
        self.inputs.resize(first + wanted.len(), 0);
        let mut places = Vec::with_capacity(wanted.len());
        for (input, &(output, _)) in (first..).zip(exact.iter().chain(&searched)) {
            self.inputs[output] = input;
            places.push([wanted[output - first].0 as u32, input as u32]);
        }
        let buffers = self.buffers.as_ref().expect("a pass has begun");
        queue.write(&buffers.wanted, bytemuck::cast_slice(&places));
        [exact, searched]
    }

    fn bind_norm(&mut self, queue: &Queue, w: &Workspace) -> Result<(), GpuError> {
        let kernel = self.norm_kernel();
        let buffers = self.buffers.as_mut().expect("a pass has begun");
        if buffers.final_norm.is_none() {
            let mut bindings = vec![&w.hidden, &self.norm, &buffers.wanted, &buffers.inputs];
            bindings.extend(buffers.planes.iter().flat_map(|planes| [&planes.values, &planes.rounded]));
            buffers.final_norm = Some(queue.programs.bind(kernel, &bindings)?);
        }
        Ok(())
    }

    fn norm_kernel(&self) -> Kernel {
        if self.copy.is_some() { Kernel::HeadInput } else { Kernel::FinalNorm }
    }

    /// Says which inputs the next submission is for: those of `group` lie next to each other.
    fn set_range(&self, queue: &mut Queue, group: &[Asked<'_>]) {
        let first = self.inputs[group[0].0];
        queue.write(&self.range, bytemuck::cast_slice(&[first as u32, (first + group.len()) as u32]));
    }

    /// Puts all logits in the place of output `output` of the pass.
    pub(super) fn all_logits(&self, queue: &mut Queue, output: usize, out: &mut Outputs) -> Result<(), GpuError> {
        let exact = &self.buffers.as_ref().expect("a pass has begun").exact;
        let group: [Asked<'_>; 1] = [(output, None)];
        self.set_range(queue, &group);
        let mut recorder = queue.record();
        exact.record(&mut recorder, &self.rows, &group)?;
        exact.finish(recorder, &group, out, &mut Vec::new())
    }

    /// Bytes that the buffers for `outputs` outputs take.
    pub(super) fn scratch_bytes(gpu: &Gpu, config: &ModelConfig, outputs: usize) -> u64 {
        let inputs = (outputs + FEW_TOKENS) * padded(config.hidden_size) * 4 + 8 * outputs;
        (inputs + ExactLogits::bytes(gpu, config.vocab_size, outputs)) as u64
    }

    /// Bytes that an int8 copy takes, with the buffers for `outputs` outputs.
    pub(super) fn copy_bytes(gpu: &Gpu, config: &ModelConfig, outputs: usize) -> u64 {
        let planes = Planes::bytes(outputs, padded(config.hidden_size));
        let search = Search::bytes(gpu, config.vocab_size, outputs);
        Int8Rows::bytes_of(config.vocab_size, config.hidden_size) + (planes + search) as u64
    }

    /// Bytes that are read for a token.
    pub(super) fn bytes_read(&self) -> u64 {
        self.copy.as_ref().map_or_else(|| self.rows.bytes(), Int8Rows::bytes)
    }
}
