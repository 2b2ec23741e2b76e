//! The metadata of the new file.

use half::f16;
use sterna_cpu::rope::RopeScaling;

use super::ConvertOptions;
use super::plan::{architecture, has_rotary_order, rotary_order};
use crate::engine::{Error, default_sampling, load_tokenizer};
use crate::format::metadata::{EXACT_SCALE_NAMES, EXACT_SCALES};
use crate::format::{ALIGNMENT_KEY, Description, Encoding, FormatError, Metadata, OWN_TYPE_KEYS, Value};
use crate::graph::{Graph, RowOrder};
use crate::model::{ACTIVATIONS, ActivationKind, HALF_SPLIT, LLAMA3_ROPE, Names, Part, Scales};

/// Keys that say how the tensors of the old file were stored.
const STORAGE: [&str; 6] =
    [ALIGNMENT_KEY, "general.file_type", "general.quantization_version", EXACT_SCALE_NAMES, EXACT_SCALES, HALF_SPLIT];

/// All pairs of the new file.
pub(super) fn of(graph: &Graph, options: ConvertOptions) -> Result<Metadata, Error> {
    let encoding = options.encoding;
    let mut metadata = match graph.checkpoint().description() {
        Description::Gguf { metadata, .. } => {
            let mut metadata = metadata.clone();
            let is_storage =
                |key: &str| STORAGE.contains(&key) || OWN_TYPE_KEYS.contains(&key) || key.starts_with("split.");
            metadata.entries.retain(|key, _| !is_storage(key));
            metadata
        }
        Description::HuggingFace { .. } => from_hugging_face(graph)?,
    };
    encoding.set_alignment(&mut metadata);
    let mut set = |key: &str, value| metadata.entries.insert(key.into(), value);
    // Numbers of llama.cpp and bitnet.cpp, which have none for others.
    let file_type = match encoding {
        Encoding::Tq1_0 => Some(36),
        Encoding::Tq2_0 => Some(37),
        Encoding::I2S => Some(40),
        Encoding::Q2_0 => Some(41),
        Encoding::T16 | Encoding::T16x5 | Encoding::T16Grouped(_) => None,
    };
    if let Some(file_type) = file_type {
        set("general.file_type", Value::U64(file_type));
    }
    set("general.quantization_version", Value::U64(2));
    if has_rotary_order(graph)? && rotary_order(graph, encoding) == RowOrder::Natural {
        set(HALF_SPLIT, Value::Bool(true));
    }
    set(ACTIVATIONS, Value::String(graph.config().activations.name().into()));
    let (names, scales) = rounded_scales(graph, encoding)?;
    if !names.is_empty() {
        set(EXACT_SCALE_NAMES, Value::Strings(names));
        set(EXACT_SCALES, Value::Floats(scales));
    }
    Ok(metadata)
}

/// Names in the new file and scales of the matrices whose scale is not what an encoding with scales in half precision makes
/// of it.
fn rounded_scales(graph: &Graph, encoding: Encoding) -> Result<(Vec<String>, Vec<f32>), FormatError> {
    let (mut names, mut scales) = (Vec::new(), Vec::new());
    if !encoding.has_groups() || graph.config().activations != ActivationKind::Int8 {
        return Ok((names, scales));
    }
    for (layer, block) in graph.blocks().iter().enumerate() {
        let parts = [Part::Q, Part::K, Part::V, Part::O, Part::Gate, Part::Up, Part::Down];
        for (part, spec) in parts.into_iter().zip(block.linears()) {
            let checkpoint = graph.checkpoint();
            let scale = checkpoint.ternary(&spec.name, spec.rows, spec.cols)?.scale();
            checkpoint.release(&spec.name);
            let rounded = f16::from_f32(scale).to_f32();
            if rounded == 0.0 || rounded.is_infinite() {
                let reason = format!(
                    "its scale {scale} is beyond half precision, in which {} holds it; choose t16 or i2_s",
                    encoding.dtype()
                );
                return Err(FormatError::header(checkpoint.path(), format_args!("tensor `{}`", spec.name), reason));
            }
            if rounded != scale {
                names.push(Names::Gguf.block(layer, part));
                scales.push(scale);
            }
        }
    }
    Ok((names, scales))
}

/// What config.json, the tokenizer and generation_config.json say, in GGUF's keys.
fn from_hugging_face(graph: &Graph) -> Result<Metadata, Error> {
    let (config, checkpoint) = (graph.config(), graph.checkpoint());
    let architecture = architecture(graph)?;
    let mut metadata = match (load_tokenizer(checkpoint)?, checkpoint.file("tokenizer.json")?) {
        (Some(tokenizer), Some(json)) => tokenizer.to_gguf(&json, config.vocab_size)?,
        _ => Metadata::default(),
    };
    let mut set = |key: String, value| metadata.entries.insert(key, value);
    set("general.architecture".into(), Value::String(architecture.into()));
    set("general.type".into(), Value::String("model".into()));
    if let Some(name) = checkpoint.path().file_stem() {
        set("general.name".into(), Value::String(name.to_string_lossy().into_owned()));
    }
    for (key, value) in [
        ("block_count", config.num_layers),
        ("context_length", config.max_position_embeddings),
        ("embedding_length", config.hidden_size),
        ("feed_forward_length", config.intermediate_size),
        ("attention.head_count", config.num_heads),
        ("attention.head_count_kv", config.num_kv_heads),
        ("attention.key_length", config.head_dim),
        ("attention.value_length", config.head_dim),
        ("rope.dimension_count", config.head_dim),
        ("vocab_size", config.vocab_size),
    ] {
        set(format!("{architecture}.{key}"), Value::U64(value as u64));
    }
    set(format!("{architecture}.attention.layer_norm_rms_epsilon"), Value::F64(config.rms_norm_eps.into()));
    set(format!("{architecture}.rope.freq_base"), Value::F64(config.rope_theta.into()));
    if architecture == "minicpm" {
        let Scales { embedding, residual, logits } = config.scales;
        for (key, value) in
            [("embedding", embedding.into()), ("residual", residual.into()), ("logit", 1.0 / f64::from(logits))]
        {
            set(format!("{architecture}.{key}_scale"), Value::F64(value));
        }
    }
    match config.rope_scaling {
        RopeScaling::None | RopeScaling::Factors(_) => {}
        RopeScaling::LongRope { original_max_position, attention_factor, .. } => {
            let mut set = |key: &str, value| set(format!("{architecture}.rope.scaling.{key}"), value);
            set("type", Value::String("longrope".into()));
            set("original_context_length", Value::U64(original_max_position as u64));
            set("attn_factor", Value::F64(attention_factor.into()));
        }
        RopeScaling::Linear { factor } => {
            set(format!("{architecture}.rope.scaling.type"), Value::String("linear".into()));
            set(format!("{architecture}.rope.scaling.factor"), Value::F64(factor.into()));
        }
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position } => {
            let original = original_max_position as f32;
            set(LLAMA3_ROPE.into(), Value::Floats(vec![factor, low_freq_factor, high_freq_factor, original]));
        }
        RopeScaling::Yarn { factor, beta_fast, beta_slow, original_max_position, attention_factor, truncate: true } => {
            let mut set = |key: &str, value| set(format!("{architecture}.rope.scaling.{key}"), value);
            set("type", Value::String("yarn".into()));
            set("factor", Value::F64(factor.into()));
            set("original_context_length", Value::U64(original_max_position as u64));
            set("yarn_beta_fast", Value::F64(beta_fast.into()));
            set("yarn_beta_slow", Value::F64(beta_slow.into()));
            // What comes on top of that which follows from the factor.
            let beyond = attention_factor / RopeScaling::yarn_attention_factor(factor);
            if beyond != 1.0 {
                set("attn_factor", Value::F64(beyond.into()));
            }
        }
        RopeScaling::Yarn { truncate: false, .. } => {
            let reason = "GGUF has no key for YaRN whose bounds are not rounded (truncate: false)";
            return Err(FormatError::header(checkpoint.path(), "`rope_scaling`", reason).into());
        }
    }
    if checkpoint.file("generation_config.json")?.is_some() {
        let sampling = default_sampling(checkpoint)?;
        for (key, value) in [
            ("temp", sampling.temperature),
            ("top_p", sampling.top_p),
            ("min_p", sampling.min_p),
            ("penalty_repeat", sampling.repeat_penalty),
        ] {
            set(format!("general.sampling.{key}"), Value::F64(value.into()));
        }
        set("general.sampling.top_k".into(), Value::I64(sampling.top_k as i64));
    }
    Ok(metadata)
}
