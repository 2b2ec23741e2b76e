//! One answer: the same bits for every instruction set, number of threads, way to cut a prompt, placement and company.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod common;

use common::{fixture, read_tensors};
use sterna::backend::LogitsFor;
use sterna::engine::Work;
use sterna::graph::Output;
use sterna::{Isa, KvType, Layout, Model, OpenOptions};

/// Models with every awkward size, and a prompt for each.
const MODELS: [&str; 5] = ["bitnet_c_awkward", "llama_b_awkward", "bitnet_b158_3b_awkward", "qwen3_ternary", "demo"];

fn open(model: &str, options: &OpenOptions) -> Model {
    let path = if model == "demo" { model.into() } else { fixture(model) };
    Model::open(path, options).unwrap()
}

/// 150 tokens: three pages of cache.
fn prompt(model: &Model) -> Vec<u32> {
    let vocab = model.config().vocab_size as u32;
    (0..150u32).map(|i| (i * i * 31 + i * 7 + 3) % vocab).collect()
}

fn logits(model: &Model) -> Vec<u32> {
    let mut bits = Vec::new();
    model.session().logits(&prompt(model), |_, row| bits.extend(row.iter().map(|v| v.to_bits()))).unwrap();
    bits
}

#[test]
fn isa_layout_threads_and_chunks_do_not_change_a_bit() {
    for name in MODELS {
        for kv in [KvType::F32, KvType::F16, KvType::Int8] {
            let base = OpenOptions { kv, threads: Some(1), ..OpenOptions::default() };
            let scalar = OpenOptions { isa: Some(Isa::Scalar), layout: Some(Layout::T16), ..base.clone() };
            let reference = logits(&open(name, &scalar));
            let mut variants = Vec::new();
            for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
                for threads in [1, 2, 3] {
                    variants.push(OpenOptions { isa: Some(isa), threads: Some(threads), ..base.clone() });
                }
                for layout in Layout::ALL {
                    variants.push(OpenOptions { isa: Some(isa), layout: Some(layout), ..base.clone() });
                }
                for chunk in [1, 7] {
                    variants.push(OpenOptions { isa: Some(isa), chunk, threads: Some(2), ..base.clone() });
                }
            }
            for options in variants {
                let got = logits(&open(name, &options));
                let what = format!(
                    "{name} {kv:?} {:?} {:?} threads {:?} chunk {}",
                    options.isa, options.layout, options.threads, options.chunk
                );
                assert!(got == reference, "{what} differs from the scalar kernels");
            }
        }
    }
}

#[test]
fn placements_do_not_change_a_bit() {
    let reference = logits(&open("demo", &OpenOptions::default()));
    for placement in ["embed=cpu,0=cpu,1-=cpu,head=cpu", "cpu"] {
        for taps in [vec![], vec![None, Some(0), Some(2)]] {
            let options = OpenOptions { placement: Some(placement.into()), taps, ..OpenOptions::default() };
            assert!(logits(&open("demo", &options)) == reference, "{placement}");
        }
    }
}

#[test]
fn company_and_forks_do_not_change_a_bit() {
    let model = open("demo", &OpenOptions { sequences: 4, chunk: 64, ..OpenOptions::default() });
    let tokens = prompt(&model);
    let alone = {
        let mut bits = Vec::new();
        model.session().logits(&tokens, |_, row| bits.push(row.to_vec())).unwrap();
        bits
    };
    let mut engine = model.engine();
    let (a, b) = (engine.create(), engine.create());
    // a: the whole prompt; b: the same prompt behind another chunking, in the same passes.
    let collect = |engine: &mut sterna::engine::Engine, work: &[Work<'_>]| {
        let mut rows: Vec<Vec<Vec<f32>>> = vec![Vec::new(); work.len()];
        let mut sink = |item: usize, _, output: &mut Output<'_>| {
            rows[item].push(output.all()?.to_vec());
            Ok(())
        };
        engine.forward(work, &mut sink, None).unwrap();
        rows
    };
    collect(&mut engine, &[Work { sequence: b, tokens: &tokens[..70], logits: LogitsFor::None }]);
    let rows = collect(
        &mut engine,
        &[
            Work { sequence: b, tokens: &tokens[70..], logits: LogitsFor::All },
            Work { sequence: a, tokens: &tokens, logits: LogitsFor::All },
        ],
    );
    assert!(rows[0] == alone[70..], "continued sequence");
    assert!(rows[1] == alone, "second sequence of a batch");

    // A fork shares pages; what it writes is not seen by the original.
    engine.truncate(a, 100);
    let fork = engine.fork(a);
    let other: Vec<u32> = tokens[100..].iter().rev().copied().collect();
    collect(&mut engine, &[Work { sequence: fork, tokens: &other, logits: LogitsFor::Last }]);
    let rows = collect(&mut engine, &[Work { sequence: a, tokens: &tokens[100..], logits: LogitsFor::Last }]);
    assert!(rows[0][0] == alone[149], "the original of a fork");

    for id in [a, b, fork] {
        engine.release(id);
    }
    assert_eq!(engine.available_pages(), model.context().div_ceil(64) * 4, "every page is free again");
}

#[test]
fn a_full_cache_is_an_error_and_not_the_end() {
    let model = open("demo", &OpenOptions { context: Some(128), ..OpenOptions::default() });
    let tokens = prompt(&model);
    let mut session = model.session();
    assert!(session.logits(&tokens, |_, _| ()).unwrap_err().to_string().contains("context of 128"));
    let mut other = model.session();
    session.logits(&tokens[..128], |_, _| ()).unwrap();
    assert!(other.logits(&tokens[..1], |_, _| ()).unwrap_err().to_string().contains("cache is full"));
    drop(session);
    other.logits(&tokens[..1], |_, _| ()).unwrap();
}

#[test]
fn positions_of_the_fixture_prompts_fit() {
    // The reference prompts run through the same passes as everything above: guards against an empty comparison.
    let model = open("bitnet_c_awkward", &OpenOptions::default());
    let ids = read_tensors(&fixture("bitnet_c_awkward").join("expected.safetensors"))["p0.ids"].ids();
    let mut rows = 0;
    model.session().logits(&ids, |_, _| rows += 1).unwrap();
    assert_eq!(rows, ids.len());
}
