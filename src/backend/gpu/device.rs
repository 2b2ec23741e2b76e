//! An open device: memory, transfers, waiting, and errors that never panic.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use pollster::block_on;
use wgpu::{BufferUsages, ErrorFilter, PollType};

use super::adapter::{Found, needs};
use super::disk_cache::DiskCache;
use super::fit::{self, Budget};
use super::{Dot, GpuError, GpuOptions};

/// Bytes that are handed to the driver at a time when weights are uploaded: its staging memory stays of this order.
const UPLOAD_CHUNK: usize = 16 << 20;

/// How the kernels are put together for a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Variant {
    /// Products of four bytes.
    pub dot: Dot,
    /// Sums by subgroups, else through workgroup memory.
    pub subgroups: bool,
}

/// An open device.
#[derive(Debug)]
pub struct Gpu {
    device: wgpu::Device,
    queue: wgpu::Queue,
    name: String,
    variant: Variant,
    limits: wgpu::Limits,
    max_binding: u64,
    timeout: Duration,
    budget: Option<Budget>,
    fault: Arc<Mutex<Option<GpuError>>>,
    disk_cache: Option<DiskCache>,
    /// Bytes of all living buffers.
    held: Arc<AtomicU64>,
    /// Bytes that were written since the driver last gave its staging memory back.
    staged: AtomicU64,
}

/// Memory of a device.
#[derive(Debug)]
pub struct Memory {
    buffer: wgpu::Buffer,
    held: Arc<AtomicU64>,
}

impl std::ops::Deref for Memory {
    type Target = wgpu::Buffer;

    fn deref(&self) -> &wgpu::Buffer {
        &self.buffer
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.held.fetch_sub(self.buffer.size(), Ordering::Relaxed);
    }
}

impl Gpu {
    /// Opens an adapter.
    ///
    /// # Errors
    /// If it lacks what the kernels need, or cannot be opened.
    pub fn open(found: &Found, options: &GpuOptions) -> Result<Gpu, GpuError> {
        let name = found.summary.name.clone();
        let unsuitable = |reason: String| GpuError::Unsuitable { adapter: name.clone(), reason };
        if let Some(reason) = &found.summary.problem {
            return Err(unsuitable(reason.clone()));
        }
        let limits = if options.default_limits { wgpu::Limits::default() } else { found.adapter.limits() };
        if let Some(reason) = needs(&limits) {
            return Err(unsuitable(reason));
        }
        let subgroups = options.subgroups && found.summary.subgroups.is_some();
        let mut features = wgpu::Features::empty();
        features.set(wgpu::Features::SUBGROUP, subgroups);
        if options.timestamps {
            features |= found.adapter.features() & wgpu::Features::TIMESTAMP_QUERY;
        }
        if options.cache.is_some() {
            features |= found.adapter.features() & wgpu::Features::PIPELINE_CACHE;
        }
        let (device, queue) = block_on(found.adapter.request_device(&wgpu::DeviceDescriptor {
            label: Some("sterna"),
            required_features: features,
            required_limits: limits.clone(),
            memory_hints: wgpu::MemoryHints::MemoryUsage,
            ..Default::default()
        }))
        .map_err(|e| unsuitable(e.to_string()))?;
        let fault = Arc::new(Mutex::new(None));
        let (at_error, at_loss) = (Arc::clone(&fault), Arc::clone(&fault));
        let (error_name, loss_name) = (name.clone(), name.clone());
        // Errors outside any scope would otherwise end the process.
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            note(&at_error, GpuError::Failed { adapter: error_name.clone(), reason: one_line(&error) });
        }));
        device.set_device_lost_callback(move |_, reason| {
            note(&at_loss, GpuError::Lost { adapter: loss_name.clone(), reason });
        });
        let bindable = limits.max_storage_buffer_binding_size.min(limits.max_buffer_size);
        let mut gpu = Gpu {
            variant: Variant { dot: options.dot, subgroups },
            max_binding: options.max_binding.map_or(bindable, |max| max.min(bindable)) / 256 * 256,
            device,
            queue,
            name,
            limits,
            timeout: options.timeout,
            budget: fit::budget(options.memory, found.summary.kind),
            fault,
            disk_cache: None,
            held: Arc::default(),
            staged: AtomicU64::new(0),
        };
        if let Some(folder) = &options.cache {
            gpu.disk_cache = DiskCache::open(&gpu, &found.adapter.get_info(), folder)?;
        }
        Ok(gpu)
    }

    /// The adapter's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How its kernels are put together.
    pub fn variant(&self) -> Variant {
        self.variant
    }

    /// Its limits.
    pub fn limits(&self) -> &wgpu::Limits {
        &self.limits
    }

    /// Most bytes that a kernel sees of one buffer; a multiple of 256.
    pub fn max_binding(&self) -> u64 {
        self.max_binding
    }

    /// How much memory it has for us, if that is known.
    pub fn budget(&self) -> Option<Budget> {
        self.budget
    }

    /// Bytes of all living buffers.
    pub fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    /// The device.
    pub fn device(&self) -> &wgpu::Device {
        &self.device
    }

    /// The queue.
    pub fn queue(&self) -> &wgpu::Queue {
        &self.queue
    }

    /// Runs `f`, which creates something, and turns what the device complains of into an error.
    ///
    /// # Errors
    /// If it complains.
    pub fn checked<T>(&self, f: impl FnOnce(&wgpu::Device) -> T) -> Result<T, GpuError> {
        let memory = self.device.push_error_scope(ErrorFilter::OutOfMemory);
        let validation = self.device.push_error_scope(ErrorFilter::Validation);
        let internal = self.device.push_error_scope(ErrorFilter::Internal);
        let made = f(&self.device);
        let errors = [block_on(internal.pop()), block_on(validation.pop()), block_on(memory.pop())];
        match errors.into_iter().flatten().next() {
            // A lost device complains of nothing.
            None => self.check().map(|()| made),
            Some(wgpu::Error::OutOfMemory { .. }) => Err(self.out_of_memory("a new object", 0)),
            Some(error) => Err(GpuError::Failed { adapter: self.name.clone(), reason: one_line(&error) }),
        }
    }

    fn out_of_memory(&self, what: &str, needed: u64) -> GpuError {
        GpuError::OutOfMemory { adapter: self.name.clone(), what: what.into(), needed, held: self.held() }
    }

    /// Zeroed memory of `size` bytes (at least 16), for kernels and copies.
    ///
    /// # Errors
    /// If the device has no more, or kernels could not see all of it.
    pub fn memory(&self, what: &str, size: u64) -> Result<Memory, GpuError> {
        let usage = BufferUsages::STORAGE | BufferUsages::COPY_DST | BufferUsages::COPY_SRC;
        let size = size.next_multiple_of(16).max(16);
        if size > self.max_binding {
            return Err(GpuError::TooLarge {
                adapter: self.name.clone(),
                what: what.into(),
                needed: size,
                limit: self.max_binding,
                remedy: "use a shorter context, fewer sequences, a smaller chunk or the CPU".into(),
            });
        }
        self.buffer(what, size, usage)
    }

    /// Memory of `size` bytes, a multiple of 4.
    ///
    /// # Errors
    /// If the device has no more.
    pub fn buffer(&self, what: &str, size: u64, usage: BufferUsages) -> Result<Memory, GpuError> {
        let buffer = self
            .checked(|device| {
                let label = Some(what);
                device.create_buffer(&wgpu::BufferDescriptor { label, size, usage, mapped_at_creation: false })
            })
            .map_err(|error| match error {
                GpuError::OutOfMemory { .. } => self.out_of_memory(what, size),
                other => other,
            })?;
        self.held.fetch_add(size, Ordering::Relaxed);
        Ok(Memory { buffer, held: Arc::clone(&self.held) })
    }

    /// Memory that holds `bytes`, filled up with zeros.
    ///
    /// # Errors
    /// As [`Gpu::memory`].
    pub fn upload(&self, what: &str, bytes: &[u8]) -> Result<Memory, GpuError> {
        let memory = self.memory(what, bytes.len() as u64)?;
        self.write(&memory, 0, bytes)?;
        Ok(memory)
    }

    /// A small buffer that kernels read as a uniform.
    ///
    /// # Errors
    /// If the device has no more memory.
    pub fn uniform<T: bytemuck::Pod>(&self, what: &str, value: &T) -> Result<Memory, GpuError> {
        let bytes = bytemuck::bytes_of(value);
        let usage = BufferUsages::UNIFORM | BufferUsages::COPY_DST;
        let memory = self.buffer(what, bytes.len().next_multiple_of(16) as u64, usage)?;
        self.queue.write_buffer(&memory, 0, bytes);
        Ok(memory)
    }

    /// Writes `bytes` at `offset`, a multiple of 4, in pieces. Once they are 16 MiB together with what was
    /// written before, they are waited for, so that the driver's staging memory stays small however many matrices follow
    /// each other.
    ///
    /// # Errors
    /// If the device fails meanwhile.
    pub fn write(&self, memory: &Memory, offset: u64, bytes: &[u8]) -> Result<(), GpuError> {
        for (i, piece) in bytes.chunks(UPLOAD_CHUNK).enumerate() {
            let at = offset + (i * UPLOAD_CHUNK) as u64;
            let whole = piece.len() / 4 * 4;
            self.queue.write_buffer(memory, at, &piece[..whole]);
            if whole < piece.len() {
                let mut word = [0; 4];
                word[..piece.len() - whole].copy_from_slice(&piece[whole..]);
                self.queue.write_buffer(memory, at + whole as u64, &word);
            }
            let staged = self.staged.fetch_add(piece.len() as u64, Ordering::Relaxed) + piece.len() as u64;
            if staged >= UPLOAD_CHUNK as u64 {
                self.staged.store(0, Ordering::Relaxed);
                let submission = self.queue.submit([]);
                self.wait(submission)?;
            }
        }
        Ok(())
    }

    /// Waits for a submission.
    ///
    /// # Errors
    /// If the device does not answer in time, was lost, or has complained since the last call.
    pub fn wait(&self, submission: wgpu::SubmissionIndex) -> Result<(), GpuError> {
        let wait = PollType::Wait { submission_index: Some(submission), timeout: Some(self.timeout) };
        let answer = self.device.poll(wait);
        if answer.is_err() {
            // A lost device took no submission that could be waited for; it says so when it is asked once more.
            let _ = self.device.poll(PollType::Poll);
        }
        self.check()?;
        answer.map(|_| ()).map_err(|error| match error {
            wgpu::PollError::Timeout => self.timed_out(),
            other => GpuError::Failed { adapter: self.name.clone(), reason: other.to_string() },
        })
    }

    fn timed_out(&self) -> GpuError {
        GpuError::Timeout { adapter: self.name.clone(), seconds: self.timeout.as_secs() }
    }

    /// What the device has complained of since the last call; a lost device stays lost.
    ///
    /// # Errors
    /// The complaint.
    pub fn check(&self) -> Result<(), GpuError> {
        let mut fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        match &*fault {
            None => Ok(()),
            Some(lost @ GpuError::Lost { .. }) => Err(lost.clone()),
            Some(_) => fault.take().map_or(Ok(()), Err),
        }
    }

    /// Waits for `submission`, then hands the first `size` bytes of `memory`, made for reading, to `f`.
    ///
    /// # Errors
    /// As [`Gpu::wait`].
    pub fn read<T>(
        &self,
        submission: wgpu::SubmissionIndex,
        memory: &Memory,
        size: u64,
        f: impl FnOnce(&[u8]) -> T,
    ) -> Result<T, GpuError> {
        let failed = |reason: String| GpuError::Failed { adapter: self.name.clone(), reason };
        let (send, receive) = mpsc::channel();
        memory.map_async(wgpu::MapMode::Read, 0..size, move |result| {
            // The receiver waits below, unless the device failed before.
            let _ = send.send(result);
        });
        self.wait(submission)?;
        // The callback has run: `wait` returns after it.
        receive.try_recv().map_err(|_| self.timed_out())?.map_err(|e| failed(e.to_string()))?;
        let out = {
            let view = memory.get_mapped_range(0..size).map_err(|e| failed(e.to_string()))?;
            f(&view)
        };
        memory.unmap();
        Ok(out)
    }

    /// What pipelines are made with, if they are kept on disk.
    pub(super) fn pipelines(&self) -> Option<&wgpu::PipelineCache> {
        self.disk_cache.as_ref().map(DiskCache::pipelines)
    }

    /// Keeps the pipelines that were made for the next start.
    pub(super) fn save_pipelines(&self) {
        if let Some(cache) = &self.disk_cache {
            cache.save();
        }
    }

    /// Ends the device, as a crash of its driver would. For tests of what happens then.
    pub fn lose(&self) {
        self.device.destroy();
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        self.save_pipelines();
    }
}

/// Keeps the first complaint, but a loss before all.
fn note(fault: &Mutex<Option<GpuError>>, error: GpuError) {
    let mut fault = fault.lock().unwrap_or_else(PoisonError::into_inner);
    if fault.is_none() || matches!(error, GpuError::Lost { .. }) {
        *fault = Some(error);
    }
}

/// The text of an error and its causes on one line.
fn one_line(error: &wgpu::Error) -> String {
    error.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}
