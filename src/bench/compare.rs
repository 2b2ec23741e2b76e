//! The same tokens on two placements: how far the logits are apart, and where the time goes.

use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use crate::backend::LogitsFor;
use crate::engine::{Engine, SequenceId, Work};
use crate::graph::Output;
use crate::{Error, Model, OpenOptions};

/// What two placements make of the same tokens.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// The placements and their times.
    pub sides: [Side; 2],
    /// Tokens of the prompt, and tokens that were computed one by one behind it.
    pub tokens: [usize; 2],
    /// How far their logits are apart.
    pub logits: Difference,
}

/// One placement.
#[derive(Clone, Debug, Serialize)]
pub struct Side {
    /// Which backend serves which layer.
    pub placement: String,
    /// What computes.
    pub devices: String,
    /// The layers, each a stage of its own with its transfers.
    pub layers: Vec<LayerTime>,
}

impl Side {
    /// Milliseconds of a token of a prompt, and of one alone, in all layers.
    pub fn total_ms(&self) -> [f64; 2] {
        let sum = |of: fn(&LayerTime) -> f64| self.layers.iter().map(of).sum();
        [sum(|layer| layer.prompt_ms), sum(|layer| layer.token_ms)]
    }
}

/// The time of a layer.
#[derive(Clone, Debug, Serialize)]
pub struct LayerTime {
    /// Index of the layer: 0 is the embedding, then come the blocks, then the head.
    pub layer: usize,
    /// The backend; of a placement with different ones for prompts and single tokens, both.
    pub backend: String,
    /// Milliseconds of a token of the prompt. Of the head, with all logits of every token.
    pub prompt_ms: f64,
    /// Milliseconds of a token alone.
    pub token_ms: f64,
}

/// How far logits are apart. The second placement is compared with the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Difference {
    /// Tokens.
    pub rows: usize,
    /// Largest difference of a logit.
    pub max: f64,
    /// Mean difference of a logit, without sign.
    pub mean: f64,
    /// Kullback-Leibler divergence of the second from the first in nats, the mean of all tokens.
    pub kl: f64,
    /// Share of the tokens of which both find the same most probable.
    pub same_best: f64,
}

/// Runs `tokens` on two placements, the last `one_by_one` of them alone, the others as a prompt. `placements` are read as
/// [`OpenOptions::placement`]; `options` say the rest. One model is open at a time.
///
/// # Errors
/// If the model cannot be opened with a placement, the tokens do not fit, or a device fails.
pub fn compare(
    path: &Path,
    options: &OpenOptions,
    placements: [&str; 2],
    tokens: &[u32],
    one_by_one: usize,
) -> Result<Comparison, Error> {
    let prompt = tokens.len().saturating_sub(one_by_one);
    let (first, want) = side(path, options, placements[0], tokens, prompt)?;
    let (second, got) = side(path, options, placements[1], tokens, prompt)?;
    let vocab = want.len() / tokens.len().max(1);
    let logits = difference(&want, &got, vocab);
    Ok(Comparison { sides: [first, second], tokens: [prompt, tokens.len() - prompt], logits })
}

/// The times and all logits of one placement.
fn side(
    path: &Path,
    options: &OpenOptions,
    placement: &str,
    tokens: &[u32],
    prompt: usize,
) -> Result<(Side, Vec<f32>), Error> {
    if tokens.is_empty() {
        return Err(Error::EmptyPrompt);
    }
    let options = OpenOptions {
        placement: Some(placement.to_owned()),
        placement_prefill: None,
        placement_decode: None,
        context: Some(options.context.unwrap_or(tokens.len()).max(tokens.len())),
        ..options.clone()
    };
    // A stage for each layer. How many there are is in the header.
    let blocks = crate::model::build_graph(crate::source::open(path)?.into())?.blocks().len();
    let taps = std::iter::once(None).chain((0..blocks).map(Some)).collect();
    let model = Model::open(path, &OpenOptions { taps, ..options })?;
    let mut engine = model.engine();
    let (prompt, alone) = tokens.split_at(prompt);
    let mut logits = Vec::with_capacity(tokens.len() * model.config().vocab_size);
    // Once to wake threads and compile kernels, once to measure.
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..2 {
        logits.clear();
        let sequence = engine.create();
        engine.executor_mut().take_times();
        let result = run(&mut engine, sequence, prompt, &mut logits).and_then(|()| {
            times[0] = engine.executor_mut().take_times();
            alone.chunks(1).try_for_each(|token| run(&mut engine, sequence, token, &mut logits))
        });
        times[1] = engine.executor_mut().take_times();
        engine.release(sequence);
        result?;
    }
    let ms = |time: Duration, tokens: usize| 1e3 * time.as_secs_f64() / tokens.max(1) as f64;
    let mut layers: Vec<LayerTime> = Vec::new();
    for (index, (stage, backend, _)) in engine.executor().stages().enumerate() {
        let (prompt_ms, token_ms) = (ms(times[0][index].time, prompt.len()), ms(times[1][index].time, alone.len()));
        match layers.last_mut().filter(|layer| layer.layer == stage.start) {
            // Prompts and single tokens have different devices.
            Some(layer) => {
                layer.backend = format!("{} | {backend}", layer.backend);
                layer.prompt_ms += prompt_ms;
                layer.token_ms += token_ms;
            }
            None => layers.push(LayerTime { layer: stage.start, backend: backend.to_owned(), prompt_ms, token_ms }),
        }
    }
    let side = Side { placement: model.placement().to_owned(), devices: model.backend().to_owned(), layers };
    Ok((side, logits))
}

/// Appends tokens; their logits go behind `logits`.
fn run(engine: &mut Engine, sequence: SequenceId, tokens: &[u32], logits: &mut Vec<f32>) -> Result<(), Error> {
    let mut sink = |_: usize, _: usize, output: &mut Output<'_>| {
        logits.extend_from_slice(output.all()?);
        Ok(())
    };
    engine.forward(&[Work { sequence, tokens, logits: LogitsFor::All }], &mut sink, None)
}

/// How far two sets of logits, `[tokens, vocab]`, are apart.
///
/// # Panics
/// If they are of different sizes.
pub fn difference(want: &[f32], got: &[f32], vocab: usize) -> Difference {
    assert_eq!(want.len(), got.len(), "logits of the same tokens");
    let mut out = Difference::default();
    for (want, got) in want.chunks_exact(vocab.max(1)).zip(got.chunks_exact(vocab.max(1))) {
        out.rows += 1;
        for (a, b) in want.iter().zip(got) {
            let apart = f64::from((a - b).abs());
            // What is no number is as far apart as can be.
            out.max = if apart.is_nan() { f64::INFINITY } else { out.max.max(apart) };
            out.mean += apart;
        }
        let (p, q) = (log_softmax(want), log_softmax(got));
        out.kl += p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>();
        out.same_best += f64::from(u8::from(best(want) == best(got)));
    }
    let rows = out.rows.max(1) as f64;
    out.mean /= (want.len() as f64).max(1.0);
    // Of equal distributions, rounding may leave a little below zero.
    out.kl = (out.kl / rows).max(0.0);
    out.same_best /= rows;
    out
}

/// The first of the largest values.
fn best(row: &[f32]) -> Option<usize> {
    (0..row.len()).rev().max_by(|&a, &b| row[a].total_cmp(&row[b]))
}

/// ln of the softmax.
fn log_softmax(row: &[f32]) -> Vec<f64> {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = row.iter().map(|&x| f64::from(x - max).exp()).sum();
    row.iter().map(|&x| f64::from(x - max) - sum.ln()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_those_of_the_definition() {
        let same = difference(&[1.0, 2.0, 3.0, 0.0], &[1.0, 2.0, 3.0, 0.0], 2);
        assert_eq!(same, Difference { rows: 2, same_best: 1.0, ..Difference::default() });
        // Probabilities 1/2, 1/2 and 3/4, 1/4.
        let apart = difference(&[0.0, 0.0, 5.0, 1.0], &[3f32.ln(), 0.0, 5.0, 9.0], 2);
        assert!((apart.max - 8.0).abs() < 1e-6 && (apart.mean - (3f64.ln() + 8.0) / 4.0).abs() < 1e-6, "{apart:?}");
        let first = 0.5 * (0.5f64 / 0.75).ln() + 0.5 * (0.5f64 / 0.25).ln();
        let softmax = |x: f64| 1.0 / (1.0 + x.exp());
        let (p, q) = (softmax(-4.0), softmax(4.0));
        let second = p * (p / q).ln() + (1.0 - p) * ((1.0 - p) / (1.0 - q)).ln();
        assert!((apart.kl - (first + second) / 2.0).abs() < 1e-6, "{apart:?}");
        assert_eq!(apart.same_best, 0.5);
    }

    #[test]
    fn stages_of_the_cpu_give_the_same_bits() {
        let options = OpenOptions { threads: Some(1), ..OpenOptions::default() };
        let tokens: Vec<u32> = (0..20).map(|i| i * 31 + 7).collect();
        let placements = ["cpu", "embed=cpu,0-1=cpu,2-=cpu"];
        let compared = compare(Path::new("demo"), &options, placements, &tokens, 4).expect("the demo model");
        assert_eq!((compared.logits.max, compared.logits.kl, compared.logits.same_best), (0.0, 0.0, 1.0));
        assert_eq!(compared.tokens, [16, 4]);
        for side in &compared.sides {
            assert_eq!(side.layers.iter().map(|layer| layer.layer).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
            assert!(side.layers[1..].iter().all(|layer| layer.prompt_ms > 0.0 && layer.token_ms > 0.0), "{side:?}");
        }
    }
}
