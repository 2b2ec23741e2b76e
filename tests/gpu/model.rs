//! Whole models: the fixtures, the demo model, layers with the CPU's input, what a token costs.

use std::sync::Arc;

use sterna::backend::cpu::{CpuBackend, CpuOptions};
use sterna::backend::gpu::{GpuBackend, GpuOptions};
use sterna::backend::{Backend, Batch, BatchSequence, Counters, KvOptions, LogitsFor, Outputs};
use sterna::engine::Work;
use sterna::format::{Checkpoint, Encoding};
use sterna::graph::{Graph, Output};
use sterna::model::build_graph;
use sterna::synth::{self, Shape};
use sterna::{Device, GenerateOptions, KvType, Model, OpenOptions};
use sterna_cpu::AlignedBuf;

use crate::common::{argmax, fixture, log_softmax, read_tensors};
use crate::support::{relative_diff, turn, variants};

/// Fixture models and files, and the margin below which another token is tolerated.
pub(crate) const FORMS: [(&str, &str, f64); 9] = [
    ("bitnet_a", "", 0.3),
    ("bitnet_b_awkward", "model-i2_s.gguf", 0.3),
    ("bitnet_c_awkward", "", 0.3),
    ("bitnet_bf16_online", "", 0.3),
    ("llama_a", "", 0.15),
    ("llama_a", "model-i2_s.gguf", 0.15),
    ("llama_b_awkward", "", 0.15),
    ("bitnet_b158_large", "", 0.3),
    ("bitnet_b158_3b_awkward", "", 0.3),
];

fn open(model: &str, file: &str, gpu: &GpuOptions, kv: KvType) -> Model {
    let path = if model == "demo" { model.into() } else { fixture(model).join(file) };
    let options = OpenOptions { device: Device::Gpu(None), gpu: gpu.clone(), kv, ..OpenOptions::default() };
    Model::open(&path, &options).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

pub(crate) fn logits(model: &Model, ids: &[u32]) -> Vec<f32> {
    let mut out = Vec::new();
    model.session().logits(ids, |_, row| out.extend_from_slice(row)).unwrap();
    out
}

#[test]
fn fixtures_pass_the_loose_check_and_the_greedy_rule() {
    let _turn = turn();
    for (nth, (variant, options)) in variants().into_iter().enumerate() {
        // The variants differ in their kernels only: a model of each kind, with awkward sizes, goes through all of them.
        let forms =
            FORMS.iter().filter(|(name, ..)| nth == 0 || ["bitnet_c_awkward", "llama_b_awkward"].contains(name));
        for &(name, file, tolerated) in forms {
            let model = open(name, file, &options, KvType::F32);
            passes_the_checks_of_its_fixture(&model, name, tolerated, &format!("{name} {file} on {variant}"));
        }
    }
}

/// The loose check and the greedy rule of the fixtures' README. Where the margin is below `tolerated`, another token is
/// tolerated.
pub(crate) fn passes_the_checks_of_its_fixture(model: &Model, name: &str, tolerated: f64, what: &str) {
    let vocab = model.config().vocab_size;
    let meta: serde_json::Value =
        serde_json::from_slice(&std::fs::read(fixture(name).join("meta.json")).unwrap()).unwrap();
    let expected = read_tensors(&fixture(name).join("expected.safetensors"));

    let (want, got) = (expected["p0.logits"].f32(), logits(model, &expected["p0.ids"].ids()));
    let square: f64 = want.iter().zip(&got).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    let rms = (square / want.len() as f64).sqrt();
    let std = meta["logits_std"].as_f64().unwrap();
    let tolerance = meta["tol_other_engine_rms"].as_f64().unwrap_or(0.0).max(0.1 * std);
    let (mut kl, mut same) = (0.0, 0);
    for (want, got) in want.chunks_exact(vocab).zip(got.chunks_exact(vocab)) {
        let (p, q) = (log_softmax(want), log_softmax(got));
        kl += p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>();
        same += usize::from(argmax(want) == argmax(got));
    }
    let rows = want.len() / vocab;
    println!("{what}: rms {rms:.1e} (<= {tolerance:.3}), KL {:.1e}, same {same} of {rows}", kl / rows as f64);
    assert!(rms <= tolerance && kl / rows as f64 <= 0.05 && same as f64 >= 0.85 * rows as f64, "{what}");

    for prompt in ["p1", "p2"] {
        let ids = expected[&format!("{prompt}.ids")].ids();
        let want = expected[&format!("{prompt}.greedy")].ids();
        let margins = &expected[&format!("{prompt}.greedy_margin")].data;
        let generate = GenerateOptions { max_tokens: Some(32), ignore_eos: true, ..GenerateOptions::default() };
        let mut session = model.session();
        let got: Vec<u32> =
            session.generate_tokens(ids.clone(), generate).unwrap().map(|token| token.unwrap().id).collect();
        if let Some(step) = (0..want.len()).find(|&i| got.get(i) != Some(&want[i])) {
            assert!(margins[step] < tolerated, "{what} {prompt} step {step}: margin {}", margins[step]);
        }
        let forced: Vec<u32> = ids.iter().chain(&want).copied().collect();
        let all = logits(model, &forced);
        for (step, (&token, &margin)) in want.iter().zip(margins).enumerate() {
            let best = argmax(&all[(ids.len() - 1 + step) * vocab..][..vocab]);
            assert!(best == token as usize || margin < tolerated, "{what} {prompt} step {step}: {best}");
        }
    }
}

fn graph(name: &str) -> Graph {
    build_graph(Arc::new(Checkpoint::open(&fixture(name)).unwrap())).unwrap()
}

#[test]
fn each_layer_is_that_of_the_cpu_given_the_same_input() {
    let _turn = turn();
    for (variant, options) in variants() {
        let gpu = GpuBackend::new(options).unwrap();
        let cpu = CpuBackend::new(CpuOptions { threads: Some(2), ..CpuOptions::default() }).unwrap();
        for name in ["bitnet_a", "bitnet_c_awkward", "llama_b_awkward", "bitnet_b158_large", "bitnet_b158_3b_awkward"] {
            let graph = graph(name);
            // A prompt none of whose activations lies near a tie of rounding.
            let ids = read_tensors(&fixture(name).join("expected.safetensors"))["p0.ids"].ids();
            let kv = KvOptions { kind: KvType::F32, pages: 2 };
            // Once as a whole and once in small steps: both ways through the kernels.
            for step in [ids.len(), 1, 5] {
                let mut hidden = AlignedBuf::<f32>::default();
                let mut rows: Vec<Vec<f32>> = vec![Vec::new(); ids.len().div_ceil(step)];
                for layer in 0..graph.blocks().len() + 1 {
                    let mut stages =
                        [&cpu as &dyn Backend, &gpu].map(|b| b.build_stage(&graph, layer..layer + 1, kv, &()).unwrap());
                    for (i, (tokens, rows)) in ids.chunks(step).zip(&mut rows).enumerate() {
                        let sequence =
                            BatchSequence { tokens, position: i * step, pages: &[1, 0], logits: LogitsFor::None };
                        let batch = Batch { sequences: vec![sequence] };
                        let mut outs = stages.each_mut().map(|stage| {
                            hidden.resize(rows.len());
                            hidden.copy_from_slice(rows);
                            stage.forward(&batch, &mut hidden, &mut Outputs::default()).unwrap();
                            hidden.to_vec()
                        });
                        let diff = relative_diff(&outs[1], &outs[0]);
                        let bound = if layer == 0 { 0.0 } else { 1e-5 };
                        assert!(diff <= bound, "{name} layer {layer}, {step} tokens, {variant}: {diff}");
                        *rows = std::mem::take(&mut outs[0]);
                    }
                }
            }
        }
    }
}

/// Loss per token on the first windows of the held-out text, and the most probable tokens.
pub(crate) fn held_out(model: &Model, windows: usize) -> (f64, Vec<usize>) {
    let text = std::fs::read(crate::common::data_path("demo/heldout.txt")).unwrap();
    let text = String::from_utf8(text).unwrap();
    let tokens = model.tokenizer().unwrap().encode(&text, true).unwrap();
    let (mut loss, mut best) = (0.0, Vec::new());
    let mut session = model.session();
    for window in tokens.chunks_exact(256).take(windows) {
        session.reset();
        session
            .logits(&window[..255], |i, row| {
                loss -= log_softmax(row)[window[i + 1] as usize];
                best.push(argmax(row));
            })
            .unwrap();
    }
    (loss / best.len() as f64, best)
}

#[test]
fn the_demo_model_is_as_good_as_on_the_cpu() {
    let _turn = turn();
    for (variant, options) in variants() {
        for kv in [KvType::F16, KvType::F32] {
            let cpu = Model::open("demo", &OpenOptions { kv, ..OpenOptions::default() }).unwrap();
            let gpu = open("demo", "", &options, kv);
            let ((want, want_best), (got, got_best)) = (held_out(&cpu, 6), held_out(&gpu, 6));
            let same = want_best.iter().zip(&got_best).filter(|(a, b)| a == b).count() as f64 / want_best.len() as f64;
            let ratio = (got - want).exp();
            println!("{variant} {kv:?}: perplexity {:.3} (CPU {:.3}), same choice {same:.4}", got.exp(), want.exp());
            assert!((ratio - 1.0).abs() <= 0.002 && same >= 0.99, "{variant} {kv:?}: {ratio} {same}");
        }
    }
}

#[test]
fn batches_chunks_and_forks_agree() {
    let _turn = turn();
    let Some((_, options)) = variants().into_iter().next() else { return };
    let model = Model::open(
        "demo",
        &OpenOptions { device: Device::Gpu(None), gpu: options, sequences: 4, chunk: 64, ..OpenOptions::default() },
    )
    .unwrap();
    let vocab = model.config().vocab_size as u32;
    let tokens: Vec<u32> = (0..150).map(|i| (i * i * 31 + i * 7 + 3) % vocab).collect();
    let mut engine = model.engine();
    let run = |engine: &mut sterna::engine::Engine, work: &[Work<'_>]| {
        let mut rows: Vec<Vec<Vec<f32>>> = vec![Vec::new(); work.len()];
        let mut sink = |item: usize, _: usize, output: &mut Output<'_>| {
            rows[item].push(output.all()?.to_vec());
            Ok(())
        };
        engine.forward(work, &mut sink, None).unwrap();
        rows
    };
    let all = LogitsFor::All;
    let alone = engine.create();
    let want = run(&mut engine, &[Work { sequence: alone, tokens: &tokens, logits: all }]).remove(0);
    // A rounding flip moves later logits a little; a wrong page or position, by their whole size.
    let close = |got: &[Vec<f32>], want: &[Vec<f32>], what: &str| {
        assert_eq!(got.len(), want.len());
        for (i, (got, want)) in got.iter().zip(want).enumerate() {
            let diff = relative_diff(got, want);
            assert!(diff <= 0.05, "{what} token {i}: {diff}");
        }
    };
    let (a, b) = (engine.create(), engine.create());
    run(&mut engine, &[Work { sequence: b, tokens: &tokens[..70], logits: LogitsFor::None }]);
    let rows = run(
        &mut engine,
        &[Work { sequence: b, tokens: &tokens[70..], logits: all }, Work { sequence: a, tokens: &tokens, logits: all }],
    );
    close(&rows[0], &want[70..], "a continued sequence");
    close(&rows[1], &want, "the second sequence of a batch");
    // Two sequences token by token in one batch, and a fork that writes to a shared page.
    engine.truncate(a, 100);
    let fork = engine.fork(a);
    let other: Vec<u32> = tokens[100..110].iter().rev().copied().collect();
    run(&mut engine, &[Work { sequence: fork, tokens: &other, logits: all }]);
    engine.truncate(b, 130);
    for i in 0..20 {
        let rows = run(
            &mut engine,
            &[
                Work { sequence: a, tokens: &tokens[100 + i..101 + i], logits: all },
                Work { sequence: b, tokens: &tokens[130 + i..131 + i], logits: all },
            ],
        );
        close(&rows[0], &want[100 + i..101 + i], "the original of a fork");
        close(&rows[1], &want[130 + i..131 + i], "a sequence token by token");
    }
}

/// Kernels of the head.
const HEAD: [&str; 7] = ["head", "best", "int8 head", "classes", "candidates", "rescore", "answer"];

/// What a forward pass of `tokens` costs on the stage.
fn cost(model: &Model, tokens: &[u32]) -> Counters {
    let counters = || model.engine().executor().counters().next().unwrap().2;
    let mut session = model.session();
    session.logits(&[1, 2, 3], |_, _| ()).unwrap();
    let before = counters();
    let generate = GenerateOptions { max_tokens: Some(1), ..GenerateOptions::default() };
    let prompt: Vec<u32> = [1, 2, 3].iter().chain(tokens).copied().collect();
    session.generate_tokens(prompt, generate).unwrap().for_each(|token| drop(token.unwrap()));
    counters().since(&before)
}

#[test]
fn a_token_costs_few_dispatches_and_one_small_readback() {
    let _turn = turn();
    for (variant, options) in variants() {
        let model = open("demo", "", &options, KvType::F16);
        let blocks = model.graph().blocks().len() as u64;
        let one = cost(&model, &[5]);
        assert_eq!(one.submissions, 1, "{variant}");
        assert!(one.readback <= 4096 && one.uploaded <= 4096, "{variant}: {one:?}");
        let of_blocks = |cost: &Counters| -> u64 {
            let kernels =
                cost.kernels.iter().filter(|(name, _)| !["embed", "final norm"].contains(name) && !HEAD.contains(name));
            kernels.map(|(_, count)| count.dispatches).sum()
        };
        for tokens in 2..=8 {
            let few = cost(&model, &[5, 6, 7, 8, 9, 10, 11, 12][..tokens]);
            assert_eq!((few.submissions, of_blocks(&few)), (1, 8 * blocks), "{variant}, {tokens} tokens");
        }
        let of_blocks = of_blocks(&one);
        assert_eq!(of_blocks, 7 * blocks, "{variant}");
        assert_eq!(
            one.dispatches() - of_blocks,
            6,
            "{variant}: embedding, norm, int8 head, candidates, rescore, answer"
        );
        // What is read: the weights once (with their padding), the head once, the cache.
        let weights: u64 = (0..blocks as usize).map(|block| model.graph().block_bytes(block)).sum();
        let read = |names: &[&str]| names.iter().map(|name| one.kernels[name].bytes).sum::<u64>();
        let linear = read(&["norm+qkv", "norm+gate·up", "o, down"]);
        assert!(linear >= weights && linear <= weights + weights / 50, "{variant}: {linear} of {weights}");
        let (vocab, hidden) = (model.config().vocab_size as u64, model.config().hidden_size as u64);
        assert_eq!(read(&["int8 head"]), vocab * (hidden + 16));
        let row = 2 * hidden;
        assert!((row..=vocab / 20 * row).contains(&read(&["rescore"])), "{variant}: {one:?}");
        assert_eq!(read(&["attention"]), 4 * blocks * 2 * 2 * model.config().kv_size() as u64);
        // A prompt takes one submission too, as long as it is short.
        let prompt: Vec<u32> = (10..110).collect();
        assert_eq!(cost(&model, &prompt).submissions, 1, "{variant}");
        // And more where each would take long.
        let short = GpuOptions { work_limit: 1 << 20, ..options };
        let short = open("demo", "", &short, KvType::F16);
        assert!(cost(&short, &prompt).submissions > blocks, "{variant}");
        // Chunks of few tokens take other kernels; a wrong place of one would move logits by their whole size.
        let diff = relative_diff(&logits(&short, &prompt), &logits(&model, &prompt));
        assert!(diff <= 0.05, "{variant}: {diff}");
    }
}

#[test]
fn matrices_beyond_the_limit_are_split() {
    let _turn = turn();
    for (variant, options) in variants() {
        let ids = read_tensors(&fixture("bitnet_b_awkward").join("expected.safetensors"))["p0.ids"].ids();
        // A group of 16 rows of `down` has 2560 bytes; the embedding has 390 KB.
        let small = GpuOptions { max_binding: Some(56 << 10), ..options.clone() };
        let [whole, split] = [options, small].map(|gpu| {
            let options = OpenOptions {
                device: Device::Gpu(None),
                gpu,
                kv: KvType::F32,
                context: Some(64),
                // As many tokens as the small limit has room for.
                chunk: 8,
                ..OpenOptions::default()
            };
            Model::open(fixture("bitnet_b_awkward"), &options).unwrap()
        });
        assert!(logits(&split, &ids) == logits(&whole, &ids), "{variant}: splitting changes the result");
        let one = cost(&split, &[5]);
        assert!(
            one.kernels["int8 head"].dispatches >= 4
                && one.kernels["rescore"].dispatches >= 6
                && one.kernels["o, down"].dispatches > 4,
            "{variant}: {one:?}"
        );
    }
}

#[test]
fn layers_can_be_shared_with_the_cpu() {
    let _turn = turn();
    let Some((_, options)) = variants().into_iter().next() else { return };
    let ids = read_tensors(&fixture("bitnet_a").join("expected.safetensors"))["p0.ids"].ids();
    let want = logits(&open("bitnet_a", "", &options, KvType::F32), &ids);
    for placement in ["embed=cpu,0-1=gpu,2=cpu,head=gpu", "embed=gpu,0=cpu,1-=gpu,head=cpu", "0=gpu,1=cpu,2=gpu"] {
        let options = OpenOptions {
            placement: Some(placement.into()),
            gpu: options.clone(),
            kv: KvType::F32,
            ..OpenOptions::default()
        };
        let model = Model::open(fixture("bitnet_a"), &options).unwrap();
        let diff = relative_diff(&logits(&model, &ids), &want);
        // The prompt has no ties of rounding, so nothing flips.
        assert!(diff <= 1e-4, "{placement}: {diff}");
    }
}

#[test]
fn a_model_of_two_billion_weights_runs_under_webgpus_limits() {
    let _turn = turn();
    let Some((_, options)) = variants().into_iter().next() else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("2b-4t.gguf");
    let shape = Shape::named("2b-4t").unwrap();
    synth::write(&path, &shape, Encoding::Tq2_0, 1, false, &mut |_| std::ops::ControlFlow::Continue(())).unwrap();
    let generated = |device: Device, gpu: GpuOptions| {
        let model =
            Model::open(&path, &OpenOptions { device, gpu, context: Some(64), ..OpenOptions::default() }).unwrap();
        let options = GenerateOptions { max_tokens: Some(2), ignore_eos: true, ..GenerateOptions::default() };
        let mut session = model.session();
        session.generate_tokens(vec![7, 1000], options).unwrap().map(|token| token.unwrap().id).collect::<Vec<_>>()
    };
    // The head has 657 MB.
    let gpu = GpuOptions { default_limits: true, max_binding: Some(128 << 20), ..options };
    assert_eq!(generated(Device::Gpu(None), gpu), generated(Device::Cpu, GpuOptions::default()));
}
