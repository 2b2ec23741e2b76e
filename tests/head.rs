//! The int8 head chooses the tokens that the exact head chooses, whatever the sampler is told.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod common;

use common::{fixture, tokens};
use sterna::backend::{Logits, LogitsFor};
use sterna::engine::{Sampler, Work};
use sterna::{HeadKind, Isa, Model, OpenOptions, Sampling};

/// Every way to choose that needs other logits.
fn samplings() -> Vec<(&'static str, Sampling)> {
    let greedy = Sampling { seed: Some(11), ..Sampling::default() };
    let warm = Sampling { temperature: 0.8, ..greedy.clone() };
    vec![
        ("greedy", greedy.clone()),
        ("greedy, penalty", Sampling { repeat_penalty: 1.3, repeat_last_n: 32, ..greedy.clone() }),
        ("greedy, bonus", Sampling { repeat_penalty: 0.9, ..greedy }),
        ("all", warm.clone()),
        ("top-k", Sampling { top_k: 40, ..warm.clone() }),
        ("top-k, top-p, penalty", Sampling { top_k: 40, top_p: 0.9, repeat_penalty: 1.1, ..warm.clone() }),
        ("hot top-k", Sampling { temperature: 50.0, top_k: 20, ..warm.clone() }),
        ("top-p", Sampling { top_p: 0.9, ..warm.clone() }),
        ("top-p, min-p, penalty", Sampling { top_p: 0.95, min_p: 0.02, repeat_penalty: 1.2, ..warm.clone() }),
        ("min-p", Sampling { min_p: 0.05, ..warm.clone() }),
        ("cold min-p", Sampling { temperature: 0.01, min_p: 0.1, ..warm }),
    ]
}

fn open(model: &str, head: HeadKind, isa: Option<Isa>, threads: usize) -> Model {
    let path = if model == "demo" { model.into() } else { fixture(model) };
    Model::open(path, &OpenOptions { head, isa, threads: Some(threads), ..OpenOptions::default() }).unwrap()
}

#[test]
fn the_tokens_are_those_of_the_exact_head() {
    let models = ["demo", "bitnet_a", "bitnet_b_awkward", "bitnet_bf16_online", "llama_a", "bitnet_b158_large"];
    for name in models {
        let count = if name == "demo" { 200 } else { 60 };
        let (int8, exact) = (open(name, HeadKind::Int8, None, 2), open(name, HeadKind::Exact, None, 2));
        for (what, sampling) in samplings() {
            assert_eq!(tokens(&int8, &sampling, count), tokens(&exact, &sampling, count), "{name}, {what}");
        }
    }
}

#[test]
fn instruction_sets_and_threads_do_not_change_the_tokens() {
    let exact = open("demo", HeadKind::Exact, None, 1);
    for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
        for threads in [1, 3] {
            let int8 = open("demo", HeadKind::Int8, Some(isa), threads);
            for (what, sampling) in samplings() {
                let (got, want) = (tokens(&int8, &sampling, 24), tokens(&exact, &sampling, 24));
                assert_eq!(got, want, "{isa}, {threads} threads, {what}");
            }
        }
    }
}

#[test]
fn few_rows_are_multiplied_exactly() {
    let model = open("demo", HeadKind::Int8, None, 2);
    let mut engine = model.engine();
    for (what, sampling) in samplings().into_iter().filter(|(what, _)| *what != "all") {
        let mut sampler = Sampler::new(sampling).unwrap();
        let sequence = engine.create();
        let mut history: Vec<u32> = model.tokenizer().unwrap().encode("Once upon a time", true).unwrap();
        let (mut recent, mut pending) = (Vec::new(), history.clone());
        let (mut rows, mut unsure, mut all) = (Vec::new(), 0, 0);
        for _ in 0..200 {
            let logits = sampler.wanted(&history, &mut recent);
            assert!(matches!(logits, LogitsFor::Best(_)));
            let work = [Work { sequence, tokens: &pending, logits }];
            let mut next = 0;
            engine
                .forward(
                    &work,
                    &mut |_, _, output| {
                        match output.logits() {
                            Logits::All(_) => all += 1,
                            Logits::Best(best) => {
                                rows.push(best.ids.len());
                                unsure += usize::from(sampler.clone().sample_among(best, &history)?.is_none());
                            }
                        }
                        next = sampler.choose(output, &history)?;
                        Ok(())
                    },
                    None,
                )
                .unwrap();
            history.push(next);
            pending = vec![next];
        }
        engine.release(sequence);
        rows.sort_unstable();
        let median = rows.get(rows.len() / 2).copied().unwrap_or(0);
        let most = rows.last().copied().unwrap_or(0);
        println!(
            "{what}: of 200 tokens {all} needed all rows at once, {unsure} afterwards; else {median}, {most} at most"
        );
        if what.starts_with("greedy") {
            assert!(all + unsure == 0 && median < 100, "{what}");
        }
    }
}
