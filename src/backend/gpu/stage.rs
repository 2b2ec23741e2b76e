//! A run of layers on a GPU.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use sterna_cpu::AlignedBuf;
use sterna_cpu::kv::PAGE_LEN;
use sterna_cpu::rope::{Rope, RopeRows};
use wgpu::{BindGroup, BufferUsages};

use super::block::{GpuBlock, PassShape, RowWidths};
use super::device::{Gpu, Memory};
use super::head::{GpuHead, Wanted};
use super::int8_rows::Int8Rows;
use super::kernels::{FEW_TOKENS, Kernel, Shape};
use super::parts::Part;
use super::programs::Programs;
use super::record::{Queue, Recorder};
use super::rows::DenseRows;
use super::timestamps::Timestamps;
use super::workspace::{BLOCK_LEN, Capacity, Workspace, padded};
use super::{GpuError, GpuOptions, exchange};
use crate::backend::{
    BackendError, Batch, Counters, HeadKind, KvOptions, Observer, OpTime, Outputs, Progress, Stage, StageMemory,
};
use crate::format::DenseTensor;
use crate::graph::{Graph, Layer};
use crate::model::ModelConfig;

/// The embedding, blocks and head that one stage holds; each may be absent.
pub(super) struct GpuStage {
    backend: String,
    queue: Queue,
    config: ModelConfig,
    layers: Range<usize>,
    embed: Option<Arc<DenseRows>>,
    blocks: Vec<GpuBlock>,
    head: Option<GpuHead>,
    widths: RowWidths,
    workspace: Option<Workspace>,
    embed_bound: Vec<BindGroup>,
    kv_pages: usize,
    /// Rows of the hidden state in one go; more are computed one part after the other.
    max_tokens: usize,
    rope: Rope,
    scratch: Scratch,
    /// Memory for copies of pages, and for reading the hidden state.
    page_copy: Option<Memory>,
    hidden_read: Option<Memory>,
    observer: Option<Box<dyn Observer>>,
}

/// What is written to the device for a pass; kept between passes.
#[derive(Default)]
struct Scratch {
    tokens: Vec<[u32; 4]>,
    pages: Vec<u32>,
    tiles: Vec<[u32; 4]>,
    rope: RopeRows,
    turns: Vec<[f32; 2]>,
    rows: Vec<f32>,
}

impl GpuStage {
    pub(super) fn build(
        programs: &Arc<Programs>,
        options: &GpuOptions,
        graph: &Graph,
        layers: Range<usize>,
        kv: KvOptions,
        progress: &dyn Progress,
    ) -> Result<GpuStage, BackendError> {
        let config = graph.config().clone();
        let gpu = programs.gpu();
        let shape = Shape::new(&config, kv.kind, gpu.name())?;
        let mut embed: Option<Arc<DenseRows>> = None;
        let (mut blocks, mut head) = (Vec::new(), None);
        for index in layers.clone() {
            match graph.layer(index) {
                Layer::Embed => {
                    embed = Some(Arc::new(DenseRows::upload(gpu, "the embedding", &graph.embedding()?, progress)?));
                }
                Layer::Block(number, spec) => {
                    blocks.push(GpuBlock::build(graph, spec, gpu, &shape, kv.pages)?);
                    progress.advance(graph.block_bytes(number));
                }
                Layer::Head => {
                    let rows = match embed.clone().filter(|_| graph.is_tied()) {
                        Some(shared) => shared,
                        None => Arc::new(DenseRows::upload(gpu, "the head", &graph.head()?, progress)?),
                    };
                    let copy = match options.head {
                        HeadKind::Int8 => copy(gpu, &graph.head()?, progress)?,
                        HeadKind::Exact => None,
                    };
                    head = Some(GpuHead::build(graph, gpu, rows, copy)?);
                }
            }
        }
        let max_tokens = max_tokens(gpu, options, graph, &shape);
        let mut queue = Queue::new(Arc::clone(programs), shape, options.work_limit);
        if let Some(block) = blocks.first() {
            block.prepare(&mut queue)?;
        }
        if let Some(head) = &head {
            head.prepare(&mut queue)?;
        }
        gpu.save_pipelines();
        Ok(GpuStage {
            backend: options.name.clone(),
            widths: RowWidths::new(gpu, &config)?,
            rope: Rope::new(config.head_dim, config.rope_theta, &config.rope_scaling),
            queue,
            config,
            layers,
            embed,
            blocks,
            head,
            workspace: None,
            embed_bound: Vec::new(),
            kv_pages: kv.pages,
            max_tokens,
            scratch: Scratch::default(),
            page_copy: None,
            hidden_read: None,
            observer: None,
        })
    }

    /// Makes room for a part of a batch and binds the new buffers, if the old ones are too small.
    fn reserve(&mut self, needed: Capacity) -> Result<(), GpuError> {
        let old = self.workspace.as_ref().map_or(Capacity::default(), |w| w.capacity);
        if self.workspace.is_some() && old.holds(&needed) {
            return Ok(());
        }
        // The old buffers go first: there may not be room for both.
        self.workspace = None;
        self.embed_bound.clear();
        if let Some(head) = &mut self.head {
            head.unbind();
        }
        let (gpu, programs) = (self.queue.gpu(), &self.queue.programs);
        let w = Workspace::new(gpu, &self.config, &self.queue.shape, old.grown(&needed))?;
        for block in &mut self.blocks {
            block.bind(programs, &w, &self.widths)?;
        }
        if let Some(rows) = &self.embed {
            let bind = |piece: &super::rows::RowPiece| {
                let buffers = [&piece.for_embed, &piece.memory, &w.tokens, &w.hidden];
                programs.bind(Kernel::Embed(rows.ty), &buffers)
            };
            self.embed_bound = rows.pieces.iter().map(bind).collect::<Result<_, _>>()?;
        }
        self.workspace = Some(w);
        Ok(())
    }

    /// Runs a part of a batch, whose rows of the hidden state are `hidden`.
    fn run(
        &mut self,
        part: &Part<'_>,
        wanted: &[Wanted<'_>],
        hidden: &mut [f32],
        outputs: &mut Outputs,
    ) -> Result<(), GpuError> {
        let pass = self.describe(part);
        let blocks = if pass.tokens <= FEW_TOKENS { pass.blocks } else { 1 };
        self.reserve(Capacity { tokens: pass.tokens, pages: self.scratch.pages.len(), blocks })?;
        let GpuStage {
            queue, config, layers, blocks, head, workspace, embed, embed_bound, scratch, hidden_read, ..
        } = self;
        let w = workspace.as_ref().expect("reserved above");
        queue.write(&w.batch, bytemuck::cast_slice(&[pass.tokens as u32, pass.blocks as u32]));
        queue.write(&w.tokens, bytemuck::cast_slice(&scratch.tokens));
        if !blocks.is_empty() {
            queue.write(&w.pages, bytemuck::cast_slice(&scratch.pages));
            queue.write(&w.rope, bytemuck::cast_slice(&scratch.turns));
            if pass.tiles > 0 {
                queue.write(&w.tiles, bytemuck::cast_slice(&scratch.tiles));
            }
        }
        let (width, stride) = (config.hidden_size, padded(config.hidden_size));
        if embed.is_none() {
            scratch.rows.clear();
            scratch.rows.resize(pass.tokens * stride, 0.0);
            let rows = scratch.rows.chunks_exact_mut(stride).zip(hidden.chunks_exact(width));
            rows.for_each(|(to, from)| to[..width].copy_from_slice(from));
            queue.write(&w.hidden, bytemuck::cast_slice(&scratch.rows));
        }
        let shape = queue.shape;
        let embed = embed.as_deref();
        let first_block = layers.start + usize::from(embed.is_some());
        let record = |recorder: &mut Recorder<'_>| {
            recorder.at_layer(layers.start);
            if let Some(rows) = embed {
                for bound in embed_bound.iter() {
                    recorder.dispatch(Kernel::Embed(rows.ty), bound, [pass.tokens as u32, 1, 1], 0)?;
                }
            }
            for (layer, block) in (first_block..).zip(blocks.iter()) {
                recorder.at_layer(layer);
                block.record(recorder, &shape, &pass)?;
            }
            recorder.at_layer(layers.end - 1);
            Ok(())
        };
        if let Some(head) = head {
            if wanted.is_empty() {
                let mut recorder = queue.record();
                record(&mut recorder)?;
                recorder.submit();
                return Ok(());
            }
            return head.finish(queue, w, wanted, record, outputs);
        }
        let size = 4 * (pass.tokens * stride) as u64;
        if hidden_read.as_ref().is_none_or(|memory| memory.size() < size) {
            let usage = BufferUsages::MAP_READ | BufferUsages::COPY_DST;
            *hidden_read = Some(queue.gpu().buffer("the hidden state to be read", size, usage)?);
        }
        let readback = hidden_read.as_ref().expect("made above");
        let mut recorder = queue.record();
        record(&mut recorder)?;
        recorder.copy(&w.hidden, 0, readback, 0, size);
        recorder.read(readback, size, |bytes| {
            let rows = bytemuck::cast_slice::<u8, f32>(bytes).chunks_exact(stride);
            hidden.chunks_exact_mut(width).zip(rows).for_each(|(to, from)| to.copy_from_slice(&from[..width]));
        })
    }

    /// Tells the observer of the part that began at `start`: of its kernels, or of all at once on a device without a clock.
    fn tell(&mut self, start: Instant) -> Result<(), GpuError> {
        let Some(observer) = self.observer.as_deref_mut() else { return Ok(()) };
        let gpu = Arc::clone(self.queue.gpu());
        match &mut self.queue.timestamps {
            Some(timestamps) => timestamps.tell(&gpu, start, observer),
            None => {
                let submission = gpu.queue().submit([]);
                gpu.wait(submission)?;
                let layer = self.layers.start;
                observer.timed(OpTime { layer, name: "all layers", start, time: start.elapsed() });
                Ok(())
            }
        }
    }

    /// Fills in what the kernels need to know of the tokens of a part.
    fn describe(&mut self, part: &Part<'_>) -> PassShape {
        let (scratch, shape) = (&mut self.scratch, &self.queue.shape);
        scratch.tokens.clear();
        scratch.pages.clear();
        scratch.tiles.clear();
        scratch.turns.clear();
        let position_bytes =
            self.blocks.first().map_or(0, |block| block.kv_bytes() / (self.kv_pages * PAGE_LEN) as u64);
        let of_position = attention_work(&self.config);
        let (mut blocks, mut kv_bytes, mut attention_work) = (1, 0, 0);
        let few = part.tokens <= FEW_TOKENS;
        for s in &part.sequences {
            let first_page = scratch.pages.len() as u32;
            let end = s.position + s.tokens.len();
            let first_row = scratch.tokens.len();
            for (&id, position) in s.tokens.iter().zip(s.position..) {
                let page = s.pages.get(position / PAGE_LEN).copied().unwrap_or(0);
                let place = page * PAGE_LEN as u32 + (position % PAGE_LEN) as u32;
                attention_work += (position + 1) as u64 * of_position;
                scratch.tokens.push([id, position as u32, first_page, place]);
                kv_bytes += if few { (position + 1) as u64 * position_bytes } else { 0 };
            }
            scratch.pages.extend_from_slice(&s.pages[..end.div_ceil(PAGE_LEN).min(s.pages.len())]);
            blocks = blocks.max(end.div_ceil(BLOCK_LEN));
            for start in (0..s.tokens.len()).step_by(shape.tile_tokens()).filter(|_| !few) {
                let count = shape.tile_tokens().min(s.tokens.len() - start);
                let position = s.position + start;
                scratch.tiles.push([(first_row + start) as u32, count as u32, position as u32, first_page]);
                kv_bytes += (position + count) as u64 * position_bytes;
            }
        }
        let positions = part.sequences.iter().flat_map(|s| s.position..s.position + s.tokens.len());
        self.rope.rows(positions, &mut scratch.rope);
        scratch.turns.extend(scratch.rope.turns());
        PassShape { tokens: part.tokens, blocks, tiles: scratch.tiles.len(), kv_bytes, attention_work }
    }
}

/// The int8 copy of a head; none if the kernels cannot have it or the device lacks the memory.
fn copy(gpu: &Gpu, head: &DenseTensor, progress: &dyn Progress) -> Result<Option<Int8Rows>, GpuError> {
    if !Int8Rows::suits(head.cols) {
        return Ok(None);
    }
    match Int8Rows::upload(gpu, head, progress) {
        Ok(copy) => Ok(Some(copy)),
        Err(error @ GpuError::OutOfMemory { .. }) => {
            tracing::info!("the head is read as it is: {error}");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Multiply-adds of attention of a token with each position that it sees.
fn attention_work(config: &ModelConfig) -> u64 {
    2 * config.q_size() as u64
}

/// Tokens that are computed together: as the options say, but so few that kernels see all of their rows, and that the
/// largest product stays below the work of a submission.
pub(super) fn max_tokens(gpu: &Gpu, options: &GpuOptions, graph: &Graph, shape: &Shape) -> usize {
    let config = graph.config();
    let widest = 4 * padded(config.hidden_size.max(config.intermediate_size)).max(shape.q_rows()) as u64;
    let qkv = shape.q_rows() + 2 * shape.kv_rows();
    let largest = config.hidden_size * (2 * config.intermediate_size).max(qkv);
    let tokens =
        (gpu.max_binding() / widest).min(options.work_limit / largest as u64).min(options.chunk as u64) as usize;
    // A power of two, since workspaces are; the kernels for few tokens need some.
    (tokens / 2 + 1).next_power_of_two().max(FEW_TOKENS)
}

impl Stage for GpuStage {
    fn layers(&self) -> Range<usize> {
        self.layers.clone()
    }

    fn backend(&self) -> &str {
        &self.backend
    }

    fn forward(
        &mut self,
        batch: &Batch<'_>,
        hidden: &mut AlignedBuf<f32>,
        outputs: &mut Outputs,
    ) -> Result<(), BackendError> {
        self.queue.gpu().check()?;
        let width = self.config.hidden_size;
        if self.embed.is_some() {
            hidden.resize(batch.tokens() * width);
        }
        if let Some(head) = &mut self.head {
            head.begin(&self.queue, batch, outputs)?;
        }
        // Attention of a part stays below the work of a submission too.
        let longest = batch.sequences.iter().map(|s| s.position + s.tokens.len()).max().unwrap_or(0);
        let of_token = (longest as u64 * attention_work(&self.config)).max(1);
        let most = usize::try_from(self.queue.work_limit / of_token).unwrap_or(usize::MAX);
        for part in Part::of(batch, self.max_tokens.min(most.max(FEW_TOKENS))) {
            let start = Instant::now();
            let rows = part.first_row..part.first_row + part.tokens;
            let wanted: Vec<Wanted<'_>> = match self.head {
                Some(_) => batch
                    .outputs()
                    .filter(|(row, _)| rows.contains(row))
                    .map(|(row, best)| (row - rows.start, best))
                    .collect(),
                None => Vec::new(),
            };
            self.run(&part, &wanted, &mut hidden[rows.start * width..rows.end * width], outputs)?;
            self.tell(start)?;
        }
        Ok(())
    }

    fn all_logits(&mut self, output: usize, outputs: &mut Outputs) -> Result<(), BackendError> {
        if let Some(head) = &self.head {
            head.all_logits(&mut self.queue, output, outputs)?;
        }
        Ok(())
    }

    fn copy_page(&mut self, from: u32, to: u32) -> Result<(), BackendError> {
        let Some(block) = self.blocks.first() else { return Ok(()) };
        if self.page_copy.is_none() {
            let page = block.kv_bytes() / 2 / self.kv_pages as u64;
            self.page_copy = Some(self.queue.gpu().memory("a page of the cache", page)?);
        }
        let scratch = self.page_copy.as_ref().expect("made above");
        let mut recorder = self.queue.record();
        for block in &self.blocks {
            block.copy_page(&mut recorder, self.kv_pages, from, to, scratch);
        }
        recorder.submit();
        Ok(self.queue.gpu().check()?)
    }

    fn export_pages(&mut self, pages: &[u32], out: &mut [f32]) -> Result<(), BackendError> {
        self.queue.gpu().check()?;
        let shape = self.queue.shape;
        let (bytes, len) = (exchange::page_bytes(&shape), exchange::page_len(&shape));
        let size = (self.blocks.len() * pages.len() * 2 * bytes) as u64;
        if size == 0 {
            return Ok(());
        }
        let usage = BufferUsages::MAP_READ | BufferUsages::COPY_DST;
        let readback = self.queue.gpu().buffer("pages of the cache to be read", size, usage)?;
        let mut recorder = self.queue.record();
        let places = self.blocks.iter().flat_map(|block| pages.iter().map(move |&page| (block, page)));
        for (index, (block, page)) in places.enumerate() {
            block.export_page(&mut recorder, page, bytes as u64, &readback, (index * 2 * bytes) as u64);
        }
        let submission = recorder.submit();
        self.queue.counters.readback += size;
        self.queue.gpu().read(submission, &readback, size, |all| {
            for (index, (from, to)) in all.chunks_exact(bytes).zip(out.chunks_exact_mut(len)).enumerate() {
                exchange::export(&shape, index % 2 == 0, from, to);
            }
        })?;
        Ok(())
    }

    fn import_pages(&mut self, pages: &[u32], from: &[f32]) -> Result<(), BackendError> {
        let (gpu, shape) = (self.queue.gpu(), self.queue.shape);
        let places = self.blocks.iter().flat_map(|block| pages.iter().map(move |&page| (block, page)));
        for ((block, page), from) in places.zip(from.chunks_exact(2 * exchange::page_len(&shape))) {
            let (keys, values) = from.split_at(from.len() / 2);
            let [keys, values] = [(true, keys), (false, values)].map(|(keys, x)| exchange::import(&shape, keys, x));
            block.import_page(gpu, page, &keys, &values)?;
        }
        self.queue.counters.uploaded +=
            (from.len() / 2 / exchange::page_len(&shape).max(1)) as u64 * 2 * exchange::page_bytes(&shape) as u64;
        Ok(self.queue.gpu().check()?)
    }

    fn observe(&mut self, observer: Option<Box<dyn Observer>>) {
        self.queue.timestamps = None;
        if observer.is_some() {
            match Timestamps::new(self.queue.gpu()) {
                Ok(timestamps) => self.queue.timestamps = timestamps,
                Err(error) => tracing::warn!("kernels are not timed: {error}"),
            }
        }
        self.observer = observer;
    }

    fn memory(&self) -> StageMemory {
        StageMemory {
            weights: self.blocks.iter().map(GpuBlock::weight_bytes).sum(),
            head: self.head.as_ref().map_or(0, GpuHead::bytes_read),
            kv_cache: self.blocks.iter().map(GpuBlock::kv_bytes).sum(),
        }
    }

    fn counters(&self) -> Option<Counters> {
        Some(self.queue.counters.clone())
    }
}
