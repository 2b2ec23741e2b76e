//! The tensors of the new file and what each is made of.

use sterna_cpu::grouped::ScaleType;
use sterna_cpu::head::Int8Rows;
use sterna_cpu::rope::{Rope, RopeScaling};

use super::{ConvertOptions, dense_dtype};
use crate::engine::Error;
use crate::format::{DType, DenseTensor, Description, Encoding, FormatError, Group, TensorPlan};
use crate::graph::{AttentionSpec, BlockSpec, Graph, GroupedLinear, HEAD_BOUNDS, HEAD_VALUES, LinearSpec, RowOrder};
use crate::model::{ActivationKind, Names, Part, ROPE_LONG, ROPE_SHORT};

/// A tensor of the new file.
#[derive(Debug)]
pub(super) struct Planned {
    pub(super) plan: TensorPlan,
    pub(super) job: Job,
}

/// What a tensor is made of.
#[derive(Debug)]
pub(super) enum Job {
    /// These numbers.
    Floats(Vec<f32>),
    /// A norm of the source.
    Norm { name: String, len: usize },
    /// A ternary matrix of the source, its rows put into an order.
    Ternary { spec: LinearSpec, order: RowOrder },
    /// A matrix of the source that is not ternary, or a part of an int8 copy of it.
    Dense { name: String, part: DensePart },
    /// A ternary embedding or head as numbers.
    Dequantized { name: String },
    /// The bytes of the source.
    Copy { name: String },
}

/// What is wanted of a matrix that is not ternary.
#[derive(Clone, Copy, Debug)]
pub(super) enum DensePart {
    /// Its rows.
    Rows,
    /// The values of an int8 copy.
    CopyValues,
    /// The bounds of an int8 copy.
    CopyBounds,
}

/// Whether other programs expect the rows of q and k of this architecture in the order of interleaved pairs.
pub(super) fn has_rotary_order(graph: &Graph) -> Result<bool, FormatError> {
    Ok(matches!(architecture(graph)?, "llama" | "minicpm"))
}

/// The order in which the new file holds the rows of q and k.
pub(super) fn rotary_order(graph: &Graph, encoding: Encoding) -> RowOrder {
    match has_rotary_order(graph) {
        // The kernels' own layouts are for the kernels; other programs expect pairs of neighbours.
        Ok(true) if !encoding.is_own() => RowOrder::InterleavedHeads { head_dim: graph.config().head_dim },
        _ => RowOrder::Natural,
    }
}

/// The encoding that is meant by `encoding`: of weights with scales of groups, `t16` is the grouped one.
///
/// # Errors
/// If there are scales that it cannot hold.
pub(super) fn fitting(graph: &Graph, encoding: Encoding) -> Result<Encoding, FormatError> {
    if graph.config().activations == ActivationKind::Int8 {
        return Ok(encoding);
    }
    let mut group = Graph::MAX_GROUP;
    for spec in graph.blocks().iter().flat_map(BlockSpec::linears) {
        let opened = graph.open_grouped(&[spec])?;
        let Some(GroupedLinear { tensor, .. }) = opened.first() else { continue };
        group = group.min(tensor.group());
        let own = tensor.group();
        let holds = encoding == Encoding::T16 || encoding.group().is_some_and(|group| own.is_multiple_of(group));
        if !holds || tensor.scale_type() != ScaleType::F16 {
            let what =
                if holds { "scales beyond half precision".into() } else { format!("a scale for each {own} columns") };
            let dtype = encoding.dtype();
            let reason = format!("it has {what}, which {dtype} cannot hold; choose t16 or q2_0, whose scales are f16");
            return Err(FormatError::header(graph.checkpoint().path(), format_args!("tensor `{}`", spec.name), reason));
        }
    }
    Ok(match encoding {
        Encoding::T16 if group < Group::G128.cols() => Encoding::T16Grouped(Group::G64),
        Encoding::T16 => Encoding::T16Grouped(Group::G128),
        other => other,
    })
}

/// What GGUF calls the architecture.
pub(super) fn architecture(graph: &Graph) -> Result<&str, FormatError> {
    use crate::model::{Gate, Scales};

    let config = graph.config();
    if let Description::Gguf { .. } = graph.checkpoint().description() {
        return Ok(&config.architecture);
    }
    let has = |part: fn(&AttentionSpec) -> bool| graph.blocks().iter().any(|block| part(&block.attention));
    let refuse = |key: &str, reason: &str| Err(FormatError::header(graph.checkpoint().path(), key, reason));
    if graph.norm_offset() != 0.0 {
        return refuse(
            "`architectures`",
            "programs do not agree on how GGUF holds Gemma's norms: use the folder as it is",
        );
    }
    if has(|attention| attention.q_norm.is_some()) {
        return Ok("qwen3");
    }
    if has(|attention| attention.input_norms.is_some()) {
        return refuse("`use_rms_norm`", "GGUF has norms of single matrices in Qwen3 only: use the folder as it is");
    }
    if config.scales != Scales::default() {
        return Ok("minicpm");
    }
    match (has(|attention| attention.sub_norm.is_some()), config.gate) {
        (true, Gate::Relu2) => Ok("bitnet-b1.58"),
        (true, Gate::Silu) => Ok("bitnet"),
        (false, Gate::Silu) => Ok("llama"),
        (false, Gate::Relu2) => refuse("`hidden_act`", "a Llama with squared ReLU has no name in GGUF"),
        (_, Gate::Gelu) => refuse("`hidden_act`", "a Llama with GELU has no name in GGUF"),
    }
}

/// All tensors, in the order of the file.
pub(super) fn tensors(graph: &Graph, options: ConvertOptions) -> Result<Vec<Planned>, Error> {
    let (config, names) = (graph.config(), Names::Gguf);
    let (hidden, vocab) = (config.hidden_size, config.vocab_size);
    let rotary = rotary_order(graph, options.encoding);
    let mut tensors = Vec::new();
    let mut add =
        |name: String, dtype, shape, job| tensors.push(Planned { plan: TensorPlan { name, dtype, shape }, job });

    let dense = |name: &str| {
        let dtype = dense_dtype(graph, options, name);
        if let Some(head) = options.head.filter(|head| !hidden.is_multiple_of(head.block_len())) {
            let reason =
                format!("rows of {hidden} are no multiples of {}, as {dtype} needs; choose f16", head.block_len());
            return Err(FormatError::header(graph.checkpoint().path(), format_args!("tensor `{name}`"), reason));
        }
        Ok(dtype)
    };
    let whole = |name: &str| {
        let is_ternary = graph.checkpoint().tensor(name).is_some_and(|tensor| tensor.dtype.is_ternary_blocks());
        match (is_ternary, options.head) {
            (false, _) => Job::Dense { name: name.into(), part: DensePart::Rows },
            (true, None) => Job::Copy { name: name.into() },
            (true, Some(_)) => Job::Dequantized { name: name.into() },
        }
    };
    let embed = graph.embedding_name();
    add(names.embed().into(), dense(embed)?, vec![vocab, hidden], whole(embed));
    for (layer, block) in graph.blocks().iter().enumerate() {
        let (a, f) = (&block.attention, &block.ffn);
        let name = |part| names.block(layer, part);
        let mut norm = |name: String, source: &str, len: usize| {
            add(name, DType::F32, vec![len], Job::Norm { name: source.to_owned(), len });
        };
        norm(name(Part::AttnNorm), &a.norm, hidden);
        norm(name(Part::FfnNorm), &f.norm, hidden);
        // Where matrices have norms of their own, the sub-norms are those of o and down.
        let own = |part| names.norm_in(layer, part);
        let (attn_sub_norm, ffn_sub_norm) = match &a.input_norms {
            Some([q, k, v]) => {
                for (part, source) in [(Part::Q, q), (Part::K, k), (Part::V, v)] {
                    norm(own(part), source, hidden);
                }
                (own(Part::O), own(Part::Down))
            }
            None => (name(Part::AttnSubNorm), name(Part::FfnSubNorm)),
        };
        if let Some([gate, up]) = &f.input_norms {
            for (part, source) in [(Part::Gate, gate), (Part::Up, up)] {
                norm(own(part), source, hidden);
            }
        }
        for (name, source, len) in [
            (name(Part::QNorm), &a.q_norm, config.head_dim),
            (name(Part::KNorm), &a.k_norm, config.head_dim),
            (attn_sub_norm, &a.sub_norm, config.q_size()),
            (ffn_sub_norm, &f.sub_norm, config.intermediate_size),
        ] {
            if let Some(source) = source {
                norm(name, source, len);
            }
        }
        for (part, spec) in [
            (Part::Q, &a.q),
            (Part::K, &a.k),
            (Part::V, &a.v),
            (Part::O, &a.o),
            (Part::Gate, &f.gate),
            (Part::Up, &f.up),
            (Part::Down, &f.down),
        ] {
            check_fit(graph, spec, options.encoding)?;
            let order = if matches!(part, Part::Q | Part::K) { rotary } else { RowOrder::Natural };
            let job = Job::Ternary { spec: spec.clone(), order };
            add(name(part), options.encoding.dtype(), vec![spec.rows, spec.cols], job);
        }
    }
    let final_norm = Job::Norm { name: graph.final_norm_name().into(), len: hidden };
    add(names.final_norm().into(), DType::F32, vec![hidden], final_norm);
    let head = graph.head_name();
    if !graph.is_tied() {
        add("output.weight".into(), dense(head)?, vec![vocab, hidden], whole(head));
    }
    let has_copy = DenseTensor::number_type(dense_dtype(graph, options, head)).is_some_and(Int8Rows::suits)
        && matches!(whole(head), Job::Dense { .. });
    if options.encoding.is_own() && has_copy {
        add(
            HEAD_VALUES.into(),
            DType::I8,
            vec![vocab, Int8Rows::stride_of(hidden)],
            Job::Dense { name: head.into(), part: DensePart::CopyValues },
        );
        add(
            HEAD_BOUNDS.into(),
            DType::F32,
            vec![vocab, 4],
            Job::Dense { name: head.into(), part: DensePart::CopyBounds },
        );
    }
    if let RopeScaling::LongRope { short, long, .. } = &config.rope_scaling {
        for (name, factors) in [(ROPE_SHORT, short), (ROPE_LONG, long)] {
            add(name.into(), DType::F32, vec![factors.len()], Job::Floats(factors.clone()));
        }
    }
    if let Some(factors) = rope_factors(&config.rope_scaling, config.head_dim, config.rope_theta) {
        add("rope_freqs.weight".into(), DType::F32, vec![factors.len()], Job::Floats(factors));
    }
    Ok(tensors)
}

/// Refuses a matrix whose rows are not whole blocks of the encoding.
fn check_fit(graph: &Graph, spec: &LinearSpec, encoding: Encoding) -> Result<(), FormatError> {
    if encoding.fits(spec.rows, spec.cols) {
        return Ok(());
    }
    let (LinearSpec { name, rows, cols, .. }, dtype) = (spec, encoding.dtype());
    let reason = format!(
        "a matrix of {rows} x {cols} cannot be stored as {dtype}, whose blocks hold {}; choose t16 or t16x5, which take any \
         size{}",
        encoding.block_len(),
        if Encoding::I2S.fits(*rows, *cols) { ", or i2_s" } else { "" },
    );
    Err(FormatError::header(graph.checkpoint().path(), format_args!("tensor `{name}`"), reason))
}

/// Divisors of the frequencies, as `rope_freqs.weight` has them.
fn rope_factors(scaling: &RopeScaling, head_dim: usize, theta: f32) -> Option<Vec<f32>> {
    match scaling {
        RopeScaling::Factors(factors) => Some(factors.clone()),
        RopeScaling::Llama3 { .. } => {
            let [plain, scaled] = [&RopeScaling::None, scaling].map(|scaling| Rope::new(head_dim, theta, scaling));
            Some(plain.frequencies().iter().zip(scaled.frequencies()).map(|(plain, scaled)| plain / scaled).collect())
        }
        RopeScaling::None | RopeScaling::Linear { .. } | RopeScaling::Yarn { .. } | RopeScaling::LongRope { .. } => {
            None
        }
    }
}
