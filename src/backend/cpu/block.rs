//! One transformer block on the CPU.

use std::time::Instant;

use sterna_cpu::activation::Gate as GateFunction;
use sterna_cpu::attention::{AttentionScratch, attention};
use sterna_cpu::kv::{KvLayer, KvSpan};
use sterna_cpu::norm::{add_rms_norm, add_scaled, rms_norm};
use sterna_cpu::rope::{HeadNorms, RopeRows};
use sterna_cpu::{AlignedBuf, Layout, Pool, for_each_row};

use super::linears::{Engine, Inputs, Weights};
use crate::backend::{BackendError, LinearEvent, Observer, OpTime};
use crate::graph::{BlockSpec, Graph};
use crate::model::{Gate, ModelConfig};

/// Packed weights, norms and key-value cache of one block.
pub(super) struct CpuBlock {
    index: usize,
    attn_norm: Vec<f32>,
    /// Norms of q, k and v alone.
    qkv_norms: Option<[Vec<f32>; 3]>,
    q: Weights,
    k: Weights,
    v: Weights,
    q_norm: Option<Vec<f32>>,
    k_norm: Option<Vec<f32>>,
    attn_sub_norm: Option<Vec<f32>>,
    o: Weights,
    post_attn_norm: Option<Vec<f32>>,
    is_local: bool,
    ffn_norm: Vec<f32>,
    /// Norms of gate and up alone.
    gate_up_norms: Option<[Vec<f32>; 2]>,
    gate: Weights,
    up: Weights,
    ffn_sub_norm: Option<Vec<f32>>,
    down: Weights,
    post_ffn_norm: Option<Vec<f32>>,
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
    /// Input of matrices that have norms of their own, `[tokens, hidden]`.
    normed: AlignedBuf<f32>,
    /// What a half of a block gives before it is normalised or scaled, `[tokens, hidden]`.
    projected: AlignedBuf<f32>,
    gate: AlignedBuf<f32>,
    up: AlignedBuf<f32>,
    attention: AttentionScratch,
}

/// What a block needs to know of its surroundings in one pass.
pub(super) struct BlockContext<'a> {
    pub(super) engine: Engine<'a>,
    pub(super) config: &'a ModelConfig,
    /// Rotations of the tokens' positions.
    pub(super) rope: &'a RopeRows,
    /// Those of local layers.
    pub(super) local_rope: &'a RopeRows,
    /// The tokens, sequence by sequence.
    pub(super) spans: &'a [KvSpan<'a>],
    /// Number of tokens.
    pub(super) tokens: usize,
    pub(super) observer: Option<&'a mut (dyn Observer + 'static)>,
    /// When the last op was done, or the pass began.
    pub(super) since: Instant,
}

/// A product of [`BlockContext::project`]: its name for observers, the matrix, `[tokens, rows]`.
type Job<'a> = (&'static str, &'a Weights, &'a mut [f32]);

impl BlockContext<'_> {
    /// Products of the hidden state `x` with matrices that share it, behind their common norm and those that they have of
    /// their own, if any; without those, in one parallel region.
    #[allow(clippy::too_many_arguments, reason = "the arguments of one step, and its buffers")]
    fn project<const N: usize>(
        &mut self,
        block: usize,
        x: &[f32],
        (norm, own_norms): (&[f32], Option<&[Vec<f32>; N]>),
        mut jobs: [Job<'_>; N],
        next: &[&Weights],
        inputs: &mut Inputs,
        normed: &mut AlignedBuf<f32>,
    ) {
        if let Some(own_norms) = own_norms {
            self.normalize(x, norm, normed);
            for (own_norm, (name, weights, out)) in own_norms.iter().zip(jobs) {
                self.quantize(normed, Some(own_norm), weights, inputs);
                inputs.multiply(self.engine, [(weights, &mut *out)], false, &[]);
                self.done(block + 1, name);
                self.report(block, inputs, weights, &[(name, out)]);
            }
            return;
        }
        let first = jobs[0].1;
        self.quantize(x, Some(norm), first, inputs);
        self.done(block + 1, "norm, quantize");
        inputs.multiply(self.engine, jobs.each_mut().map(|(_, weights, out)| (*weights, &mut **out)), false, next);
        self.done(block + 1, if N == 3 { "q, k, v" } else { "gate, up" });
        self.report(block, inputs, first, &jobs.each_ref().map(|(name, _, out)| (*name, &**out)));
    }

    /// Adds the product of a matrix to `hidden`, normalised or scaled before if the model does that.
    fn add_product(
        &self,
        inputs: &Inputs,
        weights: &Weights,
        post_norm: Option<&[f32]>,
        projected: &mut AlignedBuf<f32>,
        hidden: &mut [f32],
        next: &[&Weights],
    ) {
        let (isa, scale) = (self.engine.kernels.isa(), self.config.scales.residual);
        if post_norm.is_none() && scale == 1.0 {
            return inputs.multiply(self.engine, [(weights, hidden)], true, next);
        }
        projected.resize(hidden.len());
        inputs.multiply(self.engine, [(weights, projected)], false, next);
        let (width, projected, post_norm) = (self.config.hidden_size, &projected[..], self.norm(post_norm));
        for_each_row(self.engine.pool, hidden, width, &|token, hidden| {
            let product = &projected[token * width..][..width];
            match post_norm {
                Some((weight, eps)) => add_rms_norm(isa, product, weight, eps, hidden),
                None => add_scaled(isa, product, scale, hidden),
            }
        });
    }

    /// Puts the norm of each row of `x` into `normed`.
    fn normalize(&self, x: &[f32], weight: &[f32], normed: &mut AlignedBuf<f32>) {
        normed.resize(x.len());
        let (isa, eps) = (self.engine.kernels.isa(), self.config.rms_norm_eps);
        for_each_row(self.engine.pool, normed, weight.len(), &|token, row| {
            rms_norm(isa, &x[token * weight.len()..][..weight.len()], weight, eps, row);
        });
    }

    /// Shows the products of one input to the observer, if it was int8.
    fn report(&mut self, block: usize, input: &Inputs, of: &Weights, outputs: &[(&'static str, &[f32])]) {
        if let Some(observer) = &mut self.observer
            && let Some(input) = input.int8(of)
        {
            observer.linears(LinearEvent { block, outputs, input });
        }
    }

    /// Tells the observer how long the op of `layer` took that is done now.
    pub(super) fn done(&mut self, layer: usize, name: &'static str) {
        if let Some(observer) = &mut self.observer {
            let now = Instant::now();
            observer.timed(OpTime { layer, name, start: self.since, time: now - self.since });
            self.since = now;
        }
    }

    /// A norm's weight with its epsilon.
    fn norm<'w>(&self, weight: Option<&'w [f32]>) -> Option<(&'w [f32], f32)> {
        weight.map(|weight| (weight, self.config.rms_norm_eps))
    }

    /// Normalises each row of `x` (if there is a norm) and rounds it for products with `weights`.
    fn quantize(&self, x: &[f32], norm: Option<&[f32]>, weights: &Weights, inputs: &mut Inputs) {
        inputs.quantize(self.engine, weights, x, x.len() / self.tokens, self.norm(norm));
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
        let sub_norm =
            |name: &Option<String>, len| name.as_deref().map(|name| graph.norm_of_linear(name, len)).transpose();
        let (a, f) = (&spec.attention, &spec.ffn);
        let [q, k, v] = Weights::build(graph, pool, layout, [&a.q, &a.k, &a.v])?;
        let [o] = Weights::build(graph, pool, layout, [&a.o])?;
        let [gate, up] = Weights::build(graph, pool, layout, [&f.gate, &f.up])?;
        let [down] = Weights::build(graph, pool, layout, [&f.down])?;
        Ok(CpuBlock {
            index,
            attn_norm: norm(&a.norm, config.hidden_size)?,
            qkv_norms: a.input_norms.as_ref().map(|names| input_norms(graph, names)).transpose()?,
            q,
            k,
            v,
            q_norm: optional(&a.q_norm, config.head_dim)?,
            k_norm: optional(&a.k_norm, config.head_dim)?,
            attn_sub_norm: sub_norm(&a.sub_norm, config.q_size())?,
            o,
            post_attn_norm: optional(&a.post_norm, config.hidden_size)?,
            is_local: a.is_local,
            ffn_norm: norm(&f.norm, config.hidden_size)?,
            gate_up_norms: f.input_norms.as_ref().map(|names| input_norms(graph, names)).transpose()?,
            gate,
            up,
            ffn_sub_norm: sub_norm(&f.sub_norm, config.intermediate_size)?,
            down,
            post_ffn_norm: optional(&f.post_norm, config.hidden_size)?,
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
        let Scratch { inputs, q, k, v, attn, normed, projected, attention: attention_scratch, .. } = scratch;
        let (config, isa) = (context.config, context.engine.kernels.isa());
        let (tokens, q_size, kv_size) = (context.tokens, config.q_size(), config.kv_size());
        q.resize(tokens * q_size);
        k.resize(tokens * kv_size);
        v.resize(tokens * kv_size);
        attn.resize(tokens * q_size);

        let jobs: [Job<'_>; 3] = [("q_proj", &self.q, q), ("k_proj", &self.k, k), ("v_proj", &self.v, v)];
        let norms = (&self.attn_norm[..], self.qkv_norms.as_ref());
        context.project(self.index, hidden, norms, jobs, &[&self.o], inputs, normed);

        let norms = HeadNorms { q: self.q_norm.as_deref(), k: self.k_norm.as_deref(), eps: config.rms_norm_eps };
        let rope = if self.is_local { context.local_rope } else { context.rope };
        rope.apply_all(context.engine.pool, isa, q, k, norms);
        self.cache.store(context.engine.pool, isa, context.spans, k, v);
        context.done(self.index + 1, "rope, cache");
        let (heads, scale) = (config.num_heads, config.attention_scale);
        let window = config.local.filter(|_| self.is_local).map_or(usize::MAX, |local| local.window);
        attention(
            context.engine.pool,
            isa,
            q,
            &self.cache,
            context.spans,
            heads,
            scale,
            window,
            attention_scratch,
            attn,
        );
        context.done(self.index + 1, "attention");

        context.quantize(attn, self.attn_sub_norm.as_deref(), &self.o, inputs);
        context.done(self.index + 1, "norm, quantize");
        let (post_norm, next) = (self.post_attn_norm.as_deref(), [&self.gate, &self.up]);
        context.add_product(inputs, &self.o, post_norm, projected, hidden, &next);
        context.done(self.index + 1, "o");
        context.report(self.index, inputs, &self.o, &[("o_proj", hidden)]);
    }

    fn ffn_half(
        &self,
        context: &mut BlockContext<'_>,
        scratch: &mut Scratch,
        hidden: &mut [f32],
        next: Option<&CpuBlock>,
    ) {
        let Scratch { inputs, gate, up, normed, projected, .. } = scratch;
        let width = context.config.intermediate_size;
        gate.resize(context.tokens * width);
        up.resize(context.tokens * width);

        let jobs: [Job<'_>; 2] = [("gate_proj", &self.gate, gate), ("up_proj", &self.up, up)];
        let norms = (&self.ffn_norm[..], self.gate_up_norms.as_ref());
        context.project(self.index, hidden, norms, jobs, &[&self.down], inputs, normed);

        let function = match context.config.gate {
            Gate::Relu2 => GateFunction::Relu2,
            Gate::Silu => GateFunction::Silu,
            Gate::Gelu => GateFunction::Gelu,
        };
        let norm = context.norm(self.ffn_sub_norm.as_deref());
        inputs.quantize_gated(context.engine, &self.down, function, gate, up, width, norm);
        context.done(self.index + 1, "gating, quantize");
        let next = next.map(|block| [&block.q, &block.k, &block.v]);
        let (post_norm, next) = (self.post_ffn_norm.as_deref(), next.as_ref().map_or(&[][..], |next| next));
        context.add_product(inputs, &self.down, post_norm, projected, hidden, next);
        context.done(self.index + 1, "down");
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

/// The norms that some matrices of the width of the residual stream have of their own.
fn input_norms<const N: usize>(graph: &Graph, names: &[String; N]) -> Result<[Vec<f32>; N], BackendError> {
    let mut weights = [const { Vec::new() }; N];
    for (weight, name) in weights.iter_mut().zip(names) {
        *weight = graph.norm_of_linear(name, graph.config().hidden_size)?;
    }
    Ok(weights)
}
