//! The kernels: which there are, what they bind, and the constants that a model gives them.

use sterna_cpu::kv::KvType;

use super::device::Variant;
use super::shader::{Constant, assemble};
use super::{Dot, GpuError};
use crate::model::{Gate, ModelConfig};

/// Tokens up to which the kernels for few tokens are used; the largest `TOKENS` of them.
pub const FEW_TOKENS: usize = 8;

/// Parts of the vocabulary whose best logits are found, how many of each, and logits that can be asked for by id. An
/// output's answer is below 4 KB.
pub(super) const CHUNKS: usize = 48;
pub(super) const KEEP: usize = 8;
pub(super) const ASKED: usize = 128;

/// Candidates of the search by intervals: room for those of a part of the vocabulary, workgroups that multiply them, and
/// how many an answer tells, which is below 4 KB too.
pub(super) const SEGMENT: usize = 256;
pub(super) const TAKERS: usize = 8;
pub(super) const TOLD: usize = 440;

/// Where the products of a matrix go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Output {
    /// Queries, and the key-value cache.
    Qkv,
    /// Added to the residual stream.
    Residual,
    /// Gate times up.
    Gated,
}

/// Number types of dense rows on a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RowType {
    /// Half precision.
    F16,
    /// bfloat16.
    Bf16,
    /// Single precision.
    F32,
}

/// A kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kernel {
    /// Rows of the embedding.
    Embed(RowType),
    /// Quantization, after a norm or not.
    Quantize {
        /// Whether there is a norm.
        norm: bool,
    },
    /// Products of few tokens, norm and quantization included.
    GemvNorm(Output),
    /// Products of up to so many tokens (1, 2, 4 or 8).
    Gemv(Output, u32),
    /// Products of many tokens.
    Gemm(Output),
    /// Attention of few tokens, block by block.
    Attention,
    /// Blocks put together and quantized, after a norm or not.
    Combine {
        /// Whether there is a norm.
        norm: bool,
    },
    /// Attention of many tokens.
    AttentionTile,
    /// The norm in front of the head.
    FinalNorm,
    /// The same, and the input in 16 bits for the search by intervals.
    HeadInput,
    /// Intervals that hold the logits, of up to so many tokens (1, 4 or 8) at a time.
    Intervals(u32),
    /// How many logits may be how far below the best.
    Classes,
    /// Rows that may be among the best.
    Candidates,
    /// Their exact logits.
    Rescore(RowType),
    /// What is told of them.
    Answer,
    /// Logits of up to so many tokens (1, 4 or 8) at a time.
    Head(RowType, u32),
    /// The best logits.
    Best,
    /// Reads memory, to measure how fast that is.
    ProbeRead,
    /// Multiplies bytes in registers, to measure how fast that is.
    ProbeInt8,
}

/// How a kernel sees a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// A uniform.
    Uniform,
    /// Reads.
    Read,
    /// Reads and writes.
    Write,
}

impl Kernel {
    /// Its name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Kernel::Embed(_) => "embed",
            Kernel::Quantize { .. } => "quantize",
            Kernel::GemvNorm(Output::Qkv) => "norm+qkv",
            Kernel::GemvNorm(_) => "norm+gate·up",
            Kernel::Gemv(Output::Qkv, _) | Kernel::Gemm(Output::Qkv) => "qkv",
            Kernel::Gemv(Output::Gated, _) | Kernel::Gemm(Output::Gated) => "gate·up",
            Kernel::Gemv(Output::Residual, _) | Kernel::Gemm(Output::Residual) => "o, down",
            Kernel::Attention | Kernel::AttentionTile => "attention",
            Kernel::Combine { .. } => "combine",
            Kernel::FinalNorm | Kernel::HeadInput => "final norm",
            Kernel::Intervals(_) => "int8 head",
            Kernel::Classes => "classes",
            Kernel::Candidates => "candidates",
            Kernel::Rescore(_) => "rescore",
            Kernel::Answer => "answer",
            Kernel::Head(..) => "head",
            Kernel::Best => "best",
            Kernel::ProbeRead => "read probe",
            Kernel::ProbeInt8 => "int8 probe",
        }
    }

    /// What it binds, in order.
    pub fn bindings(self) -> Vec<Access> {
        use Access::{Read as R, Uniform as U, Write as W};
        let linear = |output: Output| {
            let mut bindings = vec![U, U, R, R, R];
            bindings.extend_from_slice(match output {
                Output::Qkv => &[W, W, W, R, R],
                Output::Residual | Output::Gated => &[W],
            });
            bindings
        };
        match self {
            Kernel::Embed(_) => vec![U, R, R, W],
            Kernel::Quantize { .. } => vec![U, R, R, W, W],
            Kernel::GemvNorm(output) | Kernel::Gemv(output, _) | Kernel::Gemm(output) => linear(output),
            Kernel::Attention => vec![U, R, R, R, R, R, W, W],
            Kernel::Combine { .. } => vec![U, R, R, W, R, W, W, W],
            Kernel::AttentionTile => vec![R, R, R, R, R, W],
            Kernel::FinalNorm => vec![R, R, R, W],
            Kernel::HeadInput => vec![R, R, R, W, W, W],
            Kernel::Intervals(_) => vec![U, U, R, R, R, R, R, W, W],
            Kernel::Classes => vec![U, R, R, R, W],
            Kernel::Candidates => vec![U, R, R, R, R, W, W],
            Kernel::Rescore(_) => vec![U, U, R, R, R, R, W],
            Kernel::Answer => vec![R, R, R, R, W],
            Kernel::Head(..) => vec![U, U, R, R, W],
            Kernel::Best => vec![U, R, R, W],
            Kernel::ProbeRead | Kernel::ProbeInt8 => vec![R, W],
        }
    }

    /// Threads of a workgroup: those that read weights are small, so that there are many. Exact logits are sums over the
    /// same threads whichever kernel computes them.
    const fn workgroup(self) -> u32 {
        match self {
            Kernel::Gemv(..) | Kernel::GemvNorm(_) => 128,
            Kernel::Head(..) | Kernel::Rescore(_) | Kernel::Intervals(_) => 128,
            _ => 256,
        }
    }

    /// The kernel's text for a model and a device.
    pub fn source(self, shape: &Shape, variant: Variant) -> String {
        let (name, norm, tokens) = match self {
            Kernel::Embed(_) => ("embed", false, 1),
            Kernel::Quantize { norm } => ("quantize", norm, 1),
            Kernel::GemvNorm(_) => ("gemv_norm", true, 1),
            Kernel::Gemv(_, tokens) => ("gemv", false, tokens),
            Kernel::Gemm(_) => ("gemm", false, 1),
            Kernel::Attention => ("attention", false, 1),
            Kernel::Combine { norm } => ("combine", norm, 1),
            Kernel::AttentionTile => ("attention_tile", false, 1),
            Kernel::FinalNorm => ("final_norm", true, 1),
            Kernel::HeadInput => ("head_input", true, 1),
            Kernel::Intervals(tokens) => ("intervals", false, tokens),
            Kernel::Classes => ("classes", false, 1),
            Kernel::Candidates => ("candidates", false, 1),
            Kernel::Rescore(_) => ("rescore", false, 1),
            Kernel::Answer => ("answer", false, 1),
            Kernel::Head(_, tokens) => ("head", false, tokens),
            Kernel::Best => ("best", false, 1),
            Kernel::ProbeRead => ("probe_read", false, 1),
            Kernel::ProbeInt8 => ("probe_int8", false, 1),
        };
        let mut choices = vec![
            ("dot", if variant.dot == Dot::Packed { "dot_packed" } else { "dot_plain" }),
            ("reduce", if variant.subgroups { "reduce_subgroup" } else { "reduce_workgroup" }),
            ("cached", if shape.f16_cache { "cached_f16" } else { "cached_f32" }),
        ];
        match self {
            Kernel::GemvNorm(output) | Kernel::Gemv(output, _) | Kernel::Gemm(output) => choices.push((
                "output",
                match output {
                    Output::Qkv => "out_qkv",
                    Output::Residual => "out_residual",
                    Output::Gated => "out_gated",
                },
            )),
            Kernel::Embed(rows) | Kernel::Head(rows, _) | Kernel::Rescore(rows) => choices.push((
                "rows",
                match rows {
                    RowType::F16 => "rows_f16",
                    RowType::Bf16 => "rows_bf16",
                    RowType::F32 => "rows_f32",
                },
            )),
            _ => {}
        }
        let mut constants = shape.constants();
        constants.extend([
            ("WG", Constant::Int(self.workgroup())),
            ("TOKENS", Constant::Int(tokens)),
            ("NORM", Constant::Bool(norm)),
        ]);
        assemble(name, &choices, &constants)
    }
}

/// What the kernels know of a model when they are compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    heads: u32,
    kv_heads: u32,
    head_dim: u32,
    hidden: u32,
    /// Query heads of a workgroup of attention; divides those of a key-value head.
    group: u32,
    /// Bits of the epsilon of norms.
    eps: u32,
    silu: bool,
    f16_cache: bool,
}

/// Query heads that a workgroup of attention works on at most, and as many with heads wider than 128: its memory is
/// limited.
const MAX_GROUP: u32 = 8;
const MAX_GROUP_WIDE: u32 = 4;

/// Pairs of a head at most: each has a thread.
const MAX_PAIRS: u32 = 128;

impl Shape {
    /// The shape of a model with this cache, on adapter `adapter`.
    ///
    /// # Errors
    /// If the kernels cannot have it.
    pub fn new(config: &ModelConfig, kv: KvType, adapter: &str) -> Result<Shape, GpuError> {
        let number = |n: usize| n as u32;
        if kv == KvType::Int8 {
            return Err(GpuError::KvType { adapter: adapter.into(), found: kv.name() });
        }
        if number(config.head_dim) > 2 * MAX_PAIRS {
            let reason = format!("heads of {} numbers: its kernels take {} at most", config.head_dim, 2 * MAX_PAIRS);
            return Err(GpuError::Unsuitable { adapter: adapter.into(), reason });
        }
        let heads_of_kv = number(config.num_heads / config.num_kv_heads);
        let most = if config.head_dim <= 128 { MAX_GROUP } else { MAX_GROUP_WIDE };
        let group = (1..=most).rev().find(|&group| heads_of_kv.is_multiple_of(group));
        Ok(Shape {
            heads: number(config.num_heads),
            kv_heads: number(config.num_kv_heads),
            head_dim: number(config.head_dim),
            hidden: number(config.hidden_size),
            group: group.unwrap_or(1),
            eps: config.rms_norm_eps.to_bits(),
            silu: config.gate == Gate::Silu,
            f16_cache: kv == KvType::F16,
        })
    }

    /// The shape for kernels that know of no model.
    pub(super) const fn of_no_model() -> Shape {
        Shape { heads: 1, kv_heads: 1, head_dim: 2, hidden: 16, group: 1, eps: 0, silu: false, f16_cache: false }
    }

    /// Whether keys and values are in half precision.
    pub fn f16_cache(&self) -> bool {
        self.f16_cache
    }

    /// Heads.
    pub fn heads(&self) -> usize {
        self.heads as usize
    }

    /// Heads of keys and values.
    pub fn kv_heads(&self) -> usize {
        self.kv_heads as usize
    }

    /// Rotary pairs of a head.
    pub fn pairs(&self) -> usize {
        self.head_dim as usize / 2
    }

    /// Workgroups of attention that all heads of a token take.
    pub fn head_groups(&self) -> usize {
        (self.heads / self.group) as usize
    }

    /// Rows of queries, and of keys or values, in the joined matrix: padded to whole groups of 16.
    pub fn q_rows(&self) -> usize {
        (self.heads * self.head_dim).next_multiple_of(16) as usize
    }

    /// Rows of keys, and of values, likewise.
    pub fn kv_rows(&self) -> usize {
        (self.kv_heads * self.head_dim).next_multiple_of(16) as usize
    }

    /// Rows of a tile of attention of many tokens.
    fn tile_rows(&self) -> u32 {
        if self.head_dim <= 128 { 16 } else { 8 }
    }

    /// Tokens of such a tile.
    pub fn tile_tokens(&self) -> usize {
        (self.tile_rows() / self.group) as usize
    }

    fn constants(&self) -> Vec<(&'static str, Constant)> {
        use Constant::{Bool, Float, Int};
        vec![
            ("HEADS", Int(self.heads)),
            ("KV_HEADS", Int(self.kv_heads)),
            ("PAIRS", Int(self.head_dim / 2)),
            ("GROUP", Int(self.group)),
            ("ROWS", Int(self.tile_rows())),
            ("Q_ROWS", Int(self.q_rows() as u32)),
            ("KV_ROWS", Int(self.kv_rows() as u32)),
            ("SCORE_SCALE", Float(1.0 / (self.head_dim as f32).sqrt())),
            ("HIDDEN", Int(self.hidden)),
            ("HIDDEN_TILES", Int(self.hidden.div_ceil(16))),
            ("EPS", Float(f32::from_bits(self.eps))),
            ("SILU", Bool(self.silu)),
            ("CHUNKS", Int(CHUNKS as u32)),
            ("KEEP", Int(KEEP as u32)),
            ("ASKED", Int(ASKED as u32)),
            ("TAKERS", Int(TAKERS as u32)),
            ("SEGMENT", Int(SEGMENT as u32)),
            ("TOLD", Int(TOLD as u32)),
        ]
    }
}
