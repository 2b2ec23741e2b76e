//! What goes wrong is an error, not a panic; nothing leaks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sterna::backend::gpu::{Gpu, GpuBackend, GpuOptions};
use sterna::backend::{Backend, Best, KvOptions, LogitsFor, Progress};
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
fn what_does_not_fit_is_refused_before_anything_is_allocated() {
    let _turn = turn();
    let Some(gpu) = base() else { return };
    let graph = build_graph(Arc::new(demo::checkpoint().unwrap())).unwrap();
    let whole = 0..graph.len();
    let all = std::slice::from_ref(&whole);
    for (kind, pages) in [(KvType::F16, 8), (KvType::F32, 3)] {
        let kv = KvOptions { kind, pages };
        let needed = GpuBackend::new(gpu.clone()).unwrap().needed(&graph, all, kv).unwrap();
        // What is held after the largest pass and eight outputs, and what was said before: small uniforms differ.
        let backend = Arc::new(GpuBackend::new(GpuOptions { memory: Some(needed.total()), ..gpu.clone() }).unwrap());
        let backends = [Arc::clone(&backend) as Arc<dyn Backend>];
        let executor = Executor::build(&graph, &Placement::single("gpu", graph.len()), &backends, kv, &()).unwrap();
        let mut engine = Engine::new(executor, graph.config().vocab_size, pages, pages * 64, 512);
        let sequence = engine.create();
        let tokens: Vec<u32> = (0..pages as u32 * 64).collect();
        let (first, last) = tokens.split_at(tokens.len() - 8);
        for (tokens, logits) in [(first, LogitsFor::None), (last, LogitsFor::All)] {
            let work = [Work { sequence, tokens, logits }];
            engine.forward(&work, &mut |_, _, output| output.all().map(drop).map_err(Error::from), None).unwrap();
        }
        let (held, total) = (backend.gpu().held(), needed.total());
        assert!(held <= total + total / 100 && held >= total - total / 100, "{held} held, {total} were needed");
    }

    let kv = KvOptions { kind: KvType::F16, pages: 8 };
    let refused = |memory: u64, kv: KvOptions| {
        let backend = Arc::new(GpuBackend::new(GpuOptions { memory: Some(memory), ..gpu.clone() }).unwrap());
        let backends = [Arc::clone(&backend) as Arc<dyn Backend>];
        let built = Executor::build(&graph, &Placement::single("gpu", graph.len()), &backends, kv, &());
        assert_eq!(backend.gpu().held(), 0, "nothing was allocated");
        built.unwrap_err().to_string()
    };
    let needed = GpuBackend::new(gpu.clone()).unwrap().needed(&graph, all, kv).unwrap();
    // A byte less: a smaller context would do.
    let message = refused(needed.total() - 1, kv);
    assert!(message.contains("--gpu-memory") && message.contains("a cache of 448 positions (--ctx)"), "{message}");
    // Room for the buffers and two blocks: what is said to fit does.
    let of_block = (needed.blocks + needed.cache) / needed.block_count;
    let memory = needed.block_scratch + 2 * of_block;
    let message = refused(memory, kv);
    let placement = "embed=cpu,0-1=gpu,2-=cpu";
    assert!(message.contains("2 blocks") && message.contains(placement), "{message}");
    let options = OpenOptions {
        placement: Some(placement.into()),
        context: Some(8 * 64),
        ..options(&GpuOptions { memory: Some(memory), ..gpu.clone() })
    };
    Model::open("demo", &options).unwrap();
    assert!(refused(1000, kv).contains("no part of it would fit"));
    // With `auto`, the CPU serves what does not fit, or all of it if it is faster.
    let options = OpenOptions { device: Device::Auto(None), placement: None, ..options };
    assert_ne!(Model::open("demo", &options).unwrap().placement(), "gpu");
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

/// What is told of progress: bytes beyond the blocks' that are expected, and bytes that are ready.
#[derive(Default)]
struct Told {
    expected: AtomicU64,
    ready: AtomicU64,
    times: AtomicU64,
}

impl Progress for Told {
    fn advance(&self, bytes: u64) {
        self.ready.fetch_add(bytes, Ordering::Relaxed);
        self.times.fetch_add(1, Ordering::Relaxed);
    }

    fn expect(&self, bytes: u64) {
        self.expected.fetch_add(bytes, Ordering::Relaxed);
    }
}

#[test]
fn progress_is_told_of_all_that_is_uploaded() {
    let _turn = turn();
    let Some(gpu) = base() else { return };
    let graph = build_graph(Arc::new(demo::checkpoint().unwrap())).unwrap();
    let blocks = graph.blocks().len();
    let backend = GpuBackend::new(gpu).unwrap();
    let told = Told::default();
    let kv = KvOptions { kind: KvType::F16, pages: 1 };
    backend.build_stage(&graph, 0..graph.len(), kv, &told).unwrap();
    let [expected, ready, times] = [told.expected, told.ready, told.times].map(AtomicU64::into_inner);
    let dense = (graph.config().vocab_size * graph.config().hidden_size * 2) as u64;
    assert_eq!(expected, if graph.is_tied() { dense } else { 2 * dense });
    assert_eq!(ready, expected + (0..blocks).map(|block| graph.block_bytes(block)).sum::<u64>());
    assert!(times > blocks as u64, "not all at the end");
}

/// The files in a folder, and what is in them.
fn files(folder: &std::path::Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

#[test]
fn compiled_kernels_are_kept() {
    let _turn = turn();
    let Some(gpu) = base() else { return };
    let folder = tempfile::tempdir().unwrap();
    let gpu = GpuOptions { cache: Some(folder.path().to_owned()), ..gpu };
    let run = |gpu: &GpuOptions| {
        let backend = GpuBackend::new(gpu.clone()).unwrap();
        let keeps = backend.gpu().device().features().contains(wgpu::Features::PIPELINE_CACHE);
        drop(backend);
        let model = Model::open("demo", &options(gpu)).unwrap();
        let mut rows = Vec::new();
        model.session().logits(&[1, 2, 3], |_, row| rows.extend_from_slice(row)).unwrap();
        (keeps, rows)
    };
    let (keeps, want) = run(&gpu);
    let written = files(folder.path());
    assert_eq!(written.len(), usize::from(keeps), "one file, where wgpu keeps kernels");
    // How much a driver keeps is its own matter; Mesa's emulated one has only a header.
    assert!(written.iter().all(|(_, content)| content.starts_with(b"sterna pipelines ") && content.len() > 60));
    assert!(run(&gpu).1 == want, "kernels from the file");
    // Damaged, foreign and empty files are as good as none, and are replaced.
    for (path, content) in &written {
        let mut damaged = content.clone();
        *damaged.last_mut().unwrap() ^= 1;
        for bad in [&damaged[..], &b"something else"[..], &[]] {
            std::fs::write(path, bad).unwrap();
            assert!(run(&gpu).1 == want, "kernels despite the file");
            assert_ne!(std::fs::read(path).unwrap(), bad);
        }
    }
    // A folder that cannot be written is no error.
    let file = folder.path().join("a file");
    std::fs::write(&file, "x").unwrap();
    assert!(run(&GpuOptions { cache: Some(file), ..gpu }).1 == want);
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
