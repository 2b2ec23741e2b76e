//! Checkpoints written again: the same model in every encoding, bit for bit.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod common;

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use assert_cmd::Command;
use common::fixture;
use predicates::prelude::*;
use predicates::str::contains;
use sterna::convert::{Conversion, ConvertOptions, compare};
use sterna::format::{Checkpoint, DType, DenseEncoding, Description, Encoding};
use sterna::graph::Graph;
use sterna::model::{ActivationKind, build_graph};
use sterna::{KvType, Layout, Model, OpenOptions};

const ALL: [Encoding; 5] = [Encoding::T16, Encoding::T16x5, Encoding::Tq1_0, Encoding::Tq2_0, Encoding::I2S];

fn graph(path: &Path) -> Graph {
    build_graph(Arc::new(sterna::source::open(path).unwrap())).unwrap()
}

fn convert(source: &Path, out: &Path, encoding: Encoding, head: Option<DenseEncoding>) -> Result<(), sterna::Error> {
    let graph = graph(source);
    let conversion = Conversion::new(&graph, ConvertOptions { encoding, head })?;
    let mut written = 0;
    let mut progress = |bytes| {
        written += bytes;
        ControlFlow::Continue(())
    };
    conversion.write(out, false, &mut progress)?.keep()?;
    assert!(written > 0 && written <= conversion.bytes(), "{written} of {}", conversion.bytes());
    Ok(())
}

fn open(path: &Path, layout: Option<Layout>) -> Model {
    Model::open(path, &OpenOptions { layout, mmap: Some(true), kv: KvType::F32, ..OpenOptions::default() }).unwrap()
}

/// The logits of some tokens.
fn logits(model: &Model) -> Vec<f32> {
    let mut logits = Vec::new();
    let tokens: Vec<u32> = (0..40).map(|i| (i * 37 + 1) % model.config().vocab_size as u32).collect();
    model.session().logits(&tokens, |_, row| logits.extend_from_slice(row)).unwrap();
    logits
}

/// Bits, so that -0 is not 0.
fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|v| v.to_bits()).collect()
}

/// What a model generates greedily, with the int8 head.
fn greedy(model: &Model) -> Vec<u32> {
    let options = sterna::GenerateOptions { max_tokens: Some(12), ignore_eos: true, ..Default::default() };
    model.session().generate_tokens(vec![3, 1, 4], options).unwrap().map(|token| token.unwrap().id).collect()
}

#[test]
fn every_encoding_and_the_way_back_give_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["demo", "bitnet_a", "bitnet_b158_large", "llama_a"] {
        let source = if name == "demo" { PathBuf::from(name) } else { fixture(name) };
        let model = open(&source, None);
        let (want, text) = (bits(&logits(&model)), greedy(&model));
        let tokenizer = model.tokenizer().unwrap();
        // From each file to the next, so that every encoding is read and written.
        let mut before = source.clone();
        for encoding in ALL.into_iter().chain([Encoding::T16]) {
            let out = folder.path().join(format!("{name}-{}-{encoding:?}.gguf", before.file_name().unwrap().len()));
            convert(&before, &out, encoding, None).unwrap();
            let written = open(&out, None);
            assert!(bits(&logits(&written)) == want, "{name} {encoding:?}");
            assert_eq!(greedy(&written), text, "{name} {encoding:?}");
            let options = OpenOptions { mmap: Some(false), kv: KvType::F32, ..OpenOptions::default() };
            let copied = Model::open(&out, &options).unwrap();
            assert!(bits(&logits(&copied)) == want && greedy(&copied) == text, "{name} {encoding:?}, copied");
            assert_eq!(written.config().rope_theta, model.config().rope_theta);
            assert_eq!(written.default_sampling(), model.default_sampling());
            let theirs = written.tokenizer().unwrap();
            for sample in ["The inn's 1234 guests — \u{e9}!\n\n  so", "<s>x</s> <|eot_id|>", ""] {
                assert_eq!(theirs.encode(sample, true).unwrap(), tokenizer.encode(sample, true).unwrap(), "{name}");
            }
            assert_eq!((theirs.bos(), theirs.eos()), (tokenizer.bos(), tokenizer.eos()));
            let template =
                |tokenizer: &sterna::tokenizer::Tokenizer| tokenizer.chat_template().and_then(|t| t.source());
            assert_eq!(template(theirs), template(tokenizer));
            before = out;
        }
        let comparison = compare(&source, &sterna::format::OpenOptions::default(), &before).unwrap();
        assert!(comparison.is_exact && comparison.same_tokens && comparison.agreeing == comparison.tokens);
    }
}

#[test]
fn scales_of_groups_survive_and_are_refused_where_there_is_one_for_all() {
    let folder = tempfile::tempdir().unwrap();
    let ternary_head = fixture("qwen3_ternary").join("model-pq2_0_g128_142.gguf");
    for (number, source) in [fixture("qwen3_ternary"), fixture("trilm"), ternary_head.clone()].into_iter().enumerate() {
        let model = open(&source, None);
        assert_eq!(model.config().activations, ActivationKind::Float);
        let (want, text) = (bits(&logits(&model)), greedy(&model));
        let mut before = source.clone();
        for (step, encoding) in [Encoding::T16, Encoding::Q2_0, Encoding::T16].into_iter().enumerate() {
            let out = folder.path().join(format!("{number}-{step}.gguf"));
            convert(&before, &out, encoding, None).unwrap();
            for mmap in [true, false] {
                let options = OpenOptions { mmap: Some(mmap), kv: KvType::F32, ..OpenOptions::default() };
                let written = Model::open(&out, &options).unwrap();
                assert_eq!(written.config().activations, ActivationKind::Float);
                assert!(bits(&logits(&written)) == want, "{} {encoding:?}", source.display());
                assert_eq!(greedy(&written), text, "{} {encoding:?}", source.display());
            }
            before = out;
        }
        for encoding in [Encoding::I2S, Encoding::T16x5, Encoding::Tq2_0] {
            let error = convert(&source, &folder.path().join("refused"), encoding, None).unwrap_err().to_string();
            assert!(
                error.contains("a scale for each") && error.contains("q2_0"),
                "{} {encoding:?}: {error}",
                source.display()
            );
        }
    }
    // A ternary head as half-precision numbers, which they are.
    let out = folder.path().join("f16.gguf");
    convert(&ternary_head, &out, Encoding::T16, Some(DenseEncoding::F16)).unwrap();
    let comparison = compare(&ternary_head, &sterna::format::OpenOptions::default(), &out).unwrap();
    assert!(comparison.largest < 1e-4 && comparison.agreeing == comparison.tokens, "{}", comparison.largest);
    // The matrices of one scale as q2_0.
    let (source, out) = (fixture("llama_a"), folder.path().join("llama.gguf"));
    convert(&source, &out, Encoding::Q2_0, None).unwrap();
    assert!(bits(&logits(&open(&source, None))) == bits(&logits(&open(&out, None))));
}

#[test]
fn awkward_sizes_fit_the_own_layouts_and_are_refused_by_others() {
    let folder = tempfile::tempdir().unwrap();
    for name in [
        "bitnet_b_awkward",
        "bitnet_c_awkward",
        "bitnet_b158_3b_awkward",
        "llama_b_awkward",
        "bitnet_bf16_online",
        "qwen3_bitlinear",
        "minicpm_bitlinear",
    ] {
        let source = fixture(name);
        let want = bits(&logits(&open(&source, None)));
        let mut before = source.clone();
        for encoding in [Encoding::T16, Encoding::T16x5] {
            let out = folder.path().join(format!("{name}-{encoding:?}.gguf"));
            convert(&before, &out, encoding, None).unwrap();
            assert!(bits(&logits(&open(&out, None))) == want, "{name} {encoding:?}");
            // Another layout than the file's.
            assert!(bits(&logits(&open(&out, Some(Layout::Lut3)))) == want, "{name} {encoding:?}");
            before = out;
        }
        let out = folder.path().join("refused.gguf");
        let error = convert(&source, &out, Encoding::Tq2_0, None).unwrap_err().to_string();
        assert!(error.contains("cannot be stored as TQ2_0") && error.contains("t16"), "{error}");
        assert!(error.contains(".weight`"), "{error}");
    }
    let files = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert!(files.into_iter().all(|name| name.ends_with("16.gguf") || name.ends_with("16x5.gguf")));
}

#[test]
fn matrices_of_the_file_are_used_where_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("llama.gguf");
    convert(&fixture("llama_a"), &out, Encoding::T16, None).unwrap();
    let graph = graph(&out);
    assert_eq!(graph.stored_layout(), Some(Layout::T16));
    for spec in graph.blocks().iter().flat_map(|block| block.linears()) {
        let data = graph.checkpoint().data(&spec.name).unwrap();
        let pool = sterna_cpu::Pool::new(1);
        let readers = sterna_cpu::Readers { pool: &pool, before: 0, all: spec.rows };
        let linear = graph.linear(spec, Layout::T16, readers).unwrap();
        assert_eq!(linear.weight.tiles().as_ptr(), data.as_ptr(), "{}: no copy", spec.name);
        assert_ne!(graph.linear(spec, Layout::T16x5, readers).unwrap().weight.tiles().as_ptr(), data.as_ptr());
    }
    let copy = graph.head_copy().unwrap().expect("a copy of the head");
    assert_eq!(copy.values().as_ptr().cast(), graph.checkpoint().data("sterna.head.int8").unwrap().as_ptr());
}

#[test]
fn files_for_other_programs_hold_what_their_converters_write() {
    let folder = tempfile::tempdir().unwrap();
    for (name, file, encoding) in [
        ("bitnet_a", "model-tq2_0.gguf", Encoding::Tq2_0),
        ("bitnet_a", "model-i2_s.gguf", Encoding::I2S),
        ("llama_a", "model-tq2_0.gguf", Encoding::Tq2_0),
    ] {
        let source = fixture(name);
        if !source.join(file).exists() {
            panic!("{name} has no {file}");
        }
        let theirs = Checkpoint::open(&source.join(file)).unwrap();
        let out = folder.path().join(format!("{name}-{file}"));
        convert(&source, &out, encoding, None).unwrap();
        let ours = Checkpoint::open(&out).unwrap();
        for tensor in theirs.tensors().filter(|tensor| tensor.dtype == encoding.dtype()) {
            let found = ours.tensor(&tensor.name).unwrap();
            assert_eq!((found.dtype, &found.shape), (tensor.dtype, &tensor.shape));
            // Codes; a converter may have rounded the scale in another way, or left something in unused bytes.
            let (mine, other) = (ours.data(&tensor.name).unwrap(), theirs.data(&tensor.name).unwrap());
            let codes = |data: &[u8]| -> Vec<u8> {
                match encoding {
                    Encoding::I2S => data[..data.len() - 32].to_vec(),
                    _ => data.chunks(66).flat_map(|block| block[..64].to_vec()).collect(),
                }
            };
            assert!(codes(&mine) == codes(&other), "{name} {}", tensor.name);
        }
        let (Description::Gguf { metadata: ours, .. }, Description::Gguf { metadata: theirs, .. }) =
            (ours.description(), theirs.description())
        else {
            panic!("no GGUF");
        };
        for key in ["tokens", "merges", "bos_token_id", "eos_token_id", "model"].map(|k| format!("tokenizer.ggml.{k}"))
        {
            assert!(ours.get(&key) == theirs.get(&key), "{name} {key}");
        }
    }
}

#[test]
fn the_head_can_be_encoded_anew() {
    let folder = tempfile::tempdir().unwrap();
    let source = PathBuf::from("demo");
    let want = logits(&open(&source, None));
    let rms = |values: &mut dyn Iterator<Item = f32>| values.map(|v| v * v).sum::<f32>().sqrt();
    let spread = rms(&mut want.iter().copied());
    for (head, dtype, tolerance) in [
        (DenseEncoding::F16, DType::F16, 0.001),
        (DenseEncoding::Bf16, DType::Bf16, 0.01),
        (DenseEncoding::Q8_0, DType::Q8_0, 0.05),
        (DenseEncoding::Q6K, DType::Q6K, 0.1),
    ] {
        let out = folder.path().join(format!("{head:?}.gguf"));
        convert(&source, &out, Encoding::T16, Some(head)).unwrap();
        let checkpoint = Checkpoint::open(&out).unwrap();
        assert_eq!(checkpoint.tensor("token_embd.weight").unwrap().dtype, dtype);
        let has_copy = checkpoint.tensor("sterna.head.int8").is_some();
        assert_eq!(has_copy, matches!(head, DenseEncoding::F16 | DenseEncoding::Bf16));
        let found = logits(&open(&out, None));
        let difference = rms(&mut found.iter().zip(&want).map(|(a, b)| a - b)) / spread;
        println!("{head:?}: {difference}");
        assert!(difference <= tolerance, "{head:?}: {difference}");
    }
}

#[test]
fn what_is_stopped_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("stopped.gguf");
    let graph = graph(&fixture("bitnet_a"));
    let conversion = Conversion::new(&graph, ConvertOptions { encoding: Encoding::I2S, head: None }).unwrap();
    let mut calls = 0;
    let mut stop = |_| {
        calls += 1;
        if calls < 5 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    let error = conversion.write(&out, false, &mut stop).unwrap_err().to_string();
    assert!(error.contains("stopped"), "{error}");
    // A complete file that nobody keeps goes, too.
    drop(conversion.write(&out, false, &mut |_| ControlFlow::Continue(())).unwrap());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn damaged_files_of_the_own_layout_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    convert(&fixture("bitnet_a"), &path, Encoding::T16x5, None).unwrap();
    let good = fs::read(&path).unwrap();
    let checkpoint = Checkpoint::open(&path).unwrap();
    let at = |name: &str| {
        let data = checkpoint.data(name).unwrap();
        good.windows(256).position(|bytes| *bytes == data[..256]).unwrap()
    };
    let (bounds, tiles) = (at("sterna.head.bounds"), at("blk.0.attn_q.weight"));
    let size = checkpoint.tensor("blk.0.attn_q.weight").unwrap().nbytes as usize;
    let damaged = |position: usize, bytes: &[u8]| {
        let mut file = good.clone();
        file[position..position + bytes.len()].copy_from_slice(bytes);
        fs::write(&path, file).unwrap();
    };
    let refused = |layout: Option<Layout>, phrase: &str| {
        let error = Model::open(&path, &OpenOptions { layout, ..OpenOptions::default() }).unwrap_err().to_string();
        assert!(error.contains(phrase) && error.contains("model.gguf"), "{error}");
    };
    damaged(bounds + 4, &f32::NAN.to_le_bytes());
    refused(None, "`sterna.head.bounds`");
    damaged(tiles + size - 64, &0f32.to_le_bytes());
    refused(None, "the scale of tensor `blk.0.attn_q.weight` is 0");
    // Codes are looked at where rows are decoded.
    damaged(tiles + 5, &[255]);
    refused(Some(Layout::T16), "`blk.0.attn_q.weight` holds a code in row 1");
    let model = open(&path, None);
    assert!(logits(&model).iter().all(|v| v.is_finite()));
    fs::write(&path, &good[..good.len() - 4096]).unwrap();
    refused(None, "cut short");
}

fn sterna(arguments: &[&str]) -> assert_cmd::assert::Assert {
    Command::cargo_bin("sterna").unwrap().args(arguments).assert()
}

#[test]
fn the_command_line_converts_verifies_and_does_not_overwrite() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("demo.gguf");
    let out = out.to_str().unwrap();
    sterna(&["convert", "demo", out, "--verify"]).success().stderr(contains("the same bits"));
    sterna(&["convert", "demo", out]).failure().stderr(contains("--force"));
    sterna(&["convert", out, out, "--force", "--to", "t16x5", "--head", "q8_0", "--verify"])
        .success()
        .stderr(contains("differ by up to"));
    sterna(&["inspect", out, "--tensors"]).success().stdout(contains("T16x5").and(contains("Q8_0")));
    sterna(&["run", out, "Once upon a time", "-n", "8", "--temp", "0"]).success();
    sterna(&["convert", "nowhere", "x.gguf"]).failure().stderr(contains("nowhere"));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}
