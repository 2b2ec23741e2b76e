//! `sterna inspect`: what a checkpoint holds, without loading it.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use indicatif::HumanBytes;
use serde_json::{Value, json};
use sterna::KvType;
use sterna::format::{Checkpoint, Description};
use sterna::graph::{Graph, LinearSpec};
use sterna::model::{ModelConfig, Scales, build_graph};

use super::common;

/// Arguments of `sterna inspect`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The model [default: the demo model]
    model: Option<PathBuf>,

    /// Print one JSON object
    #[arg(long)]
    json: bool,

    /// List every tensor
    #[arg(long)]
    tensors: bool,
}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let path = common::model_or_demo(args.model);
    let checkpoint = Arc::new(sterna::source::open(&path)?);
    // A file whose architecture does not run here still has tensors to show.
    let graph = build_graph(Arc::clone(&checkpoint)).map_err(anyhow::Error::from);
    let text = if args.json {
        format!("{:#}\n", as_json(&checkpoint, &graph))
    } else {
        as_text(&checkpoint, &graph, args.tensors)
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

fn format_name(checkpoint: &Checkpoint) -> &'static str {
    match checkpoint.description() {
        Description::Gguf { .. } => "GGUF",
        Description::HuggingFace { .. } => "Hugging Face safetensors",
    }
}

/// Bytes of the parts of a model, in the file and when it runs.
struct Parts {
    embedding: u64,
    head: u64,
    ternary_in_file: u64,
    ternary_packed: u64,
    file: u64,
}

impl Parts {
    fn of(checkpoint: &Checkpoint, graph: &Graph) -> Parts {
        let bytes = |name: &str| checkpoint.tensor(name).map_or(0, |tensor| tensor.nbytes);
        let linears = || graph.blocks().iter().flat_map(|block| block.linears());
        Parts {
            embedding: bytes(graph.embedding_name()),
            head: if graph.is_tied() { 0 } else { bytes(graph.head_name()) },
            ternary_in_file: linears().map(|linear| bytes(&linear.name)).sum(),
            ternary_packed: linears().map(LinearSpec::packed_bytes).sum(),
            file: checkpoint.tensors().map(|tensor| tensor.nbytes).sum(),
        }
    }
}

/// Numbers in the embedding, the head and the norms.
fn other_parameters(graph: &Graph) -> u64 {
    let config = graph.config();
    let matrices = if graph.is_tied() { 1 } else { 2 };
    let norms = graph.blocks().iter().flat_map(|block| block.norms(config));
    let block_norms: usize = norms.map(|(_, len)| len).sum();
    (matrices * config.vocab_size * config.hidden_size + config.hidden_size + block_norms) as u64
}

/// Hyper-parameters, by the names of config.json.
fn config_rows(config: &ModelConfig) -> Vec<(&'static str, Value)> {
    let mut rows = vec![
        ("vocab_size", json!(config.vocab_size)),
        ("hidden_size", json!(config.hidden_size)),
        ("intermediate_size", json!(config.intermediate_size)),
        ("num_hidden_layers", json!(config.num_layers)),
        ("num_attention_heads", json!(config.num_heads)),
        ("num_key_value_heads", json!(config.num_kv_heads)),
        ("head_dim", json!(config.head_dim)),
        ("hidden_act", json!(config.gate.name())),
        ("max_position_embeddings", json!(config.max_position_embeddings)),
        ("rope_theta", json!(config.rope_theta)),
        ("rms_norm_eps", json!(config.rms_norm_eps)),
    ];
    if let Some(local) = config.local {
        rows.push(("sliding_window", json!(local.window)));
        rows.push(("rope_local_base_freq", json!(local.rope_theta)));
    }
    let Scales { embedding, residual, logits } = config.scales;
    for (name, scale) in [("embedding_scale", embedding), ("residual_scale", residual), ("logits_scale", logits)] {
        if scale != 1.0 {
            rows.push((name, json!(scale)));
        }
    }
    rows
}

fn as_json(checkpoint: &Checkpoint, graph: &anyhow::Result<Graph>) -> Value {
    let tensors: Vec<Value> = checkpoint
        .tensors()
        .map(|t| json!({ "name": t.name, "type": t.dtype.name(), "shape": t.shape, "bytes": t.nbytes }))
        .collect();
    let mut object = json!({
        "file": checkpoint.path().display().to_string(),
        "format": format_name(checkpoint),
        "tensors": tensors,
    });
    match graph {
        Ok(graph) => {
            let parts = Parts::of(checkpoint, graph);
            let ternary = graph.ternary_parameters();
            object["architecture"] = json!(graph.config().architecture);
            object["config"] = config_rows(graph.config()).into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
            object["tied"] = json!(graph.is_tied());
            object["parameters"] = json!({
                "ternary": ternary,
                "other": other_parameters(graph),
                "total": ternary + other_parameters(graph),
            });
            object["bytes"] = json!({
                "file": parts.file,
                "embedding": parts.embedding,
                "head": parts.head,
                "ternary": parts.ternary_in_file,
                "ternary_packed": parts.ternary_packed,
                "kv_f16_per_position": graph.config().kv_bytes_per_position(KvType::F16),
            });
        }
        Err(error) => object["error"] = json!(format!("{error:#}")),
    }
    object
}

fn as_text(checkpoint: &Checkpoint, graph: &anyhow::Result<Graph>, all_tensors: bool) -> String {
    let mut out = String::new();
    let mut row = |name: &str, value: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{name:<24} {value}");
    };
    row("file", checkpoint.path().display().to_string());
    row("format", format_name(checkpoint).into());
    match graph {
        Ok(graph) => {
            let parts = Parts::of(checkpoint, graph);
            let (ternary, other) = (graph.ternary_parameters(), other_parameters(graph));
            row("architecture", graph.config().architecture.clone());
            row("parameters", format!("{} ({ternary} ternary, {other} other)", ternary + other));
            for (name, value) in config_rows(graph.config()) {
                row(name, value.to_string().trim_matches('"').to_owned());
            }
            row("head", if graph.is_tied() { "tied to the embedding".into() } else { "own matrix".into() });
            row("bytes of all tensors", HumanBytes(parts.file).to_string());
            row("  embedding", HumanBytes(parts.embedding).to_string());
            if !graph.is_tied() {
                row("  head", HumanBytes(parts.head).to_string());
            }
            row("  ternary", HumanBytes(parts.ternary_in_file).to_string());
            row("ternary, packed to run", HumanBytes(parts.ternary_packed).to_string());
            let per_position = graph.config().kv_bytes_per_position(KvType::F16) as u64;
            row("kv cache (f16)", format!("{} a position", HumanBytes(per_position)));
        }
        Err(error) => row("does not run", format!("{error:#}")),
    }
    row("tensors", checkpoint.tensors().count().to_string());
    let mut types: Vec<(Cow<'_, str>, usize, u64)> = Vec::new();
    for tensor in checkpoint.tensors() {
        let name = tensor.dtype.name();
        match types.iter_mut().find(|(known, ..)| *known == name) {
            Some((_, count, bytes)) => {
                *count += 1;
                *bytes += tensor.nbytes;
            }
            None => types.push((name, 1, tensor.nbytes)),
        }
    }
    for (name, count, bytes) in types {
        row(&format!("  {name}"), format!("{count} tensors, {}", HumanBytes(bytes)));
    }
    if all_tensors {
        let width = checkpoint.tensors().map(|t| t.name.len()).max().unwrap_or(0);
        for tensor in checkpoint.tensors() {
            let shape = tensor.shape.iter().map(usize::to_string).collect::<Vec<_>>().join(" x ");
            let bytes = HumanBytes(tensor.nbytes).to_string();
            let _ = writeln!(out, "  {:<width$}  {:<7} {bytes:>12}  {shape}", tensor.name, tensor.dtype.name());
        }
    } else {
        let _ = writeln!(out, "(--tensors lists them)");
    }
    out
}
