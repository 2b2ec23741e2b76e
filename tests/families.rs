//! What some families have beyond BitNet and Llama: embedding models, whose linears have norms of their own, and MiniCPM.
//!
//! tests/data/make has the scripts that made the fixtures, with transformers.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod common;

use std::io::Write as _;
use std::path::Path;
use std::process::{Command as Process, Stdio};

use assert_cmd::Command;
use common::{fixture, max_abs_diff, read_tensors};
use predicates::prelude::*;
use sterna::convert::{Conversion, ConvertOptions};
use sterna::format::Encoding;
use sterna::{Isa, KvType, Model, OpenOptions};

const EMBEDDING: [&str; 2] = ["embed_qwen3", "embed_gemma3"];

fn f32_kv() -> OpenOptions {
    OpenOptions { kv: KvType::F32, threads: Some(2), ..OpenOptions::default() }
}

fn embedder(path: &Path, options: OpenOptions) -> Model {
    Model::open(path, &options.for_embedding()).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The texts of a fixture, as tokens, and their embeddings.
fn expected(model: &str) -> (Vec<Vec<u32>>, Vec<Vec<f32>>) {
    let tensors = read_tensors(&fixture(model).join("expected.safetensors"));
    let texts = (0..4).map(|text| tensors[&format!("t{text}.ids")].ids());
    (texts.collect(), (0..4).map(|text| tensors[&format!("t{text}.embedding")].f32()).collect())
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

#[test]
fn embeddings_are_those_of_transformers() {
    for name in EMBEDDING {
        let (texts, want) = expected(name);
        let got = embedder(&fixture(name), f32_kv()).embed_tokens(&texts).unwrap();
        for (text, (got, want)) in got.iter().zip(&want).enumerate() {
            let (distance, diff) = (1.0 - cosine(got, want), max_abs_diff(got, want));
            println!("{name}, {} tokens: cosine distance {distance:.1e}, max |d| {diff:.1e}", texts[text].len());
            // No activation lies near a tie, so nothing but the last bits of f32 differs.
            assert!(distance.abs() < 1e-6 && diff < 1e-5, "{name} text {text}: {distance} {diff}");
            assert!((cosine(got, got) - 1.0).abs() < 1e-6);
        }
        // Other texts have other embeddings: the agreement is no accident.
        assert!(cosine(&got[0], &got[1]).abs() < 0.9);
    }
}

#[test]
fn hidden_states_of_embedding_models_are_those_of_transformers() {
    for name in EMBEDDING {
        let tensors = read_tensors(&fixture(name).join("expected.safetensors"));
        let model = Model::open(fixture(name), &OpenOptions { taps: vec![None, Some(0)], ..f32_kv() }).unwrap();
        let mut seen = [Vec::new(), Vec::new()];
        let ids = tensors["t0.ids"].ids();
        let keep = |layer: usize, rows: &[f32]| {
            if let Some(seen) = seen.get_mut(layer) {
                seen.extend_from_slice(rows);
            }
        };
        model.session().trace(&ids, |_, _| (), keep).unwrap();
        for (got, name) in seen.iter().zip(["t0.hidden_embed", "t0.hidden_layer0"]) {
            let want = tensors[name].f32();
            let largest = want.iter().fold(0.0f32, |max, v| max.max(v.abs()));
            let diff = max_abs_diff(got, &want);
            assert!(diff <= 2e-6 * largest, "{name}: {diff} of {largest}");
        }
    }
}

#[test]
fn embeddings_do_not_depend_on_company_threads_and_instructions() {
    for name in EMBEDDING {
        let (texts, _) = expected(name);
        let bits = |embeddings: Vec<Vec<f32>>| -> Vec<Vec<u32>> {
            embeddings.iter().map(|row| row.iter().map(|v| v.to_bits()).collect()).collect()
        };
        let model = embedder(&fixture(name), f32_kv());
        let together = bits(model.embed_tokens(&texts).unwrap());
        for (text, want) in texts.iter().zip(&together) {
            assert_eq!(&bits(model.embed_tokens(std::slice::from_ref(text)).unwrap())[0], want, "{name} alone");
        }
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            for (threads, chunk) in [(1, 512), (3, 7), (2, 1)] {
                let options = OpenOptions { isa: Some(isa), threads: Some(threads), chunk, ..f32_kv() };
                let got = bits(embedder(&fixture(name), options).embed_tokens(&texts).unwrap());
                assert_eq!(got, together, "{name} {isa} {threads} threads, chunks of {chunk}");
            }
        }
    }
}

#[test]
fn many_texts_go_through_a_small_cache() {
    let (texts, want) = expected("embed_qwen3");
    // One page: one text at a time.
    let model = embedder(&fixture("embed_qwen3"), OpenOptions { context: Some(64), ..f32_kv() });
    let many: Vec<Vec<u32>> = texts.iter().cycle().take(9).cloned().collect();
    for (got, want) in model.embed_tokens(&many).unwrap().iter().zip(want.iter().cycle()) {
        assert!(max_abs_diff(got, want) < 1e-5);
    }
}

#[test]
fn an_embedding_model_becomes_gguf() {
    let folder = tempfile::tempdir().unwrap();
    let (texts, _) = expected("embed_qwen3");
    let source = embedder(&fixture("embed_qwen3"), f32_kv());
    let want = source.embed_tokens(&texts).unwrap();
    for encoding in [Encoding::T16, Encoding::T16x5, Encoding::I2S] {
        let out = folder.path().join(format!("{encoding:?}.gguf"));
        let conversion = Conversion::new(source.graph(), ConvertOptions { encoding, head: None }).unwrap();
        conversion.write(&out, false, &mut |_| std::ops::ControlFlow::Continue(())).unwrap().keep().unwrap();
        let written = embedder(&out, f32_kv());
        assert_eq!(written.config().architecture, "qwen3");
        assert_eq!(written.embed_tokens(&texts).unwrap(), want, "{encoding:?}");
        let text = "The licence of the work";
        let encode = |model: &Model| model.tokenizer().unwrap().encode_whole(text).unwrap();
        assert_eq!(encode(&written), encode(&source));
    }
    let gemma = embedder(&fixture("embed_gemma3"), f32_kv());
    let error = Conversion::new(gemma.graph(), ConvertOptions { encoding: Encoding::T16, head: None }).err().unwrap();
    assert!(error.to_string().contains("Gemma"), "{error}");
}

#[test]
fn texts_end_as_the_tokenizer_says() {
    let model = embedder(&fixture("embed_qwen3"), f32_kv());
    let tokenizer = model.tokenizer().unwrap();
    let (bos, eos) = (tokenizer.bos().unwrap(), tokenizer.token_to_id("<|end_of_text|>").unwrap());
    let ids = tokenizer.encode_whole("of the").unwrap();
    assert_eq!((ids.first(), ids.last()), (Some(&bos), Some(&eos)));
    assert_eq!(tokenizer.encode_whole("of the<|end_of_text|>").unwrap(), ids, "never twice");
    assert_eq!(ids[..ids.len() - 1], tokenizer.encode("of the", true).unwrap());
    assert_eq!(model.embed(&["of the"]).unwrap(), model.embed_tokens(&[ids]).unwrap());
    // The fixture of Llama says nothing of an end.
    let llama = Model::open(fixture("llama_a"), &f32_kv()).unwrap();
    let tokenizer = llama.tokenizer().unwrap();
    assert_eq!(tokenizer.encode_whole("of the").unwrap(), tokenizer.encode("of the", true).unwrap());
}

#[test]
fn what_cannot_be_embedded_is_explained() {
    let plain = Model::open(fixture("embed_qwen3"), &f32_kv()).unwrap();
    let error = plain.embed(&["x"]).unwrap_err().to_string();
    assert!(error.contains("for_embedding"), "{error}");
    let model = embedder(&fixture("embed_qwen3"), f32_kv());
    assert!(matches!(model.embed_tokens(&[vec![1], vec![]]), Err(sterna::Error::EmptyPrompt)));
    assert!(matches!(model.embed_tokens(&[vec![1; 129]]), Err(sterna::Error::ContextFull { .. })));
    assert!(matches!(model.embed_tokens(&[vec![400]]), Err(sterna::Error::TokenOutOfRange { .. })));
    assert_eq!(model.embed::<&str>(&[]).unwrap(), Vec::<Vec<f32>>::new());
}

#[test]
fn the_command_line_embeds() {
    let (path, texts) = (fixture("embed_qwen3"), ["of the Work", "material under"]);
    let want = embedder(&path, OpenOptions::default()).embed(&texts).unwrap();
    let sterna = || {
        let mut command = Command::cargo_bin("sterna").unwrap();
        command.arg("embed").arg(&path);
        command
    };
    let output = sterna().args(texts).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["dimensions"], 64);
    let got: Vec<Vec<f32>> = serde_json::from_value(json["embeddings"].clone()).unwrap();
    assert_eq!(got, want);
    let piped = sterna().write_stdin("of the Work\n\nmaterial under\n").output().unwrap();
    assert_eq!(piped.stdout, output.stdout);

    let folder = tempfile::tempdir().unwrap();
    let (list, out) = (folder.path().join("texts.txt"), folder.path().join("vectors.npy"));
    std::fs::write(&list, "of the Work\nmaterial under").unwrap();
    sterna().arg("--file").arg(&list).args(["--format", "npy", "--out"]).arg(&out).assert().success();
    let bytes = std::fs::read(&out).unwrap();
    let header = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    assert!(bytes.starts_with(b"\x93NUMPY\x01\x00") && header.is_multiple_of(64) && bytes[header - 1] == b'\n');
    let numbers: Vec<f32> =
        bytes[header..].chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    assert_eq!(numbers, want.concat());

    sterna().args(texts).arg("--matrix").assert().success().stdout(predicate::str::contains("1.000").count(2));
    let refused = |args: &[&str], text: &str| {
        let said = predicate::str::contains(text.to_owned()).and(predicate::str::contains("panicked").not());
        sterna().args(args).assert().failure().stderr(said);
    };
    refused(&["x", "--out", out.to_str().unwrap()], "--force");
    refused(&["x", "--file", "y"], "cannot be used with");
    refused(&["--file", "none.txt"], "none.txt");
    let mut silent = sterna();
    silent.write_stdin("\n \n").assert().failure().stderr(predicate::str::contains("every line is empty"));
}

#[test]
fn numpy_reads_the_array() {
    let python = Process::new("python3").args(["-c", "import numpy"]).stderr(Stdio::null()).status();
    if !python.is_ok_and(|status| status.success()) {
        println!("note: no numpy here; the array's header is compared with its description only");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("a.npy");
    let mut command = Command::cargo_bin("sterna").unwrap();
    command.arg("embed").arg(fixture("embed_qwen3")).args(["of", "the", "--format", "npy", "--out"]).arg(&out);
    command.assert().success();
    let script = "import numpy, sys; a = numpy.load(sys.argv[1]); print(a.shape, a.dtype, (a ** 2).sum(1).round(3))";
    let output = Process::new("python3").args(["-c", script]).arg(&out).output().unwrap();
    std::io::stdout().write_all(&output.stdout).unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), "(2, 64) float32 [1. 1.]");
}

#[test]
fn the_scales_of_minicpm_are_read_alike_from_both_forms() {
    let open = |file: &str| Model::open(fixture("minicpm_bitlinear").join(file), &f32_kv()).unwrap();
    let (folder, gguf) = (open(""), open("model-f16.gguf"));
    assert_eq!(folder.config().scales, gguf.config().scales);
    assert_eq!(folder.config().scales.embedding, 12.0);
    assert_eq!(folder.config().scales.logits, 32.0 / 96.0);
    // The int8 head finds what the exact one does.
    let exact = OpenOptions { head: sterna::HeadKind::Exact, ..f32_kv() };
    let exact = Model::open(fixture("minicpm_bitlinear"), &exact).unwrap();
    let sampling = sterna::Sampling::default();
    assert_eq!(common::tokens(&folder, &sampling, 40), common::tokens(&exact, &sampling, 40));
    let sampling = sterna::Sampling { temperature: 0.9, top_k: 20, seed: Some(3), ..sampling };
    assert_eq!(common::tokens(&folder, &sampling, 40), common::tokens(&exact, &sampling, 40));
}
