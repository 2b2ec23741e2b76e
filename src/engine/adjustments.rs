//! What makes tokens more or less likely than the model has them: the repetition penalty, then the penalties for presence
//! and frequency of OpenAI's API, and biases.

use std::collections::BTreeMap;

use super::Sampling;

/// The adjustments of one answer, and memory for them.
#[derive(Clone, Debug, Default)]
pub(super) struct Adjustments {
    /// Tokens that the repetition penalty looks at, in order.
    recent: Vec<u32>,
    /// How often the answer has each token.
    counts: BTreeMap<u32, u32>,
    /// Tokens of the sequence that were counted, or are the prompt.
    counted: usize,
}

impl Adjustments {
    /// Tells that the first `len` tokens are the prompt.
    pub(super) fn set_prompt_len(&mut self, len: usize) {
        self.counts.clear();
        self.counted = len;
    }

    /// Puts the tokens whose logits are adjusted after `previous` into `tokens`, in order, each once.
    pub(super) fn tokens(&mut self, options: &Sampling, previous: &[u32], tokens: &mut Vec<u32>) {
        self.count(options, previous);
        tokens.clear();
        tokens.extend_from_slice(&self.recent);
        tokens.extend(self.counts.keys());
        tokens.extend(options.logit_bias.iter().map(|(token, _)| token));
        tokens.sort_unstable();
        tokens.dedup();
    }

    /// Adjusts the logits of `candidates`, which are in the order of their ids, after `previous`.
    pub(super) fn apply(&mut self, options: &Sampling, previous: &[u32], candidates: &mut [(f32, u32)]) {
        self.count(options, previous);
        let mut adjust = |token: u32, change: &dyn Fn(f32) -> f32| {
            if let Ok(at) = candidates.binary_search_by_key(&token, |candidate| candidate.1) {
                candidates[at].0 = change(candidates[at].0);
            }
        };
        let repeat = options.repeat_penalty;
        for &token in &self.recent {
            adjust(token, &|logit| if logit > 0.0 { logit / repeat } else { logit * repeat });
        }
        for (&token, &count) in &self.counts {
            let penalty = options.presence_penalty + count as f32 * options.frequency_penalty;
            adjust(token, &|logit| logit - penalty);
        }
        for &(token, bias) in &options.logit_bias {
            adjust(token, &|logit| logit + bias);
        }
    }

    /// Takes note of `previous`, if anything looks at it.
    fn count(&mut self, options: &Sampling, previous: &[u32]) {
        self.recent.clear();
        if options.repeat_penalty != 1.0 {
            self.recent.extend_from_slice(&previous[previous.len().saturating_sub(options.repeat_last_n)..]);
            self.recent.sort_unstable();
            self.recent.dedup();
        }
        if options.presence_penalty != 0.0 || options.frequency_penalty != 0.0 {
            for &token in previous.get(self.counted..).unwrap_or_default() {
                *self.counts.entry(token).or_default() += 1;
            }
            self.counted = previous.len();
        }
    }
}
