//! Layers shared between the CPU and a GPU, one placement for prompts and another for generated tokens, and `auto`.

use std::sync::Arc;

use sterna::backend::cpu::{CpuBackend, CpuOptions};
use sterna::backend::gpu::{AdapterChoice, GpuBackend, GpuOptions, adapters, choose};
use sterna::backend::{Backend, Batch, BatchSequence, KvOptions, LogitsFor, Outputs, Stage};
use sterna::engine::{Engine, SequenceId, Work, plan_model};
use sterna::graph::Output;
use sterna::model::build_graph;
use sterna::plan::{self, CostSource};
use sterna::{Device, GenerateOptions, KvType, Model, OpenOptions, demo};
use sterna_cpu::AlignedBuf;
use sterna_cpu::kv::{KvLayer, PAGE_LEN};

use crate::common::fixture;
use crate::model::{FORMS, held_out, passes_the_checks_of_its_fixture};
use crate::support::{relative_diff, turn, variants};

fn base() -> Option<GpuOptions> {
    variants().into_iter().next().map(|(_, options)| options)
}

/// Placements that share the layers of a model of so many blocks: alternating ones, the ends here or there, the middle.
fn mixed(blocks: usize) -> [String; 5] {
    let alternating = |first: usize| {
        let of = |block: usize| format!("{block}={}", if block % 2 == first { "gpu" } else { "cpu" });
        (0..blocks).map(of).collect::<Vec<_>>().join(",")
    };
    [
        format!("embed=cpu,{},head=cpu", alternating(0)),
        format!("embed=gpu,{},head=gpu", alternating(1)),
        "embed=cpu,0=cpu,1-=gpu,head=gpu".into(),
        "embed=gpu,0=gpu,1-=cpu,head=cpu".into(),
        "embed=cpu,0-=gpu,head=cpu".into(),
    ]
}

#[test]
fn fixtures_pass_their_checks_on_mixed_placements() {
    let _turn = turn();
    let Some(gpu) = base() else { return };
    // Each model from the file that transformers read: the first on all placements, the others on two each, in turn.
    for (number, (name, file, tolerated)) in FORMS.into_iter().filter(|(_, file, _)| file.is_empty()).enumerate() {
        let graph = build_graph(Arc::new(sterna::format::Checkpoint::open(&fixture(name)).unwrap())).unwrap();
        let takes = |place: &usize| number == 0 || [2 * number % 5, (2 * number + 1) % 5].contains(place);
        for (_, placement) in mixed(graph.blocks().len()).into_iter().enumerate().filter(|(place, _)| takes(place)) {
            let options = OpenOptions {
                placement: Some(placement.clone()),
                gpu: gpu.clone(),
                kv: KvType::F32,
                ..OpenOptions::default()
            };
            let model = Model::open(fixture(name).join(file), &options).unwrap();
            passes_the_checks_of_its_fixture(&model, name, tolerated, &format!("{name} as {placement}"));
        }
    }
}

#[test]
fn the_demo_model_is_as_good_on_mixed_placements() {
    let _turn = turn();
    let Some(gpu) = base() else { return };
    let (want, _) = held_out(&Model::open("demo", &OpenOptions::default()).unwrap(), 1);
    for placement in mixed(4) {
        let options = OpenOptions { placement: Some(placement.clone()), gpu: gpu.clone(), ..OpenOptions::default() };
        let (got, _) = held_out(&Model::open("demo", &options).unwrap(), 1);
        let ratio = (got - want).exp();
        println!("{placement}: perplexity {:.3} (CPU {:.3})", got.exp(), want.exp());
        assert!((ratio - 1.0).abs() <= 0.002, "{placement}: {ratio}");
    }
}

/// Appends tokens to sequences; all logits of the last token of each.
fn step(engine: &mut Engine, work: &[(SequenceId, &[u32])]) -> Vec<Vec<f32>> {
    let mut rows = vec![Vec::new(); work.len()];
    let mut sink = |item: usize, _: usize, output: &mut Output<'_>| {
        rows[item] = output.all()?.to_vec();
        Ok(())
    };
    let item = |&(sequence, tokens): &(SequenceId, _)| Work { sequence, tokens, logits: LogitsFor::Last };
    engine.forward(&work.iter().map(item).collect::<Vec<_>>(), &mut sink, None).unwrap();
    rows
}

/// Logits of two sequences: prompts, generated tokens, another prompt, generated tokens.
fn conversation(model: &Model) -> Vec<Vec<f32>> {
    let vocab = model.config().vocab_size as u32;
    let text = |len: u32, seed: u32| (0..len).map(|i| (i * i * 31 + i * 7 + seed) % vocab).collect::<Vec<u32>>();
    let mut engine = model.engine();
    let (a, b) = (engine.create(), engine.create());
    let mut rows = step(&mut engine, &[(a, &text(90, 3)), (b, &text(30, 11))]);
    rows.extend(step(&mut engine, &[(a, &[5]), (b, &[6])]));
    rows.extend(step(&mut engine, &[(a, &[7])]));
    rows.extend(step(&mut engine, &[(b, &text(50, 5)), (a, &[8])]));
    rows.extend(step(&mut engine, &[(a, &text(20, 9)), (b, &[9])]));
    rows.extend(step(&mut engine, &[(a, &[1]), (b, &[2])]));
    engine.release(a);
    engine.release(b);
    rows
}

#[test]
fn prompts_and_generated_tokens_may_have_different_devices() {
    let _turn = turn();
    let Some(gpu) = base() else { return };
    for kv in [KvType::F16, KvType::F32] {
        let open = |prefill: &str, decode: &str| {
            let options = OpenOptions {
                placement_prefill: Some(prefill.into()),
                placement_decode: Some(decode.into()),
                gpu: gpu.clone(),
                context: Some(256),
                sequences: 2,
                kv,
                ..OpenOptions::default()
            };
            Model::open("demo", &options)
        };
        let want = conversation(&open("cpu", "cpu").unwrap());
        for (prefill, decode) in
            [("gpu", "cpu"), ("cpu", "gpu"), ("embed=cpu,0-1=gpu,2-=cpu", "embed=cpu,0=cpu,1-2=gpu,3=cpu,head=cpu")]
        {
            let model = open(prefill, decode).unwrap();
            let got = conversation(&model);
            // A rounding flip moves later logits a little; a wrong page, order or number, by their whole size.
            for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                let diff = relative_diff(got, want);
                assert!(diff <= 0.05, "{kv:?} {prefill} | {decode}, row {i}: {diff}");
            }
            let weights: u64 = model.engine().executor().stages().map(|(_, _, memory)| memory.weights).sum();
            println!("{kv:?} {}: {weights} bytes of weights", model.placement());
            assert!(model.placement().contains("prompts") && model.placement().contains("generation"));
        }
    }
    let int8 = OpenOptions {
        placement_prefill: Some("cpu".into()),
        placement_decode: Some("gpu".into()),
        kv: KvType::Int8,
        gpu,
        ..OpenOptions::default()
    };
    let error = Model::open("demo", &int8).unwrap_err().to_string();
    assert!(error.contains("int8") && error.contains("--kv f16"), "{error}");
}

#[test]
fn pages_are_handed_over_number_for_number() {
    let _turn = turn();
    let Some(options) = base() else { return };
    let gpu = GpuBackend::new(options).unwrap();
    let cpu = CpuBackend::new(CpuOptions { threads: Some(2), ..CpuOptions::default() }).unwrap();
    // Heads of 64 and of 100 numbers.
    for name in ["bitnet_c_awkward", "bitnet_b158_3b_awkward"] {
        let graph = build_graph(Arc::new(sterna::format::Checkpoint::open(&fixture(name)).unwrap())).unwrap();
        let (config, blocks) = (graph.config(), graph.blocks().len());
        for kind in [KvType::F16, KvType::F32] {
            let kv = KvOptions { kind, pages: 3 };
            let build = |backend: &dyn Backend| backend.build_stage(&graph, 0..blocks + 1, kv, &()).unwrap();
            let mut stages: [Box<dyn Stage>; 3] = [build(&gpu), build(&gpu), build(&cpu)];
            let ids: Vec<u32> = (0..100).map(|i| i * 7 % config.vocab_size as u32).collect();
            let sequence = BatchSequence { tokens: &ids, position: 0, pages: &[2, 0], logits: LogitsFor::None };
            let batch = Batch { sequences: vec![sequence] };
            let mut hidden = AlignedBuf::<f32>::default();
            let len = KvLayer::page_len(config.num_kv_heads, config.head_dim);
            let export = |stage: &mut dyn Stage, pages: &[u32]| {
                let mut numbers = vec![f32::NAN; blocks * pages.len() * len];
                stage.export_pages(pages, &mut numbers).unwrap();
                numbers
            };
            stages[0].forward(&batch, &mut hidden, &mut Outputs::default()).unwrap();
            let want = export(&mut *stages[0], &[2, 0]);
            // To another place on a GPU, from there to the CPU, and back.
            stages[1].import_pages(&[0, 1], &want).unwrap();
            assert!(export(&mut *stages[1], &[0, 1]) == want, "{name} {kind:?}: on the GPU");
            stages[2].import_pages(&[1, 2], &want).unwrap();
            assert!(export(&mut *stages[2], &[1, 2]) == want, "{name} {kind:?}: on the CPU");
            // They are what the CPU would have written, up to a step of the quantized input that falls the other way.
            stages[2].forward(&batch, &mut hidden, &mut Outputs::default()).unwrap();
            let first = |numbers: &[f32]| numbers[..2 * len * 2].to_vec();
            let own = export(&mut *stages[2], &[2, 0]);
            let used = |numbers: Vec<f32>| -> Vec<f32> {
                let of_head = PAGE_LEN * config.head_dim;
                // The second page has 36 positions.
                let position = |i: usize| (i / len % 2) * PAGE_LEN + i % of_head / config.head_dim;
                numbers.into_iter().enumerate().filter(|(i, _)| position(*i) < 100).map(|(_, x)| x).collect()
            };
            let diff = relative_diff(&used(first(&want)), &used(first(&own)));
            assert!(diff <= 0.03, "{name} {kind:?}: the first block differs by {diff}");
        }
    }
}

#[test]
fn chunks_on_two_devices_at_a_time_give_what_they_give_one_by_one() {
    let _turn = turn();
    let Some(gpu) = base() else { return };
    let options = OpenOptions {
        placement: Some("embed=cpu,0-1=gpu,2-=cpu,head=cpu".into()),
        gpu,
        chunk: 32,
        ..OpenOptions::default()
    };
    let model = Model::open("demo", &options).unwrap();
    let tokens: Vec<u32> = (0..200).map(|i| (i * i * 31 + i * 7 + 3) % model.config().vocab_size as u32).collect();
    let mut engine = model.engine();
    assert!(engine.executor().overlaps(sterna::graph::Phase::Prefill));
    let (together, alone) = (engine.create(), engine.create());
    let want = step(&mut engine, &[(together, &tokens)]);
    // Who looks at hidden states sees one chunk after the other.
    let mut rows = Vec::new();
    let mut sink = |_: usize, _: usize, output: &mut Output<'_>| {
        rows = output.all()?.to_vec();
        Ok(())
    };
    let work = [Work { sequence: alone, tokens: &tokens, logits: LogitsFor::Last }];
    let mut passes = 0;
    engine.forward(&work, &mut sink, Some(&mut |_, _| passes += 1)).unwrap();
    assert_eq!(passes, 3 * tokens.len().div_ceil(32), "three stages");
    assert!(rows == want[0], "the same bits");
}

#[test]
fn auto_measures_once_and_takes_what_is_fastest() {
    let _turn = turn();
    let Some(gpu) = base() else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tuning.json");
    let options = OpenOptions {
        device: Device::Auto(None),
        tuning_file: Some(file.clone()),
        context: Some(128),
        chunk: 64,
        gpu: gpu.clone(),
        ..OpenOptions::default()
    };
    let generate = |model: &Model| {
        let options = GenerateOptions { max_tokens: Some(8), ..GenerateOptions::default() };
        let mut session = model.session();
        session.generate("Once upon a time", options).unwrap().map(|token| token.unwrap().text).collect::<String>()
    };
    let model = Model::open("demo", &options).unwrap();
    let want = generate(&Model::open("demo", &OpenOptions::default()).unwrap());
    assert_eq!(generate(&model), want, "{}", model.placement());
    let written = std::fs::read(&file).unwrap();
    // What the file says goes: a GPU that is fast, one that is fast for prompts, one that is slow.
    let report = plan_model("demo", &options, &[]).unwrap();
    assert_eq!(std::fs::read(&file).unwrap(), written, "nothing is measured twice");
    assert!(report.devices.len() == 2 && report.devices.iter().all(|d| d.source == CostSource::Measured), "{report:?}");
    let graph = build_graph(Arc::new(demo::checkpoint().unwrap())).unwrap();
    let shape = plan::shape_of(&graph, KvOptions { kind: KvType::F16, pages: 2 });
    let [cpu, device] = [0, 1].map(|i| plan::load(&file, &report.devices[i].description, &shape).unwrap().unwrap());
    assert!(cpu.link.is_none() && device.link.is_some());
    let with = |prefill: f64, decode: f64| {
        let mut cost = device.clone();
        cost.block = plan::Seconds { prefill: cpu.block.prefill * prefill, decode: cpu.block.decode * decode };
        cost.link = Some(plan::Link { latency: 1e-9, bytes_per_second: 1e12 });
        plan::save(&file, &cost).unwrap();
        let model = Model::open("demo", &options).unwrap();
        assert_eq!(generate(&model), want, "{}", model.placement());
        model.placement().to_owned()
    };
    assert_eq!(with(0.1, 0.1), "gpu");
    assert_eq!(with(10.0, 10.0), "cpu");
    let phases = with(0.01, 10.0);
    assert!(phases.starts_with("prompts ") && phases.ends_with("generation cpu"), "{phases}");
    // A cache that the GPU cannot have leaves it out; so does a device that is not there.
    let int8 = OpenOptions { kv: KvType::Int8, ..options.clone() };
    assert_eq!(Model::open("demo", &int8).unwrap().placement(), "cpu");
    let none = OpenOptions { device: Device::Auto(Some("no such device".into())), ..options };
    assert_eq!(Model::open("demo", &none).unwrap().placement(), "cpu");
}

#[test]
fn layers_are_counted_or_weighed() {
    let _turn = turn();
    let Some(gpu) = base() else { return };
    let index = choose(&adapters(), &gpu.adapter).unwrap().summary.index;
    let open = |options: OpenOptions| {
        let options = OpenOptions { gpu: gpu.clone(), context: Some(128), ..options };
        Model::open("demo", &options).map(|model| model.placement().to_owned())
    };
    let placed = |text: &str| open(OpenOptions { placement: Some(text.into()), ..OpenOptions::default() });
    let layers = |count| open(OpenOptions { gpu_layers: Some(count), ..OpenOptions::default() }).unwrap();
    assert_eq!(layers(2), "embed=cpu,0-1=cpu,2-3=gpu,head=cpu");
    assert_eq!((layers(5), layers(6)), ("embed=cpu,0-3=gpu,head=gpu".into(), "gpu".into()));
    assert_eq!(placed("gpu:3").unwrap(), "embed=gpu,0-2=gpu,3=cpu,head=cpu");
    // Two names of one GPU are one backend.
    assert_eq!(placed(&format!("gpu:1,gpu={index}:3")).unwrap(), "gpu");
    let backend = GpuBackend::new(GpuOptions { adapter: AdapterChoice::Index(index), ..gpu.clone() }).unwrap();
    let graph = build_graph(Arc::new(demo::checkpoint().unwrap())).unwrap();
    let needs = |layers| backend.needs(&graph, layers, KvOptions { kind: KvType::F16, pages: 2 }).unwrap();
    let two = needs(1..3).total() + needs(0..1).weights.max(needs(5..6).weights);
    assert_eq!(placed(&format!("gpu:{two}B")).unwrap(), "embed=gpu,0-1=gpu,2-3=cpu,head=cpu");
    assert_eq!(placed("gpu:1G").unwrap(), "gpu");
    for (text, what) in [("tpu", "no backend \"tpu\""), ("gpu:5", "5 blocks"), ("gpu=99", "with number 99")] {
        let error = placed(text).unwrap_err().to_string();
        assert!(error.contains(what), "{text}: {error}");
    }
}
