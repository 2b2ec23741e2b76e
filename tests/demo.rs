//! The embedded model against transformers: loss on held-out text, greedy text.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod common;

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use common::argmax;
use sterna::perplexity::{self, Perplexity, Windows};
use sterna::{GenerateOptions, KvType, Model, OpenOptions, Sampling};

fn open() -> Model {
    Model::open("demo", &OpenOptions { kv: KvType::F32, ..OpenOptions::default() }).unwrap()
}

fn data(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/demo").join(name)).unwrap()
}

fn expected() -> serde_json::Value {
    serde_json::from_slice(&data("expected.json")).unwrap()
}

fn ids(value: &serde_json::Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

#[test]
fn held_out_loss_is_that_of_transformers() {
    let expected = &expected()["heldout"];
    let text = String::from_utf8(data(expected["file"].as_str().unwrap())).unwrap();
    let model = open();
    let tokens = model.tokenizer().unwrap().encode(&text, true).unwrap();
    assert_eq!(tokens.len() as u64, expected["total_ids"].as_u64().unwrap());
    assert_eq!(tokens[..32], ids(&expected["first_ids"]));
    let window = expected["context"].as_u64().unwrap() as usize;
    let windows = expected["windows"].as_u64().unwrap() as usize;
    let mut go_on = |_, _: &Perplexity| ControlFlow::Continue(());
    let disjoint = Windows { context: window, stride: window };
    let measured = perplexity::measure(&model, &tokens[..windows * window + 1], disjoint, &mut go_on).unwrap();
    assert_eq!((measured.windows, measured.predicted), (windows, windows * window));
    let loss = measured.loss;
    let want = expected["loss_nats_per_token"].as_f64().unwrap();
    println!("{loss:.6} nats/token, transformers {want:.6}");
    assert!((loss - want).abs() < 1e-3, "{loss} nats/token, transformers {want}");
}

#[test]
fn greedy_text_is_that_of_transformers() {
    let model = open();
    for case in expected()["greedy"].as_array().unwrap() {
        let (prompt, want) = (ids(&case["prompt_ids"]), ids(&case["new_ids"]));
        let tokens = model.tokenizer().unwrap().encode(case["prompt"].as_str().unwrap(), true).unwrap();
        assert_eq!(tokens, prompt);
        // Teacher forcing, so that one close choice does not hide what follows it.
        let forced: Vec<u32> = prompt.iter().chain(&want).copied().collect();
        let mut rows = Vec::new();
        model.session().logits(&forced, |_, row| rows.push(row.to_vec())).unwrap();
        for (step, &token) in want.iter().enumerate() {
            let row = &rows[prompt.len() - 1 + step];
            let best = argmax(row);
            let gap = row[best] - row[token as usize];
            assert!(gap < 0.3, "step {step} of {:?}: {best} is better than {token} by {gap}", case["prompt"]);
        }
        let options = GenerateOptions { max_tokens: Some(want.len()), ignore_eos: true, ..GenerateOptions::default() };
        let mut session = model.session();
        let text: String = session.generate_tokens(prompt, options).unwrap().map(|token| token.unwrap().text).collect();
        let shared = text.chars().zip(case["text"].as_str().unwrap().chars()).take_while(|(a, b)| a == b).count();
        println!("{:?}: {shared} characters equal, ours: {text}", case["prompt"]);
    }
}

#[test]
fn sampled_text_reads_as_english_and_repeats_with_its_seed() {
    let model = open();
    assert!(model.default_sampling().temperature > 0.0, "the demo model recommends sampling");
    let tell = |seed| -> String {
        let sampling = Sampling { seed: Some(seed), ..model.default_sampling().clone() };
        let options = GenerateOptions { max_tokens: Some(120), sampling, ..GenerateOptions::default() };
        let mut session = model.session();
        let generation = session.generate("Once upon a time", options).unwrap();
        generation.map(|token| token.unwrap().text).collect()
    };
    let heldout = String::from_utf8(data("heldout.txt")).unwrap().to_lowercase();
    let words: std::collections::HashSet<&str> = heldout.split(|c: char| !c.is_alphabetic()).collect();
    let story = tell(1);
    println!("Once upon a time{story}");
    let lower = story.to_lowercase();
    let told: Vec<&str> = lower.split(|c: char| !c.is_alphabetic()).filter(|w| !w.is_empty()).collect();
    let known = told.iter().filter(|word| words.contains(*word)).count();
    assert!(told.len() > 40 && known * 10 >= told.len() * 9, "{known} of {} words are known: {story}", told.len());
    assert_eq!(tell(1), story);
    assert_ne!(tell(2), story);
}
