//! Which backend serves which layer, as the options say it.

use std::sync::Arc;

use super::{backends, planned};
use crate::backend::cpu::CpuBackend;
use crate::backend::{Backend, Device, KvOptions};
use crate::engine::{Error, OpenOptions};
use crate::graph::{Graph, Placement, Share, shares};

/// What the options ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// What is fastest.
    Auto,
    /// These placements for prompts and for generated tokens, as [`Placement::parse`] reads them.
    Placements([String; 2]),
    /// So many layers on the GPU of this name.
    Layers(usize),
}

impl Wanted {
    pub(super) fn of(options: &OpenOptions) -> Wanted {
        let base = match (&options.placement, &options.device) {
            (Some(text), _) => text.as_str(),
            (None, Device::Cpu) => "cpu",
            (None, Device::Gpu(_)) => "gpu",
            (None, Device::Auto(_)) => "auto",
        };
        let (prefill, decode) = (&options.placement_prefill, &options.placement_decode);
        if options.placement.is_none() && prefill.is_none() && decode.is_none() {
            if let Some(layers) = options.gpu_layers {
                return Wanted::Layers(layers);
            }
        }
        // A phase that is not said is as without the other.
        let of_phase = |text: &Option<String>| text.clone().unwrap_or_else(|| base.to_owned());
        let texts = [of_phase(prefill), of_phase(decode)];
        if texts.iter().all(|text| text == "auto") { Wanted::Auto } else { Wanted::Placements(texts) }
    }
}

/// The backends and what each serves.
pub(super) struct Choice {
    pub(super) prefill: Placement,
    pub(super) decode: Placement,
    pub(super) backends: Vec<Arc<dyn Backend>>,
}

impl Choice {
    /// Everything on the CPU.
    pub(super) fn cpu(graph: &Graph, cpu: &Arc<CpuBackend>) -> Choice {
        let placement = Placement::single("cpu", graph.len());
        Choice { prefill: placement.clone(), decode: placement, backends: vec![Arc::clone(cpu) as Arc<dyn Backend>] }
    }

    pub(super) fn is_cpu(&self) -> bool {
        [&self.prefill, &self.decode].iter().all(|placement| placement.backends() == ["cpu"])
    }

    /// What computes, for people: GPUs first.
    pub(super) fn description(&self) -> String {
        let (cpu, gpus): (Vec<_>, Vec<_>) = self.backends.iter().partition(|backend| backend.name() == "cpu");
        let used =
            |backend: &&&Arc<dyn Backend>| self.prefill.names(backend.name()) || self.decode.names(backend.name());
        let described: Vec<_> = gpus.iter().chain(&cpu).filter(used).map(|backend| backend.description()).collect();
        described.join("; ")
    }

    /// Which backend serves which layer, for people.
    pub(super) fn text(&self) -> String {
        match self.prefill == self.decode {
            true => self.decode.to_string(),
            false => format!("prompts {}, generation {}", self.prefill, self.decode),
        }
    }
}

/// The backends and placements that are asked for.
pub(super) fn choose(
    graph: &Graph,
    options: &OpenOptions,
    kv: KvOptions,
    wanted: &Wanted,
    cpu: &Arc<CpuBackend>,
) -> Result<Choice, Error> {
    let blocks = graph.blocks().len();
    let texts = match wanted {
        Wanted::Auto => return planned::choose(graph, options, kv, cpu),
        Wanted::Layers(layers) => {
            let placement = Placement::last_layers(*layers, blocks, "gpu");
            let mut both = [placement.clone(), placement];
            let backends = backends::named(options, cpu, &mut both)?;
            let [prefill, decode] = both;
            return Ok(Choice { prefill, decode, backends });
        }
        Wanted::Placements(texts) => texts,
    };
    if texts.iter().any(|text| text == "auto") {
        return Err(Error::BadOption {
            option: "placement",
            found: "auto for one phase only".into(),
            expected: "auto for both, or a placement for each",
        });
    }
    // Shares by memory are counted in blocks when their GPUs are open: names come first.
    let named = |text: &String| match shares(text) {
        Some(shares) => Ok(Placement::of_layers(shares?.iter().map(|(name, _)| name.as_str()))),
        None => Placement::parse(text, blocks),
    };
    let mut both = [named(&texts[0])?, named(&texts[1])?];
    let backends = backends::named(options, cpu, &mut both)?;
    for (text, placement) in texts.iter().zip(&mut both) {
        if let Some(shares) = shares(text) {
            let renamed: Vec<String> =
                (0..).map_while(|layer| placement.backend_of(layer).map(str::to_owned)).collect();
            let counted = renamed
                .into_iter()
                .zip(shares?)
                .map(|(name, (_, share))| Ok((name.clone(), count(graph, kv, &backends, &name, share)?)));
            *placement = of_shares(graph, &counted.collect::<Result<Vec<_>, Error>>()?, text)?;
        }
    }
    let [prefill, decode] = both;
    Ok(Choice { prefill, decode, backends })
}

/// The placements that are asked for, without the devices that they name.
pub(super) fn of_names(graph: &Graph, wanted: &Wanted) -> Result<[Placement; 2], Error> {
    let blocks = graph.blocks().len();
    let single = |text: &str| Ok::<_, Error>(Placement::parse(text, blocks)?);
    match wanted {
        Wanted::Auto => Ok([single("cpu")?, single("cpu")?]),
        Wanted::Layers(layers) => Ok([0, 1].map(|_| Placement::last_layers(*layers, blocks, "gpu"))),
        Wanted::Placements([prefill, decode]) => Ok([single(prefill)?, single(decode)?]),
    }
}

/// Blocks of a share. Of one by memory, as many as fit beside the embedding or the head, which may come with them.
fn count(
    graph: &Graph,
    kv: KvOptions,
    backends: &[Arc<dyn Backend>],
    name: &str,
    share: Share,
) -> Result<usize, Error> {
    let bytes = match share {
        Share::Blocks(count) => return Ok(count),
        Share::Memory(bytes) => bytes,
    };
    let Some(backend) = backends.iter().find(|backend| backend.name() == name) else { return Ok(0) };
    let last = graph.len() - 1;
    let ends = backend.needs(graph, 0..1, kv)?.weights.max(backend.needs(graph, last..last + 1, kv)?.weights);
    let fits = |count: &usize| backend.needs(graph, 1..count + 1, kv).is_ok_and(|needs| needs.total() + ends <= bytes);
    Ok((1..=graph.blocks().len()).take_while(fits).last().unwrap_or(0))
}

/// The placement of counted shares; shares by memory may have room for more blocks than there are.
fn of_shares(graph: &Graph, shares: &[(String, usize)], text: &str) -> Result<Placement, Error> {
    let blocks = graph.blocks().len();
    let by_memory = crate::graph::shares(text).and_then(Result::ok).unwrap_or_default();
    let mut left = blocks;
    let cut = shares.iter().zip(by_memory).map(|((name, count), (_, share))| {
        let count = if matches!(share, Share::Memory(_)) { left.min(*count) } else { *count };
        left = left.saturating_sub(count);
        (name.clone(), count)
    });
    Ok(Placement::of_shares(&cut.collect::<Vec<_>>(), blocks, text)?)
}
