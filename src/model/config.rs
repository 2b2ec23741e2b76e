//! Hyper-parameters, read from config.json or GGUF metadata and checked.

use std::path::Path;

use serde_json::Value as Json;

use super::{ActivationKind, ModelError};
use crate::format::{Checkpoint, Description, Metadata};
use sterna_cpu::kv::KvType;
use sterna_cpu::rope::RopeScaling;

/// The activation of the gated feed-forward network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// relu(gate)² · up.
    Relu2,
    /// silu(gate) · up.
    Silu,
    /// gelu(gate) · up, in the approximation by tanh.
    Gelu,
}

impl Gate {
    /// The name that config.json uses.
    pub const fn name(self) -> &'static str {
        match self {
            Gate::Relu2 => "relu2",
            Gate::Silu => "silu",
            Gate::Gelu => "gelu_pytorch_tanh",
        }
    }
}

/// Constants that some architectures multiply with; 1 in the others.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scales {
    /// Multiplies the embedding of a token.
    pub embedding: f32,
    /// Multiplies what each half of a block adds to the residual stream; 1 in blocks that have norms there.
    pub residual: f32,
    /// Multiplies the logits.
    pub logits: f32,
}

impl Default for Scales {
    fn default() -> Scales {
        Scales { embedding: 1.0, residual: 1.0, logits: 1.0 }
    }
}

/// What is different in layers that see the latest positions only.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LocalAttention {
    /// Positions that are seen, the token's own included.
    pub window: usize,
    /// Base of the rotary angles; they are not scaled.
    pub rope_theta: f32,
}

/// The hyper-parameters of a model, in the words of Hugging Face's config.json.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// The architecture as the file names it.
    pub architecture: String,
    /// Tokens in the vocabulary.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward network.
    pub intermediate_size: usize,
    /// Number of transformer blocks.
    pub num_layers: usize,
    /// Query heads.
    pub num_heads: usize,
    /// Key and value heads; divides `num_heads`.
    pub num_kv_heads: usize,
    /// Width of one head; even.
    pub head_dim: usize,
    /// Added to the mean square in RMSNorm.
    pub rms_norm_eps: f32,
    /// Base of the rotary angles.
    pub rope_theta: f32,
    /// Change of the rotary frequencies.
    pub rope_scaling: RopeScaling,
    /// Positions the model was trained for.
    pub max_position_embeddings: usize,
    /// Activation of the feed-forward network.
    pub gate: Gate,
    /// What the inputs of the ternary matrices are rounded to.
    pub activations: ActivationKind,
    /// Multiplies the scores of attention.
    pub attention_scale: f32,
    /// Layers that see the latest positions only, if there are any.
    pub local: Option<LocalAttention>,
    /// Constants that multiply.
    pub scales: Scales,
}

impl ModelConfig {
    /// Width of all query heads together.
    pub fn q_size(&self) -> usize {
        self.num_heads * self.head_dim
    }

    /// Width of all key (or value) heads together.
    pub fn kv_size(&self) -> usize {
        self.num_kv_heads * self.head_dim
    }

    /// Multiplies the scores of attention where the architecture says nothing else: `1 / sqrt(head_dim)`.
    pub fn default_attention_scale(head_dim: usize) -> f32 {
        1.0 / (head_dim as f32).sqrt()
    }

    /// Bytes of the key-value cache for one position in all layers.
    pub fn kv_bytes_per_position(&self, kind: KvType) -> usize {
        2 * self.num_layers * self.num_kv_heads * kind.bytes(self.head_dim)
    }
}

/// The architecture as the checkpoint names it.
pub(super) fn architecture_name(checkpoint: &Checkpoint) -> Result<String, ModelError> {
    let (key, name) = match checkpoint.description() {
        Description::Gguf { metadata, .. } => {
            if let Some(key) = metadata.entries.keys().find(|key| key.starts_with("prism.hadamard.")) {
                return Err(ModelError::BadValue {
                    file: checkpoint.path().into(),
                    key: key.clone(),
                    found: "present".into(),
                    expected: "no Hadamard-rotated weights: this version does not run them".into(),
                });
            }
            ("general.architecture", metadata.str("general.architecture"))
        }
        Description::HuggingFace { config } => ("architectures", config["architectures"][0].as_str()),
    };
    name.map(str::to_owned).ok_or_else(|| ModelError::MissingKey {
        file: checkpoint.path().into(),
        key: key.into(),
        expected: "the name of the architecture",
    })
}

/// Typed access to the hyper-parameters of either kind of file.
enum Keys<'a> {
    Gguf { metadata: &'a Metadata, architecture: &'a str },
    HuggingFace(&'a Json),
}

/// One hyper-parameter under both its names.
#[derive(Clone, Copy)]
struct Key {
    gguf: &'static str,
    hf: &'static str,
}

/// Reads and checks hyper-parameters of one file.
struct Reader<'a> {
    file: &'a Path,
    keys: Keys<'a>,
}

/// No dimension of a real model comes near; keeps products of two of them within 64 bits.
const MAX_DIMENSION: u64 = 1 << 24;

impl Reader<'_> {
    fn name(&self, key: Key) -> String {
        match &self.keys {
            Keys::Gguf { architecture, .. } => format!("{architecture}.{}", key.gguf),
            Keys::HuggingFace(_) => key.hf.to_owned(),
        }
    }

    fn missing(&self, key: Key, expected: &'static str) -> ModelError {
        ModelError::MissingKey { file: self.file.into(), key: self.name(key), expected }
    }

    fn bad(&self, key: Key, found: impl ToString, expected: impl Into<String>) -> ModelError {
        ModelError::BadValue {
            file: self.file.into(),
            key: self.name(key),
            found: found.to_string(),
            expected: expected.into(),
        }
    }

    /// A dimension in 1..=MAX_DIMENSION, or `None` where the key is absent or null.
    fn size(&self, key: Key) -> Result<Option<usize>, ModelError> {
        let (found, value) = match &self.keys {
            Keys::Gguf { metadata, .. } => match metadata.get(&self.name(key)) {
                None => return Ok(None),
                Some(value) => (format!("{value:?}"), metadata.u64(&self.name(key))),
            },
            Keys::HuggingFace(config) => match &config[key.hf] {
                Json::Null => return Ok(None),
                value => (value.to_string(), value.as_u64()),
            },
        };
        match value {
            Some(v) if (1..=MAX_DIMENSION).contains(&v) => Ok(Some(v as usize)),
            _ => Err(self.bad(key, found, format!("an integer from 1 to {MAX_DIMENSION}"))),
        }
    }

    fn require_size(&self, key: Key) -> Result<usize, ModelError> {
        self.size(key)?.ok_or_else(|| self.missing(key, "a positive integer"))
    }

    /// A finite positive number, or `None` where the key is absent or null.
    fn positive(&self, key: Key) -> Result<Option<f32>, ModelError> {
        let (found, value) = match &self.keys {
            Keys::Gguf { metadata, .. } => match metadata.get(&self.name(key)) {
                None => return Ok(None),
                Some(value) => (format!("{value:?}"), metadata.f64(&self.name(key))),
            },
            Keys::HuggingFace(config) => match &config[key.hf] {
                Json::Null => return Ok(None),
                value => (value.to_string(), value.as_f64()),
            },
        };
        match value.map(|v| v as f32) {
            Some(v) if v.is_finite() && v > 0.0 => Ok(Some(v)),
            _ => Err(self.bad(key, found, "a positive number")),
        }
    }
}

const VOCAB: Key = Key { gguf: "vocab_size", hf: "vocab_size" };
const HIDDEN: Key = Key { gguf: "embedding_length", hf: "hidden_size" };
const FFN: Key = Key { gguf: "feed_forward_length", hf: "intermediate_size" };
const LAYERS: Key = Key { gguf: "block_count", hf: "num_hidden_layers" };
const HEADS: Key = Key { gguf: "attention.head_count", hf: "num_attention_heads" };
const KV_HEADS: Key = Key { gguf: "attention.head_count_kv", hf: "num_key_value_heads" };
const HEAD_DIM: Key = Key { gguf: "attention.key_length", hf: "head_dim" };
const VALUE_DIM: Key = Key { gguf: "attention.value_length", hf: "head_dim" };
const ROPE_DIM: Key = Key { gguf: "rope.dimension_count", hf: "head_dim" };
const EPS: Key = Key { gguf: "attention.layer_norm_rms_epsilon", hf: "rms_norm_eps" };
const THETA: Key = Key { gguf: "rope.freq_base", hf: "rope_theta" };
const CONTEXT: Key = Key { gguf: "context_length", hf: "max_position_embeddings" };
const ORIGINAL_CONTEXT: Key =
    Key { gguf: "rope.scaling.original_context_length", hf: "original_max_position_embeddings" };
const SCALING: Key = Key { gguf: "rope.scaling.type", hf: "rope_scaling" };

/// Reads the hyper-parameters of `checkpoint`; `embed` is the name of its embedding tensor, `gate` the activation of
/// the architecture where the file does not say.
pub(super) fn read(
    checkpoint: &Checkpoint,
    architecture: &str,
    embed: &str,
    gate: Gate,
) -> Result<ModelConfig, ModelError> {
    let keys = match checkpoint.description() {
        Description::Gguf { metadata, .. } => Keys::Gguf { metadata, architecture },
        Description::HuggingFace { config } => Keys::HuggingFace(config),
    };
    let r = Reader { file: checkpoint.path(), keys };
    check_linear_norm_eps(&r)?;
    if let Keys::HuggingFace(config) = &r.keys
        && let Some(method) = config["quantization_config"]["quant_method"].as_str()
        && method != "bitnet"
    {
        let expected = "bitnet, or no quantization_config where the weights are ternary as they are";
        return Err(r.bad(Key { gguf: "", hf: "quantization_config.quant_method" }, method, expected));
    }
    let hidden_size = r.require_size(HIDDEN)?;
    let num_layers = r.require_size(LAYERS)?;
    let tensors = checkpoint.tensors().count();
    if num_layers > tensors {
        return Err(r.bad(LAYERS, num_layers, format!("at most the number of tensors in the file ({tensors})")));
    }
    let num_heads = r.require_size(HEADS)?;
    let num_kv_heads = r.size(KV_HEADS)?.unwrap_or(num_heads);
    if !num_heads.is_multiple_of(num_kv_heads) {
        return Err(r.bad(KV_HEADS, num_kv_heads, format!("a divisor of the {num_heads} query heads")));
    }
    let head_dim = match r.size(HEAD_DIM)? {
        Some(dim) => dim,
        None if hidden_size.is_multiple_of(num_heads) => hidden_size / num_heads,
        None => return Err(r.bad(HEADS, num_heads, format!("a divisor of the hidden size {hidden_size}"))),
    };
    if !head_dim.is_multiple_of(2) {
        return Err(r.bad(HEAD_DIM, head_dim, "an even number (rotary pairs)"));
    }
    for key in [VALUE_DIM, ROPE_DIM] {
        if let Some(found) = r.size(key)?.filter(|&found| found != head_dim) {
            return Err(r.bad(key, found, format!("the head size {head_dim}: partial rotation is not supported")));
        }
    }
    // Older GGUF files carry no vocab_size: the embedding has a row for each token.
    let vocab_size = match r.size(VOCAB)? {
        Some(vocab) => vocab,
        None => checkpoint
            .tensor(embed)
            .and_then(|tensor| tensor.shape.first().copied())
            .ok_or_else(|| r.missing(VOCAB, "a positive integer"))?,
    };
    Ok(ModelConfig {
        architecture: architecture.to_owned(),
        vocab_size,
        hidden_size,
        intermediate_size: r.require_size(FFN)?,
        num_layers,
        num_heads,
        num_kv_heads,
        head_dim,
        rms_norm_eps: r.positive(EPS)?.ok_or_else(|| r.missing(EPS, "a small positive number"))?,
        rope_theta: rope_theta(&r)?,
        rope_scaling: rope_scaling(&r, checkpoint, head_dim)?,
        max_position_embeddings: r.size(CONTEXT)?.unwrap_or(2048),
        gate: activation(&r, gate)?,
        attention_scale: ModelConfig::default_attention_scale(head_dim),
        local: None,
        scales: Scales::default(),
        // Seen from the tensors, when the graph is there.
        activations: ActivationKind::Int8,
    })
}

/// Refuses norms of linears (`use_rms_norm`) whose epsilon is another one than that of the model.
fn check_linear_norm_eps(r: &Reader<'_>) -> Result<(), ModelError> {
    let Keys::HuggingFace(config) = &r.keys else { return Ok(()) };
    let quantization = &config["quantization_config"];
    let (own, of_model) = (quantization["rms_norm_eps"].as_f64().unwrap_or(1e-6), config["rms_norm_eps"].as_f64());
    if quantization["use_rms_norm"] != true || of_model == Some(own) {
        return Ok(());
    }
    let key = Key { gguf: "", hf: "quantization_config.rms_norm_eps" };
    Err(r.bad(key, own, "the rms_norm_eps of the model: other norms of linears are not run"))
}

/// transformers 5 moves `rope_theta` into `rope_parameters`; GGUF and older configs have a key of their own.
fn rope_theta(r: &Reader<'_>) -> Result<f32, ModelError> {
    if let Some(theta) = r.positive(THETA)? {
        return Ok(theta);
    }
    if let Keys::HuggingFace(config) = &r.keys
        && let Some(theta) = rope_section(config)["rope_theta"].as_f64()
        && theta > 0.0
    {
        return Ok(theta as f32);
    }
    Ok(10000.0)
}

/// What config.json says about rotary angles: transformers 5 has one object for all of it, or one for each kind of layer.
fn rope_section(config: &Json) -> &Json {
    match (&config["rope_scaling"], &config["rope_parameters"]["full_attention"]) {
        (Json::Null, Json::Null) => &config["rope_parameters"],
        (Json::Null, full) => full,
        (scaling, _) => scaling,
    }
}

/// LLaMA 3's scaling in a GGUF file: factor, low and high frequency factor, original context. Other programs read the
/// frequencies that follow from it in `rope_freqs.weight`, in which something of the last bits is lost.
pub(crate) const LLAMA3_ROPE: &str = "sterna.rope.llama3";

/// LongRoPE's divisors for long contexts in a GGUF file.
pub(crate) const ROPE_LONG: &str = "rope_factors_long.weight";
/// Those for short ones.
pub(crate) const ROPE_SHORT: &str = "rope_factors_short.weight";

fn rope_scaling(r: &Reader<'_>, checkpoint: &Checkpoint, head_dim: usize) -> Result<RopeScaling, ModelError> {
    match &r.keys {
        Keys::Gguf { metadata, architecture } => {
            if let Some(&[factor, low_freq_factor, high_freq_factor, original]) = metadata.floats(LLAMA3_ROPE) {
                let original_max_position = original as usize;
                return Ok(RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position });
            }
            if checkpoint.tensor(ROPE_LONG).is_some() {
                let max_position = r.size(CONTEXT)?.ok_or_else(|| r.missing(CONTEXT, "a positive integer"))?;
                let factor = metadata.f64(&format!("{architecture}.rope.scaling.attn_factor")).unwrap_or(1.0);
                return Ok(RopeScaling::LongRope {
                    short: checkpoint.vector(ROPE_SHORT, head_dim / 2)?,
                    long: checkpoint.vector(ROPE_LONG, head_dim / 2)?,
                    original_max_position: r.size(ORIGINAL_CONTEXT)?.unwrap_or(max_position),
                    max_position,
                    attention_factor: factor as f32,
                });
            }
            if checkpoint.tensor("rope_freqs.weight").is_some() {
                return Ok(RopeScaling::Factors(checkpoint.vector("rope_freqs.weight", head_dim / 2)?));
            }
            let scaling = |key: &str| metadata.f64(&format!("{architecture}.rope.scaling.{key}")).map(|v| v as f32);
            let factor = scaling("factor").unwrap_or(1.0);
            match metadata.str(&r.name(SCALING)) {
                None | Some("none") => Ok(RopeScaling::None),
                Some("linear") if factor == 1.0 => Ok(RopeScaling::None),
                Some("linear") if factor.is_finite() && factor > 0.0 => Ok(RopeScaling::Linear { factor }),
                Some("yarn") if factor.is_finite() && factor > 0.0 => yarn(
                    factor,
                    r.size(ORIGINAL_CONTEXT)?.or(r.size(CONTEXT)?),
                    // It comes on top of what follows from the factor.
                    Some(scaling("attn_factor").unwrap_or(1.0) * RopeScaling::yarn_attention_factor(factor)),
                    [scaling("yarn_beta_fast"), scaling("yarn_beta_slow")],
                    true,
                )
                .ok_or_else(|| r.missing(ORIGINAL_CONTEXT, "the positions of the original training")),
                Some(other) => Err(r.bad(SCALING, other, "none, linear or yarn with a positive factor")),
            }
        }
        Keys::HuggingFace(config) => {
            let scaling = rope_section(config);
            let number = |name: &str| scaling[name].as_f64().map(|v| v as f32).filter(|v| v.is_finite() && *v > 0.0);
            let require = |name| number(name).ok_or_else(|| r.bad(SCALING, scaling, format!("a positive {name}")));
            let kind = scaling["rope_type"].as_str().or(scaling["type"].as_str()).unwrap_or("default");
            match kind {
                "default" => Ok(RopeScaling::None),
                "linear" => Ok(RopeScaling::Linear { factor: require("factor")? }),
                "llama3" => Ok(RopeScaling::Llama3 {
                    factor: require("factor")?,
                    low_freq_factor: require("low_freq_factor")?,
                    high_freq_factor: require("high_freq_factor")?,
                    original_max_position: require("original_max_position_embeddings")? as usize,
                }),
                "longrope" => {
                    let factors = |name: &str| {
                        let factors = scaling[name].as_array().into_iter().flatten().map(Json::as_f64);
                        let factors: Option<Vec<f32>> = factors.map(|v| v.map(|v| v as f32)).collect();
                        let usable = |v: &f32| v.is_finite() && *v > 0.0;
                        factors.filter(|all| all.len() == head_dim / 2 && all.iter().all(usable)).ok_or_else(|| {
                            r.bad(SCALING, &scaling[name], format!("{} positive numbers in {name}", head_dim / 2))
                        })
                    };
                    let max_position = r.require_size(CONTEXT)?;
                    let outside = config["original_max_position_embeddings"].as_u64();
                    let inside = scaling["original_max_position_embeddings"].as_u64();
                    let original = outside.or(inside).map_or(max_position, |v| v as usize).max(2);
                    let factor = number("factor").unwrap_or(max_position as f32 / original as f32);
                    Ok(RopeScaling::LongRope {
                        short: factors("short_factor")?,
                        long: factors("long_factor")?,
                        original_max_position: original,
                        max_position,
                        attention_factor: number("attention_factor")
                            .unwrap_or_else(|| RopeScaling::longrope_attention_factor(factor, original)),
                    })
                }
                "yarn" => {
                    let factor = require("factor")?;
                    let of = |scale: &str| {
                        number(scale).map(|m| m * (RopeScaling::yarn_attention_factor(factor) - 1.0) + 1.0)
                    };
                    let by_scales = of("mscale").zip(of("mscale_all_dim")).map(|(one, all)| one / all);
                    yarn(
                        factor,
                        number("original_max_position_embeddings").map(|v| v as usize).or(r.size(CONTEXT)?),
                        number("attention_factor").or(by_scales),
                        [number("beta_fast"), number("beta_slow")],
                        scaling["truncate"] != false,
                    )
                    .ok_or_else(|| r.bad(SCALING, scaling, "a positive original_max_position_embeddings"))
                }
                other => Err(r.bad(SCALING, other, "default, linear, llama3, longrope or yarn")),
            }
        }
    }
}

/// YaRN with the values that the files usually leave out; `None` if nothing says what the original context was.
fn yarn(
    factor: f32,
    original: Option<usize>,
    attention_factor: Option<f32>,
    [beta_fast, beta_slow]: [Option<f32>; 2],
    truncate: bool,
) -> Option<RopeScaling> {
    Some(RopeScaling::Yarn {
        factor,
        beta_fast: beta_fast.unwrap_or(32.0),
        beta_slow: beta_slow.unwrap_or(1.0),
        original_max_position: original?,
        attention_factor: attention_factor.unwrap_or_else(|| RopeScaling::yarn_attention_factor(factor)),
        truncate,
    })
}

/// Refuses a model whose layers see only the latest positions.
pub(super) fn refuse_sliding_window(checkpoint: &Checkpoint) -> Result<(), ModelError> {
    let Description::HuggingFace { config } = checkpoint.description() else { return Ok(()) };
    let layers = config["layer_types"].as_array().map_or(&[][..], Vec::as_slice);
    let slides = config["use_sliding_window"] == true || layers.iter().any(|layer| layer != "full_attention");
    if !slides {
        return Ok(());
    }
    Err(ModelError::BadValue {
        file: checkpoint.path().into(),
        key: "use_sliding_window".into(),
        found: "set, or implied by layer_types".into(),
        expected: "full attention in every layer of this architecture".into(),
    })
}

fn activation(r: &Reader<'_>, default: Gate) -> Result<Gate, ModelError> {
    let Keys::HuggingFace(config) = &r.keys else { return Ok(default) };
    match config["hidden_act"].as_str().or(config["hidden_activation"].as_str()) {
        None => Ok(default),
        Some("relu2") => Ok(Gate::Relu2),
        Some("silu" | "swish") => Ok(Gate::Silu),
        Some("gelu_pytorch_tanh") => Ok(Gate::Gelu),
        Some(other) => Err(r.bad(Key { gguf: "", hf: "hidden_act" }, other, "relu2, silu or gelu_pytorch_tanh")),
    }
}
