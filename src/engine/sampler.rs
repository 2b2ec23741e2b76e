//! From logits to a token: penalties and biases (`adjustments`), temperature, top-k, top-p, min-p, draw.
//!
//! The order is that of Hugging Face's generation. Ties go to the lower token id, and the exponential is the canonical
//! one of `sterna-cpu`, so that a seed gives the same text on every machine.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use sterna_cpu::math::exp;

use super::Error;
use super::adjustments::Adjustments;
use crate::backend::{Best, Candidates, Logits, LogitsFor};
use crate::graph::Output;

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
    /// Subtracted from the logits of tokens that the answer has already, as OpenAI's API defines it.
    pub presence_penalty: f32,
    /// Subtracted from the logit of a token once for each time that the answer has it already.
    pub frequency_penalty: f32,
    /// Added to the logits of tokens.
    pub logit_bias: Vec<(u32, f32)>,
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
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
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
        for (option, penalty) in
            [("presence_penalty", self.presence_penalty), ("frequency_penalty", self.frequency_penalty)]
        {
            if !penalty.is_finite() {
                return bad(option, penalty, "a number");
            }
        }
        if let Some((_, bias)) = self.logit_bias.iter().find(|(_, bias)| !bias.is_finite()) {
            return bad("logit_bias", *bias, "numbers");
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
    adjustments: Adjustments,
}

impl Sampler {
    /// A sampler.
    ///
    /// # Errors
    /// If an option makes no sense.
    pub fn new(options: Sampling) -> Result<Sampler, Error> {
        options.validate()?;
        let seed = options.seed.unwrap_or_else(clock_seed);
        let adjustments = Adjustments::default();
        Ok(Sampler { options, seed, rng: ChaCha8Rng::seed_from_u64(seed), candidates: Vec::new(), adjustments })
    }

    /// Tells that the first `len` tokens are the prompt, which presence and frequency do not count.
    pub fn set_prompt_len(&mut self, len: usize) {
        self.adjustments.set_prompt_len(len);
    }

    /// The seed in use.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// What a choice after `previous` needs to know. `adjusted` is memory for the tokens whose logits are adjusted.
    pub fn wanted<'a>(&mut self, previous: &[u32], adjusted: &'a mut Vec<u32>) -> LogitsFor<'a> {
        let Sampling { temperature, top_k, top_p, min_p, .. } = self.options;
        self.adjustments.tokens(&self.options, previous, adjusted);
        let best = Best { count: 1, margin: 0.0, also: adjusted, temperature: None };
        LogitsFor::Best(match (temperature, top_k) {
            (0.0, _) => best,
            (_, 0) if top_p >= 1.0 && min_p <= 0.0 => return LogitsFor::Last,
            // A weight of min_p is this far from the best; a little more for the rounding of the exponential.
            (_, 0) => Best {
                margin: if min_p > 0.0 { temperature * (1e-5 - min_p.ln() * 1.000_01) } else { 0.0 },
                temperature: (top_p < 1.0).then_some(temperature),
                ..best
            },
            (_, count) => Best { count, ..best },
        })
    }

    /// The next token after `previous`, from what [`Sampler::wanted`] asked for; from all logits if that is not enough.
    ///
    /// # Errors
    /// If a logit is not a number, or a backend fails.
    pub fn choose(&mut self, output: &mut Output<'_>, previous: &[u32]) -> Result<u32, Error> {
        if let Logits::Best(candidates) = output.logits()
            && let Some(id) = self.sample_among(candidates, previous)?
        {
            return Ok(id);
        }
        self.sample(output.all()?, previous)
    }

    /// The next token for `logits`, `[vocab]`, after `previous`.
    ///
    /// # Errors
    /// If a logit is not a number.
    pub fn sample(&mut self, logits: &[f32], previous: &[u32]) -> Result<u32, Error> {
        self.candidates.clear();
        self.candidates.extend(logits.iter().zip(0..).map(|(&logit, id)| (logit, id)));
        let choice = self.choose_from(previous, None)?;
        // With no others there is nothing to be uncertain of; an empty vocabulary has no token but 0.
        Ok(choice.unwrap_or(0))
    }

    /// The token that [`Sampler::sample`] would choose, if `candidates` are enough to tell.
    ///
    /// # Errors
    /// If a logit is not a number.
    pub fn sample_among(&mut self, candidates: &Candidates, previous: &[u32]) -> Result<Option<u32>, Error> {
        self.candidates.clear();
        self.candidates.extend(candidates.logits.iter().copied().zip(candidates.ids.iter().copied()));
        self.choose_from(previous, Some(Others { logit: candidates.rest, mass: candidates.mass }))
    }

    /// Chooses among the candidates, in the order of their ids; `None` where `others` may have a say.
    fn choose_from(&mut self, previous: &[u32], others: Option<Others>) -> Result<Option<u32>, Error> {
        let Sampling { temperature, top_k, top_p, min_p, .. } = self.options;
        let candidates = &mut self.candidates;
        if candidates.iter().any(|(logit, _)| logit.is_nan()) {
            return Err(Error::NotANumber);
        }
        self.adjustments.apply(&self.options, previous, candidates);
        if temperature == 0.0 {
            let best = candidates.iter().min_by(|a, b| by_logit(a, b));
            return Ok(best.filter(|best| others.is_none_or(|others| best.0 > others.logit)).map(|&(_, id)| id));
        }
        candidates.iter_mut().for_each(|(logit, _)| *logit /= temperature);
        let mut others = others.map(|others| Others { logit: others.logit / temperature, ..others });
        if top_k > 0 {
            keep_best(candidates, top_k);
            let worst = candidates.iter().map(|c| c.0).fold(f32::INFINITY, f32::min);
            if others.is_some_and(|others| candidates.len() < top_k || worst <= others.logit) {
                return Ok(None);
            }
            others = None;
        }
        let Some(kept) = nucleus(candidates, top_p, min_p, others) else { return Ok(None) };
        Ok(Some(draw(&candidates[..kept], uniform(&mut self.rng))))
    }
}

/// What is known of the tokens that are not among the candidates.
#[derive(Clone, Copy, Debug)]
struct Others {
    /// Their logits are below this.
    logit: f32,
    /// Bounds of what their weights add up to, relative to that of `logit`.
    mass: Option<(f64, f64)>,
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

/// Keeps the `k` best candidates, in any order; all if `k` is 0.
fn keep_best(candidates: &mut Vec<(f32, u32)>, k: usize) {
    if k > 0 && k < candidates.len() {
        candidates.select_nth_unstable_by(k - 1, by_logit);
        candidates.truncate(k);
    }
}

/// Turns logits into weights (exp of the distance to the best) and puts the candidates that top-p and min-p keep in
/// front, the best first; returns how many they are, or `None` if that depends on `others`.
fn nucleus(candidates: &mut [(f32, u32)], top_p: f32, min_p: f32, others: Option<Others>) -> Option<usize> {
    let best = candidates.iter().map(|c| c.0).fold(f32::NEG_INFINITY, f32::max);
    candidates.iter_mut().for_each(|(logit, _)| *logit = if *logit == best { 1.0 } else { exp(*logit - best) });
    // Summed in the order of the ids, which no partial sort has touched yet unless top-k has cut the list short.
    candidates.sort_unstable_by_key(|c| c.1);
    let total: f64 = candidates.iter().map(|c| f64::from(c.0)).sum();
    candidates.sort_unstable_by(by_logit);
    if top_p >= 1.0 && min_p <= 0.0 {
        return others.is_none().then_some(candidates.len());
    }
    // The canonical exponential is right to 2e-7: no other weight is above this.
    let limit = others.map_or(0.0, |others| exp(others.logit - best) * 1.000_001);
    let (least, most) = match others {
        Some(others) if top_p < 1.0 => total_with(total, best, others)?,
        _ => (total, total),
    };
    let (mut sum, mut kept, mut full) = (0.0, 0, false);
    for &(weight, _) in candidates.iter() {
        if kept > 0 && top_p < 1.0 {
            full = sum >= f64::from(top_p) * most;
            if !full && sum >= f64::from(top_p) * least {
                return None;
            }
        }
        if full || (kept > 0 && weight < min_p) {
            break;
        }
        sum += f64::from(weight);
        kept += 1;
    }
    let certain = others.is_none() || (kept > 0 && candidates[kept - 1].0 > limit && (full || limit < min_p));
    certain.then_some(kept)
}

/// Bounds of the sum of all weights, `total` being that of the candidates; `None` if little is certain.
fn total_with(total: f64, best: f32, others: Others) -> Option<(f64, f64)> {
    let (least, most) = others.mass?;
    // How far logits that large may have been rounded when the temperature divided them, with room to spare. Those more
    // than 100 below the best weigh nothing.
    let rounding = (f64::from(best.abs()) + 100.0) * 2f64.powi(-20);
    let unit = f64::from(others.logit - best).exp();
    // The last factors are for the order of the summation.
    let least = (total + least * unit * (1.0 - rounding)) * (1.0 - 1e-9);
    let most = (total + most * unit * (1.0 + rounding)) * (1.0 + 1e-9);
    (rounding < 0.25).then_some((least, most))
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
    use proptest::prelude::*;

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

    /// What a stage may answer: some rows exactly, the others bounded.
    fn candidates(logits: &[f32], floor: f32, also: &[u32], temperature: f32, width: f64) -> Candidates {
        let is_known = |id: u32, logit: f32| logit >= floor || also.contains(&id);
        let ids: Vec<u32> = (0..).zip(logits).filter(|&(id, &logit)| is_known(id, logit)).map(|(id, _)| id).collect();
        let weight = |&(_, &logit): &(u32, &f32)| (f64::from(logit - floor) / f64::from(temperature)).exp();
        let mass: f64 = (0..).zip(logits).filter(|&(id, &logit)| !is_known(id, logit)).map(|pair| weight(&pair)).sum();
        Candidates {
            logits: ids.iter().map(|&id| logits[id as usize]).collect(),
            ids,
            rest: floor,
            mass: Some((mass * (1.0 - width), mass * (1.0 + width))),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(3000))]
        #[test]
        fn a_choice_among_candidates_is_the_choice_among_all(
            logits in prop::collection::vec(prop_oneof![4 => -8.0f32..8.0, 1 => Just(3.0f32), 1 => Just(-0.0f32)], 1..200),
            floor in -8.0f32..8.0,
            temperature in prop::sample::select(vec![0.0f32, 1e-30, 0.1, 0.7, 1.0, 3.0, 1e30]),
            top_k in prop::sample::select(vec![0usize, 1, 3, 10]),
            top_p in prop::sample::select(vec![0.1f32, 0.5, 0.9, 0.999, 1.0]),
            min_p in prop::sample::select(vec![0.0f32, 1e-3, 0.05, 0.5]),
            repeat_penalty in prop::sample::select(vec![1.0f32, 1.2, 0.8]),
            previous in prop::collection::vec(0u32..200, 0..6),
            width in prop::sample::select(vec![1e-3, 0.5]),
            seed: u64,
        ) {
            let options =
                Sampling { temperature, top_k, top_p, min_p, repeat_penalty, seed: Some(seed), ..Sampling::default() };
            let mut sampler = Sampler::new(options).expect("valid options");
            let also: &[u32] = if repeat_penalty == 1.0 { &[] } else { &previous };
            let candidates = candidates(&logits, floor, also, temperature, width);
            let choice = sampler.clone().sample_among(&candidates, &previous).expect("finite");
            let want = sampler.sample(&logits, &previous).expect("finite");
            prop_assert!(choice.is_none_or(|id| id == want), "{choice:?} instead of {want}");
        }
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
