//! The backends behind the names of placements.

use std::sync::Arc;

use crate::backend::cpu::{CpuBackend, CpuOptions};
use crate::backend::{Backend, BackendError, Device};
use crate::engine::{Error, OpenOptions};
#[cfg(feature = "gpu")]
use crate::graph::planner::MAX_DEVICES;
use crate::graph::{Graph, Placement};

/// The CPU as the options say, with the layout that suits the file of `graph`.
pub(super) fn cpu_backend(options: &OpenOptions, graph: &Graph) -> Result<Arc<CpuBackend>, Error> {
    Ok(Arc::new(CpuBackend::new(CpuOptions {
        threads: options.threads,
        pin: options.pin,
        isa: options.isa,
        layout: options.layout.or_else(|| graph.stored_layout()).or(options.preferred_layout),
        head: options.head,
        tuning: options.tuning,
    })?))
}

/// The GPU that placements call `gpu`: that of [`OpenOptions::device`], if it says one.
fn which_gpu(options: &OpenOptions) -> Option<&str> {
    match &options.device {
        Device::Gpu(which) | Device::Auto(which) => which.as_deref(),
        Device::Cpu => None,
    }
}

/// Opens what `placements` name beside the CPU. Names of the same GPU become one.
pub(super) fn named(
    options: &OpenOptions,
    cpu: &Arc<CpuBackend>,
    placements: &mut [Placement],
) -> Result<Vec<Arc<dyn Backend>>, Error> {
    let mut backends: Vec<Arc<dyn Backend>> = vec![Arc::clone(cpu) as Arc<dyn Backend>];
    let mut names: Vec<String> = Vec::new();
    for name in placements.iter().flat_map(Placement::backends) {
        if name != "cpu" && !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    let mut opened: Vec<(usize, String)> = Vec::new();
    for name in names {
        let which = match name.as_str() {
            "gpu" => which_gpu(options).map(str::to_owned),
            "software" => Some(name.clone()),
            other => match other.strip_prefix("gpu=") {
                Some(which) => Some(which.to_owned()),
                None => return Err(unknown(&name).into()),
            },
        };
        let (index, backend) = gpu(options, &name, which.as_deref(), &opened)?;
        match backend {
            Some(backend) => {
                opened.push((index, name));
                backends.push(backend);
            }
            None => {
                let known = opened.iter().find(|(known, _)| *known == index).map_or(name.clone(), |(_, n)| n.clone());
                for placement in &mut *placements {
                    *placement = placement.renamed(&name, &known);
                }
            }
        }
    }
    Ok(backends)
}

fn unknown(name: &str) -> BackendError {
    BackendError::Unknown { name: name.to_owned(), known: "cpu, gpu, gpu=NUMBER, gpu=NAME, software".into() }
}

/// Number of the GPU that is meant and, if it is none of `opened`, its backend.
#[cfg(feature = "gpu")]
fn gpu(
    options: &OpenOptions,
    name: &str,
    which: Option<&str>,
    opened: &[(usize, String)],
) -> Result<(usize, Option<Arc<dyn Backend>>), Error> {
    use crate::backend::gpu::{AdapterChoice, GpuBackend, GpuOptions, adapters, choose};

    // Any text is a choice.
    let adapter = which.map_or(options.gpu.adapter.clone(), |which| which.parse().unwrap_or_default());
    let index = choose(&adapters(), &adapter).map_err(BackendError::from)?.summary.index;
    if opened.iter().any(|(known, _)| *known == index) {
        return Ok((index, None));
    }
    let wanted = GpuOptions {
        name: name.to_owned(),
        adapter: AdapterChoice::Index(index),
        head: options.head,
        ..options.gpu.clone()
    };
    Ok((index, Some(Arc::new(GpuBackend::new(wanted).map_err(BackendError::from)?))))
}

#[cfg(not(feature = "gpu"))]
fn gpu(
    _options: &OpenOptions,
    _name: &str,
    _which: Option<&str>,
    _opened: &[(usize, String)],
) -> Result<(usize, Option<Arc<dyn Backend>>), Error> {
    Err(BackendError::NoGpuSupport.into())
}

/// The GPUs that `auto` chooses from: the one that is asked for, or the best of those that are no software. Those that cannot be opened
/// are left out, with a line in `left_out`.
#[cfg(feature = "gpu")]
pub(super) fn candidates(options: &OpenOptions, left_out: &mut Vec<String>) -> Vec<Arc<dyn Backend>> {
    use crate::backend::gpu::{AdapterChoice, GpuBackend, GpuOptions, adapters, choose, usable};

    let found = adapters();
    let asked = match which_gpu(options) {
        Some(which) => which.parse().unwrap_or_default(),
        None => options.gpu.adapter.clone(),
    };
    let indices = match asked {
        AdapterChoice::Best => usable(&found).into_iter().take(MAX_DEVICES - 1).collect(),
        ref asked => match choose(&found, asked) {
            Ok(found) => vec![found.summary.index],
            Err(error) => {
                left_out.push(error.to_string());
                Vec::new()
            }
        },
    };
    let mut backends: Vec<Arc<dyn Backend>> = Vec::new();
    for &index in &indices {
        let name = if indices.len() == 1 { "gpu".to_owned() } else { format!("gpu={index}") };
        let wanted =
            GpuOptions { name, adapter: AdapterChoice::Index(index), head: options.head, ..options.gpu.clone() };
        match GpuBackend::new(wanted) {
            Ok(backend) => backends.push(Arc::new(backend)),
            Err(error) => left_out.push(error.to_string()),
        }
    }
    backends
}

#[cfg(not(feature = "gpu"))]
pub(super) fn candidates(_options: &OpenOptions, left_out: &mut Vec<String>) -> Vec<Arc<dyn Backend>> {
    left_out.push(BackendError::NoGpuSupport.to_string());
    Vec::new()
}
