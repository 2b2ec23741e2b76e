//! One test, timed: prompts, or tokens one after the other, of one sequence or of several together.

use std::time::Instant;

use super::spec::PROMPT;
use super::{Spec, Test};
use crate::backend::{Best, Logits, LogitsFor};
use crate::engine::{Engine, SequenceId, Work};
use crate::graph::Output;
use crate::{Error, Model};

/// What is asked of the head behind a prompt, as by a generation with the default options.
const GREEDY: Best<'_> = Best { count: 1, margin: 0.0, also: &[], temperature: None };

/// Runs a test, or only `limit` tokens of it; seconds of what is timed.
///
/// # Errors
/// If the tokens do not fit or a device fails.
pub(super) fn time(model: &Model, spec: &Spec, limit: Option<usize>) -> Result<f64, Error> {
    time_watched(model, spec, limit, &mut |_| ())
}

/// As [`time`]; `watch` is called right before the timed part.
pub(super) fn time_watched(
    model: &Model,
    spec: &Spec,
    limit: Option<usize>,
    watch: &mut dyn FnMut(&mut Engine),
) -> Result<f64, Error> {
    let mut engine = model.engine();
    let sequences: Vec<SequenceId> = (0..spec.parallel).map(|_| engine.create()).collect();
    let result = run(&mut engine, &sequences, spec, limit, model.config().vocab_size as u32, watch);
    sequences.into_iter().for_each(|sequence| engine.release(sequence));
    result
}

fn run(
    engine: &mut Engine,
    sequences: &[SequenceId],
    spec: &Spec,
    limit: Option<usize>,
    vocab: u32,
    watch: &mut dyn FnMut(&mut Engine),
) -> Result<f64, Error> {
    let tokens = limit.map_or(spec.test.tokens(), |limit| limit.min(spec.test.tokens())).max(1);
    let (before, prompt) = match spec.test {
        Test::Prompt(_) => (spec.depth, tokens),
        Test::Generate(_) => (spec.depth.saturating_sub(PROMPT), PROMPT),
    };
    // Any tokens will do; they differ, so that no engine can take one for the other.
    let texts: Vec<Vec<u32>> = (0..sequences.len() as u32)
        .map(|sequence| (0..(before + prompt) as u32).map(|i| (i * 31 + sequence * 17 + 7) % vocab).collect())
        .collect();
    if before > 0 {
        forward(engine, sequences, texts.iter().map(|text| &text[..before]), LogitsFor::None)?;
    }
    if let Test::Prompt(_) = spec.test {
        watch(engine);
    }
    let start = Instant::now();
    let mut next = forward(engine, sequences, texts.iter().map(|text| &text[before..]), LogitsFor::Best(GREEDY))?;
    if let Test::Prompt(_) = spec.test {
        return Ok(start.elapsed().as_secs_f64());
    }
    watch(engine);
    let start = Instant::now();
    for _ in 0..tokens {
        next = forward(engine, sequences, next.chunks(1), LogitsFor::Best(GREEDY))?;
    }
    Ok(start.elapsed().as_secs_f64())
}

/// Appends tokens to each sequence; the best token behind each.
fn forward<'a>(
    engine: &mut Engine,
    sequences: &[SequenceId],
    tokens: impl Iterator<Item = &'a [u32]>,
    logits: LogitsFor<'a>,
) -> Result<Vec<u32>, Error> {
    let work: Vec<Work<'_>> =
        sequences.iter().zip(tokens).map(|(&sequence, tokens)| Work { sequence, tokens, logits }).collect();
    let mut best = vec![0; sequences.len()];
    engine.forward(
        &work,
        &mut |item, _, output| {
            best[item] = best_token(output);
            Ok(())
        },
        None,
    )?;
    Ok(best)
}

fn best_token(output: &Output<'_>) -> u32 {
    let of = |logits: &[f32]| (0..logits.len()).rev().max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap_or(0);
    match output.logits() {
        Logits::All(logits) => of(logits) as u32,
        Logits::Best(candidates) => candidates.ids.get(of(&candidates.logits)).copied().unwrap_or(0),
    }
}
