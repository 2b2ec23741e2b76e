//! The best logits: by intervals that hold them and by all exact logits, whatever rows and inputs look like.

use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;

use half::{bf16, f16};
use sterna::backend::gpu::{GpuBackend, GpuOptions, Kernel, Memory, RowType};
use sterna::backend::{
    Backend, Batch, BatchSequence, Best, Candidates, Counters, KvOptions, Logits, LogitsFor, Outputs, Stage,
};
use sterna::engine::{Sampler, Work};
use sterna::format::{Checkpoint, Encoding};
use sterna::graph::Output;
use sterna::model::{Gate, build_graph};
use sterna::{Device, HeadKind, KvType, Model, OpenOptions, Sampling, synth};
use sterna_cpu::head::quantize_row;
use sterna_cpu::{AlignedBuf, Isa};

use crate::common::{fixture, tokens};
use crate::support::{Bench, Random, benches, config, padded_rows, shape, turn, variants};

/// What the numbers of a row or an input are like.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Gaussian,
    /// A few channels hold nearly everything.
    Outliers,
    Zero,
    Huge,
    Subnormal,
    /// Repeats the row before, but for the last bit of one number.
    NearTie,
    Infinite,
}

const KINDS: [Kind; 7] =
    [Kind::Gaussian, Kind::Outliers, Kind::Zero, Kind::Huge, Kind::Subnormal, Kind::NearTie, Kind::Infinite];

fn normal(random: &mut Random) -> f32 {
    (0..12).map(|_| random.unit()).sum::<f32>() / 2.0
}

/// Appends `cols` numbers.
fn push(random: &mut Random, kind: Kind, cols: usize, out: &mut Vec<f32>) {
    let one = random.next() as usize % cols;
    let start = out.len();
    for i in 0..cols {
        out.push(match kind {
            Kind::Gaussian => normal(random) * 0.05,
            Kind::Outliers => normal(random) * if i % 37 == 5 { 30.0 } else { 0.1 },
            Kind::Zero => 0.0,
            Kind::Huge => normal(random) * 1e18,
            Kind::Subnormal => normal(random) * 1e-39,
            Kind::NearTie => start.checked_sub(cols).map_or(1.0, |before| out[before + i]),
            Kind::Infinite => normal(random),
        });
    }
    match kind {
        Kind::NearTie => out[start + one] = f32::from_bits(out[start + one].to_bits() ^ 1 << 16),
        Kind::Infinite => out[start + one] = if random.next().is_multiple_of(2) { f32::INFINITY } else { f32::NAN },
        _ => {}
    }
}

/// Rows of mostly one kind.
fn matrix(random: &mut Random, main: Kind, odd: &[Kind], rows: usize, cols: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(rows * cols);
    for _ in 0..rows {
        let is_odd = random.next().is_multiple_of(6) && !odd.is_empty();
        let kind = if is_odd { odd[random.next() as usize % odd.len()] } else { main };
        push(random, kind, cols, &mut out);
    }
    out
}

/// Rounded to the numbers of a type, and their bytes, rows padded to 16 bytes.
fn rounded(ty: RowType, values: &mut [f32], cols: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for row in values.chunks_exact_mut(cols) {
        for x in row {
            match ty {
                RowType::F16 => {
                    let y = f16::from_f32(*x);
                    *x = y.to_f32();
                    bytes.extend(y.to_le_bytes());
                }
                RowType::Bf16 => {
                    let y = bf16::from_f32(*x);
                    *x = y.to_f32();
                    bytes.extend(y.to_le_bytes());
                }
                RowType::F32 => bytes.extend(x.to_le_bytes()),
            }
        }
        bytes.resize(bytes.len().next_multiple_of(16), 0);
    }
    bytes
}

/// The int8 copy as the kernels have it: values in tiles of 16 rows and 4 columns, and the bounds of four rows together.
fn int8_copy(values: &[f32], rows: usize, cols: usize) -> (Vec<i8>, Vec<f32>) {
    let (groups, tiles) = (rows.div_ceil(16), cols.div_ceil(4));
    let (mut bytes, mut bounds) = (vec![0i8; groups * tiles * 64], vec![0.0f32; groups * 64]);
    for (row, values) in values.chunks_exact(cols).enumerate() {
        let mut q = vec![0; cols];
        let bound = quantize_row(Isa::Scalar, values, &mut q);
        for (col, q) in q.into_iter().enumerate() {
            bytes[((row / 16 * tiles + col / 4) * 16 + row % 16) * 4 + col % 4] = q;
        }
        let error = if bound.error < 1e18 && bound.norm < 1e18 { bound.error } else { -1.0 };
        for (i, x) in [bound.scale, error, bound.worst, bound.norm].into_iter().enumerate() {
            bounds[row / 4 * 16 + i * 4 + row % 4] = if error < 0.0 && i != 1 { 0.0 } else { x };
        }
    }
    (bytes, bounds)
}

/// What inputs are like.
#[derive(Clone, Copy, Debug)]
enum Input {
    Any(Kind),
    /// The error of the first row, so that its bound is reached, with its largest number so many times as large.
    Error(f32),
}

impl Input {
    /// Hidden states and the weights of the norm that make such inputs.
    fn make(self, random: &mut Random, row: &[f32], tokens: usize) -> (Vec<f32>, Vec<f32>) {
        let (cols, mut weight) = (row.len(), Vec::new());
        match self {
            // The norm takes the scale away and its weights give another.
            Input::Any(kind) => {
                let hidden = matrix(random, Kind::Gaussian, &[], tokens, cols);
                push(random, kind, cols, &mut weight);
                (hidden, weight)
            }
            Input::Error(times) => {
                let mut q = vec![0; cols];
                let bound = quantize_row(Isa::Scalar, row, &mut q);
                weight.extend(row.iter().zip(q).map(|(x, q)| (x - f32::from(q) * bound.scale) / bound.worst));
                let largest = weight.iter_mut().max_by(|a, b| a.abs().total_cmp(&b.abs())).unwrap();
                *largest *= times;
                (vec![1.0; tokens * cols], weight)
            }
        }
    }
}

/// Whether rows that are multiplied alone have the logits, bit for bit, that they have among all.
fn check_rescored(
    bench: &Bench,
    ty: RowType,
    [params, range, rows_memory, inputs]: [&Memory; 4],
    cols: usize,
    all: &[f32],
    tokens: usize,
    what: &str,
) {
    const PARTS: usize = 49;
    let (rows, shape) = (all.len() / tokens, shape(&config(1, 1, 16, cols, Gate::Relu2), KvType::F32));
    let (mut candidates, mut parts) = (vec![0u32; tokens * PARTS * 256], vec![[0u32; 4]; tokens * PARTS]);
    let segments = (0..tokens * PARTS).filter(|segment| segment % 7 == 0);
    for segment in segments.clone() {
        let count = segment % 50;
        parts[segment][0] = count as u32;
        let ids = (0..).map(|i| ((i * 13 + segment) % rows) as u32);
        candidates[segment * 256..][..count].iter_mut().zip(ids).for_each(|(to, id)| *to = id);
    }
    let (list, parts_memory, out) =
        (bench.put(&candidates), bench.put(&parts), bench.put(&vec![0.0f32; candidates.len()]));
    let bindings = [params, range, rows_memory, inputs, &list, &parts_memory, &out];
    bench.run(Kernel::Rescore(ty), &shape, &bindings, [PARTS * 8, 1, tokens]);
    let out: Vec<f32> = bench.get(&out);
    for segment in segments {
        for at in segment * 256..segment * 256 + parts[segment][0] as usize {
            let want = all[segment / PARTS * rows + candidates[at] as usize];
            let same = out[at].to_bits() == want.to_bits() || out[at].is_nan() && want.is_nan();
            assert!(same, "{what}: {} instead of {want}", out[at]);
        }
    }
}

/// Checks the intervals of a matrix and some inputs; returns their mean width relative to `‖w‖ ‖x‖`.
fn check_intervals(
    bench: &Bench,
    (ty, rows, cols, tokens): (RowType, usize, usize, usize),
    main: Kind,
    odd: &[Kind],
    input: Input,
) -> f64 {
    let what = format!("{} {ty:?} {rows}x{cols}, {tokens} inputs: {main:?} {odd:?} {input:?}", bench.name);
    let mut random = Random(31);
    let mut values = matrix(&mut random, main, odd, rows, cols);
    let file = rounded(ty, &mut values, cols);
    let shape = shape(&config(1, 1, 16, cols, Gate::Relu2), KvType::F32);
    let (source, weight) = input.make(&mut random, &values[..cols], tokens);
    let (source, weight) = (bench.put(&padded_rows(&source, cols)), bench.put(&padded_rows(&weight, cols)));
    let wanted: Vec<[u32; 2]> = (0..tokens as u32).map(|token| [token, token]).collect();
    let padded = cols.next_multiple_of(16);
    let inputs = bench.put(&vec![0.0f32; (tokens + 8) * padded]);
    let (planes, input_bounds) =
        (bench.put(&vec![0u16; (tokens + 8) * padded]), bench.put(&vec![0u32; (tokens + 8) * 6]));
    let wanted = bench.put(&wanted);
    let bindings = [&source, &weight, &wanted, &inputs, &planes, &input_bounds];
    bench.run(Kernel::HeadInput, &shape, &bindings, [tokens, 1, 1]);

    let range = bench.uniform([0u32, tokens as u32]);
    let at_once = [1u32, 4, 8].into_iter().find(|&most| most as usize >= tokens).unwrap_or(8);
    let times = tokens.div_ceil(at_once as usize);
    let row_stride = file.len() / rows / 16;
    let params = bench.uniform([rows as u32, 0, row_stride as u32, rows as u32]);
    let (rows_memory, exact) = (bench.put(&file), bench.put(&vec![0.0f32; tokens * rows]));
    let bindings = [&params, &range, &rows_memory, &inputs, &exact];
    bench.run(Kernel::Head(ty, at_once), &shape, &bindings, [rows.div_ceil(4), 1, times]);
    let exact: Vec<f32> = bench.get(&exact);
    check_rescored(bench, ty, [&params, &range, &rows_memory, &inputs], cols, &exact[..tokens * rows], tokens, &what);

    let groups = rows.div_ceil(16);
    let (bytes, bounds) = int8_copy(&values, rows, cols);
    let asked = bench.put(&vec![0u32; tokens * 132]);
    let (intervals, tops) = (bench.put(&vec![0.0f32; tokens * groups * 32]), bench.put(&vec![0.0f32; tokens * groups]));
    // In two buffers, as a device with a small limit needs it.
    let first_groups = groups.div_ceil(2);
    for (first, count) in [(0, first_groups), (first_groups, groups - first_groups)] {
        if count == 0 {
            continue;
        }
        let tiles = cols.div_ceil(4);
        let params = bench.uniform([count as u32, first as u32, tiles as u32, rows as u32]);
        let values = bench.put(&bytes[first * tiles * 64..(first + count) * tiles * 64]);
        let bounds = bench.put(&bounds[first * 64..(first + count) * 64]);
        let bindings = [&params, &range, &asked, &values, &bounds, &planes, &input_bounds, &intervals, &tops];
        bench.run(Kernel::Intervals(at_once), &shape, &bindings, [count, 1, times]);
    }
    let (intervals, tops): (Vec<f32>, Vec<f32>) = (bench.get(&intervals), bench.get(&tops));
    let inputs: Vec<f32> = bench.get(&inputs);
    let length = |x: &[f32]| x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    let mut width = 0.0;
    for token in 0..tokens {
        let x = length(&inputs[token * padded..][..cols]);
        let mut best = [f32::MIN; 2];
        for row in 0..rows {
            let at = (token * groups * 4 + row / 4) * 8 + row % 4;
            let (low, high, logit) = (intervals[at], intervals[at + 4], exact[token * rows + row]);
            // Either there is an interval, or anything goes.
            let holds = low <= logit && logit <= high || low <= -3e38 && high >= 3e38;
            assert!(holds, "{what}: row {row} of input {token}: {logit} in {low}..{high}");
            best[0] = best[0].max(low);
            width += (f64::from(high) - f64::from(low))
                / (length(&values[row * cols..][..cols]) * x)
                / (rows * tokens) as f64;
        }
        best[1] = tops[token * groups..][..groups].iter().fold(f32::MIN, |m, &top| m.max(top));
        assert_eq!(best[0], best[1], "{what}: the largest lower end of input {token}");
    }
    width
}

#[test]
fn intervals_hold_the_exact_logits() {
    let _turn = turn();
    for bench in benches() {
        for (i, ty) in [RowType::F16, RowType::Bf16, RowType::F32].into_iter().enumerate() {
            for (j, input) in KINDS.into_iter().enumerate().filter(|(_, kind)| *kind != Kind::NearTie) {
                let (rows, cols, tokens) = [(33, 64, 1), (100, 30, 3), (70, 200, 9), (5, 1, 2)][(i + j) % 4];
                check_intervals(&bench, (ty, rows, cols, tokens), Kind::Gaussian, &KINDS, Input::Any(input));
                check_intervals(&bench, (ty, rows, cols, tokens), Kind::Outliers, &[], Input::Any(input));
            }
        }
        // Rows of which each thread has several parts.
        for ty in [RowType::F16, RowType::F32] {
            check_intervals(&bench, (ty, 12, 2600, 2), Kind::Gaussian, &[], Input::Any(Kind::Gaussian));
        }
        let check = |input| check_intervals(&bench, (RowType::F16, 64, 640, 2), Kind::Gaussian, &[], input);
        // They are as narrow as int8 rows allow: ‖e‖ is about 1/127/√12 of the largest number, 3 to 4 times the mean.
        let width = check(Input::Any(Kind::Gaussian));
        assert!(width > 0.005 && width < 0.02, "{}: {width}", bench.name);
        // Outliers of the input do not widen them.
        let outliers = check(Input::Any(Kind::Outliers));
        assert!(outliers < 1.3 * width, "{}: {outliers} instead of {width}", bench.name);
        // The worst inputs there are for a row.
        for times in [1.0, 30.0, 1000.0] {
            check(Input::Error(times));
        }
    }
}

/// Whether candidates say of all logits what they should.
fn check_candidates(found: &Candidates, all: &[f32], wanted: &Best<'_>, what: &str) {
    assert!(found.ids.is_sorted_by(|a, b| a < b) && found.ids.len() == found.logits.len(), "{what}");
    for (id, logit) in found.ids.iter().zip(&found.logits) {
        assert_eq!(all[*id as usize].to_bits(), logit.to_bits(), "{what}: logit of {id}");
    }
    let others = |id: &usize| found.ids.binary_search(&(*id as u32)).is_err();
    assert!((0..all.len()).filter(others).all(|id| all[id] < found.rest), "{what}: the rest");
    assert!(wanted.also.iter().all(|id| found.ids.binary_search(id).is_ok()), "{what}");
    let is_free = |id: &u32| !wanted.also.contains(id);
    let free = || found.ids.iter().zip(&found.logits).filter(|(id, _)| is_free(id)).map(|(_, &logit)| logit);
    let above = free().filter(|&logit| logit >= found.rest).count();
    assert!(above >= wanted.count, "{what}: {above} of {}", wanted.count);
    let top = free().fold(f32::MIN, f32::max);
    assert!(found.rest <= top - wanted.margin || found.ids.len() >= 384, "{what}: the margin");
    if let Some(temperature) = wanted.temperature {
        let weight = |id: usize| (f64::from(all[id] - found.rest) / f64::from(temperature)).exp();
        let mass: f64 = (0..all.len()).filter(others).map(weight).sum();
        let (least, most) = found.mass.unwrap();
        assert!(least <= mass && mass <= most, "{what}: {least} {mass} {most}");
        // What is uncertain is little of all.
        let unit = (f64::from(top - found.rest) / f64::from(temperature)).exp();
        assert!(most - least <= 0.2 * (mass + unit), "{what}: {least} {mass} {most} of {unit}");
    }
}

fn open(model: &str, gpu: &GpuOptions, head: HeadKind) -> Model {
    let path = if model == "demo" { model.into() } else { fixture(model) };
    let options = OpenOptions { device: Device::Gpu(None), gpu: gpu.clone(), head, ..OpenOptions::default() };
    Model::open(path, &options).unwrap()
}

#[test]
fn candidates_are_what_all_logits_say() {
    let _turn = turn();
    for (name, options) in variants() {
        for head in [HeadKind::Int8, HeadKind::Exact] {
            let model = open("demo", &options, head);
            let tokens = model.tokenizer().unwrap().encode("Once upon a time there was a king who", true).unwrap();
            let mut engine = model.engine();
            let also: Vec<u32> = (0..100).map(|i| i * 37 % 4096).collect();
            let best = Best { count: 1, margin: 0.0, also: &[], temperature: None };
            for wanted in [
                best,
                Best { count: 40, also: &also, ..best },
                Best { also: &also[..3], temperature: Some(0.8), ..best },
                Best { margin: 2.5, also: &also[..1], ..best },
            ] {
                // The exact head finds what there is in 48 parts, whatever the margin.
                let checked = if head == HeadKind::Exact { Best { margin: 0.0, ..wanted } } else { wanted };
                let sequence = engine.create();
                let mut seen = 0;
                let mut sink = |_: usize, _: usize, output: &mut Output<'_>| {
                    let Logits::Best(candidates) = output.logits() else { panic!("{name}: all logits") };
                    let candidates = candidates.clone();
                    check_candidates(&candidates, output.all()?, &checked, &format!("{name} {head:?} {wanted:?}"));
                    seen += 1;
                    Ok(())
                };
                let work = [Work { sequence, tokens: &tokens, logits: LogitsFor::Best(wanted) }];
                engine.forward(&work, &mut sink, None).unwrap();
                assert_eq!(seen, 1);
                engine.release(sequence);
            }
        }
    }
}

/// Every way to choose that needs other logits.
fn samplings() -> Vec<Sampling> {
    let greedy = Sampling { seed: Some(11), ..Sampling::default() };
    let warm = Sampling { temperature: 0.8, ..greedy.clone() };
    vec![
        greedy.clone(),
        Sampling { repeat_penalty: 1.3, repeat_last_n: 32, ..greedy },
        Sampling { top_k: 40, top_p: 0.9, repeat_penalty: 1.1, ..warm.clone() },
        Sampling { temperature: 50.0, top_k: 20, ..warm.clone() },
        Sampling { top_p: 0.9, ..warm.clone() },
        Sampling { top_p: 0.95, min_p: 0.02, repeat_penalty: 1.2, ..warm.clone() },
        Sampling { min_p: 0.05, ..warm.clone() },
        Sampling { temperature: 0.01, min_p: 0.1, ..warm },
    ]
}

#[test]
fn the_tokens_are_those_of_the_exact_head() {
    let _turn = turn();
    for (i, (variant, options)) in variants().into_iter().enumerate() {
        let models = ["demo", "bitnet_b_awkward", "bitnet_bf16_online", "llama_a"];
        for name in models.into_iter().filter(|name| i == 0 || *name == "demo") {
            let [int8, exact] = [HeadKind::Int8, HeadKind::Exact].map(|head| open(name, &options, head));
            for sampling in samplings() {
                let [got, want] = [&int8, &exact].map(|model| tokens(model, &sampling, 8));
                assert_eq!(got, want, "{variant} {name}, {sampling:?}");
            }
        }
    }
}

#[test]
fn little_is_read_beside_the_int8_rows() {
    let _turn = turn();
    let Some((_, options)) = variants().into_iter().next() else { return };
    let model = open("demo", &options, HeadKind::Int8);
    let vocab = model.config().vocab_size;
    const TOKENS: u64 = 16;
    let counters = |engine: &sterna::engine::Engine| engine.executor().counters().next().unwrap().2;
    for sampling in samplings() {
        let mut engine = model.engine();
        let mut sampler = Sampler::new(sampling.clone()).unwrap();
        let sequence = engine.create();
        let mut history = model.tokenizer().unwrap().encode("Once upon a time", true).unwrap();
        let (mut recent, mut pending, mut all) = (Vec::new(), history.clone(), 0);
        let before = counters(&engine);
        for _ in 0..TOKENS {
            let logits = sampler.wanted(&history, &mut recent);
            let mut next = 0;
            let mut sink = |_: usize, _: usize, output: &mut Output<'_>| {
                next = sampler.choose(output, &history)?;
                all += usize::from(matches!(output.logits(), Logits::All(_)));
                Ok(())
            };
            engine.forward(&[Work { sequence, tokens: &pending, logits }], &mut sink, None).unwrap();
            history.push(next);
            pending = vec![next];
        }
        engine.release(sequence);
        let cost = counters(&engine).since(&before);
        let rows = cost.kernels["rescore"].bytes / (model.config().hidden_size as u64 * 2) / TOKENS;
        println!("{rows} of {vocab} rows multiplied for a token, all for {all} of {TOKENS} tokens: {sampling:?}");
        assert!(rows <= vocab as u64 / 4 && all <= 4, "{sampling:?}");
        assert!(sampling.temperature > 0.0 || all == 0 && rows <= 100, "{sampling:?}");
    }
}

/// A model of one block and a head of `rows`.
fn with_head(path: &Path, rows: &[f16], hidden: usize) {
    let shape = synth::Shape {
        hidden_size: hidden,
        intermediate_size: 2 * hidden,
        num_hidden_layers: 1,
        num_attention_heads: 2,
        num_key_value_heads: 1,
        vocab_size: rows.len() / hidden,
        tie_word_embeddings: false,
        ..synth::Shape::named("2b-4t").unwrap()
    };
    synth::write(path, &shape, Encoding::Tq2_0, 1, true, &mut |_| std::ops::ControlFlow::Continue(())).unwrap();
    // The head is the last tensor of the file.
    let mut file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.seek(SeekFrom::End(-(2 * rows.len() as i64))).unwrap();
    file.write_all(bytemuck::cast_slice(rows)).unwrap();
}

/// A stage of nothing but the head.
fn head_stage(path: &Path, options: &GpuOptions) -> Box<dyn Stage> {
    let graph = build_graph(Arc::new(Checkpoint::open(path).unwrap())).unwrap();
    let kv = KvOptions { kind: KvType::F16, pages: 1 };
    let backend = GpuBackend::new(options.clone()).unwrap();
    backend.build_stage(&graph, graph.len() - 1..graph.len(), kv, &()).unwrap()
}

/// Logits of some hidden states, one sequence each.
fn forward(stage: &mut dyn Stage, rows: &[f32], wanted: &[LogitsFor<'_>], outputs: &mut Outputs) -> Counters {
    let sequence = |&logits| BatchSequence { tokens: &[0], position: 0, pages: &[0], logits };
    let batch = Batch { sequences: wanted.iter().map(sequence).collect() };
    let mut hidden = AlignedBuf::<f32>::default();
    hidden.resize(rows.len());
    hidden.copy_from_slice(rows);
    let before = stage.counters().unwrap();
    stage.forward(&batch, &mut hidden, outputs).unwrap();
    stage.counters().unwrap().since(&before)
}

const HIDDEN: usize = 256;

#[test]
fn heavy_tails_near_ties_and_mixed_batches_are_exact() {
    let _turn = turn();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let mut random = Random(5);
    let mut rows: Vec<f16> = Vec::new();
    while rows.len() < 3000 * HIDDEN {
        // A third of the rows are all but the same.
        let near = rows.len() > HIDDEN && random.next().is_multiple_of(3);
        let first = rows.len() - if near { HIDDEN } else { 0 };
        let column = random.next() as usize % HIDDEN;
        for i in 0..HIDDEN {
            let changed = if near && i == column { 1 } else { 0 };
            let x = if near { rows[first + i] } else { f16::from_f32(normal(&mut random) * 0.05) };
            rows.push(f16::from_bits(x.to_bits() ^ changed));
        }
    }
    with_head(&path, &rows, HIDDEN);
    let also: Vec<u32> = (0..60).map(|i| i * 41).collect();
    let best = Best { count: 1, margin: 0.0, also: &[], temperature: None };
    let wanted = [
        LogitsFor::Best(best),
        LogitsFor::All,
        LogitsFor::Best(Best { count: 20, also: &also, ..best }),
        LogitsFor::Best(Best { temperature: Some(0.5), ..best }),
        LogitsFor::Best(Best { margin: 1.0, also: &also[..2], ..best }),
        LogitsFor::Last,
        // More than the kernels find.
        LogitsFor::Best(Best { count: 300, ..best }),
        LogitsFor::Best(Best { count: 90, ..best }),
    ];
    for (name, options) in variants() {
        // In several pieces too.
        for max_binding in [None, Some(300 << 10)] {
            let options = GpuOptions { max_binding, ..options.clone() };
            let mut stage = head_stage(&path, &options);
            let (mut outputs, mut all) = (Outputs::default(), Outputs::default());
            for round in 0..4 {
                // Inputs near a row, so that it and its likes are the best, with outliers a hundred times the rest.
                let mut hidden = Vec::new();
                for token in 0..wanted.len() {
                    let row = 400 * token + 31 * round;
                    hidden.extend(rows[row * HIDDEN..(row + 1) * HIDDEN].iter().map(|x| x.to_f32()));
                    for channel in [7, 100, 200].into_iter().take(round) {
                        hidden[token * HIDDEN + channel] += 5.0 * random.unit();
                    }
                }
                forward(&mut *stage, &hidden, &[LogitsFor::All; 8], &mut all);
                forward(&mut *stage, &hidden, &wanted, &mut outputs);
                assert_eq!(outputs.len(), wanted.len());
                for (token, wanted) in wanted.iter().enumerate() {
                    let Logits::All(all) = all.get(token) else { panic!("all were asked for") };
                    let what = format!("{name}, round {round}, input {token}, {wanted:?}");
                    match (outputs.get(token), wanted) {
                        (Logits::Best(found), LogitsFor::Best(wanted)) => check_candidates(found, all, wanted, &what),
                        (Logits::All(found), LogitsFor::All | LogitsFor::Last) => assert!(found == all, "{what}"),
                        (Logits::All(found), LogitsFor::Best(best)) if best.count > 192 => {
                            assert!(found == all, "{what}");
                        }
                        _ => panic!("{what}: something else"),
                    }
                    stage.all_logits(token, &mut outputs).unwrap();
                    assert!(matches!(outputs.get(token), Logits::All(found) if found == all), "{what}: all of them");
                }
            }
        }
    }
}

#[test]
fn too_many_candidates_ask_for_all_logits() {
    let _turn = turn();
    let Some((_, options)) = variants().into_iter().next() else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let mut random = Random(6);
    // All rows are the same, but for one that is not a number.
    let row: Vec<f16> = (0..HIDDEN).map(|_| f16::from_f32(random.unit())).collect();
    let mut rows = row.repeat(48 * 256 + 100);
    let hidden = random.units(HIDDEN);
    let best = LogitsFor::Best(Best { count: 1, margin: 0.0, also: &[3], temperature: Some(1.0) });
    let mut outputs = Outputs::default();
    with_head(&path, &rows, HIDDEN);
    let mut stage = head_stage(&path, &options);
    let cost = forward(&mut *stage, &hidden, &[best], &mut outputs);
    let Logits::All(all) = outputs.get(0) else { panic!("{:?}", outputs.get(0)) };
    assert!(all.iter().all(|logit| *logit == all[0]));
    assert_eq!(cost.submissions, 2);

    rows[100 * HIDDEN] = f16::NAN;
    rows.truncate(2000 * HIDDEN);
    with_head(&path, &rows, HIDDEN);
    let mut stage = head_stage(&path, &options);
    forward(&mut *stage, &hidden, &[best], &mut outputs);
    let Logits::All(all) = outputs.get(0) else { panic!("{:?}", outputs.get(0)) };
    assert!(all[100].is_nan() && all[99].is_finite());
    // And inputs that are not numbers.
    forward(&mut *stage, &[f32::NAN; HIDDEN], &[best], &mut outputs);
    assert!(matches!(outputs.get(0), Logits::All(all) if all[99].is_nan()));
}
