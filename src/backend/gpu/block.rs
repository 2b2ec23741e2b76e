//! One transformer block on a GPU.

use sterna_cpu::Layout;
use wgpu::BindGroup;

use super::GpuError;
use super::device::{Gpu, Memory};
use super::fit::cache_bytes;
use super::kernels::{FEW_TOKENS, Kernel, Output, Shape};
use super::programs::Programs;
use super::record::{Queue, Recorder, grid};
use super::weights::GpuLinear;
use super::workspace::{Workspace, padded};
use crate::backend::BackendError;
use crate::graph::{BlockSpec, Graph, LinearSpec};
use crate::model::ModelConfig;

/// Tokens and rows of a workgroup of the product of many tokens.
const TILE: usize = 64;

/// Workgroup memory that the kernels with a norm need beside the activations.
const REDUCTION_BYTES: usize = 4 << 10;

/// Weights, norms, key-value cache and bound kernels of one block.
#[derive(Debug)]
pub(super) struct GpuBlock {
    qkv: GpuLinear,
    o: GpuLinear,
    gate_up: GpuLinear,
    down: GpuLinear,
    attn_norm: Memory,
    attn_sub_norm: Option<Memory>,
    ffn_norm: Memory,
    ffn_sub_norm: Option<Memory>,
    keys: Memory,
    values: Memory,
    /// Whether workgroups have the memory to normalise by themselves.
    fused: bool,
    bound: Option<Bound>,
}

/// The block's buffers and those of a workspace, as the kernels take them.
#[derive(Debug)]
struct Bound {
    quantize_attn: BindGroup,
    qkv: Vec<BindGroup>,
    qkv_norm: Vec<BindGroup>,
    attention: BindGroup,
    combine: BindGroup,
    attention_tile: BindGroup,
    quantize_attended: BindGroup,
    o: Vec<BindGroup>,
    quantize_ffn: BindGroup,
    gate_up: Vec<BindGroup>,
    gate_up_norm: Vec<BindGroup>,
    quantize_gated: BindGroup,
    down: Vec<BindGroup>,
}

/// Widths of the rows that are quantized, as uniforms that all blocks share.
#[derive(Debug)]
pub(super) struct RowWidths {
    hidden: Memory,
    heads: Memory,
    ffn: Memory,
}

impl RowWidths {
    pub(super) fn new(gpu: &Gpu, config: &ModelConfig) -> Result<RowWidths, GpuError> {
        let width = |cols: usize| gpu.uniform("width of rows", &[cols as u32, cols.div_ceil(16) as u32]);
        Ok(RowWidths {
            hidden: width(config.hidden_size)?,
            heads: width(config.q_size())?,
            ffn: width(config.intermediate_size)?,
        })
    }
}

/// What is the same for all blocks in a pass.
#[derive(Clone, Copy, Debug)]
pub(super) struct PassShape {
    pub(super) tokens: usize,
    /// Blocks of attention of the longest sequence.
    pub(super) blocks: usize,
    /// Tiles of attention of many tokens.
    pub(super) tiles: usize,
    /// Bytes of keys and values that attention reads in each block.
    pub(super) kv_bytes: u64,
    /// Multiply-adds of attention in each block.
    pub(super) attention_work: u64,
}

impl GpuBlock {
    /// Reads and uploads the weights of a block; its cache has `pages` pages.
    pub(super) fn build(
        graph: &Graph,
        spec: &BlockSpec,
        gpu: &Gpu,
        shape: &Shape,
        pages: usize,
    ) -> Result<GpuBlock, BackendError> {
        let config = graph.config();
        let (a, f) = (&spec.attention, &spec.ffn);
        let norm = |name: &str, len: usize| -> Result<Memory, BackendError> {
            let mut weight = graph.norm(name, len)?;
            weight.resize(padded(len), 0.0);
            Ok(gpu.upload(name, bytemuck::cast_slice(&weight))?)
        };
        let linear = |specs: &[&LinearSpec], rows, stride, place: &Place<'_>| -> Result<GpuLinear, BackendError> {
            let (matrix, scales) = graph.join(specs, rows, Layout::T16, place)?;
            let mut scale = [0.0; 4];
            scale[..scales.len()].copy_from_slice(&scales);
            Ok(GpuLinear::upload(gpu, &specs[0].name, &matrix, scale, stride)?)
        };
        let (hidden, ffn) = (config.hidden_size, config.intermediate_size);
        let place_qkv = |row| place_qkv(row, config, shape);
        let qkv_rows = shape.q_rows() + 2 * shape.kv_rows();
        let cache = || gpu.memory("the key-value cache of a block", cache_bytes(shape, pages));
        Ok(GpuBlock {
            qkv: linear(&[&a.q, &a.k, &a.v], qkv_rows, shape.q_rows() / 2, &place_qkv)?,
            o: linear(&[&a.o], hidden, padded(hidden) / 4, &|row| Some((0, row)))?,
            // Gate and up row by row, so that one thread has both.
            gate_up: linear(&[&f.gate, &f.up], 2 * ffn, padded(ffn) / 2, &|row| Some((row % 2, row / 2)))?,
            down: linear(&[&f.down], hidden, padded(hidden) / 4, &|row| Some((0, row)))?,
            attn_norm: norm(&a.norm, hidden)?,
            attn_sub_norm: a.sub_norm.as_deref().map(|name| norm(name, config.q_size())).transpose()?,
            ffn_norm: norm(&f.norm, hidden)?,
            ffn_sub_norm: f.sub_norm.as_deref().map(|name| norm(name, ffn)).transpose()?,
            keys: cache()?,
            values: cache()?,
            fused: padded(hidden) + REDUCTION_BYTES <= gpu.limits().max_compute_workgroup_storage_size as usize,
            bound: None,
        })
    }

    /// Binds the buffers of a new workspace.
    pub(super) fn bind(&mut self, programs: &Programs, w: &Workspace, widths: &RowWidths) -> Result<(), GpuError> {
        let quantize = |width, source, norm: Option<&Memory>| {
            let buffers = [width, source, norm.unwrap_or(&w.nothing), &w.acts, &w.act_scales];
            programs.bind(Kernel::Quantize { norm: norm.is_some() }, &buffers)
        };
        // The pieces of a matrix, with what they read and write.
        let linear = |matrix: &GpuLinear, output, input: [&Memory; 2], to: &[&Memory]| {
            let bind = |piece: &super::weights::Piece| {
                let mut buffers = vec![&w.batch, &piece.params, &piece.weights, input[0], input[1]];
                buffers.extend_from_slice(to);
                programs.bind(Kernel::Gemv(output, 1), &buffers)
            };
            matrix.pieces.iter().map(bind).collect::<Result<Vec<_>, _>>()
        };
        let quantized = [&w.acts, &w.act_scales];
        let qkv_to = [&w.queries, &self.keys, &self.values, &w.tokens, &w.rope];
        let cached = [&self.keys, &self.values];
        self.bound = Some(Bound {
            quantize_attn: quantize(&widths.hidden, &w.hidden, Some(&self.attn_norm))?,
            qkv: linear(&self.qkv, Output::Qkv, quantized, &qkv_to)?,
            qkv_norm: linear(&self.qkv, Output::Qkv, [&w.hidden, &self.attn_norm], &qkv_to)?,
            attention: programs.bind(
                Kernel::Attention,
                &[&w.batch, &w.queries, cached[0], cached[1], &w.tokens, &w.pages, &w.part_values, &w.part_stats],
            )?,
            combine: programs.bind(
                Kernel::Combine { norm: true },
                &[
                    &w.batch,
                    &w.tokens,
                    &w.part_values,
                    &w.part_stats,
                    self.attn_sub_norm.as_ref().unwrap_or(&w.nothing),
                    &w.attended,
                    &w.acts,
                    &w.act_scales,
                ],
            )?,
            attention_tile: programs
                .bind(Kernel::AttentionTile, &[&w.queries, cached[0], cached[1], &w.tiles, &w.pages, &w.attended])?,
            quantize_attended: quantize(&widths.heads, &w.attended, self.attn_sub_norm.as_ref())?,
            o: linear(&self.o, Output::Residual, quantized, &[&w.hidden])?,
            quantize_ffn: quantize(&widths.hidden, &w.hidden, Some(&self.ffn_norm))?,
            gate_up: linear(&self.gate_up, Output::Gated, quantized, &[&w.gated])?,
            gate_up_norm: linear(&self.gate_up, Output::Gated, [&w.hidden, &self.ffn_norm], &[&w.gated])?,
            quantize_gated: quantize(&widths.ffn, &w.gated, self.ffn_sub_norm.as_ref())?,
            down: linear(&self.down, Output::Residual, quantized, &[&w.hidden])?,
        });
        Ok(())
    }

    /// Compiles the kernels of a decode step.
    pub(super) fn prepare(&self, queue: &mut Queue) -> Result<(), GpuError> {
        for kernel in [
            Kernel::Attention,
            Kernel::Combine { norm: self.attn_sub_norm.is_some() },
            Kernel::Gemv(Output::Residual, 1),
            Kernel::Quantize { norm: self.ffn_sub_norm.is_some() },
        ] {
            queue.prepare(kernel)?;
        }
        if self.fused {
            queue.prepare(Kernel::GemvNorm(Output::Qkv))?;
            queue.prepare(Kernel::GemvNorm(Output::Gated))?;
        }
        Ok(())
    }

    /// Records the block.
    ///
    /// # Panics
    /// If no workspace was bound.
    pub(super) fn record(&self, recorder: &mut Recorder<'_>, shape: &Shape, pass: &PassShape) -> Result<(), GpuError> {
        let bound = self.bound.as_ref().expect("a stage binds its workspace before it records");
        let tokens = pass.tokens;
        let each_token = [tokens as u32, 1, 1];
        let quantize = |recorder: &mut Recorder<'_>, norm, group| {
            recorder.dispatch(Kernel::Quantize { norm }, group, each_token, 0)
        };
        // A normalised product of the hidden state.
        let from_hidden =
            |recorder: &mut Recorder<'_>, matrix, output, quantizer, plain: &[BindGroup], normed: &[BindGroup]| {
                if self.fused && tokens <= fused_tokens(output) {
                    return product(recorder, Kernel::GemvNorm(output), matrix, normed, tokens);
                }
                quantize(recorder, true, quantizer)?;
                product(recorder, product_kernel(output, tokens), matrix, plain, tokens)
            };
        let b = bound;
        from_hidden(recorder, &self.qkv, Output::Qkv, &b.quantize_attn, &b.qkv, &b.qkv_norm)?;
        let head_groups = shape.head_groups() as u32;
        let has_sub_norm = self.attn_sub_norm.is_some();
        if tokens <= FEW_TOKENS {
            let parts = [pass.blocks as u32, head_groups, tokens as u32];
            recorder.dispatch(Kernel::Attention, &b.attention, parts, pass.kv_bytes)?;
            recorder.dispatch(Kernel::Combine { norm: has_sub_norm }, &b.combine, each_token, 0)?;
        } else {
            let tiles = [pass.tiles as u32, head_groups, 1];
            recorder.dispatch(Kernel::AttentionTile, &b.attention_tile, tiles, pass.kv_bytes)?;
            quantize(recorder, has_sub_norm, &b.quantize_attended)?;
        }
        recorder.worked(pass.attention_work);
        product(recorder, product_kernel(Output::Residual, tokens), &self.o, &b.o, tokens)?;
        from_hidden(recorder, &self.gate_up, Output::Gated, &b.quantize_ffn, &b.gate_up, &b.gate_up_norm)?;
        quantize(recorder, self.ffn_sub_norm.is_some(), &b.quantize_gated)?;
        product(recorder, product_kernel(Output::Residual, tokens), &self.down, &b.down, tokens)?;
        Ok(())
    }

    /// Copies a page of the cache by way of `scratch`, which is at least as large.
    pub(super) fn copy_page(&self, recorder: &mut Recorder<'_>, pages: usize, from: u32, to: u32, scratch: &Memory) {
        for cache in [&self.keys, &self.values] {
            let page = cache.size() / pages as u64;
            recorder.copy(cache, u64::from(from) * page, scratch, 0, page);
            recorder.copy(scratch, 0, cache, u64::from(to) * page, page);
        }
    }

    /// Copies a page's keys and values, of `page_bytes` each, to `to`, from `at` on.
    pub(super) fn export_page(&self, recorder: &mut Recorder<'_>, page: u32, page_bytes: u64, to: &Memory, at: u64) {
        let from = u64::from(page) * page_bytes;
        recorder.copy(&self.keys, from, to, at, page_bytes);
        recorder.copy(&self.values, from, to, at + page_bytes, page_bytes);
    }

    /// Writes a page's keys and values.
    pub(super) fn import_page(&self, gpu: &Gpu, page: u32, keys: &[u8], values: &[u8]) -> Result<(), GpuError> {
        let at = u64::from(page) * keys.len() as u64;
        gpu.write(&self.keys, at, keys)?;
        gpu.write(&self.values, at, values)
    }

    pub(super) fn weight_bytes(&self) -> u64 {
        self.qkv.bytes() + self.o.bytes() + self.gate_up.bytes() + self.down.bytes()
    }

    pub(super) fn kv_bytes(&self) -> u64 {
        self.keys.size() + self.values.size()
    }
}

/// Which part of a joined matrix, and which of its rows, is in a row; `None` for padding.
type Place<'a> = dyn Fn(usize) -> Option<(usize, usize)> + Sync + 'a;

/// Rows of queries, keys and values, each padded to whole groups of 16; those of the first two in rotary pairs.
fn place_qkv(row: usize, config: &ModelConfig, shape: &Shape) -> Option<(usize, usize)> {
    let (q_rows, kv_rows) = (shape.q_rows(), shape.kv_rows());
    let (part, row, size) = match row {
        row if row < q_rows => (0, row, config.q_size()),
        row if row < q_rows + kv_rows => (1, row - q_rows, config.kv_size()),
        row => (2, row - q_rows - kv_rows, config.kv_size()),
    };
    let (head, r) = (row / config.head_dim, row % config.head_dim);
    let paired = head * config.head_dim + r % 2 * (config.head_dim / 2) + r / 2;
    (row < size).then_some((part, if part < 2 { paired } else { row }))
}

/// Tokens up to which a product normalises and quantizes by itself: each of its workgroups does it for each token.
///
/// Estimated, not measured: of a model of two billion weights (2560 wide) that is about 28 000 operations a token, 6.8
/// million for the 240 workgroups of q, k and v and 24 million for the 864 of gate and up. A middling GPU, of 3 · 10¹² useful
/// operations a second, takes 2 µs a token for the former and 8 µs for the latter. A dispatch takes 5 µs and more: it starts
/// when the one before has ended, and is three passes through memory one behind the other. So gate and up do it for one
/// token only (7 dispatches to a block). For q, k and v two tokens are even and eight lose some 13 µs a block, about a tenth
/// of what all its products take; they do it for all, since what a dispatch costs differs most between systems, and no decode
/// step then has more than 8 to a block.
const fn fused_tokens(output: Output) -> usize {
    match output {
        Output::Qkv => FEW_TOKENS,
        Output::Gated | Output::Residual => 1,
    }
}

/// The kernel for products of so many tokens.
fn product_kernel(output: Output, tokens: usize) -> Kernel {
    if tokens <= FEW_TOKENS { Kernel::Gemv(output, tokens.next_power_of_two() as u32) } else { Kernel::Gemm(output) }
}

/// Records the product with each piece of a matrix.
fn product(
    recorder: &mut Recorder<'_>,
    kernel: Kernel,
    matrix: &GpuLinear,
    bound: &[BindGroup],
    tokens: usize,
) -> Result<(), GpuError> {
    for (piece, bound) in matrix.pieces.iter().zip(bound) {
        let (grid, times) = match kernel {
            Kernel::Gemm(_) => {
                let token_tiles = tokens.div_ceil(TILE);
                ([piece.groups.div_ceil(TILE / 16) as u32, token_tiles as u32, 1], token_tiles)
            }
            _ => (grid(piece.groups), 1),
        };
        recorder.dispatch(kernel, bound, grid, piece.weights.size() * times as u64)?;
    }
    recorder.worked(matrix.work * tokens as u64);
    Ok(())
}
