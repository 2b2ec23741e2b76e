//! The GPUs of this machine, and which one is used.

use std::fmt;
use std::str::FromStr;

use pollster::block_on;
use serde::Serialize;
use wgpu::{Backends, DeviceType};

use super::{GpuError, fit};

/// Storage buffers that a kernel uses at most; the default of WebGPU.
const STORAGE_BUFFERS: u32 = 8;

/// Threads of the largest workgroups, and bytes of their memory; the defaults of WebGPU.
const WORKGROUP_THREADS: u32 = 256;
const WORKGROUP_BYTES: u32 = 16 << 10;

/// Which adapter is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AdapterChoice {
    /// The best one that is no software: discrete, then integrated, then virtual.
    #[default]
    Best,
    /// The one with this number in the list.
    Index(usize),
    /// The first whose name contains this, whatever the case.
    Name(String),
    /// The first that is software.
    Software,
}

impl FromStr for AdapterChoice {
    type Err = std::convert::Infallible;

    /// A number, `software`, or a part of a name; nothing for the best.
    fn from_str(text: &str) -> Result<AdapterChoice, Self::Err> {
        Ok(match text.parse() {
            Ok(index) => AdapterChoice::Index(index),
            Err(_) if text.is_empty() => AdapterChoice::Best,
            Err(_) if text.eq_ignore_ascii_case("software") => AdapterChoice::Software,
            Err(_) => AdapterChoice::Name(text.to_owned()),
        })
    }
}

impl fmt::Display for AdapterChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AdapterChoice::Best => f.write_str("of its own (an emulated one is used with --device software)"),
            AdapterChoice::Index(index) => write!(f, "with number {index}"),
            AdapterChoice::Name(name) => write!(f, "named like {name:?}"),
            AdapterChoice::Software => f.write_str("that is software"),
        }
    }
}

/// What an adapter is and can do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AdapterSummary {
    /// Number in the list: `--device gpu=NUMBER`.
    pub index: usize,
    /// Name of the device.
    pub name: String,
    /// `vulkan`, `metal`, `dx12` or `gl`.
    pub api: &'static str,
    /// `discrete`, `integrated`, `virtual`, `software` or `other`.
    pub kind: &'static str,
    /// Driver and version.
    pub driver: String,
    /// Where it is on the PCI bus, as `0000:01:00.0`, if the driver tells.
    pub pci: Option<String>,
    /// Largest buffer, bytes.
    pub max_buffer: u64,
    /// Most bytes that a kernel sees of one buffer; larger matrices are split.
    pub max_binding: u64,
    /// Bytes that models may take, where that is known: what the machine has free, for a device without memory of its own.
    pub memory: Option<u64>,
    /// Bytes of workgroup memory.
    pub workgroup_memory: u32,
    /// Most threads of a workgroup.
    pub workgroup_threads: u32,
    /// Smallest and largest subgroup, where kernels can use them.
    pub subgroups: Option<(u32, u32)>,
    /// Whether it computes in half precision (kernels do not need it).
    pub f16: bool,
    /// Why kernels cannot run there, if so.
    pub problem: Option<String>,
}

/// An adapter and what it is.
#[derive(Clone, Debug)]
pub struct Found {
    /// What it is.
    pub summary: AdapterSummary,
    pub(super) adapter: wgpu::Adapter,
}

/// All adapters of this machine; those of OpenGL, which offers less, only where there are no others. `WGPU_BACKEND`
/// restricts the interfaces that are asked.
pub fn adapters() -> Vec<Found> {
    let enumerate = |backends: Backends| {
        let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle_from_env();
        descriptor.backends &= backends;
        // Where the driver tells how much memory there is: what is beyond is an error, rather than moved in and out.
        descriptor.memory_budget_thresholds.for_resource_creation = Some(95);
        block_on(wgpu::Instance::new(descriptor).enumerate_adapters(backends))
    };
    let mut all = enumerate(Backends::PRIMARY);
    if all.is_empty() {
        all = enumerate(Backends::GL);
    }
    all.into_iter().enumerate().map(|(index, adapter)| Found { summary: summary(index, &adapter), adapter }).collect()
}

fn summary(index: usize, adapter: &wgpu::Adapter) -> AdapterSummary {
    let (info, limits, features) = (adapter.get_info(), adapter.limits(), adapter.features());
    let (least, most) = (info.subgroup_min_size, info.subgroup_max_size);
    let subgroups = features.contains(wgpu::Features::SUBGROUP)
        && least >= 4
        && most <= 128
        && least.is_power_of_two()
        && most.is_power_of_two();
    AdapterSummary {
        index,
        name: info.name,
        api: info.backend.to_str(),
        kind: kind_name(info.device_type),
        driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
        pci: Some(info.device_pci_bus_id).filter(|pci| !pci.is_empty()),
        max_buffer: limits.max_buffer_size,
        max_binding: limits.max_storage_buffer_binding_size,
        memory: fit::shared_memory(kind_name(info.device_type)),
        workgroup_memory: limits.max_compute_workgroup_storage_size,
        workgroup_threads: limits.max_compute_invocations_per_workgroup,
        subgroups: subgroups.then_some((least, most)),
        f16: features.contains(wgpu::Features::SHADER_F16),
        problem: needs(&limits),
    }
}

const fn kind_name(kind: DeviceType) -> &'static str {
    match kind {
        DeviceType::DiscreteGpu => "discrete",
        DeviceType::IntegratedGpu => "integrated",
        DeviceType::VirtualGpu => "virtual",
        DeviceType::Cpu => "software",
        DeviceType::Other => "other",
    }
}

/// What limits lack for the kernels, if anything.
pub(super) fn needs(limits: &wgpu::Limits) -> Option<String> {
    let lacks = |what: &str, has: u32, needed: u32| {
        (has < needed).then(|| format!("it allows {has} {what}, the kernels need {needed}"))
    };
    lacks("storage buffers in a kernel", limits.max_storage_buffers_per_shader_stage, STORAGE_BUFFERS)
        .or_else(|| lacks("threads in a workgroup", limits.max_compute_invocations_per_workgroup, WORKGROUP_THREADS))
        .or_else(|| lacks("threads along a workgroup", limits.max_compute_workgroup_size_x, WORKGROUP_THREADS))
        .or_else(|| lacks("bytes of workgroup memory", limits.max_compute_workgroup_storage_size, WORKGROUP_BYTES))
}

/// How good an adapter is when none is named; `None` for one that is only used if it is named.
fn rank(summary: &AdapterSummary) -> Option<usize> {
    let by_kind = ["discrete", "integrated", "virtual", "other"].iter().position(|&kind| kind == summary.kind)?;
    // The same device often appears again under OpenGL, which offers less.
    summary.problem.is_none().then_some(2 * by_kind + usize::from(summary.api == "gl"))
}

/// Numbers of the adapters that are no software, best first, all of one interface: the same GPU may be there under several.
pub fn usable(found: &[Found]) -> Vec<usize> {
    let summaries = || found.iter().map(|found| &found.summary);
    let mut ranked: Vec<_> = summaries().filter_map(|summary| Some((rank(summary)?, summary))).collect();
    ranked.sort_by_key(|(rank, _)| *rank);
    let api = ranked.first().map(|(_, summary)| summary.api);
    ranked.into_iter().filter(|(_, s)| Some(s.api) == api).map(|(_, summary)| summary.index).collect()
}

/// The adapter that `choice` means.
///
/// # Errors
/// If there is none.
pub fn choose<'a>(found: &'a [Found], choice: &AdapterChoice) -> Result<&'a Found, GpuError> {
    let summaries = || found.iter().map(|found| &found.summary);
    let index = choose_index(summaries(), choice);
    index.map(|index| &found[index]).ok_or_else(|| GpuError::NoAdapter {
        asked: choice.to_string(),
        found: match found {
            [] => "none".into(),
            _ => summaries()
                .map(|s| format!("{} = {} ({}, {})", s.index, s.name, s.kind, s.api))
                .collect::<Vec<_>>()
                .join("; "),
        },
    })
}

fn choose_index<'a>(
    mut found: impl Iterator<Item = &'a AdapterSummary> + Clone,
    choice: &AdapterChoice,
) -> Option<usize> {
    match choice {
        AdapterChoice::Best => {
            found.enumerate().filter_map(|(i, summary)| Some((rank(summary)?, i))).min().map(|(_, i)| i)
        }
        AdapterChoice::Index(index) => found.position(|summary| summary.index == *index),
        AdapterChoice::Name(name) => {
            let name = name.to_lowercase();
            found.position(|summary| summary.name.to_lowercase().contains(&name))
        }
        AdapterChoice::Software => found.position(|summary| summary.kind == "software"),
    }
}

/// Why the best adapter is the one it is: a line for each of `found`.
pub fn verdicts(found: &[Found]) -> Vec<String> {
    let chosen = choose_index(found.iter().map(|found| &found.summary), &AdapterChoice::Best);
    let verdict = |(i, found): (usize, &Found)| match (&found.summary.problem, rank(&found.summary)) {
        (Some(problem), _) => format!("not usable: {problem}"),
        (None, None) => "only used if asked for: it is software".into(),
        (None, Some(_)) if Some(i) == chosen => "used by --device gpu".into(),
        (None, Some(_)) => "only used if asked for: another one is better".into(),
    };
    found.iter().enumerate().map(verdict).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adapter(index: usize, name: &str, kind: &'static str, api: &'static str) -> AdapterSummary {
        AdapterSummary {
            index,
            name: name.into(),
            api,
            kind,
            driver: String::new(),
            pci: None,
            max_buffer: 1 << 31,
            max_binding: 1 << 27,
            memory: None,
            workgroup_memory: 32 << 10,
            workgroup_threads: 1024,
            subgroups: Some((32, 32)),
            f16: true,
            problem: None,
        }
    }

    fn chosen(found: &[AdapterSummary], text: &str) -> Option<usize> {
        choose_index(found.iter(), &text.parse().expect("any text is a choice"))
    }

    #[test]
    fn the_best_is_discrete_and_never_software() {
        let mut found = [
            adapter(0, "llvmpipe", "software", "vulkan"),
            adapter(1, "Iris Xe", "integrated", "vulkan"),
            adapter(2, "Radeon RX 7800", "discrete", "gl"),
            adapter(3, "Radeon RX 7800", "discrete", "vulkan"),
        ];
        assert_eq!(chosen(&found, ""), Some(3));
        found[3].problem = Some("too small".into());
        assert_eq!(chosen(&found, ""), Some(2));
        assert_eq!(chosen(&found[..2], ""), Some(1));
        assert_eq!(chosen(&found[..1], ""), None);
    }

    #[test]
    fn others_are_chosen_by_number_name_or_kind() {
        let found =
            [adapter(0, "Iris Xe", "integrated", "vulkan"), adapter(1, "llvmpipe (LLVM 15)", "software", "vulkan")];
        assert_eq!(chosen(&found, "1"), Some(1));
        assert_eq!(chosen(&found, "LLVMpipe"), Some(1));
        assert_eq!(chosen(&found, "software"), Some(1));
        assert_eq!(chosen(&found, "iris"), Some(0));
        assert_eq!((chosen(&found, "2"), chosen(&found, "geforce")), (None, None));
    }
}
