//! Devices for tests, in all variants, and a way to run one kernel.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use sterna::backend::gpu::{AdapterChoice, Dot, Gpu, GpuOptions, Kernel, Memory, Programs, Shape, adapters, choose};
use sterna::model::{ActivationKind, Gate, ModelConfig, Scales};
use sterna_cpu::kv::KvType;
use sterna_cpu::rope::RopeScaling;

/// The adapter that is tested: the best one, or one that the CPU emulates. `None` where there is none, unless in CI.
pub(crate) fn adapter() -> Option<AdapterChoice> {
    static CHOICE: OnceLock<Option<AdapterChoice>> = OnceLock::new();
    let choice = CHOICE.get_or_init(|| {
        let found = adapters();
        let choices = [AdapterChoice::Best, AdapterChoice::Software];
        let choice = choices.into_iter().find(|choice| choose(&found, choice).is_ok());
        match &choice {
            Some(choice) => println!("tested on {:?}", choose(&found, choice).unwrap().summary),
            None => assert!(std::env::var_os("CI").is_none(), "no GPU, not even an emulated one: {found:?}"),
        }
        choice
    });
    if choice.is_none() {
        println!("note: there is no GPU; install mesa-vulkan-drivers and libvulkan1 to test with an emulated one");
    }
    choice.clone()
}

/// Options for every variant of the kernels.
pub(crate) fn variants() -> Vec<(&'static str, GpuOptions)> {
    let Some(adapter) = adapter() else { return Vec::new() };
    let base = GpuOptions { adapter, ..GpuOptions::default() };
    vec![
        ("packed, subgroups", base.clone()),
        ("plain, workgroup memory", GpuOptions { dot: Dot::Plain, subgroups: false, ..base.clone() }),
        ("packed, workgroup memory, WebGPU's limits", GpuOptions { subgroups: false, default_limits: true, ..base }),
    ]
}

/// Tests take turns: an emulated device has all cores for each kernel anyway.
pub(crate) fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An open device and its kernels.
pub(crate) struct Bench {
    pub(crate) name: &'static str,
    pub(crate) gpu: Arc<Gpu>,
    programs: Programs,
}

/// Devices of all variants.
pub(crate) fn benches() -> Vec<Bench> {
    let open = |(name, options): (&'static str, GpuOptions)| {
        let found = adapters();
        let gpu = Arc::new(Gpu::open(choose(&found, &options.adapter).unwrap(), &options).unwrap());
        Bench { name, programs: Programs::new(Arc::clone(&gpu)), gpu }
    };
    variants().into_iter().map(open).collect()
}

impl Bench {
    /// Memory with these numbers.
    pub(crate) fn put<T: bytemuck::Pod>(&self, values: &[T]) -> Memory {
        self.gpu.upload("test", bytemuck::cast_slice(values)).unwrap()
    }

    /// A uniform with these numbers.
    pub(crate) fn uniform<T: bytemuck::Pod>(&self, value: T) -> Memory {
        self.gpu.uniform("test", &value).unwrap()
    }

    /// Runs a kernel.
    pub(crate) fn run(&self, kernel: Kernel, shape: &Shape, buffers: &[&Memory], grid: [usize; 3]) {
        let pipeline =
            self.programs.pipeline(kernel, shape).unwrap_or_else(|e| panic!("{} {kernel:?}: {e}", self.name));
        let group = self.programs.bind(kernel, buffers).unwrap();
        let mut encoder = self.gpu.device().create_command_encoder(&Default::default());
        let mut pass = encoder.begin_compute_pass(&Default::default());
        pass.set_pipeline(&pipeline);
        pass.set_bind_group(0, &group, &[]);
        pass.dispatch_workgroups(grid[0] as u32, grid[1] as u32, grid[2] as u32);
        drop(pass);
        let submission = self.gpu.queue().submit([encoder.finish()]);
        self.gpu.wait(submission).unwrap();
    }

    /// The numbers in memory.
    pub(crate) fn get<T: bytemuck::Pod>(&self, memory: &Memory) -> Vec<T> {
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let target = self.gpu.buffer("test", memory.size(), usage).unwrap();
        let mut encoder = self.gpu.device().create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(memory, 0, &target, 0, memory.size());
        let submission = self.gpu.queue().submit([encoder.finish()]);
        let copy = |bytes: &[u8]| bytemuck::pod_collect_to_vec(bytes);
        self.gpu.read(submission, &target, memory.size(), copy).unwrap()
    }
}

/// A configuration in which only the given sizes matter.
pub(crate) fn config(heads: usize, kv_heads: usize, head_dim: usize, hidden: usize, gate: Gate) -> ModelConfig {
    ModelConfig {
        architecture: "test".into(),
        vocab_size: 100,
        hidden_size: hidden,
        intermediate_size: 64,
        num_layers: 1,
        num_heads: heads,
        num_kv_heads: kv_heads,
        head_dim,
        rms_norm_eps: 1e-5,
        rope_theta: 1e4,
        rope_scaling: RopeScaling::None,
        attention_scale: ModelConfig::default_attention_scale(head_dim),
        local: None,
        scales: Scales::default(),
        max_position_embeddings: 4096,
        gate,
        activations: ActivationKind::Int8,
    }
}

/// The shape of such a model.
pub(crate) fn shape(config: &ModelConfig, kv: KvType) -> Shape {
    Shape::new(config, kv, "test").unwrap()
}

/// Random numbers, the same in every run.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    /// -1 to 1.
    pub(crate) fn unit(&mut self) -> f32 {
        self.next() as f32 / (1u64 << 30) as f32 - 1.0
    }

    pub(crate) fn units(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.unit()).collect()
    }
}

/// Rows of `cols` numbers, each padded with zeros to a multiple of 16.
pub(crate) fn padded_rows<T: Copy + Default>(rows: &[T], cols: usize) -> Vec<T> {
    let pad = |row: &[T]| {
        let mut row = row.to_vec();
        row.resize(cols.next_multiple_of(16), T::default());
        row
    };
    rows.chunks_exact(cols).flat_map(pad).collect()
}

/// Largest difference, relative to the largest magnitude of `want`.
pub(crate) fn relative_diff(got: &[f32], want: &[f32]) -> f32 {
    let largest = want.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    crate::common::max_abs_diff(got, want) / largest.max(f32::MIN_POSITIVE)
}
