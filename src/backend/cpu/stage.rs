//! A run of layers on the CPU.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use smallvec::SmallVec;
use sterna_cpu::kv::{KvLayer, KvSpan, KvType};
use sterna_cpu::rope::{Rope, RopeRows, RopeScaling};
use sterna_cpu::{AlignedBuf, Kernels, Layout, Pool};

use super::block::{BlockContext, CpuBlock, Scratch};
use super::embedding::Embedding;
use super::head::CpuHead;
use super::linears::{Engine, Weights, grouped_kernels};
use crate::backend::{
    BackendError, Batch, HeadKind, KvOptions, Observer, Outputs, Progress, Stage, StageMemory, StageNeeds,
};
use crate::graph::{Graph, Layer};
use crate::model::{LocalAttention, ModelConfig};

/// Batches of up to this many sequences need no memory from the heap.
const FEW_SEQUENCES: usize = 32;

/// The embedding, blocks and head that one stage holds; each may be absent.
pub(super) struct CpuStage {
    kernels: Kernels,
    grouped_kernels: Kernels,
    pool: Arc<Pool>,
    config: ModelConfig,
    layers: Range<usize>,
    embed: Option<Embedding>,
    blocks: Vec<CpuBlock>,
    head: Option<CpuHead>,
    rope: Rope,
    rope_rows: RopeRows,
    /// The rotary angles of local layers, if there are any.
    local_rope: Option<Rope>,
    local_rope_rows: RopeRows,
    scratch: Scratch,
    observer: Option<Box<dyn Observer>>,
}

impl CpuStage {
    pub(super) fn build(
        kernels: Kernels,
        pool: Arc<Pool>,
        head_kind: HeadKind,
        graph: &Graph,
        layers: Range<usize>,
        kv: KvOptions,
        progress: &dyn Progress,
    ) -> Result<CpuStage, BackendError> {
        let config = graph.config().clone();
        let (mut embed, mut blocks, mut head) = (None, Vec::new(), None);
        for index in layers.clone() {
            match graph.layer(index) {
                Layer::Embed => embed = Some(Embedding::new(graph.embedding_matrix()?)),
                Layer::Block(number, spec) => {
                    let cache = KvLayer::new(kv.pages, config.num_kv_heads, config.head_dim, kv.kind);
                    blocks.push(CpuBlock::build(graph, number, spec, &pool, kernels.layout(), cache)?);
                    progress.advance(graph.block_bytes(number));
                }
                Layer::Head => head = Some(CpuHead::build(&pool, &kernels, head_kind, graph)?),
            }
        }
        let rope = Rope::new(config.head_dim, config.rope_theta, &config.rope_scaling);
        let local = |local: LocalAttention| Rope::new(config.head_dim, local.rope_theta, &RopeScaling::None);
        let local_rope = config.local.map(local);
        Ok(CpuStage {
            grouped_kernels: grouped_kernels(&kernels),
            kernels,
            pool,
            config,
            layers,
            embed,
            blocks,
            head,
            rope,
            rope_rows: RopeRows::default(),
            local_rope,
            local_rope_rows: RopeRows::default(),
            scratch: Scratch::default(),
            observer: None,
        })
    }
}

/// What `layers` take. Buffers are those of [`CHUNK`] tokens; an embedding is read from the file, row by row.
pub(super) fn needs(
    layout: Layout,
    head: HeadKind,
    graph: &Graph,
    layers: Range<usize>,
    kv: KvOptions,
) -> Result<StageNeeds, BackendError> {
    let config = graph.config();
    let mut needs = StageNeeds::default();
    for index in layers {
        match graph.layer(index) {
            Layer::Embed => {}
            Layer::Block(_, spec) => {
                let bytes = spec.linears().map(|linear| Weights::bytes_of(graph, layout, linear));
                needs.weights += bytes.sum::<usize>() as u64;
                let cache = KvLayer::bytes_of(kv.pages, config.num_kv_heads, config.head_dim, kv.kind);
                needs.kv_cache += cache as u64;
            }
            Layer::Head => needs.weights += CpuHead::bytes_of(head, graph)?,
        }
    }
    // The hidden state (and, where halves of blocks are normalised apart, what goes in and comes out), queries, keys, values and
    // what they give, gate and up, and a quantized input.
    let hidden_states = if graph.blocks().iter().any(|block| block.has_rows_beside_hidden(config)) { 3 } else { 1 };
    let row =
        hidden_states * config.hidden_size + 2 * (config.q_size() + config.kv_size()) + 2 * config.intermediate_size;
    needs.buffers = (CHUNK * (size_of::<f32>() * row + config.intermediate_size)) as u64;
    Ok(needs)
}

/// Tokens of a pass, as it is by default.
const CHUNK: usize = 512;

impl Stage for CpuStage {
    fn layers(&self) -> Range<usize> {
        self.layers.clone()
    }

    fn backend(&self) -> &str {
        "cpu"
    }

    fn forward(
        &mut self,
        batch: &Batch<'_>,
        hidden: &mut AlignedBuf<f32>,
        outputs: &mut Outputs,
    ) -> Result<(), BackendError> {
        let since = Instant::now();
        if let Some(embed) = &mut self.embed {
            hidden.resize(batch.tokens() * self.config.hidden_size);
            let ids = batch.sequences.iter().flat_map(|s| s.tokens);
            for (id, row) in ids.zip(hidden.chunks_exact_mut(self.config.hidden_size)) {
                embed.read(self.kernels.isa(), *id as usize, row)?;
                if self.config.scales.embedding != 1.0 {
                    row.iter_mut().for_each(|value| *value *= self.config.scales.embedding);
                }
            }
        }
        let spans: SmallVec<[KvSpan<'_>; FEW_SEQUENCES]> = batch
            .sequences
            .iter()
            .map(|s| KvSpan { pages: s.pages, position: s.position, tokens: s.tokens.len() })
            .collect();
        let positions = || spans.iter().flat_map(|span| span.position..span.position + span.tokens);
        self.rope.rows(positions(), &mut self.rope_rows);
        if let Some(rope) = &self.local_rope {
            rope.rows(positions(), &mut self.local_rope_rows);
        }
        let mut context = BlockContext {
            engine: Engine { pool: &self.pool, kernels: &self.kernels, grouped_kernels: &self.grouped_kernels },
            config: &self.config,
            rope: &self.rope_rows,
            local_rope: &self.local_rope_rows,
            spans: &spans,
            tokens: batch.tokens(),
            observer: self.observer.as_deref_mut(),
            since,
        };
        if self.embed.is_some() {
            context.done(0, "embed");
        }
        let mut blocks = self.blocks.as_mut_slice();
        while let Some((block, behind)) = blocks.split_first_mut() {
            block.forward(&mut context, &mut self.scratch, hidden, behind.first());
            blocks = behind;
        }
        if let Some(head) = &mut self.head {
            head.forward(&self.pool, batch, hidden, outputs);
            context.done(self.layers.end - 1, "head");
        }
        Ok(())
    }

    fn all_logits(&mut self, output: usize, outputs: &mut Outputs) -> Result<(), BackendError> {
        if let Some(head) = &mut self.head {
            head.all_logits(&self.pool, output, outputs);
        }
        Ok(())
    }

    fn copy_page(&mut self, from: u32, to: u32) -> Result<(), BackendError> {
        for block in &mut self.blocks {
            block.copy_page(from, to);
        }
        Ok(())
    }

    fn export_pages(&mut self, pages: &[u32], out: &mut [f32]) -> Result<(), BackendError> {
        let page_len = KvLayer::page_len(self.config.num_kv_heads, self.config.head_dim);
        let places = self.blocks.iter().flat_map(|block| pages.iter().map(move |&page| (block, page)));
        for ((block, page), out) in places.zip(out.chunks_exact_mut(page_len)) {
            block.cache().export_page(page, out).map_err(|_| BackendError::HandOver { kv: KvType::Int8.name() })?;
        }
        Ok(())
    }

    fn import_pages(&mut self, pages: &[u32], from: &[f32]) -> Result<(), BackendError> {
        let page_len = KvLayer::page_len(self.config.num_kv_heads, self.config.head_dim);
        let mut from = from.chunks_exact(page_len);
        for block in &mut self.blocks {
            for (&page, from) in pages.iter().zip(&mut from) {
                let error = |_| BackendError::HandOver { kv: KvType::Int8.name() };
                block.cache_mut().import_page(page, from).map_err(error)?;
            }
        }
        Ok(())
    }

    fn observe(&mut self, observer: Option<Box<dyn Observer>>) {
        self.observer = observer;
    }

    fn memory(&self) -> StageMemory {
        StageMemory {
            weights: self.blocks.iter().map(CpuBlock::weight_bytes).sum(),
            head: self.head.as_ref().map_or(0, CpuHead::bytes_read),
            kv_cache: self.blocks.iter().map(CpuBlock::kv_bytes).sum(),
        }
    }
}
