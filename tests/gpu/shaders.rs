//! Every kernel in every variant is valid and can be translated for every interface, without any device.

use std::io::Write;
use std::process::{Command, Stdio};

use naga::back::{glsl, hlsl, msl, spv};
use naga::valid::{Capabilities, ModuleInfo, SubgroupOperationSet, ValidationFlags, Validator};
use sterna::backend::gpu::{Dot, Kernel, Output, RowType, Variant};
use sterna::model::Gate;
use sterna_cpu::kv::KvType;

use crate::support::{config, shape};

const VARIANTS: [Variant; 4] = [
    Variant { dot: Dot::Packed, subgroups: true },
    Variant { dot: Dot::Packed, subgroups: false },
    Variant { dot: Dot::Plain, subgroups: true },
    Variant { dot: Dot::Plain, subgroups: false },
];

fn kernels() -> Vec<Kernel> {
    let rows = [RowType::F16, RowType::Bf16, RowType::F32];
    let outputs = [Output::Qkv, Output::Residual, Output::Gated];
    let mut kernels = vec![Kernel::Attention, Kernel::AttentionTile, Kernel::FinalNorm, Kernel::Best];
    kernels.extend([Kernel::HeadInput, Kernel::Classes, Kernel::Candidates, Kernel::Answer]);
    kernels.extend([Kernel::ProbeRead, Kernel::ProbeInt8]);
    kernels.extend([1, 4, 8].map(Kernel::Intervals));
    for norm in [false, true] {
        kernels.extend([Kernel::Quantize { norm }, Kernel::Combine { norm }]);
    }
    for output in outputs {
        kernels.extend([Kernel::GemvNorm(output), Kernel::Gemm(output)]);
        kernels.extend([1, 2, 4, 8].map(|tokens| Kernel::Gemv(output, tokens)));
    }
    for rows in rows {
        kernels.extend([Kernel::Embed(rows), Kernel::Rescore(rows)]);
        kernels.extend([1, 4, 8].map(|tokens| Kernel::Head(rows, tokens)));
    }
    kernels
}

/// Every kernel in every variant for models of different shapes: name, text, variant.
fn for_each_source(mut f: impl FnMut(&str, &str, Variant)) {
    let shapes = [
        ("2b-4t", shape(&config(20, 5, 128, 2560, Gate::Relu2), KvType::F16)),
        ("awkward", shape(&config(5, 1, 100, 200, Gate::Silu), KvType::F32)),
        ("wide", shape(&config(64, 8, 256, 8192, Gate::Silu), KvType::F16)),
    ];
    for kernel in kernels() {
        for variant in VARIANTS {
            for (name, shape) in &shapes {
                let source = kernel.source(shape, variant);
                f(&format!("{kernel:?} {variant:?} {name}"), &source, variant);
            }
        }
    }
}

fn validate(name: &str, source: &str, variant: Variant) -> (naga::Module, ModuleInfo) {
    let module =
        naga::front::wgsl::parse_str(source).unwrap_or_else(|e| panic!("{name}: {}", e.emit_to_string(source)));
    // Packed pairs of half precision are part of WebGPU.
    let mut capabilities = Capabilities::SHADER_FLOAT16_IN_FLOAT32;
    capabilities.set(Capabilities::SUBGROUP, variant.subgroups);
    let mut validator = Validator::new(ValidationFlags::all(), capabilities);
    if variant.subgroups {
        validator.subgroup_stages(naga::valid::ShaderStages::COMPUTE);
        validator.subgroup_operations(SubgroupOperationSet::all());
    }
    let info = validator.validate(&module).unwrap_or_else(|e| panic!("{name}: {}", e.emit_to_string(source)));
    (module, info)
}

#[test]
fn every_variant_is_valid_and_within_webgpus_limits() {
    for_each_source(|name, source, variant| {
        let (module, _) = validate(name, source, variant);
        let (mut storage, mut workgroup) = (0, 0);
        let layouts = {
            let mut layouter = naga::proc::Layouter::default();
            layouter.update(module.to_ctx()).unwrap();
            layouter
        };
        for (_, variable) in module.global_variables.iter() {
            match variable.space {
                naga::AddressSpace::Storage { .. } => storage += 1,
                naga::AddressSpace::WorkGroup => workgroup += layouts[variable.ty].size,
                _ => {}
            }
        }
        assert!(storage <= 8, "{name}: {storage} storage buffers");
        // Some variables are not used by every kernel: this is a bound from above.
        assert!(workgroup <= 20 << 10, "{name}: {workgroup} bytes of workgroup memory");
    });
}

#[test]
fn every_variant_is_translated_for_every_interface() {
    let mut spirv = Vec::new();
    for_each_source(|name, source, variant| {
        let (module, info) = validate(name, source, variant);
        let fail = |what: &str, error: &dyn std::fmt::Display| -> ! { panic!("{name}: {what}: {error}") };
        let options = spv::Options { lang_version: (1, 3), ..Default::default() };
        let words = spv::write_vec(&module, &info, &options, None).unwrap_or_else(|e| fail("SPIR-V", &e));
        spirv.push((name.to_owned(), words));
        let options = msl::Options { lang_version: (2, 4), fake_missing_bindings: true, ..Default::default() };
        msl::write_string(&module, &info, &options, &Default::default()).unwrap_or_else(|e| fail("MSL", &e));
        let options =
            hlsl::Options { shader_model: hlsl::ShaderModel::V6_4, fake_missing_bindings: true, ..Default::default() };
        let mut text = String::new();
        let pipeline = hlsl::PipelineOptions::default();
        let mut writer = hlsl::Writer::new(&mut text, &options, &pipeline);
        writer.write(&module, &info, None).unwrap_or_else(|e| fail("HLSL", &e));
        for version in [glsl::Version::Desktop(450), glsl::Version::Embedded { version: 310, is_webgl: false }] {
            // Subgroups need extensions there, and wgpu offers none.
            if variant.subgroups {
                continue;
            }
            let options = glsl::Options { version, ..Default::default() };
            let pipeline = glsl::PipelineOptions {
                shader_stage: naga::ShaderStage::Compute,
                entry_point: "main".into(),
                multiview: None,
            };
            let mut text = String::new();
            let policies = naga::proc::BoundsCheckPolicies::default();
            glsl::Writer::new(&mut text, &module, &info, &options, &pipeline, policies)
                .and_then(|mut writer| writer.write())
                .unwrap_or_else(|e| fail("GLSL", &e));
        }
    });
    check_spirv(&spirv);
}

/// Has spirv-val (Debian: spirv-tools) check the translations, where it is installed; it must be in CI.
fn check_spirv(modules: &[(String, Vec<u32>)]) {
    if Command::new("spirv-val").arg("--version").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "spirv-val is missing: apt-get install spirv-tools");
        println!("note: spirv-val is missing (Debian: apt-get install spirv-tools); SPIR-V was not checked by it");
        return;
    }
    for (name, words) in modules {
        let mut child = Command::new("spirv-val")
            .args(["--target-env", "vulkan1.2", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(bytemuck::cast_slice(words)).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
