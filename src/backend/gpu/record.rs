//! Records the dispatches of a pass into few command buffers, counting.

use std::collections::HashMap;
use std::sync::Arc;

use super::GpuError;
use super::device::{Gpu, Memory};
use super::kernels::{Kernel, Shape};
use super::programs::Programs;
use super::timestamps::Timestamps;
use crate::backend::Counters;

/// Workgroups along the first dimension before a second one is used; every device allows 65535.
const ROW_OF_GROUPS: u32 = 1 << 15;

/// The dispatches of one device and model, counted since the stage was built.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) programs: Arc<Programs>,
    pub(super) shape: Shape,
    pub(super) counters: Counters,
    pipelines: HashMap<Kernel, wgpu::ComputePipeline>,
    /// Multiply-adds of a submission, about.
    pub(super) work_limit: u64,
    /// Where the times of kernels are written, while an observer wants them.
    pub(super) timestamps: Option<Timestamps>,
}

impl Queue {
    pub(super) fn new(programs: Arc<Programs>, shape: Shape, work_limit: u64) -> Queue {
        Queue {
            programs,
            shape,
            counters: Counters::default(),
            pipelines: HashMap::new(),
            work_limit,
            timestamps: None,
        }
    }

    pub(super) fn gpu(&self) -> &Arc<Gpu> {
        self.programs.gpu()
    }

    /// Compiles a kernel now rather than when it is first used.
    pub(super) fn prepare(&mut self, kernel: Kernel) -> Result<&wgpu::ComputePipeline, GpuError> {
        if !self.pipelines.contains_key(&kernel) {
            let pipeline = self.programs.pipeline(kernel, &self.shape)?;
            self.pipelines.insert(kernel, pipeline);
        }
        Ok(&self.pipelines[&kernel])
    }

    /// Writes what a pass needs to know; it arrives before the next submission.
    pub(super) fn write(&mut self, buffer: &wgpu::Buffer, bytes: &[u8]) {
        self.counters.uploaded += bytes.len() as u64;
        self.gpu().queue().write_buffer(buffer, 0, bytes);
    }

    pub(super) fn record(&mut self) -> Recorder<'_> {
        let encoder = self.gpu().device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        Recorder { queue: self, encoder, pass: None, work: 0 }
    }
}

/// A command buffer in the making. All its dispatches are in one compute pass.
pub(super) struct Recorder<'a> {
    queue: &'a mut Queue,
    encoder: wgpu::CommandEncoder,
    pass: Option<wgpu::ComputePass<'static>>,
    work: u64,
}

impl Recorder<'_> {
    /// A dispatch of `grid` workgroups that reads about `bytes`.
    pub(super) fn dispatch(
        &mut self,
        kernel: Kernel,
        bind_group: &wgpu::BindGroup,
        grid: [u32; 3],
        bytes: u64,
    ) -> Result<(), GpuError> {
        self.queue.prepare(kernel)?;
        let pipeline = &self.queue.pipelines[&kernel];
        let times = self.queue.timestamps.as_mut().and_then(|times| times.next(kernel.name()));
        if times.is_some() {
            self.pass = None;
        }
        let encoder = &mut self.encoder;
        let pass = self.pass.get_or_insert_with(|| {
            let descriptor = wgpu::ComputePassDescriptor { label: None, timestamp_writes: times };
            encoder.begin_compute_pass(&descriptor).forget_lifetime()
        });
        pass.set_pipeline(pipeline);
        pass.set_bind_group(0, bind_group, &[]);
        pass.dispatch_workgroups(grid[0], grid[1], grid[2]);
        if self.queue.timestamps.is_some() {
            self.pass = None;
        }
        let count = self.queue.counters.kernels.entry(kernel.name()).or_default();
        count.dispatches += 1;
        count.bytes += bytes;
        Ok(())
    }

    /// `work` multiply-adds were recorded: a command buffer that has become long is handed over, so that no watchdog
    /// barks. It has then less than the limit and one product more, which is below the limit itself (`max_tokens`).
    pub(super) fn worked(&mut self, work: u64) {
        self.work += work;
        if self.work > self.queue.work_limit {
            self.work = 0;
            let next = self.queue.gpu().device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            self.pass = None;
            let encoder = std::mem::replace(&mut self.encoder, next);
            self.queue.gpu().queue().submit([encoder.finish()]);
            self.queue.counters.submissions += 1;
        }
    }

    /// What is recorded next is of this layer.
    pub(super) fn at_layer(&mut self, layer: usize) {
        if let Some(times) = &mut self.queue.timestamps {
            times.layer = layer;
        }
    }

    /// Copies behind what was recorded.
    pub(super) fn copy(&mut self, from: &wgpu::Buffer, at: u64, to: &wgpu::Buffer, to_at: u64, size: u64) {
        self.pass = None;
        self.encoder.copy_buffer_to_buffer(from, at, to, to_at, size);
    }

    /// Hands everything to the device.
    pub(super) fn submit(mut self) -> wgpu::SubmissionIndex {
        self.pass = None;
        self.queue.counters.submissions += 1;
        if let Some(times) = &self.queue.timestamps {
            times.resolve(&mut self.encoder);
        }
        self.queue.gpu().queue().submit([self.encoder.finish()])
    }

    /// Hands everything to the device, waits for it, and gives the first `size` bytes of `readback` to `f`.
    pub(super) fn read<T>(self, readback: &Memory, size: u64, f: impl FnOnce(&[u8]) -> T) -> Result<T, GpuError> {
        self.queue.counters.readback += size;
        let gpu = Arc::clone(self.queue.gpu());
        gpu.read(self.submit(), readback, size, f)
    }
}

/// A grid of `count` workgroups; beyond the first dimension's limit there may be some more, which find nothing to do.
pub(super) fn grid(count: usize) -> [u32; 3] {
    let count = count as u32;
    if count <= ROW_OF_GROUPS { [count, 1, 1] } else { [ROW_OF_GROUPS, count.div_ceil(ROW_OF_GROUPS), 1] }
}

#[cfg(test)]
mod tests {
    use super::grid;

    #[test]
    fn grids_cover_their_workgroups() {
        assert_eq!(grid(7), [7, 1, 1]);
        for count in [1 << 15, (1 << 15) + 1, 1 << 20] {
            let [x, y, z] = grid(count);
            assert!((x * y * z) as usize >= count && x <= 65535 && y <= 65535);
        }
    }
}
