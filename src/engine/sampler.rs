//! From logits to a token: repetition penalty, temperature, top-k, top-p, min-p, draw.
//!
//! The order is that of Hugging Face's generation. Ties go to the lower token id, and the exponential is the canonical
//! one of `sterna-cpu`, so that a seed gives the same text on every machine.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use sterna_cpu::math::exp;

use super::Error;

/// How tokens are chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 always takes the most probable token.
    pub temperature: f32,
    /// Only the `top_k` most probable tokens; 0 for all.
    pub top_k: usize,
    /// Only the most probable tokens whose probabilities reach `top_p` together; 1 for all.
    pub top_p: f32,
    /// Only tokens at least `min_p` times as probable as the best; 0 for all.
    pub min_p: f32,
    /// Divides positive logits (multiplies negative ones) of recent tokens; 1 for none
    /// (<https://arxiv.org/abs/1909.05858>).
    pub repeat_penalty: f32,
    /// How many recent tokens the penalty looks at.
    pub repeat_last_n: usize,
    /// Seed of the random numbers; `None` takes one from the clock.
    pub seed: Option<u64>,
}

impl Default for Sampling {
    /// Greedy.
    fn default() -> Sampling {
        Sampling {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repeat_penalty: 1.0,
            repeat_last_n: 64,
            seed: None,
        }
    }
}

impl Sampling {
    /// Checks that each value makes sense.
    ///
    /// # Errors
    /// [`Error::BadOption`] names the one that does not.
    pub fn validate(&self) -> Result<(), Error> {
        let bad = |option, found: f32, expected| Err(Error::BadOption { option, found: found.to_string(), expected });
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            return bad("temperature", self.temperature, "0 or a positive number");
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return bad("top_p", self.top_p, "a number above 0 and at most 1");
        }
        if !(0.0..=1.0).contains(&self.min_p) {
            return bad("min_p", self.min_p, "a number from 0 to 1");
        }
        if !(self.repeat_penalty > 0.0 && self.repeat_penalty.is_finite()) {
            return bad("repeat_penalty", self.repeat_penalty, "a positive number");
        }
        Ok(())
    }
}

/// Chooses tokens.
#[derive(Clone, Debug)]
pub struct Sampler {
    options: Sampling,
    seed: u64,
    rng: ChaCha8Rng,
    /// Logit and token; kept between calls so that a step allocates nothing.
    candidates: Vec<(f32, u32)>,
}

impl Sampler {
    /// A sampler.
    ///
    /// # Errors
    /// If an option makes no sense.
    pub fn new(options: Sampling) -> Result<Sampler, Error> {
        options.validate()?;
        let seed = options.seed.unwrap_or_else(clock_seed);
        Ok(Sampler { options, seed, rng: ChaCha8Rng::seed_from_u64(seed), candidates: Vec::new() })
    }

    /// The seed in use.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The next token for `logits`, `[vocab]`, after `previous`.
    ///
    /// # Errors
    /// If a logit is not a number.
    pub fn sample(&mut self, logits: &[f32], previous: &[u32]) -> Result<u32, Error> {
        if logits.iter().any(|logit| logit.is_nan()) {
            return Err(Error::NotANumber);
        }
        let candidates = &mut self.candidates;
        candidates.clear();
        candidates.extend(logits.iter().zip(0..).map(|(&logit, id)| (logit, id)));
        penalize(candidates, previous, &self.options);
        if self.options.temperature == 0.0 {
            let best = candidates.iter().min_by(|a, b| by_logit(a, b)).map_or(0, |&(_, id)| id);
            return Ok(best);
        }
        candidates.iter_mut().for_each(|(logit, _)| *logit /= self.options.temperature);
        keep_best(candidates, self.options.top_k);
        let kept = nucleus(candidates, self.options.top_p, self.options.min_p);
        Ok(draw(&candidates[..kept], uniform(&mut self.rng)))
    }
}

/// A seed that differs from run to run.
fn clock_seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    // A clock before 1970 only makes the seed less random.
    now.map_or(0, |d| d.as_nanos() as u64)
}

/// The better candidate first; ties by token id.
fn by_logit(a: &(f32, u32), b: &(f32, u32)) -> std::cmp::Ordering {
    b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
}

/// Uniform in [0, 1), 53 bits.
fn uniform(rng: &mut ChaCha8Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
}

/// Makes recent tokens less likely, each once.
fn penalize(candidates: &mut [(f32, u32)], previous: &[u32], options: &Sampling) {
    if options.repeat_penalty == 1.0 {
        return;
    }
    let recent = &previous[previous.len().saturating_sub(options.repeat_last_n)..];
    for (i, &id) in recent.iter().enumerate() {
        if recent[..i].contains(&id) {
            continue;
        }
        if let Some((logit, _)) = candidates.get_mut(id as usize) {
            *logit = if *logit > 0.0 { *logit / options.repeat_penalty } else { *logit * options.repeat_penalty };
        }
    }
}

/// Keeps the `k` best candidates, in any order; all if `k` is 0.
fn keep_best(candidates: &mut Vec<(f32, u32)>, k: usize) {
    if k > 0 && k < candidates.len() {
        candidates.select_nth_unstable_by(k - 1, by_logit);
        candidates.truncate(k);
    }
}

/// Turns logits into weights (exp of the distance to the best) and puts the candidates that top-p and min-p keep in
/// front, the best first; returns how many they are.
fn nucleus(candidates: &mut [(f32, u32)], top_p: f32, min_p: f32) -> usize {
    let best = candidates.iter().map(|c| c.0).fold(f32::NEG_INFINITY, f32::max);
    candidates.iter_mut().for_each(|(logit, _)| *logit = if *logit == best { 1.0 } else { exp(*logit - best) });
    if top_p >= 1.0 && min_p <= 0.0 {
        candidates.sort_unstable_by(by_logit);
        return candidates.len();
    }
    // Summed in the order of the ids, which no partial sort has touched yet unless top-k has cut the list short.
    candidates.sort_unstable_by_key(|c| c.1);
    let total: f64 = candidates.iter().map(|c| f64::from(c.0)).sum();
    candidates.sort_unstable_by(by_logit);
    let mut sum = 0.0;
    let mut kept = 0;
    for &(weight, _) in candidates.iter() {
        if kept > 0 && (sum >= f64::from(top_p) * total || weight < min_p) {
            break;
        }
        sum += f64::from(weight);
        kept += 1;
    }
    kept
}

/// The candidate at `point` (0..1) of the summed weights.
fn draw(candidates: &[(f32, u32)], point: f64) -> u32 {
    let total: f64 = candidates.iter().map(|c| f64::from(c.0)).sum();
    let mut rest = point * total;
    for &(weight, id) in candidates {
        rest -= f64::from(weight);
        if rest < 0.0 {
            return id;
        }
    }
    candidates.last().map_or(0, |c| c.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(options: Sampling) -> Sampler {
        Sampler::new(Sampling { seed: Some(7), ..options }).expect("valid options")
    }

    fn counts(options: Sampling, logits: &[f32], previous: &[u32]) -> Vec<usize> {
        let mut sampler = sampler(options);
        let mut counts = vec![0; logits.len()];
        for _ in 0..20_000 {
            counts[sampler.sample(logits, previous).expect("finite") as usize] += 1;
        }
        counts
    }

    #[test]
    fn greedy_takes_the_first_of_the_best() {
        let mut greedy = sampler(Sampling::default());
        assert_eq!(greedy.sample(&[1.0, 3.0, 3.0, 2.0], &[]).expect("finite"), 1);
        assert!(matches!(greedy.sample(&[1.0, f32::NAN], &[]), Err(Error::NotANumber)));
    }

    #[test]
    fn frequencies_follow_the_softmax() {
        let logits = [0.0, 1.0, 2.0, -1.0f32];
        let counts = counts(Sampling { temperature: 2.0, ..Sampling::default() }, &logits, &[]);
        let weights: Vec<f64> = logits.iter().map(|&l| f64::from(l / 2.0).exp()).collect();
        for (count, weight) in counts.iter().zip(&weights) {
            let expected = 20_000.0 * weight / weights.iter().sum::<f64>();
            assert!((*count as f64 - expected).abs() < 5.0 * expected.sqrt(), "{counts:?}");
        }
    }

    #[test]
    fn the_filters_keep_what_they_say() {
        let logits: Vec<f32> = [0.1f32, 0.4, 0.2, 0.3].iter().map(|p| p.ln()).collect();
        let kept = |options: Sampling| -> Vec<bool> {
            counts(Sampling { temperature: 1.0, ..options }, &logits, &[]).iter().map(|&c| c > 0).collect()
        };
        assert_eq!(kept(Sampling { top_k: 2, ..Sampling::default() }), [false, true, false, true]);
        assert_eq!(kept(Sampling { top_p: 0.75, ..Sampling::default() }), [false, true, true, true]);
        assert_eq!(kept(Sampling { top_p: 0.05, ..Sampling::default() }), [false, true, false, false]);
        assert_eq!(kept(Sampling { min_p: 0.6, ..Sampling::default() }), [false, true, false, true]);
        assert_eq!(kept(Sampling::default()), [true; 4]);
    }

    #[test]
    fn the_penalty_looks_at_recent_tokens_only() {
        let options = Sampling { repeat_penalty: 4.0, repeat_last_n: 2, ..Sampling::default() };
        let mut greedy = sampler(options);
        assert_eq!(greedy.sample(&[2.0, 3.0, -1.0], &[1, 1]).expect("finite"), 0);
        assert_eq!(greedy.sample(&[2.0, 3.0, -1.0], &[1, 2, 2]).expect("finite"), 1);
        assert_eq!(greedy.sample(&[-2.0, -1.0], &[1]).expect("finite"), 0);
    }

    #[test]
    fn a_seed_repeats_its_draws() {
        let options = Sampling { temperature: 1.0, ..Sampling::default() };
        let logits: Vec<f32> = (0..100).map(|i| (i % 7) as f32).collect();
        let mut draws = [options.clone(), options].map(|o| {
            let mut sampler = sampler(o);
            (0..50).map(|_| sampler.sample(&logits, &[]).expect("finite")).collect::<Vec<_>>()
        });
        assert_eq!(std::mem::take(&mut draws[0]), draws[1]);
    }

    #[test]
    fn senseless_options_are_named() {
        for options in [
            Sampling { temperature: -1.0, ..Sampling::default() },
            Sampling { top_p: 0.0, ..Sampling::default() },
            Sampling { min_p: 2.0, ..Sampling::default() },
            Sampling { repeat_penalty: f32::NAN, ..Sampling::default() },
        ] {
            assert!(Sampler::new(options).is_err());
        }
    }
}
