//! Devices that lack the memory they were thought to have.

use sterna_cpu::kv::KvType;

use super::*;
use crate::backend::BackendError;
use crate::backend::cpu::{CpuBackend, CpuOptions};
use crate::backend::hooked::{Call, HookedBackend};
use crate::demo;
use crate::graph::planner::{DeviceFacts, LayerFacts, Link, Machine, Seconds, Workload};
use crate::model::build_graph;

/// A CPU, and a GPU that is faster and whose memory is not known: layers of 1000 bytes there.
fn machine(layers: usize) -> Machine {
    let device = |name: &str, decode| DeviceFacts {
        name: name.into(),
        budget: None,
        shares_memory: false,
        layers: vec![LayerFacts { weights: 1000, cache: 0, seconds: Seconds { prefill: decode, decode } }; layers],
        stage_bytes: 0,
        shared_bytes: 0,
        link: Link::NONE,
    };
    let devices = vec![device("cpu", 1e-3), device("gpu", 1e-5)];
    Machine { devices, memory: None, hidden_bytes: 1024, positions: 128, chunk: 64 }
}

/// The placement that is built in the end, where building on the GPU is as `hook` says; whether the CPU may take over; and
/// the stages that the GPU has left when everything is closed.
fn built(hook: impl Fn(Call) -> Result<(), BackendError> + Send + Sync + 'static) -> (String, bool, usize) {
    let graph = build_graph(Arc::new(demo::checkpoint().expect("the demo model"))).expect("a graph");
    let options = CpuOptions { threads: Some(1), ..CpuOptions::default() };
    let cpu: Arc<dyn Backend> = Arc::new(CpuBackend::new(options).expect("the CPU as it is"));
    let gpu = Arc::new(HookedBackend::new("gpu", 1.0, hook));
    let backends = vec![Arc::clone(&cpu), Arc::clone(&gpu) as Arc<dyn Backend>];
    let planner = Planner { backends, machine: machine(graph.len()), workload: Workload::default() };
    let kv = KvOptions { kind: KvType::F16, pages: 2 };
    let (executor, fallback, choice) =
        build_planned(&graph, planner, cpu, &[Some(1)], kv, &()).expect("the CPU takes what is left");
    assert!(executor.stages().count() >= 2, "cut where it is looked at");
    drop(executor);
    (choice.text(), fallback.is_some(), gpu.alive())
}

#[test]
fn the_cpu_serves_what_cannot_be_built() {
    assert_eq!(built(|_| Err(BackendError::NoGpuSupport)), ("cpu".into(), false, 0));
    assert_eq!(built(|_| Ok(())), ("gpu".into(), true, 0));
}

#[cfg(feature = "gpu")]
#[test]
fn a_device_that_is_full_gets_fewer_layers() {
    use crate::backend::gpu::GpuError;
    use std::sync::Mutex;
    // Memory runs out behind 4500 bytes, then behind 3000: four layers, then two, each with a tenth left free.
    let rooms = Mutex::new(vec![3000, 4500]);
    let hook = move |call| match rooms.lock().expect("no test panics here").pop() {
        Some(held) if call == Call::Build => {
            let (adapter, what) = ("a GPU".into(), "weights".into());
            Err(GpuError::OutOfMemory { adapter, what, needed: 1000, held }.into())
        }
        _ => Ok(()),
    };
    let (placement, may_fall_back, alive) = built(hook);
    let on_gpu = Placement::parse(&placement, 4).expect("a placement");
    let count = (0..6).filter(|&layer| on_gpu.backend_of(layer) == Some("gpu")).count();
    assert_eq!((count, may_fall_back, alive), (2, true, 0), "{placement}");
}

#[test]
fn options_say_what_is_wanted() {
    use crate::backend::Device;
    let of = |options: OpenOptions| Wanted::of(&options);
    let base = OpenOptions::default;
    let both = |text: &str| Wanted::Placements([text.to_owned(), text.to_owned()]);
    assert_eq!(of(base()), both("cpu"));
    assert_eq!(of(OpenOptions { device: Device::Gpu(None), ..base() }), both("gpu"));
    assert_eq!(of(OpenOptions { device: Device::Auto(None), ..base() }), Wanted::Auto);
    assert_eq!(of(OpenOptions { placement: Some("auto".into()), ..base() }), Wanted::Auto);
    assert_eq!(of(OpenOptions { gpu_layers: Some(3), ..base() }), Wanted::Layers(3));
    let phases = OpenOptions { placement_prefill: Some("gpu".into()), ..base() };
    assert_eq!(of(phases), Wanted::Placements(["gpu".into(), "cpu".into()]));
}
