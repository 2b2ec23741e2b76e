//! Devices that lack the memory they were thought to have.

use sterna_cpu::kv::KvType;

use super::*;
use crate::backend::BackendError;
use crate::backend::cpu::{CpuBackend, CpuOptions};
use crate::backend::hooked::HookedBackend;
use crate::demo;
use crate::model::build_graph;

#[test]
fn the_cpu_serves_what_cannot_be_built() {
    let graph = build_graph(Arc::new(demo::checkpoint().expect("the demo model"))).expect("a graph");
    let options = CpuOptions { threads: Some(1), ..CpuOptions::default() };
    let cpu: Arc<dyn Backend> = Arc::new(CpuBackend::new(options).expect("the CPU as it is"));
    let kv = KvOptions { kind: KvType::F16, pages: 2 };
    for rescue in [true, false] {
        let full: Arc<HookedBackend> = Arc::new(HookedBackend::new("gpu", 1.0, |_| Err(BackendError::NoGpuSupport)));
        let placement = Placement::parse("embed=cpu,0-1=gpu,2-=cpu", graph.blocks().len()).expect("a placement");
        let choice = Choice {
            prefill: placement.clone(),
            decode: placement,
            backends: vec![Arc::clone(&cpu), Arc::clone(&full) as Arc<dyn Backend>],
        };
        let built = build(&graph, choice, rescue.then(|| Arc::clone(&cpu)), &[Some(1)], kv, &());
        match (rescue, built) {
            (true, Ok((executor, fallback, choice))) => {
                assert_eq!((executor.stages().count(), fallback.is_none(), choice.text().as_str()), (2, true, "cpu"));
            }
            (false, Err(error)) => assert!(error.to_string().starts_with("gpu: "), "{error}"),
            (rescue, built) => panic!("{rescue}: {:?}", built.map(|built| built.2.text())),
        }
        assert_eq!(full.alive(), 0);
    }
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
