//! Fields that say how an answer is chosen, common to several kinds of request.

use std::collections::BTreeMap;

use serde::Deserialize;
use utoipa::ToSchema;

use super::error::ApiError;
use crate::{GenerateOptions, Model, Sampling};

/// How tokens are chosen. What is not given is as the model recommends.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
pub(super) struct SamplingParams {
    /// Randomness, from 0 to 2; 0 always takes the most probable token
    #[schema(minimum = 0, maximum = 2)]
    temperature: Option<f32>,
    /// Only the most probable tokens that reach this together
    #[schema(minimum = 0, maximum = 1)]
    top_p: Option<f32>,
    /// Only so many of the most probable tokens; 0 for all
    top_k: Option<u32>,
    /// Only tokens at least so many times as probable as the best
    #[schema(minimum = 0, maximum = 1)]
    min_p: Option<f32>,
    /// Divides the logits of recent tokens; 1 for not
    #[serde(alias = "repeat_penalty")]
    repetition_penalty: Option<f32>,
    /// Subtracted from the logits of tokens that the answer has
    #[schema(minimum = -2, maximum = 2)]
    presence_penalty: Option<f32>,
    /// Subtracted from the logit of a token for each time that the answer has it
    #[schema(minimum = -2, maximum = 2)]
    frequency_penalty: Option<f32>,
    /// Added to the logits of tokens, from -100 to 100, by token id
    logit_bias: Option<BTreeMap<String, f32>>,
    /// The same seed gives the same answer
    seed: Option<i64>,
    /// Text that ends the answer and is not part of it
    stop: Option<Stop>,
    /// Go on after the end of the text
    ignore_eos: Option<bool>,
}

/// One text or several.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected a string or an array of strings")]
pub(super) enum Stop {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

/// No request has a use for more.
const MAX_STOPS: usize = 16;
const MAX_STOP_BYTES: usize = 1024;

impl SamplingParams {
    /// As options for an answer of `model` of at most `max_tokens` tokens.
    ///
    /// # Errors
    /// If a value is out of its range: the error names the field.
    pub(super) fn options(&self, model: &Model, max_tokens: Option<usize>) -> Result<GenerateOptions, ApiError> {
        check("temperature", self.temperature, 0.0, 2.0)?;
        check("top_p", self.top_p, 0.0, 1.0)?;
        check("min_p", self.min_p, 0.0, 1.0)?;
        check("presence_penalty", self.presence_penalty, -2.0, 2.0)?;
        check("frequency_penalty", self.frequency_penalty, -2.0, 2.0)?;
        if let Some(penalty) = self.repetition_penalty.filter(|&penalty| !(penalty > 0.0 && penalty <= 100.0)) {
            let message = format!("repetition_penalty is {penalty}, expected a number above 0 and at most 100");
            return Err(ApiError::bad_field("repetition_penalty", message));
        }
        let default = model.default_sampling();
        let top_p = self.top_p.unwrap_or(default.top_p);
        Ok(GenerateOptions {
            max_tokens,
            sampling: Sampling {
                temperature: self.temperature.unwrap_or(default.temperature),
                // Of nothing, the best token is left.
                top_k: if top_p == 0.0 { 1 } else { self.top_k.map_or(default.top_k, |k| k as usize) },
                top_p: if top_p == 0.0 { 1.0 } else { top_p },
                min_p: self.min_p.unwrap_or(default.min_p),
                repeat_penalty: self.repetition_penalty.unwrap_or(default.repeat_penalty),
                repeat_last_n: default.repeat_last_n,
                presence_penalty: self.presence_penalty.unwrap_or(0.0),
                frequency_penalty: self.frequency_penalty.unwrap_or(0.0),
                logit_bias: self.biases(model)?,
                seed: self.seed.map(|seed| seed as u64).or(default.seed),
            },
            stop: self.stops()?,
            ignore_eos: self.ignore_eos.unwrap_or(false),
        })
    }

    fn biases(&self, model: &Model) -> Result<Vec<(u32, f32)>, ApiError> {
        let vocab = model.config().vocab_size;
        let biases = self.logit_bias.iter().flatten().map(|(token, &bias)| {
            let id = token.parse().ok().filter(|&id: &u32| (id as usize) < vocab).ok_or_else(|| {
                let message = format!("logit_bias: {token:?} is not a token id below {vocab}");
                ApiError::bad_field("logit_bias", message)
            })?;
            check("logit_bias", Some(bias), -100.0, 100.0)?;
            Ok((id, bias))
        });
        biases.collect()
    }

    fn stops(&self) -> Result<Vec<String>, ApiError> {
        let stops = match &self.stop {
            None => Vec::new(),
            Some(Stop::One(stop)) => vec![stop.clone()],
            Some(Stop::Many(stops)) => stops.clone(),
        };
        if stops.len() > MAX_STOPS || stops.iter().any(|stop| stop.len() > MAX_STOP_BYTES) {
            let message = format!("stop: at most {MAX_STOPS} texts of at most {MAX_STOP_BYTES} bytes are accepted");
            return Err(ApiError::bad_field("stop", message));
        }
        Ok(stops)
    }

    /// These, with texts that end the answer.
    pub(super) fn with_stop(self, stop: Option<Vec<String>>) -> SamplingParams {
        SamplingParams { stop: stop.map(Stop::Many).or(self.stop), ..self }
    }

    /// These, with the seed of the answer numbered `index` of several.
    pub(super) fn for_choice(options: &GenerateOptions, index: usize) -> GenerateOptions {
        let mut options = options.clone();
        options.sampling.seed = options.sampling.seed.map(|seed| seed.wrapping_add(index as u64));
        options
    }
}

/// Refuses a value that is out of its range.
fn check(field: &str, value: Option<f32>, least: f32, most: f32) -> Result<(), ApiError> {
    match value.filter(|value| !(*value >= least && *value <= most)) {
        Some(value) => {
            Err(ApiError::bad_field(field, format!("{field} is {value}, expected a number from {least} to {most}")))
        }
        None => Ok(()),
    }
}

/// How many answers a request may have.
pub(super) const MAX_CHOICES: u32 = 16;

/// The number of answers that are asked for.
///
/// # Errors
/// If it is 0 or too large.
pub(super) fn choices(n: Option<u32>) -> Result<usize, ApiError> {
    let n = n.unwrap_or(1);
    if (1..=MAX_CHOICES).contains(&n) {
        return Ok(n as usize);
    }
    Err(ApiError::bad_field("n", format!("n is {n}, expected a number from 1 to {MAX_CHOICES}")))
}

/// The most tokens of an answer, from the field `name`.
///
/// # Errors
/// If it is 0.
pub(super) fn max_tokens(name: &str, value: Option<u32>) -> Result<Option<usize>, ApiError> {
    match value {
        Some(0) => Err(ApiError::bad_field(name, format!("{name} is 0, expected a positive number"))),
        value => Ok(value.map(|tokens| tokens as usize)),
    }
}
