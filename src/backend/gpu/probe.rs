//! What a GPU can do at most: how fast its kernels read memory, how fast it copies, how many bytes they multiply.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use wgpu::BindGroup;

use super::GpuError;
use super::device::{Gpu, Memory};
use super::kernels::{Kernel, Shape};
use super::programs::Programs;

/// Bytes that are read and copied: far beyond most caches.
const BYTES: u64 = 256 << 20;

/// Threads of a workgroup, and bytes that each of them reads at a time in each step of its loop.
const GROUP: u64 = 256;
const STEP: u64 = 4 * 16;

/// Workgroups that multiply, and products of a thread in a round.
const MULTIPLIERS: u64 = 1024;
const MACS: u64 = 8 * 4;

/// How long a measurement takes at least: starting and waiting for a submission is then a small part of it.
const LONG_ENOUGH: Duration = Duration::from_millis(20);

/// Most repetitions in a submission.
const MOST: u64 = 1 << 12;

/// The limits of a device.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    /// Sequential reads by a kernel, GB/s.
    pub read_gbps: f64,
    /// Copies from memory to memory, GB/s; each byte is read and written and counts twice.
    pub copy_gbps: f64,
    /// Multiply-adds of int8 numbers in registers, 10^9 per second.
    pub int8_gmacs: f64,
}

/// Memory of a device and kernels to measure it with.
#[derive(Debug)]
pub struct GpuProbe {
    programs: Programs,
    data: Memory,
    copied: Memory,
    read: (wgpu::ComputePipeline, BindGroup, u32),
    multiply: (wgpu::ComputePipeline, BindGroup, u32),
}

/// Rounds of a multiplying thread: few milliseconds on one that is emulated.
const ROUNDS: u32 = 64;

impl GpuProbe {
    /// Takes twice 256 MiB of the device, or what kernels can see of it.
    ///
    /// # Errors
    /// If the device lacks the memory or refuses a kernel.
    pub fn new(gpu: Arc<Gpu>) -> Result<GpuProbe, GpuError> {
        let step = GROUP * STEP;
        // As many workgroups as keep any device busy, each with whole steps.
        let groups = (gpu.max_binding().min(BYTES) / step).clamp(1, 2048);
        let bytes = gpu.max_binding().min(BYTES) / (groups * step) * groups * step;
        let data = gpu.memory("memory to be read", bytes)?;
        let copied = gpu.memory("memory to be copied to", bytes)?;
        let mixed = gpu.memory("what was read", 4 * GROUP * groups)?;
        let rounds = gpu.upload("rounds", bytemuck::cast_slice(&[ROUNDS, 0x0301_fd02]))?;
        let sums = gpu.memory("sums", 4 * GROUP * MULTIPLIERS)?;
        let programs = Programs::new(gpu);
        let shape = Shape::of_no_model();
        let prepare = |kernel: Kernel, buffers: &[&Memory], groups: u64| {
            Ok::<_, GpuError>((programs.pipeline(kernel, &shape)?, programs.bind(kernel, buffers)?, groups as u32))
        };
        let read = prepare(Kernel::ProbeRead, &[&data, &mixed], groups)?;
        let multiply = prepare(Kernel::ProbeInt8, &[&rounds, &sums], MULTIPLIERS)?;
        let probe = GpuProbe { programs, data, copied, read, multiply };
        // Memory that was never written may not be there yet.
        probe.submit(|encoder| {
            encoder.copy_buffer_to_buffer(&probe.copied, 0, &probe.data, 0, bytes);
            encoder.copy_buffer_to_buffer(&probe.data, 0, &probe.copied, 0, bytes);
        })?;
        Ok(probe)
    }

    /// Reads by a kernel, GB/s.
    ///
    /// # Errors
    /// If the device fails.
    pub fn read_gbps(&self) -> Result<f64, GpuError> {
        self.rate(self.data.size(), |encoder, times| self.dispatch(encoder, &self.read, times))
    }

    /// Copies, GB/s read and written.
    ///
    /// # Errors
    /// If the device fails.
    pub fn copy_gbps(&self) -> Result<f64, GpuError> {
        self.rate(2 * self.data.size(), |encoder, times| {
            for _ in 0..times {
                encoder.copy_buffer_to_buffer(&self.data, 0, &self.copied, 0, self.data.size());
            }
        })
    }

    /// Multiply-adds of bytes, 10^9 per second.
    ///
    /// # Errors
    /// If the device fails.
    pub fn int8_gmacs(&self) -> Result<f64, GpuError> {
        let macs = u64::from(ROUNDS) * MULTIPLIERS * GROUP * MACS;
        self.rate(macs, |encoder, times| self.dispatch(encoder, &self.multiply, times))
    }

    /// All of them.
    ///
    /// # Errors
    /// If the device fails.
    pub fn rates(&self) -> Result<Rates, GpuError> {
        Ok(Rates { read_gbps: self.read_gbps()?, copy_gbps: self.copy_gbps()?, int8_gmacs: self.int8_gmacs()? })
    }

    /// 10^9 units per second, of which `record` does `units` each of the times that it is told.
    fn rate(&self, units: u64, record: impl Fn(&mut wgpu::CommandEncoder, u64)) -> Result<f64, GpuError> {
        let mut times = 1;
        loop {
            let took = self.submit(|encoder| record(encoder, times))?;
            if took >= LONG_ENOUGH || times >= MOST {
                return Ok((units * times) as f64 / took.as_secs_f64() / 1e9);
            }
            // Twice as long as is needed, since the first try was slowed by its start.
            let more = 2.0 * LONG_ENOUGH.as_secs_f64() / took.as_secs_f64().max(1e-6);
            times = (times as f64 * more.clamp(2.0, 64.0)) as u64;
        }
    }

    fn dispatch(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        (pipeline, bound, groups): &(wgpu::ComputePipeline, BindGroup, u32),
        times: u64,
    ) {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        pass.set_pipeline(pipeline);
        pass.set_bind_group(0, bound, &[]);
        for _ in 0..times {
            pass.dispatch_workgroups(*groups, 1, 1);
        }
    }

    /// How long the device takes for what is recorded.
    fn submit(&self, record: impl FnOnce(&mut wgpu::CommandEncoder)) -> Result<Duration, GpuError> {
        let gpu = self.programs.gpu();
        let mut encoder = gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        record(&mut encoder);
        let start = Instant::now();
        gpu.wait(gpu.queue().submit([encoder.finish()]))?;
        Ok(start.elapsed())
    }
}
