//! Fixture models against what transformers, llama.cpp and bitnet.cpp computed for them.
//!
//! tests/data/fixtures/README.md tells what the files hold and why the tolerances are what they are.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use common::{Tensor, argmax, fixture, log_softmax, max_abs_diff, read_tensors};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use sterna::backend::{LinearEvent, Observer};
use sterna::model::ActivationKind;
use sterna::{GenerateOptions, KvType, Layout, Model, OpenOptions};

/// Everything that is compared for one model file.
struct Form {
    model: &'static str,
    file: &'static str,
    expected: &'static str,
    /// The tight check holds; else only the loose one does.
    tight: bool,
    /// Margin below which a different greedy token is tolerated.
    greedy_margin: f64,
}

const fn form(model: &'static str, file: &'static str, expected: &'static str) -> Form {
    Form { model, file, expected, tight: true, greedy_margin: 0.3 }
}

const EXPECTED: &str = "expected.safetensors";
const EXPECTED_TQ: &str = "expected_tq_f16scale.safetensors";

const FORMS: &[Form] = &[
    form("bitnet_a", "", EXPECTED),
    form("bitnet_a", "model-i2_s.gguf", EXPECTED),
    form("bitnet_a", "model-tq2_0.gguf", EXPECTED),
    form("bitnet_b_awkward", "", EXPECTED),
    form("bitnet_b_awkward", "model-i2_s.gguf", EXPECTED),
    form("bitnet_c_awkward", "", EXPECTED),
    form("bitnet_bf16_online", "", EXPECTED),
    Form { greedy_margin: 0.15, ..form("llama_a", "", EXPECTED) },
    Form { greedy_margin: 0.15, ..form("llama_a", "model-i2_s.gguf", EXPECTED) },
    Form { greedy_margin: 0.15, ..form("llama_a", "model-tq1_0.gguf", EXPECTED_TQ) },
    Form { greedy_margin: 0.15, ..form("llama_a", "model-tq2_0.gguf", EXPECTED_TQ) },
    Form { greedy_margin: 0.15, ..form("llama_b_awkward", "", EXPECTED) },
    // Rows of 192 are F16 in this file. They hold ternary values, which the engine recognises, so it quantizes the
    // activations as the model was trained.
    Form { greedy_margin: 0.15, ..form("llama_b_awkward", "model-tq2_0.gguf", EXPECTED_TQ) },
    form("bitnet_b158_large", "", EXPECTED),
    form("bitnet_b158_large", "model-tq2_0.gguf", EXPECTED_TQ),
    form("bitnet_b158_3b_awkward", "", EXPECTED),
    form("qwen3_ternary", "", EXPECTED),
    form("qwen3_ternary", "model-q2_0_g64.gguf", EXPECTED),
    form("qwen3_ternary", "model-q2_0_g128_legacy42.gguf", EXPECTED),
    form("qwen3_ternary", "model-pq2_0_g128_142.gguf", EXPECTED),
    form("trilm", "", EXPECTED),
    form("qwen3_bitlinear", "", EXPECTED),
    form("qwen3_bitlinear", "model-f16.gguf", EXPECTED),
    form("minicpm_bitlinear", "", EXPECTED),
    form("minicpm_bitlinear", "model-f16.gguf", EXPECTED),
];

fn open(form: &Form, options: &OpenOptions) -> Model {
    let path = fixture(form.model).join(form.file);
    Model::open(&path, options).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn f32_kv() -> OpenOptions {
    OpenOptions { kv: KvType::F32, threads: Some(2), ..OpenOptions::default() }
}

fn logits(model: &Model, ids: &[u32]) -> Vec<f32> {
    let mut out = Vec::new();
    model.session().logits(ids, |_, row| out.extend_from_slice(row)).unwrap();
    out
}

fn expected(form: &Form) -> BTreeMap<String, Tensor> {
    read_tensors(&fixture(form.model).join(form.expected))
}

fn meta(model: &str) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(fixture(model).join("meta.json")).unwrap()).unwrap()
}

#[test]
fn logits_pass_the_tight_check() {
    for form in FORMS.iter().filter(|form| form.tight) {
        let expected = expected(form);
        let tolerance = meta(form.model)["tol_p0_logits_max_abs"].as_f64().unwrap() as f32;
        for layout in Layout::ALL {
            let model = open(form, &OpenOptions { layout: Some(layout), ..f32_kv() });
            let got = logits(&model, &expected["p0.ids"].ids());
            let diff = max_abs_diff(&got, &expected["p0.logits"].f32());
            let what = format!("{} {} {layout}", form.model, form.file);
            println!("{what}: max |d logits| {diff:.1e} (tolerance {tolerance:.0e})");
            assert!(diff <= tolerance, "{what}: {diff}");
        }
    }
}

#[test]
fn hidden_states_pass_the_tight_check() {
    for form in FORMS.iter().filter(|form| form.tight) {
        let expected = expected(form);
        let model = open(form, &OpenOptions { taps: vec![None, Some(0)], ..f32_kv() });
        let mut seen: BTreeMap<usize, Vec<f32>> = BTreeMap::new();
        let ids = expected["p0.ids"].ids();
        model
            .session()
            .trace(&ids, |_, _| (), |layer, rows| seen.entry(layer).or_default().extend_from_slice(rows))
            .unwrap();
        for (layer, name) in [(0, "p0.hidden_embed"), (1, "p0.hidden_layer0")] {
            // The f16-scale expectations of some models hold the logits only.
            let Some(want) = expected.get(name) else { continue };
            for (i, (got, want)) in seen[&layer].iter().zip(want.f32()).enumerate() {
                let bound = if layer == 0 { 0.0 } else { 1e-4 + 1e-4 * want.abs() };
                assert!((got - want).abs() <= bound, "{} {} {name}[{i}]: {got} {want}", form.model, form.file);
            }
        }
    }
}

/// Keeps what the first block multiplies.
#[derive(Clone, Default)]
struct Probe(Arc<Mutex<BTreeMap<&'static str, Probed>>>);

#[derive(Default)]
struct Probed {
    input: Vec<i8>,
    scale: Vec<f32>,
    output: Vec<f32>,
}

impl Observer for Probe {
    fn linears(&mut self, event: LinearEvent<'_>) {
        if event.block == 0 {
            for &(name, output) in event.outputs {
                let tokens = event.input.tokens();
                let probed = Probed {
                    input: (0..tokens).flat_map(|t| event.input.row(t)[..event.input.cols()].to_vec()).collect(),
                    scale: (0..tokens).map(|t| event.input.scale(t)).collect(),
                    output: output.to_vec(),
                };
                self.0.lock().unwrap().insert(name, probed);
            }
        }
    }
}

#[test]
fn activations_of_the_probes_are_exact() {
    for form in FORMS.iter().filter(|form| form.tight && form.expected == EXPECTED) {
        let (model, expected) = (open(form, &f32_kv()), expected(form));
        if model.config().activations == ActivationKind::Float {
            continue;
        }
        let probe = Probe::default();
        model.engine().executor_mut().observe(|| Some(Box::new(probe.clone())));
        logits(&model, &expected["p0.ids"].ids());
        let probes = probe.0.lock().unwrap();
        let name = |what: &str| format!("{} {} {what}", form.model, form.file);

        let want_int8 = expected["l0.q_proj.in_int8"].data.iter().map(|&v| v as i8).collect::<Vec<_>>();
        let q = &probes["q_proj"];
        assert_eq!(q.input[..want_int8.len()], want_int8, "{}", name("q_proj.in_int8"));
        let want_scale = expected["l0.q_proj.in_scale"].f32();
        for (got, want) in q.scale.iter().zip(&want_scale) {
            assert!((got - want).abs() <= 1e-6 * want, "{}: {got} {want}", name("q_proj.in_scale"));
        }
        let want = expected["l0.q_proj.out"].f32();
        let max = want.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        let diff = max_abs_diff(&q.output[..want.len()], &want);
        assert!(diff <= 1e-5 * max, "{}: {diff} of {max}", name("q_proj.out"));

        // down_proj: the input in floating point tells the integers, whatever the scale.
        let want_in = &expected["l0.down_proj.in"];
        let cols = *want_in.shape.last().unwrap();
        let down = &probes["down_proj"];
        for (token, row) in want_in.f32().chunks_exact(cols).enumerate() {
            let absmax = row.iter().fold(1e-5f32, |m, v| m.max(v.abs()));
            let want: Vec<i8> =
                row.iter().map(|v| (v * (127.0 / absmax)).round_ties_even().clamp(-128.0, 127.0) as i8).collect();
            assert_eq!(down.input[token * cols..(token + 1) * cols], want, "{} token {token}", name("down_proj.in"));
        }
    }
}

#[test]
fn greedy_text_follows_the_greedy_rule() {
    for form in FORMS {
        let (model, expected) = (open(form, &f32_kv()), expected(form));
        for prompt in ["p0", "p1", "p2"] {
            let (Some(greedy), Some(ids)) =
                (expected.get(&format!("{prompt}.greedy")), expected.get(&format!("{prompt}.ids")))
            else {
                continue;
            };
            let margins = &expected[&format!("{prompt}.greedy_margin")].data;
            let options = GenerateOptions { max_tokens: Some(32), ignore_eos: true, ..GenerateOptions::default() };
            let mut session = model.session();
            let got: Vec<u32> =
                session.generate_tokens(ids.ids(), options).unwrap().map(|token| token.unwrap().id).collect();
            let want = greedy.ids();
            if let Some(step) = (0..want.len()).find(|&i| got.get(i) != Some(&want[i])) {
                let margin = margins[step];
                println!("{} {} {prompt}: differs at step {step}, margin {margin:.3}", form.model, form.file);
                assert!(
                    margin < form.greedy_margin,
                    "{} {} {prompt} step {step}: margin {margin}",
                    form.model,
                    form.file
                );
            }
            // Teacher forcing: with the expected tokens as input, the choice is the same wherever it is clear.
            let forced: Vec<u32> = ids.ids().into_iter().chain(want.iter().copied()).collect();
            let all = logits(&model, &forced);
            let vocab = model.config().vocab_size;
            for (step, (&token, &margin)) in want.iter().zip(margins).enumerate() {
                let row = ids.data.len() - 1 + step;
                let best = argmax(&all[row * vocab..(row + 1) * vocab]);
                assert!(
                    best == token as usize || margin < form.greedy_margin,
                    "{} {} {prompt} step {step}: {best} instead of {token}, margin {margin}",
                    form.model,
                    form.file
                );
            }
        }
    }
}

/// rms of the difference, mean KL divergence and share of equal choices.
fn loosely(want: &[f32], got: &[f32], vocab: usize) -> (f64, f64, f64) {
    let square: f64 = want.iter().zip(got).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    let rows = want.len() / vocab;
    let (mut kl, mut same) = (0.0, 0);
    for (want, got) in want.chunks_exact(vocab).zip(got.chunks_exact(vocab)) {
        let (p, q) = (log_softmax(want), log_softmax(got));
        kl += p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>();
        same += usize::from(argmax(want) == argmax(got));
    }
    ((square / want.len() as f64).sqrt(), kl / rows as f64, same as f64 / rows as f64)
}

fn assert_loose(what: &str, model: &str, want: &[f32], got: &[f32], vocab: usize) {
    let meta = meta(model);
    let std = meta["logits_std"].as_f64().unwrap();
    let tolerance = meta["tol_other_engine_rms"].as_f64().unwrap_or(0.0).max(0.1 * std);
    let (rms, kl, same) = loosely(want, got, vocab);
    println!("{what}: rms {rms:.3} (<= {tolerance:.3}), KL {kl:.4}, same choice {same:.2}");
    assert!(rms <= tolerance && kl <= 0.05 && same >= 0.85, "{what}: rms {rms}, KL {kl}, same {same}");
}

#[test]
fn the_f16_cache_passes_the_loose_check() {
    for form in FORMS {
        let (model, expected) = (open(form, &OpenOptions::default()), expected(form));
        let got = logits(&model, &expected["p0.ids"].ids());
        let what = format!("{} {} with f16 cache", form.model, form.file);
        assert_loose(&what, form.model, &expected["p0.logits"].f32(), &got, model.config().vocab_size);
    }
}

#[test]
fn weight_only_models_with_int8_activations_pass_the_loose_check() {
    for model in ["qwen3_ternary", "trilm"] {
        let form = form(model, "", EXPECTED);
        let (opened, expected) =
            (open(&form, &OpenOptions { activations: Some(ActivationKind::Int8), ..f32_kv() }), expected(&form));
        assert_eq!(opened.config().activations, ActivationKind::GroupedInt8);
        let (got, want) = (logits(&opened, &expected["p0.ids"].ids()), expected["p0.logits"].f32());
        assert!(max_abs_diff(&got, &want) > 1e-3, "{model}: the activations are rounded");
        assert_loose(&format!("{model} with int8"), model, &want, &got, opened.config().vocab_size);
    }
}

#[test]
fn other_engines_agree_loosely() {
    for (model, file, other) in [
        ("bitnet_a", "model-i2_s.gguf", "bitnetcpp_i2_s.safetensors"),
        ("bitnet_b_awkward", "model-i2_s.gguf", "bitnetcpp_i2_s.safetensors"),
        ("llama_a", "model-i2_s.gguf", "bitnetcpp_i2_s.safetensors"),
        ("llama_a", "model-tq2_0.gguf", "llamacpp_tq2_0.safetensors"),
        ("llama_b_awkward", "model-tq2_0.gguf", "llamacpp_tq2_0.safetensors"),
        ("bitnet_b158_large", "model-tq2_0.gguf", "llamacpp_tq2_0.safetensors"),
        ("qwen3_ternary", "model-q2_0_g64.gguf", "llamacpp_q2_0.safetensors"),
    ] {
        let form = form(model, file, EXPECTED);
        let (opened, expected) = (open(&form, &f32_kv()), expected(&form));
        let theirs = read_tensors(&fixture(model).join(other));
        let got = logits(&opened, &expected["p0.ids"].ids());
        assert_loose(
            &format!("{model} {file} and {other}"),
            model,
            &theirs["p0.logits"].f32(),
            &got,
            opened.config().vocab_size,
        );
    }
}

#[test]
fn forms_with_the_same_numbers_give_the_same_bits() {
    // The scales of bitnet_a are exact in f16 and bf16. llama_a's I2_S file holds 1 / weight_scale in f32, which is
    // what the safetensors form computes; its TQ files share scales rounded to f16.
    for (model, files) in [
        ("bitnet_a", &["", "model-i2_s.gguf", "model-tq2_0.gguf"][..]),
        ("bitnet_b_awkward", &["", "model-i2_s.gguf"]),
        ("llama_a", &["", "model-i2_s.gguf"]),
        ("llama_a", &["model-tq1_0.gguf", "model-tq2_0.gguf"]),
        ("qwen3_bitlinear", &["", "model-f16.gguf"]),
        ("minicpm_bitlinear", &["", "model-f16.gguf"]),
    ] {
        let ids = read_tensors(&fixture(model).join(EXPECTED))["p0.ids"].ids();
        let folder = with_f16_embeddings(model);
        let bits = |file: &str| -> Vec<u32> {
            let path = if file.is_empty() { folder.path().to_owned() } else { fixture(model).join(file) };
            let model = Model::open(path, &f32_kv()).unwrap();
            logits(&model, &ids).into_iter().map(f32::to_bits).collect()
        };
        let first = bits(files[0]);
        for file in &files[1..] {
            assert!(bits(file) == first, "{model}: {file} differs from {:?}", files[0]);
        }
    }
}

/// A copy of a Hugging Face folder with embedding and head in F16, as the GGUF files hold them: the smallest bf16 numbers
/// are not exact in F16.
fn with_f16_embeddings(model: &str) -> tempfile::TempDir {
    let (source, folder) = (fixture(model), tempfile::tempdir().unwrap());
    for file in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(source.join(file), folder.path().join(file)).unwrap();
    }
    let bytes = std::fs::read(source.join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let mut converted: BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)> = BTreeMap::new();
    for (name, view) in tensors.iter() {
        let is_embedding = name.contains("embed_tokens") || name.contains("lm_head");
        let (dtype, data) = if is_embedding {
            assert_eq!(view.dtype(), Dtype::BF16);
            let to_f16 = |b: &[u8]| half::f16::from_f32(half::bf16::from_le_bytes([b[0], b[1]]).to_f32()).to_le_bytes();
            (Dtype::F16, view.data().chunks_exact(2).flat_map(to_f16).collect())
        } else {
            (view.dtype(), view.data().to_vec())
        };
        converted.insert(name.to_owned(), (dtype, view.shape().to_vec(), data));
    }
    let views = converted
        .iter()
        .map(|(name, (dtype, shape, data))| (name, TensorView::new(*dtype, shape.clone(), data).unwrap()));
    safetensors::serialize_to_file(views, None, &folder.path().join("model.safetensors")).unwrap();
    folder
}

#[test]
fn tokenizers_agree_with_the_reference() {
    for form in FORMS {
        let model = open(form, &OpenOptions::default());
        let cases: Vec<serde_json::Value> =
            serde_json::from_slice(&std::fs::read(fixture(form.model).join("tokenizer_cases.json")).unwrap()).unwrap();
        for case in cases {
            let ids = model.tokenizer().unwrap().encode(case["text"].as_str().unwrap(), false).unwrap();
            let want: Vec<u32> = case["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
            assert_eq!(ids, want, "{} {}: {}", form.model, form.file, case["text"]);
        }
    }
}

#[test]
fn every_fixture_is_compared() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/fixtures");
    for entry in std::fs::read_dir(data).unwrap().map(Result::unwrap).filter(|e| e.path().is_dir()) {
        let name = entry.file_name().into_string().unwrap();
        // tests/families.rs compares these.
        if name.starts_with("embed_") {
            continue;
        }
        for file in std::fs::read_dir(entry.path()).unwrap().map(|f| f.unwrap().file_name().into_string().unwrap()) {
            let gguf = file.trim_end_matches(".xz");
            let is_model = gguf == "config.json" || gguf.ends_with(".gguf");
            let wanted = if gguf == "config.json" { "" } else { gguf };
            assert!(
                !is_model || FORMS.iter().any(|form| form.model == name && form.file == wanted),
                "{name}/{file} is in no test"
            );
        }
    }
}
