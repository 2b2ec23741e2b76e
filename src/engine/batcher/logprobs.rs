//! Log-probabilities of tokens, as the model has them: before penalties, temperature and filters.

/// A token and its log-probability.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Logprob {
    /// Its id.
    pub id: u32,
    /// Natural logarithm of its probability.
    pub logprob: f32,
}

/// The probabilities in one place of a text.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprobs {
    /// The token that is there.
    pub token: Logprob,
    /// The most probable ones, the best first.
    pub top: Vec<Logprob>,
}

impl TokenLogprobs {
    /// Those of `token` and of the `top` best for `logits`, `[vocab]`.
    pub(super) fn new(logits: &[f32], token: u32, top: usize) -> TokenLogprobs {
        let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let total: f64 = logits.iter().map(|&logit| f64::from(logit - best).exp()).sum();
        let normalizer = f64::from(best) + total.ln();
        let logprob = |id: u32| Logprob { id, logprob: (f64::from(logits[id as usize]) - normalizer) as f32 };
        let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
        let by_logit = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
        if top < ids.len() {
            if top > 0 {
                ids.select_nth_unstable_by(top - 1, by_logit);
            }
            ids.truncate(top);
        }
        ids.sort_unstable_by(by_logit);
        TokenLogprobs { token: logprob(token), top: ids.into_iter().map(logprob).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_add_up_to_one_and_the_best_come_first() {
        let logits = [1.0f32, 3.0, 2.0, 3.0, -50.0];
        let all = TokenLogprobs::new(&logits, 2, 9);
        assert_eq!(all.top.iter().map(|token| token.id).collect::<Vec<_>>(), [1, 3, 2, 0, 4]);
        let sum: f64 = all.top.iter().map(|token| f64::from(token.logprob).exp()).sum();
        assert!((sum - 1.0).abs() < 1e-6, "{sum}");
        assert_eq!(all.token, all.top[2]);
        let two = TokenLogprobs::new(&logits, 4, 2);
        assert_eq!(two.top, all.top[..2]);
        assert!((two.token.logprob - (-50.0 - (2.0 * 3f32.exp() + 2f32.exp() + 1f32.exp()).ln())).abs() < 1e-4);
        assert!(TokenLogprobs::new(&logits, 0, 0).top.is_empty());
    }
}
