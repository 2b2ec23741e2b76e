//! When kernels began and ended, by the device's own clock: for profiles.

use std::time::{Duration, Instant};

use wgpu::BufferUsages;

use super::GpuError;
use super::device::{Gpu, Memory};
use crate::backend::{Observer, OpTime};

/// Timestamps of a set; WebGPU allows no more.
const MOST: u32 = 4096;

/// The timestamps of a pass. Dispatches beyond the first 2048 are not timed.
#[derive(Debug)]
pub(super) struct Timestamps {
    set: wgpu::QuerySet,
    resolved: Memory,
    readback: Memory,
    /// Layer and name of each dispatch that has two timestamps.
    dispatches: Vec<(usize, &'static str)>,
    /// The layer that is being recorded.
    pub(super) layer: usize,
}

impl Timestamps {
    /// `None` on a device that was not opened for it, or has no clock.
    pub(super) fn new(gpu: &Gpu) -> Result<Option<Timestamps>, GpuError> {
        if !gpu.device().features().contains(wgpu::Features::TIMESTAMP_QUERY) {
            return Ok(None);
        }
        let set = gpu.checked(|device| {
            device.create_query_set(&wgpu::QuerySetDescriptor {
                label: Some("times"),
                ty: wgpu::QueryType::Timestamp,
                count: MOST,
            })
        })?;
        let bytes = u64::from(MOST) * 8;
        Ok(Some(Timestamps {
            set,
            resolved: gpu.buffer("times", bytes, BufferUsages::QUERY_RESOLVE | BufferUsages::COPY_SRC)?,
            readback: gpu.buffer("times to be read", bytes, BufferUsages::MAP_READ | BufferUsages::COPY_DST)?,
            dispatches: Vec::new(),
            layer: 0,
        }))
    }

    /// Where a pass of the next dispatch writes its times, if there is room.
    pub(super) fn next(&mut self, kernel: &'static str) -> Option<wgpu::ComputePassTimestampWrites<'_>> {
        let first = 2 * self.dispatches.len() as u32;
        if first + 2 > MOST {
            return None;
        }
        self.dispatches.push((self.layer, kernel));
        Some(wgpu::ComputePassTimestampWrites {
            query_set: &self.set,
            beginning_of_pass_write_index: Some(first),
            end_of_pass_write_index: Some(first + 1),
        })
    }

    /// Copies what there is to where it can be read, behind all that was recorded.
    pub(super) fn resolve(&self, encoder: &mut wgpu::CommandEncoder) {
        let count = 2 * self.dispatches.len() as u32;
        if count > 0 {
            encoder.resolve_query_set(&self.set, 0..count, &self.resolved, 0);
            encoder.copy_buffer_to_buffer(&self.resolved, 0, &self.readback, 0, u64::from(count) * 8);
        }
    }

    /// Waits for the pass that began at `start` and tells the observer of it; then there is room again.
    pub(super) fn tell(&mut self, gpu: &Gpu, start: Instant, observer: &mut dyn Observer) -> Result<(), GpuError> {
        let dispatches = std::mem::take(&mut self.dispatches);
        if dispatches.is_empty() {
            return Ok(());
        }
        let period = f64::from(gpu.queue().get_timestamp_period());
        let submission = gpu.queue().submit([]);
        gpu.read(submission, &self.readback, dispatches.len() as u64 * 16, |bytes| {
            let ticks: Vec<u64> = bytemuck::pod_collect_to_vec(bytes);
            let first = ticks.first().copied().unwrap_or(0);
            let since = |from: u64, to: u64| Duration::from_nanos((to.saturating_sub(from) as f64 * period) as u64);
            for (&(layer, name), pair) in dispatches.iter().zip(ticks.chunks_exact(2)) {
                observer.timed(OpTime {
                    layer,
                    name,
                    start: start + since(first, pair[0]),
                    time: since(pair[0], pair[1]),
                });
            }
        })
    }
}
