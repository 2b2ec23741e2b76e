//! Random models: they run, and the same seed is the same model in every encoding.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::ops::ControlFlow;

use assert_cmd::Command;
use predicates::prelude::*;
use predicates::str::contains;
use sterna::format::Encoding;
use sterna::synth::{self, Shape};
use sterna::{KvType, Model, OpenOptions};

const ENCODINGS: [(&str, Encoding); 5] = [
    ("1", Encoding::Tq1_0),
    ("2", Encoding::Tq2_0),
    ("i", Encoding::I2S),
    ("t", Encoding::T16),
    ("5", Encoding::T16x5),
];

/// A small shape; rows are multiples of 256, as all encodings need them.
fn small(architecture: &str) -> Shape {
    Shape {
        architecture: architecture.into(),
        hidden_size: 256,
        intermediate_size: 512,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: (architecture == "qwen3").then_some(128),
        use_rms_norm: architecture == "qwen3",
        vocab_size: 300,
        tie_word_embeddings: architecture != "llama",
        max_position_embeddings: 128,
        rope_theta: 10_000.0,
    }
}

#[test]
fn every_encoding_holds_the_same_model() {
    let folder = tempfile::tempdir().unwrap();
    for architecture in ["bitnet-b1.58", "bitnet", "llama", "qwen3"] {
        let mut first: Option<Vec<u32>> = None;
        for (name, encoding) in ENCODINGS {
            let path = folder.path().join(format!("{architecture}-{name}.gguf"));
            let mut bytes = 0;
            let mut count = |n| {
                bytes += n;
                ControlFlow::Continue(())
            };
            synth::write(&path, &small(architecture), encoding, 3, false, &mut count).unwrap();
            assert!(bytes > 0 && bytes < std::fs::metadata(&path).unwrap().len());
            let model = Model::open(&path, &OpenOptions { kv: KvType::F32, ..OpenOptions::default() }).unwrap();
            let own = encoding.dtype().layout();
            assert!(own.is_none_or(|layout| model.kernels().layout() == layout), "{encoding:?}");
            let tokens = model.tokenizer().unwrap().encode("the inn \u{e9}", true).unwrap();
            let mut logits = Vec::new();
            model.session().logits(&tokens, |_, row| logits.extend(row.iter().map(|v| v.to_bits()))).unwrap();
            assert!(logits.iter().all(|&bits| f32::from_bits(bits).is_finite()));
            assert!(*first.get_or_insert(logits.clone()) == logits, "{architecture} {encoding:?}");
        }
    }
}

#[test]
fn shapes_of_the_command_line_are_checked() {
    let folder = tempfile::tempdir().unwrap();
    let (shape, out) = (folder.path().join("shape.json"), folder.path().join("out.gguf"));
    let write = |text: &str| std::fs::write(&shape, text).unwrap();
    let synth = |arguments: &[&str]| {
        let mut command = Command::cargo_bin("sterna").unwrap();
        command.arg("synth").arg(&out).arg("--shape").arg(&shape).args(arguments).assert()
    };
    let valid = r#"{"architecture": "bitnet", "hidden_size": 256, "intermediate_size": 270, "num_hidden_layers": 1,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 300}"#;
    write(valid);
    synth(&[]).failure().stderr(contains("256 x 270").or(contains("[256, 270]")).and(contains("TQ2_0")));
    write(&valid.replace("270", "512"));
    synth(&["--encoding", "i2-s"]).success();
    synth(&[]).failure().stderr(contains("--force"));
    write(&valid.replace("\"num_key_value_heads\": 2", "\"num_key_value_heads\": 3"));
    synth(&["--force"]).failure().stderr(contains("num_key_value_heads 3"));
    write(&valid.replace("270", "0"));
    synth(&["--force"]).failure().stderr(contains("intermediate_size is 0"));
    write(&valid.replace("vocab_size", "vocabulary"));
    synth(&["--force"]).failure().stderr(contains("vocabulary"));
    let mut command = Command::cargo_bin("sterna").unwrap();
    command.args(["synth", "x.gguf", "--shape", "9b"]).assert().failure().stderr(contains("2b-4t"));
}
