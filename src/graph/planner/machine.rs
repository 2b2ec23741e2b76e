//! The numbers that a plan is made from.

use serde::{Deserialize, Serialize};

/// Seconds that a token takes in each phase.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Seconds {
    /// A token of a prompt, computed together with a chunk of others.
    pub prefill: f64,
    /// A generated token.
    pub decode: f64,
}

/// How numbers reach a device and come back from it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Link {
    /// Seconds that a transfer takes however small it is, what it costs to hand over work and to wait for it included.
    pub latency: f64,
    /// Bytes in a second beyond that.
    pub bytes_per_second: f64,
}

impl Link {
    /// That of a device which works in the machine's own memory.
    pub const NONE: Link = Link { latency: 0.0, bytes_per_second: f64::INFINITY };

    /// Seconds for a transfer.
    pub fn seconds(&self, bytes: f64) -> f64 {
        self.latency + bytes / self.bytes_per_second
    }
}

/// What a layer takes on a device.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LayerFacts {
    /// Bytes of its weights.
    pub weights: u64,
    /// Bytes of its part of the key-value cache, for all positions.
    pub cache: u64,
    /// Time of a token.
    pub seconds: Seconds,
}

/// A device, with this model in mind.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceFacts {
    /// Its name in placements.
    pub name: String,
    /// Bytes that the model may take there; `None` where that is not known.
    pub budget: Option<u64>,
    /// Whether that is of the machine's memory, which it shares with others.
    pub shares_memory: bool,
    /// What each layer would take.
    pub layers: Vec<LayerFacts>,
    /// Bytes of the buffers between kernels, for each stage.
    pub stage_bytes: u64,
    /// Bytes that are counted twice if one stage holds all layers: embedding and head may be one matrix.
    pub shared_bytes: u64,
    /// The way to the machine's memory, where hidden states are between stages.
    pub link: Link,
}

/// The devices, and what passes between them.
#[derive(Clone, Debug, PartialEq)]
pub struct Machine {
    /// The devices; where times are equal, those that come first are preferred.
    pub devices: Vec<DeviceFacts>,
    /// Bytes that all devices which share the machine's memory may take together; `None` where that is not known.
    pub memory: Option<u64>,
    /// Bytes of the hidden state of a token.
    pub hidden_bytes: u64,
    /// Positions of the key-value cache.
    pub positions: u64,
    /// Tokens of a prompt that are computed together.
    pub chunk: usize,
}

impl Machine {
    /// Number of layers.
    pub fn layers(&self) -> usize {
        self.devices.first().map_or(0, |device| device.layers.len())
    }

    /// What it costs a token that the hidden state leaves `from` and enters `to`: between two stages of one device too.
    pub fn crossing(&self, from: usize, to: usize) -> Seconds {
        let (hidden, chunk) = (self.hidden_bytes as f64, self.chunk.max(1) as f64);
        let both = |bytes: f64| self.devices[from].link.seconds(bytes) + self.devices[to].link.seconds(bytes);
        Seconds { prefill: both(hidden * chunk) / chunk, decode: both(hidden) }
    }

    /// What it costs to hand the keys and values of one position of a layer from one device to another.
    pub fn handover(&self, layer: usize, from: usize, to: usize) -> f64 {
        let cache = self.devices[from].layers[layer].cache as f64 / self.positions.max(1) as f64;
        let way = |device: usize| cache / self.devices[device].link.bytes_per_second;
        way(from) + way(to)
    }
}

/// What is typically asked of the model: the weights of the two phases.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Workload {
    /// Tokens of a prompt.
    pub prompt: usize,
    /// Tokens of the answer.
    pub generated: usize,
}

impl Default for Workload {
    fn default() -> Workload {
        Workload { prompt: 512, generated: 128 }
    }
}

impl Workload {
    /// Seconds of such a request.
    pub fn seconds(&self, token: Seconds) -> f64 {
        self.prompt as f64 * token.prefill + self.generated as f64 * token.decode
    }

    /// Positions that a generated token sees, on average.
    pub fn depth(&self) -> f64 {
        self.prompt as f64 + self.generated as f64 / 2.0
    }
}

/// The text is no workload.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no workload: write PROMPT:ANSWER in tokens, such as 512:128, not both 0")]
pub struct BadWorkload(String);

impl std::str::FromStr for Workload {
    type Err = BadWorkload;

    /// `512:128`: tokens of the prompt and of the answer.
    fn from_str(text: &str) -> Result<Workload, BadWorkload> {
        let number = |text: &str| text.trim().parse::<usize>().ok().filter(|&n| n <= 1 << 24);
        let parsed = text
            .split_once(':')
            .and_then(|(prompt, generated)| Some(Workload { prompt: number(prompt)?, generated: number(generated)? }));
        parsed.filter(|w| w.prompt + w.generated > 0).ok_or_else(|| BadWorkload(text.to_owned()))
    }
}

impl std::fmt::Display for Workload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.prompt, self.generated)
    }
}
