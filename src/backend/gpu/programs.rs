//! Compiled kernels and what they are bound to.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use wgpu::{BindGroupEntry, BindGroupLayoutEntry, BindingType, BufferBindingType, ShaderStages};

use super::GpuError;
use super::device::{Gpu, Memory};
use super::kernels::{Access, Kernel, Shape};

/// The kernels of a device, compiled when they are first wanted and shared by all stages.
#[derive(Debug)]
pub struct Programs {
    gpu: Arc<Gpu>,
    cache: Mutex<Cache>,
}

#[derive(Debug, Default)]
struct Cache {
    layouts: HashMap<Vec<Access>, wgpu::BindGroupLayout>,
    pipelines: HashMap<(Kernel, Shape), wgpu::ComputePipeline>,
}

impl Programs {
    /// No kernels yet.
    pub fn new(gpu: Arc<Gpu>) -> Programs {
        Programs { gpu, cache: Mutex::default() }
    }

    /// The device.
    pub fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }

    /// A kernel for models of this shape.
    ///
    /// # Errors
    /// If the device refuses it.
    pub fn pipeline(&self, kernel: Kernel, shape: &Shape) -> Result<wgpu::ComputePipeline, GpuError> {
        let layout = self.layout(&kernel.bindings())?;
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pipeline) = cache.pipelines.get(&(kernel, *shape)) {
            return Ok(pipeline.clone());
        }
        let source = kernel.source(shape, self.gpu.variant());
        let pipeline = self.gpu.checked(|device| {
            let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
                label: Some(kernel.name()),
                source: wgpu::ShaderSource::Wgsl(source.into()),
            });
            let layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label: Some(kernel.name()),
                bind_group_layouts: &[Some(&layout)],
                immediate_size: 0,
            });
            device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(kernel.name()),
                layout: Some(&layout),
                module: &module,
                entry_point: Some("main"),
                compilation_options: wgpu::PipelineCompilationOptions {
                    // Every kernel writes workgroup memory before it reads it.
                    zero_initialize_workgroup_memory: false,
                    ..Default::default()
                },
                cache: self.gpu.pipelines(),
            })
        })?;
        cache.pipelines.insert((kernel, *shape), pipeline.clone());
        Ok(pipeline)
    }

    fn layout(&self, bindings: &[Access]) -> Result<wgpu::BindGroupLayout, GpuError> {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(layout) = cache.layouts.get(bindings) {
            return Ok(layout.clone());
        }
        let entries: Vec<BindGroupLayoutEntry> = (0..)
            .zip(bindings)
            .map(|(binding, access)| BindGroupLayoutEntry {
                binding,
                visibility: ShaderStages::COMPUTE,
                ty: BindingType::Buffer {
                    ty: match access {
                        Access::Uniform => BufferBindingType::Uniform,
                        Access::Read => BufferBindingType::Storage { read_only: true },
                        Access::Write => BufferBindingType::Storage { read_only: false },
                    },
                    has_dynamic_offset: false,
                    min_binding_size: None,
                },
                count: None,
            })
            .collect();
        let layout = self.gpu.checked(|device| {
            device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: None, entries: &entries })
        })?;
        cache.layouts.insert(bindings.to_vec(), layout.clone());
        Ok(layout)
    }

    /// Binds buffers, in the order of [`Kernel::bindings`]. The result serves all kernels that bind alike.
    ///
    /// # Errors
    /// If the device refuses them.
    pub fn bind(&self, kernel: Kernel, buffers: &[&Memory]) -> Result<wgpu::BindGroup, GpuError> {
        let layout = self.layout(&kernel.bindings())?;
        let entries: Vec<BindGroupEntry<'_>> = (0..)
            .zip(buffers)
            .map(|(binding, buffer)| BindGroupEntry { binding, resource: buffer.as_entire_binding() })
            .collect();
        self.gpu.checked(|device| {
            device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some(kernel.name()),
                layout: &layout,
                entries: &entries,
            })
        })
    }
}
