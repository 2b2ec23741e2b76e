//! What goes wrong is an error, not a panic; nothing leaks.

use std::sync::Arc;

use sterna::backend::gpu::{Gpu, GpuBackend, GpuOptions};
use sterna::backend::{Backend, Best, KvOptions, LogitsFor};
use sterna::engine::{Engine, Work};
use sterna::graph::{Executor, Placement};
use sterna::model::build_graph;
use sterna::{Device, Error, KvType, Model, OpenOptions, demo};

use crate::support::{turn, variants};

fn options(gpu: &GpuOptions) -> OpenOptions {
    OpenOptions { device: Device::Gpu(None), gpu: gpu.clone(), ..OpenOptions::default() }
}

fn base() -> Option<GpuOptions> {
    variants().into_iter().next().map(|(_, options)| options)
}

#[test]
fn what_the_device_cannot_have_is_said_with_numbers() {
    let _turn = turn();
    let Some(gpu) = base() else { return };
    let error = |options: OpenOptions| Model::open("demo", &options).unwrap_err().to_string();
    let small = GpuOptions { max_binding: Some(64 << 10), ..gpu.clone() };
    let message = error(OpenOptions { context: Some(4096), ..options(&small) });
    assert!(message.contains("key-value cache") && message.contains("65536"), "{message}");
    let message = error(OpenOptions { kv: KvType::Int8, ..options(&gpu) });
    assert!(message.contains("int8") && message.contains("f16 or f32"), "{message}");
    let message = error(OpenOptions { device: Device::Gpu(Some("no such device".into())), ..options(&gpu) });
    assert!(message.contains("named like \"no such device\""), "{message}");
    let message = error(OpenOptions { device: Device::Gpu(Some("99".into())), ..options(&gpu) });
    assert!(message.contains("with number 99"), "{message}");
    // More than any machine has: the sizes of the caches alone are beyond the limits.
    let message = error(OpenOptions { context: Some(1 << 24), ..options(&gpu) });
    assert!(message.contains("bytes"), "{message}");
}

#[test]
fn complaints_of_the_device_are_errors() {
    let _turn = turn();
    let Some(options) = base() else { return };
    let backend = GpuBackend::new(options).unwrap();
    let gpu: &Gpu = backend.gpu();
    let result = gpu.checked(|device| {
        device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: None,
            source: wgpu::ShaderSource::Wgsl("nonsense".into()),
        })
    });
    assert!(result.unwrap_err().to_string().contains(gpu.name()));
    // Outside any scope: found at the next check, once.
    let a = gpu.memory("a", 64).unwrap();
    gpu.queue().write_buffer(&a, 64, &[0; 4]);
    assert!(gpu.check().unwrap_err().to_string().contains(gpu.name()));
    gpu.check().unwrap();
    gpu.lose();
    let submission = gpu.queue().submit([]);
    let (waited, checked) = (gpu.wait(submission), gpu.check());
    assert!(waited.is_err() && checked.is_err(), "a lost device stays lost: {waited:?} {checked:?}");
    assert!(gpu.memory("b", 64).is_err());
}

#[test]
fn sessions_leak_nothing() {
    let _turn = turn();
    let Some(options) = base() else { return };
    let backend = Arc::new(GpuBackend::new(options).unwrap());
    let graph = build_graph(Arc::new(demo::checkpoint().unwrap())).unwrap();
    let placement = Placement::single("gpu", graph.len());
    let kv = KvOptions { kind: KvType::F16, pages: 8 };
    let backends = [Arc::clone(&backend) as Arc<dyn Backend>];
    let executor = Executor::build(&graph, &placement, &backends, kv, &()).unwrap();
    let mut engine = Engine::new(executor, graph.config().vocab_size, 8, 512, 512);
    let mut cycle = || {
        let sequence = engine.create();
        let best = Best { count: 1, margin: 0.0, also: &[], temperature: None };
        for tokens in [&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10][..], &[11], &[12]] {
            let work = [Work { sequence, tokens, logits: LogitsFor::Best(best) }];
            engine.forward(&work, &mut |_, _, output| output.all().map(drop).map_err(Error::from), None).unwrap();
        }
        engine.release(sequence);
    };
    let memory = || {
        let report = backend.gpu().device().generate_allocator_report();
        (backend.gpu().held(), report.map(|report| report.total_allocated_bytes))
    };
    (0..20).for_each(|_| cycle());
    let (host, device) = (host_memory(), memory());
    (0..200).for_each(|_| cycle());
    assert_eq!(memory(), device, "device memory");
    // The allocator keeps some pages; a leak of a buffer or command list per token would be megabytes.
    let grown = host_memory().saturating_sub(host);
    assert!(grown <= 8 << 20, "host memory grew by {grown} bytes");
}

/// Bytes that this process has in memory; 0 where the system does not say.
fn host_memory() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}
