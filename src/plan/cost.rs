//! What a block costs on a device.

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sterna_cpu::machine;

use crate::backend::cpu::CpuBackend;
use crate::backend::{Backend, KvOptions};
use crate::graph::Graph;
use crate::graph::planner::{Link, Seconds};
use crate::size;

/// What a block costs on a device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BlockCost {
    /// The device, as [`Backend::description`] has it.
    pub device: String,
    /// The shape of the block and its cache, as [`shape_of`] has it.
    pub shape: String,
    /// Bytes of its weights there.
    pub bytes: u64,
    /// Time of a token.
    pub block: Seconds,
    /// The way to the machine's memory; absent where the device works in it.
    pub link: Option<Link>,
}

/// Where a cost comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CostSource {
    /// Some blocks were run on the device.
    Measured,
    /// The bytes at the measured bandwidth of memory, and the multiply-adds at the measured rate: no device is faster.
    Bounds,
    /// The user's figures of a device.
    Assumed,
}

impl CostSource {
    /// For people.
    pub const fn text(self) -> &'static str {
        match self {
            CostSource::Measured => "measured with some blocks of the model",
            CostSource::Bounds => "the least: bytes at the measured bandwidth, prompts at the measured int8 rate",
            CostSource::Assumed => "from the figures that were given",
        }
    }
}

/// What tells blocks of different cost apart.
pub fn shape_of(graph: &Graph, kv: KvOptions) -> String {
    let c = graph.config();
    // More passes over the activations.
    let has_more = graph.blocks().first().is_some_and(|block| block.has_rows_beside_hidden(c));
    format!(
        "{}x{}, {} heads of {}, {} of keys, {}{}, cache {}",
        c.hidden_size,
        c.intermediate_size,
        c.num_heads,
        c.head_dim,
        c.num_kv_heads,
        c.gate.name(),
        if has_more { ", norms of its own" } else { "" },
        kv.kind.name()
    )
}

/// Multiply-adds of a block for a token.
fn block_macs(graph: &Graph) -> f64 {
    graph.blocks().first().map_or(0.0, |block| block.linears().map(|l| (l.rows * l.cols) as f64).sum())
}

/// The least that a block can cost on the CPU: its bytes at the bandwidth of memory for a generated token, its multiply-adds
/// at the rate of the instruction set for a prompt. Both are measured now, which takes a fraction of a second.
///
/// # Errors
/// If the file lacks a tensor.
pub fn cpu_bounds(cpu: &CpuBackend, graph: &Graph, kv: KvOptions) -> Result<BlockCost, crate::backend::BackendError> {
    let bytes = if graph.is_empty() { 0 } else { cpu.needs(graph, 1..2, kv)?.weights };
    let decode = bytes as f64 / (1e9 * machine::read_gbps(cpu.pool(), cpu.isa()));
    // Without such instructions a token of a prompt takes no less than any other.
    let prefill = machine::int8_gmacs(cpu.pool(), cpu.isa()).map_or(decode, |rate| block_macs(graph) / (1e9 * rate));
    let (device, shape) = (cpu.description(), shape_of(graph, kv));
    Ok(BlockCost { device, shape, bytes, block: Seconds { prefill, decode }, link: None })
}

/// A device that is not there, to see what it would be good for: `gpu=24G:936:90` is one of 24 GiB that reads 936 GB/s and
/// does 90 · 10¹² int8 multiply-adds per second.
#[derive(Clone, Debug, PartialEq)]
pub struct AssumedDevice {
    /// Its name in placements.
    pub name: String,
    /// Bytes of its memory.
    pub memory: u64,
    /// 10⁹ bytes per second.
    pub read_gbps: f64,
    /// 10¹² multiply-adds per second.
    pub int8_tmacs: f64,
}

impl AssumedDevice {
    /// What a transfer is taken to cost: that of a PCIe 4 slot of 8 lanes, and of handing over work to a driver.
    pub const LINK: Link = Link { latency: 25e-6, bytes_per_second: 12e9 };

    /// What a block of `bytes` costs there.
    pub(super) fn cost(&self, graph: &Graph, kv: KvOptions, bytes: u64) -> BlockCost {
        let block = Seconds {
            prefill: block_macs(graph) / (1e12 * self.int8_tmacs),
            decode: bytes as f64 / (1e9 * self.read_gbps),
        };
        BlockCost { device: self.to_string(), shape: shape_of(graph, kv), bytes, block, link: Some(Self::LINK) }
    }
}

impl std::fmt::Display for AssumedDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let AssumedDevice { memory, read_gbps, int8_tmacs, .. } = self;
        write!(f, "assumed: {}, {read_gbps} GB/s, {int8_tmacs} T int8 multiply-adds/s", size::text(*memory))
    }
}

/// The text is no device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no device such as gpu=24G:936:90 (name, memory, GB/s, 10^12 int8 multiply-adds/s)")]
pub struct BadDevice(String);

impl FromStr for AssumedDevice {
    type Err = BadDevice;

    fn from_str(text: &str) -> Result<AssumedDevice, BadDevice> {
        let read = || {
            let (name, figures) = text.rsplit_once('=')?;
            let mut figures = figures.split(':');
            let memory = size::parse(figures.next()?).ok()?;
            let mut number = || figures.next()?.parse::<f64>().ok().filter(|x| x.is_finite() && *x > 0.0);
            let (read_gbps, int8_tmacs) = (number()?, number()?);
            let device = AssumedDevice { name: name.to_owned(), memory, read_gbps, int8_tmacs };
            (figures.next().is_none() && !name.is_empty() && name != "cpu").then_some(device)
        };
        read().ok_or_else(|| BadDevice(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assumed_devices_are_read() {
        let device: AssumedDevice = "gpu=0=24G:936:90".parse().expect("a device");
        assert_eq!((device.name.as_str(), device.memory, device.read_gbps), ("gpu=0", 24 << 30, 936.0));
        for text in ["", "gpu", "gpu=24G", "gpu=24G:936", "gpu=x:1:1", "gpu=1G:-1:1", "gpu=1G:1:1:1", "cpu=1G:1:1"] {
            assert!(text.parse::<AssumedDevice>().is_err(), "{text:?}");
        }
    }
}
