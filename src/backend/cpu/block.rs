//! One transformer block on the CPU.

use sterna_cpu::activation::Gate as GateFunction;
use sterna_cpu::attention::{AttentionScratch, attention};
use sterna_cpu::kv::{KvLayer, KvSpan};
use sterna_cpu::rope::{HeadNorms, RopeRows};
use sterna_cpu::{AlignedBuf, Kernels, Layout, Pool};

use super::linears::{Engine, Inputs, Weights};
use crate::backend::{BackendError, LinearEvent, Observer};
use crate::graph::{BlockSpec, Graph};
use crate::model::{Gate, ModelConfig};

/// Packed weights, norms and key-value cache of one block.
pub(super) struct CpuBlock {
    index: usize,
    attn_norm: Vec<f32>,
    q: Weights,
    k: Weights,
    v: Weights,
    q_norm: Option<Vec<f32>>,
    k_norm: Option<Vec<f32>>,
    attn_sub_norm: Option<Vec<f32>>,
    o: Weights,
    ffn_norm: Vec<f32>,
    gate: Weights,
    up: Weights,
    ffn_sub_norm: Option<Vec<f32>>,
    down: Weights,
    cache: KvLayer,
}

/// Buffers that all blocks of a stage share; grown to the largest batch seen, never in a decode step.
#[derive(Default)]
pub(super) struct Scratch {
    inputs: Inputs,
    q: AlignedBuf<f32>,
    k: AlignedBuf<f32>,
    v: AlignedBuf<f32>,
    attn: AlignedBuf<f32>,
    gate: AlignedBuf<f32>,
    up: AlignedBuf<f32>,
    attention: AttentionScratch,
}

/// What a block needs to know of its surroundings in one pass.
pub(super) struct BlockContext<'a> {
    pub(super) kernels: &'a Kernels,
    pub(super) pool: &'a Pool,
    pub(super) config: &'a ModelConfig,
    /// Rotations of the tokens' positions.
    pub(super) rope: &'a RopeRows,
    /// The tokens, sequence by sequence.
    pub(super) spans: &'a [KvSpan<'a>],
    /// Number of tokens.
    pub(super) tokens: usize,
    pub(super) observer: Option<&'a mut (dyn Observer + 'static)>,
}

impl BlockContext<'_> {
    fn engine(&self) -> Engine<'_> {
        Engine { pool: self.pool, kernels: self.kernels }
    }

    /// Shows the products of one input to the observer, if it was int8.
    fn report(&mut self, block: usize, input: &Inputs, of: &Weights, outputs: &[(&'static str, &[f32])]) {
        if let Some(observer) = &mut self.observer
            && let Some(input) = input.int8(of)
        {
            observer.linears(LinearEvent { block, outputs, input });
        }
    }

    /// A norm's weight with its epsilon.
    fn norm<'w>(&self, weight: Option<&'w [f32]>) -> Option<(&'w [f32], f32)> {
        weight.map(|weight| (weight, self.config.rms_norm_eps))
    }

    /// Normalises each row of `x` (if there is a norm) and rounds it for products with `weights`.
    fn quantize(&self, x: &[f32], norm: Option<&[f32]>, weights: &Weights, inputs: &mut Inputs) {
        inputs.quantize(self.engine(), weights, x, x.len() / self.tokens, self.norm(norm));
    }
}

impl CpuBlock {
    /// Reads the weights of block `index` and packs them to `layout`, near to the threads of `pool`.
    pub(super) fn build(
        graph: &Graph,
        index: usize,
        spec: &BlockSpec,
        pool: &Pool,
        layout: Layout,
        cache: KvLayer,
    ) -> Result<CpuBlock, BackendError> {
        let config = graph.config();
        let norm = |name: &str, len| graph.norm(name, len);
        let optional = |name: &Option<String>, len| name.as_deref().map(|name| norm(name, len)).transpose();
        let (a, f) = (&spec.attention, &spec.ffn);
        let [q, k, v] = Weights::build(graph, pool, layout, [&a.q, &a.k, &a.v])?;
        let [o] = Weights::build(graph, pool, layout, [&a.o])?;
        let [gate, up] = Weights::build(graph, pool, layout, [&f.gate, &f.up])?;
        let [down] = Weights::build(graph, pool, layout, [&f.down])?;
        Ok(CpuBlock {
            index,
            attn_norm: norm(&a.norm, config.hidden_size)?,
            q,
            k,
            v,
            q_norm: optional(&a.q_norm, config.head_dim)?,
            k_norm: optional(&a.k_norm, config.head_dim)?,
            attn_sub_norm: optional(&a.sub_norm, config.q_size())?,
            o,
            ffn_norm: norm(&f.norm, config.hidden_size)?,
            gate,
            up,
            ffn_sub_norm: optional(&f.sub_norm, config.intermediate_size)?,
            down,
            cache,
        })
    }

    /// Adds the block's two halves to `hidden`, `[tokens, hidden]`. `next` is the block behind it.
    pub(super) fn forward(
        &mut self,
        context: &mut BlockContext<'_>,
        scratch: &mut Scratch,
        hidden: &mut [f32],
        next: Option<&CpuBlock>,
    ) {
        self.attention_half(context, scratch, hidden);
        self.ffn_half(context, scratch, hidden, next);
    }

    fn attention_half(&mut self, context: &mut BlockContext<'_>, scratch: &mut Scratch, hidden: &mut [f32]) {
        let Scratch { inputs, q, k, v, attn, attention: attention_scratch, .. } = scratch;
        let (config, isa) = (context.config, context.kernels.isa());
        let (tokens, q_size, kv_size) = (context.tokens, config.q_size(), config.kv_size());
        q.resize(tokens * q_size);
        k.resize(tokens * kv_size);
        v.resize(tokens * kv_size);
        attn.resize(tokens * q_size);

        context.quantize(hidden, Some(&self.attn_norm), &self.q, inputs);
        inputs.multiply(context.engine(), [(&self.q, q), (&self.k, k), (&self.v, v)], false, &[&self.o]);
        context.report(self.index, inputs, &self.q, &[("q_proj", q), ("k_proj", k), ("v_proj", v)]);

        let norms = HeadNorms { q: self.q_norm.as_deref(), k: self.k_norm.as_deref(), eps: config.rms_norm_eps };
        context.rope.apply_all(context.pool, isa, q, k, norms);
        self.cache.store(context.pool, isa, context.spans, k, v);
        let (heads, scale) = (config.num_heads, 1.0 / (config.head_dim as f32).sqrt());
        attention(context.pool, isa, q, &self.cache, context.spans, heads, scale, attention_scratch, attn);

        context.quantize(attn, self.attn_sub_norm.as_deref(), &self.o, inputs);
        inputs.multiply(context.engine(), [(&self.o, hidden)], true, &[&self.gate, &self.up]);
        context.report(self.index, inputs, &self.o, &[("o_proj", hidden)]);
    }

    fn ffn_half(
        &self,
        context: &mut BlockContext<'_>,
        scratch: &mut Scratch,
        hidden: &mut [f32],
        next: Option<&CpuBlock>,
    ) {
        let Scratch { inputs, gate, up, .. } = scratch;
        let width = context.config.intermediate_size;
        gate.resize(context.tokens * width);
        up.resize(context.tokens * width);

        context.quantize(hidden, Some(&self.ffn_norm), &self.gate, inputs);
        inputs.multiply(context.engine(), [(&self.gate, gate), (&self.up, up)], false, &[&self.down]);
        context.report(self.index, inputs, &self.gate, &[("gate_proj", gate), ("up_proj", up)]);

        let function = match context.config.gate {
            Gate::Relu2 => GateFunction::Relu2,
            Gate::Silu => GateFunction::Silu,
        };
        let norm = context.norm(self.ffn_sub_norm.as_deref());
        inputs.quantize_gated(context.engine(), &self.down, function, gate, up, width, norm);
        let next = next.map(|block| [&block.q, &block.k, &block.v]);
        inputs.multiply(context.engine(), [(&self.down, hidden)], true, next.as_ref().map_or(&[], |next| next));
        context.report(self.index, inputs, &self.down, &[("down_proj", hidden)]);
    }

    pub(super) fn cache(&self) -> &KvLayer {
        &self.cache
    }

    pub(super) fn cache_mut(&mut self) -> &mut KvLayer {
        &mut self.cache
    }

    pub(super) fn copy_page(&mut self, from: u32, to: u32) {
        self.cache.copy_page(from, to);
    }

    pub(super) fn weight_bytes(&self) -> u64 {
        let linears = [&self.q, &self.k, &self.v, &self.o, &self.gate, &self.up, &self.down];
        linears.into_iter().map(|weights| weights.bytes() as u64).sum()
    }

    pub(super) fn kv_bytes(&self) -> u64 {
        self.cache.bytes() as u64
    }
}
