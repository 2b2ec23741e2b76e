//! A run of layers on the CPU.

use std::ops::Range;
use std::sync::Arc;

use smallvec::SmallVec;
use sterna_cpu::dense;
use sterna_cpu::kv::{KvLayer, KvSpan};
use sterna_cpu::norm::rms_norm;
use sterna_cpu::rope::{Rope, RopeRows};
use sterna_cpu::{AlignedBuf, Kernels, Pool};

use super::block::{BlockContext, CpuBlock, Scratch};
use crate::backend::{BackendError, Batch, KvOptions, Observer, Progress, Stage, StageMemory};
use crate::format::DenseTensor;
use crate::graph::{Graph, Layer};
use crate::model::ModelConfig;

/// Batches of up to this many sequences need no memory from the heap.
const FEW_SEQUENCES: usize = 32;

/// The embedding, blocks and head that one stage holds; each may be absent.
pub(super) struct CpuStage {
    kernels: Kernels,
    pool: Arc<Pool>,
    config: ModelConfig,
    layers: Range<usize>,
    embed: Option<DenseTensor>,
    blocks: Vec<CpuBlock>,
    head: Option<Head>,
    rope: Rope,
    rope_rows: RopeRows,
    scratch: Scratch,
    observer: Option<Box<dyn Observer>>,
}

/// Final norm and vocabulary matrix.
struct Head {
    norm: Vec<f32>,
    weight: DenseTensor,
    normed: AlignedBuf<f32>,
    scratch: AlignedBuf<f32>,
}

impl CpuStage {
    pub(super) fn build(
        kernels: Kernels,
        pool: Arc<Pool>,
        graph: &Graph,
        layers: Range<usize>,
        kv: KvOptions,
        progress: &dyn Progress,
    ) -> Result<CpuStage, BackendError> {
        let config = graph.config().clone();
        let (mut embed, mut blocks, mut head) = (None, Vec::new(), None);
        for index in layers.clone() {
            match graph.layer(index) {
                Layer::Embed => embed = Some(graph.embedding()?),
                Layer::Block(number, spec) => {
                    let cache = KvLayer::new(kv.pages, config.num_kv_heads, config.head_dim, kv.kind);
                    blocks.push(CpuBlock::build(graph, number, spec, kernels.layout(), cache)?);
                    progress.advance(graph.block_bytes(number));
                }
                Layer::Head => {
                    head = Some(Head {
                        norm: graph.final_norm()?,
                        weight: graph.head()?,
                        normed: AlignedBuf::default(),
                        scratch: AlignedBuf::default(),
                    });
                }
            }
        }
        let rope = Rope::new(config.head_dim, config.rope_theta, &config.rope_scaling);
        Ok(CpuStage {
            kernels,
            pool,
            config,
            layers,
            embed,
            blocks,
            head,
            rope,
            rope_rows: RopeRows::default(),
            scratch: Scratch::default(),
            observer: None,
        })
    }
}

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
        logits: &mut AlignedBuf<f32>,
    ) -> Result<(), BackendError> {
        if let Some(embed) = &self.embed {
            hidden.resize(batch.tokens() * self.config.hidden_size);
            let ids = batch.sequences.iter().flat_map(|s| s.tokens);
            for (id, row) in ids.zip(hidden.chunks_exact_mut(self.config.hidden_size)) {
                dense::dequantize_row(self.kernels.isa(), embed.ty, embed.row(*id as usize), row);
            }
        }
        let spans: SmallVec<[KvSpan<'_>; FEW_SEQUENCES]> = batch
            .sequences
            .iter()
            .map(|s| KvSpan { pages: s.pages, position: s.position, tokens: s.tokens.len() })
            .collect();
        self.rope.rows(spans.iter().flat_map(|span| span.position..span.position + span.tokens), &mut self.rope_rows);
        let mut context = BlockContext {
            kernels: &self.kernels,
            pool: &self.pool,
            config: &self.config,
            rope: &self.rope_rows,
            spans: &spans,
            tokens: batch.tokens(),
            observer: self.observer.as_deref_mut(),
        };
        for block in &mut self.blocks {
            block.forward(&mut context, &mut self.scratch, hidden);
        }
        if let Some(head) = &mut self.head {
            head.forward(&self.kernels, &self.pool, &self.config, batch, hidden, logits);
        }
        Ok(())
    }

    fn copy_page(&mut self, from: u32, to: u32) -> Result<(), BackendError> {
        for block in &mut self.blocks {
            block.copy_page(from, to);
        }
        Ok(())
    }

    fn observe(&mut self, observer: Option<Box<dyn Observer>>) {
        self.observer = observer;
    }

    fn memory(&self) -> StageMemory {
        StageMemory {
            weights: self.blocks.iter().map(CpuBlock::weight_bytes).sum(),
            head: self.head.as_ref().map_or(0, |head| head.weight.data.len() as u64),
            kv_cache: self.blocks.iter().map(CpuBlock::kv_bytes).sum(),
        }
    }
}

impl Head {
    fn forward(
        &mut self,
        kernels: &Kernels,
        pool: &Pool,
        config: &ModelConfig,
        batch: &Batch<'_>,
        hidden: &[f32],
        logits: &mut AlignedBuf<f32>,
    ) {
        let width = config.hidden_size;
        let rows = batch.outputs().map(|rows| rows.len()).sum::<usize>();
        self.normed.resize(rows * width);
        let sources = batch.outputs().flatten().map(|row| &hidden[row * width..(row + 1) * width]);
        for (source, normed) in sources.zip(self.normed.chunks_exact_mut(width)) {
            rms_norm(kernels.isa(), source, &self.norm, config.rms_norm_eps, normed);
        }
        logits.resize(rows * config.vocab_size);
        dense::logits(pool, kernels.isa(), self.weight.matrix(), &self.normed, &mut self.scratch, logits);
    }
}
