//! The reference models, in all their forms.

use std::sync::Arc;

use rayon::prelude::*;
use sterna::format::{Checkpoint, DType, Description, FormatError, TernaryTensor};
use sterna_cpu::dense::DenseType;

use crate::common::{data_path, fixture};
use crate::decode;

/// Names of a layer's linear modules in Hugging Face checkpoints and in GGUF.
const LINEARS: [(&str, &str); 7] = [
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

/// Opens a model's folder, or a file in it.
fn open(relative: &str) -> Checkpoint {
    let (model, file) = relative.split_once('/').unwrap_or((relative, ""));
    Checkpoint::open(&fixture(model).join(file)).unwrap()
}

/// Rows and columns of a linear module of a Hugging Face checkpoint.
fn logical_shape(checkpoint: &Checkpoint, name: &str) -> (usize, usize) {
    let info = checkpoint.tensor(name).unwrap();
    let [rows, cols] = info.shape[..] else { panic!("{info:?}") };
    (if info.dtype == DType::U8 { 4 * rows } else { rows }, cols)
}

#[test]
fn every_model_opens_in_every_form() {
    let mut models = 0;
    let mut files = 0;
    for entry in std::fs::read_dir(data_path("fixtures")).unwrap() {
        let entry = entry.unwrap();
        if !entry.path().is_dir() {
            continue;
        }
        let path = fixture(entry.file_name().to_str().unwrap());
        models += 1;
        let checkpoint = Checkpoint::open(&path).unwrap();
        let Description::HuggingFace { config } = checkpoint.description() else { panic!("{checkpoint:?}") };
        let layers = config["num_hidden_layers"].as_u64().unwrap();
        assert!(checkpoint.file("tokenizer.json").unwrap().unwrap().starts_with(b"{"));
        assert!(checkpoint.file("no_such_file.json").unwrap().is_none());
        // Models without a head of their own have no name in front.
        let root = if checkpoint.tensor("model.norm.weight").is_some() { "model." } else { "" };
        for layer in 0..layers {
            for (module, _) in LINEARS {
                let name = format!("{root}layers.{layer}.{module}.weight");
                let (rows, cols) = logical_shape(&checkpoint, &name);
                let ternary = match checkpoint.ternary(&name, rows, cols) {
                    Ok(matrix) => decode(&matrix),
                    Err(FormatError::NotTernary { .. }) => {
                        let matrix = checkpoint.grouped_ternary(&name, rows, cols).unwrap();
                        let group = matrix.group();
                        let (mut values, mut scales) = (vec![0; rows * cols], vec![0.0; cols.div_ceil(group)]);
                        for (row, out) in values.chunks_exact_mut(cols).enumerate() {
                            matrix.read_row(row, group, out, &mut scales).unwrap();
                        }
                        values
                    }
                    Err(error) => panic!("{error}"),
                };
                for value in [-1, 0, 1] {
                    let share = ternary.iter().filter(|&&t| t == value).count() as f64 / ternary.len() as f64;
                    assert!((0.15..0.6).contains(&share), "{path:?} {name}: {share} of {value}");
                }
            }
        }
        let hidden = config["hidden_size"].as_u64().unwrap() as usize;
        let vocabulary = config["vocab_size"].as_u64().unwrap() as usize;
        checkpoint.dense(&format!("{root}embed_tokens.weight"), vocabulary, hidden).unwrap();
        assert_eq!(checkpoint.vector(&format!("{root}norm.weight"), hidden).unwrap().len(), hidden);

        for entry in std::fs::read_dir(&path).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "gguf") {
                continue;
            }
            files += 1;
            let gguf = Checkpoint::open(&path).unwrap();
            let Description::Gguf { version: 3, metadata } = gguf.description() else { panic!("{gguf:?}") };
            let architecture = metadata.str("general.architecture").unwrap();
            assert_eq!(metadata.u64(&format!("{architecture}.block_count")), Some(layers));
            assert!(metadata.strings("tokenizer.ggml.tokens").is_some_and(|tokens| tokens.len() == vocabulary));
            assert!(gguf.file("tokenizer.json").unwrap().is_none());
            if gguf.tensor("token_embd.weight").unwrap().dtype.is_ternary_blocks() {
                gguf.grouped_ternary("token_embd.weight", vocabulary, hidden).unwrap();
            } else {
                let embedding = gguf.dense("token_embd.weight", vocabulary, hidden).unwrap();
                assert_eq!((embedding.ty, embedding.data.len()), (DenseType::F16, 2 * vocabulary * hidden));
            }
            gguf.vector("output_norm.weight", hidden).unwrap();
        }
    }
    assert!(models >= 14 && files >= 13, "{models} models, {files} GGUF files");
}

/// The rows of `matrix`, with those of each head in half-split order again where llama.cpp interleaved them.
fn rows_in_half_split_order(matrix: &TernaryTensor, head_dim: usize) -> Vec<i8> {
    let interleaved = decode(matrix);
    let (cols, half) = (matrix.cols(), head_dim / 2);
    let mut rows = vec![0; interleaved.len()];
    for (row, values) in interleaved.chunks(cols).enumerate() {
        let (head, within) = (row / head_dim, row % head_dim);
        let original = head * head_dim + within % 2 * half + within / 2;
        rows[original * cols..(original + 1) * cols].copy_from_slice(values);
    }
    rows
}

/// Compares a GGUF file with the checkpoint it was made from. Its scales may have been rounded to `f16`.
fn compare(model: &str, gguf: &str, f16_scales: bool) {
    let original = open(model);
    let gguf = open(&format!("{model}/{gguf}"));
    let Description::Gguf { metadata, .. } = gguf.description() else { panic!("{gguf:?}") };
    let Description::HuggingFace { config } = original.description() else { panic!("{original:?}") };
    let interleaved = metadata.str("general.architecture") == Some("llama");
    let heads = config["num_attention_heads"].as_u64().unwrap();
    let head_dim = config.get("head_dim").and_then(|dim| dim.as_u64());
    let head_dim = head_dim.unwrap_or_else(|| config["hidden_size"].as_u64().unwrap() / heads) as usize;
    for layer in 0..config["num_hidden_layers"].as_u64().unwrap() {
        for (module, gguf_module) in LINEARS {
            let name = format!("model.layers.{layer}.{module}.weight");
            let (rows, cols) = logical_shape(&original, &name);
            let expected = original.ternary(&name, rows, cols).unwrap();
            let found = gguf.ternary(&format!("blk.{layer}.{gguf_module}.weight"), rows, cols).unwrap();
            let expected_scale =
                if f16_scales { half::f16::from_f32(expected.scale()).to_f32() } else { expected.scale() };
            assert_eq!(found.scale(), expected_scale, "{name}");
            let ternary = if interleaved && matches!(gguf_module, "attn_q" | "attn_k") {
                rows_in_half_split_order(&found, head_dim)
            } else {
                decode(&found)
            };
            assert!(ternary == decode(&expected), "{name}");
        }
    }
}

#[test]
fn i2_s_of_a_bitnet_holds_the_same_matrices() {
    compare("bitnet_a", "model-i2_s.gguf", false);
}

#[test]
fn i2_s_of_a_llama_holds_the_same_matrices() {
    compare("llama_a", "model-i2_s.gguf", false);
}

#[test]
fn tq1_0_of_a_llama_holds_the_same_matrices() {
    compare("llama_a", "model-tq1_0.gguf", true);
}

#[test]
fn tq2_0_of_a_llama_holds_the_same_matrices() {
    compare("llama_a", "model-tq2_0.gguf", true);
}

#[test]
fn tq2_0_with_f16_where_rows_do_not_fit_holds_the_same_matrices() {
    compare("llama_b_awkward", "model-tq2_0.gguf", true);
}

#[test]
fn ternarized_master_weights_are_those_of_the_converted_file() {
    compare("bitnet_b158_large", "model-tq2_0.gguf", true);
}

#[test]
fn matrices_outlive_the_checkpoint_and_are_read_by_many_threads() {
    let checkpoint = Arc::new(open("llama_a/model-tq2_0.gguf"));
    let shared = Arc::clone(&checkpoint);
    let matrix = std::thread::spawn(move || shared.ternary("blk.0.ffn_up.weight", 512, 256).unwrap()).join().unwrap();
    drop(checkpoint);
    let expected = decode(&matrix);
    let mut found = vec![0; expected.len()];
    found.par_chunks_mut(256).enumerate().for_each(|(row, out)| matrix.read_row(row, out).unwrap());
    assert_eq!(found, expected);
}

#[test]
fn a_file_of_the_folder_stands_for_it() {
    let whole = open("bitnet_a");
    for name in ["model.safetensors", "config.json"] {
        let checkpoint = open(&format!("bitnet_a/{name}"));
        assert!(checkpoint.tensors().eq(whole.tensors()));
        assert_eq!(checkpoint.description(), whole.description());
    }
}
