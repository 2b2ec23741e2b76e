//! How well a model predicts a text.

use std::ops::ControlFlow;

use serde::Serialize;

use crate::engine::{Error, Model};

/// How a text is cut into windows.
#[derive(Clone, Copy, Debug)]
pub struct Windows {
    /// Tokens that the model reads at most before it predicts the next one.
    pub context: usize,
    /// Tokens from the start of one window to that of the next. Where windows overlap, each predicts only what is new, with at
    /// least `context - stride` tokens in front of it; `context` makes them disjoint.
    pub stride: usize,
}

/// How well a text was predicted.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Perplexity {
    /// `exp(loss)`.
    pub perplexity: f64,
    /// Mean of `-ln p` over the predicted tokens.
    pub loss: f64,
    /// Standard error of `loss`, as if the predictions were independent.
    pub loss_error: f64,
    /// Tokens that were predicted.
    pub predicted: usize,
    /// Windows that were read.
    pub windows: usize,
}

/// Reads `tokens` in windows, each from an empty cache; the window that begins at token `s` reads up to `context` tokens
/// from there and predicts those that follow each. Tokens of a last window that is not full are predicted, too.
/// `progress` is told of predicted tokens and may stop it, which gives the figures up to there.
///
/// # Errors
/// If a window makes no sense, there are not two tokens, one is not in the vocabulary, or a device fails.
pub fn measure(
    model: &Model,
    tokens: &[u32],
    windows: Windows,
    progress: &mut dyn FnMut(usize, &Perplexity) -> ControlFlow<()>,
) -> Result<Perplexity, Error> {
    let Windows { context, stride } = windows;
    if context == 0 || context > model.context() {
        return Err(Error::ContextFull { needed: context, context: model.context() });
    }
    if stride == 0 || stride > context {
        let expected = "a number from 1 to the context";
        return Err(Error::BadOption { option: "stride", found: stride.to_string(), expected });
    }
    if tokens.len() < 2 {
        let expected = "a text of two tokens at least";
        return Err(Error::BadOption { option: "text", found: format!("{} tokens", tokens.len()), expected });
    }
    let vocab_size = model.config().vocab_size;
    if let Some(&id) = tokens.iter().find(|&&id| id as usize >= vocab_size) {
        return Err(Error::TokenOutOfRange { id, vocab_size });
    }
    let mut sums = Sums::default();
    let mut session = model.session();
    let mut start = 0;
    while sums.predicted + 1 < tokens.len() {
        let end = (start + context).min(tokens.len() - 1);
        session.reset();
        // Of an overlapping window, only what the one before has not predicted counts.
        let done = sums.predicted;
        session.logits(&tokens[start..end], |i, row| {
            if start + i >= done {
                sums.add(loss(row, tokens[start + i + 1]));
            }
        })?;
        sums.windows += 1;
        if progress(end - done, &sums.figures()).is_break() {
            break;
        }
        start += stride;
    }
    Ok(sums.figures())
}

/// `-ln p` of `token`, which is in the vocabulary, by the logits.
fn loss(logits: &[f32], token: u32) -> f64 {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit - most).exp()).sum();
    sum.ln() - f64::from(logits[token as usize] - most)
}

/// Sums of losses and their squares.
#[derive(Default)]
struct Sums {
    loss: f64,
    squares: f64,
    predicted: usize,
    windows: usize,
}

impl Sums {
    fn add(&mut self, loss: f64) {
        self.loss += loss;
        self.squares += loss * loss;
        self.predicted += 1;
    }

    fn figures(&self) -> Perplexity {
        let count = self.predicted as f64;
        let mean = self.loss / count;
        let variance = (self.squares / count - mean * mean).max(0.0);
        Perplexity {
            perplexity: mean.exp(),
            loss: mean,
            loss_error: (variance / (count - 1.0).max(1.0)).sqrt(),
            predicted: self.predicted,
            windows: self.windows,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::OpenOptions;

    fn model() -> Model {
        Model::open("demo", &OpenOptions { context: Some(64), threads: Some(1), ..OpenOptions::default() })
            .expect("demo")
    }

    #[test]
    fn every_token_is_predicted_once_with_the_context_that_was_asked_for() {
        let model = model();
        let tokens: Vec<u32> = (0..100).map(|i| i * 31 % 4000).collect();
        let go_on = &mut |_: usize, _: &Perplexity| ControlFlow::Continue(());
        // With a stride of one, each token but the first ones has the whole context in front of it.
        let ours = measure(&model, &tokens, Windows { context: 8, stride: 1 }, go_on).expect("a measurement");
        let mut want = 0.0;
        for next in 1..tokens.len() {
            let mut last = Vec::new();
            let window = &tokens[next.saturating_sub(8)..next];
            model.session().logits(window, |_, row| last = row.to_vec()).expect("logits");
            want += loss(&last, tokens[next]);
        }
        assert_eq!((ours.predicted, ours.windows), (99, 92));
        assert!((ours.loss - want / 99.0).abs() < 1e-12, "{} {}", ours.loss, want / 99.0);
        for (stride, windows) in [(8, 13), (4, 24), (3, 32)] {
            let ours = measure(&model, &tokens, Windows { context: 8, stride }, go_on).expect("a measurement");
            assert_eq!((ours.predicted, ours.windows), (99, windows));
            assert!((ours.perplexity.ln() - ours.loss).abs() < 1e-12 && ours.loss_error > 0.0);
        }
    }

    #[test]
    fn bad_windows_are_refused_and_it_can_be_stopped() {
        let model = model();
        let tokens: Vec<u32> = (1..60).collect();
        let stop = &mut |_: usize, _: &Perplexity| ControlFlow::Break(());
        for (context, stride) in [(0, 1), (65, 1), (8, 0), (8, 9)] {
            assert!(measure(&model, &tokens, Windows { context, stride }, stop).is_err());
        }
        assert!(measure(&model, &tokens[..1], Windows { context: 8, stride: 8 }, stop).is_err());
        let stopped = measure(&model, &tokens, Windows { context: 8, stride: 8 }, stop).expect("a part");
        assert_eq!((stopped.predicted, stopped.windows), (8, 1));
    }
}
