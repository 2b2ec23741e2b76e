//! `sterna devices`: what a model can run on here, and which device is used.

use std::fmt::Write as _;

use serde::Serialize;
use sterna::{Isa, tune};
use sterna_cpu::Pool;

/// Arguments of `sterna devices`.
#[derive(clap::Args)]
#[command(
    after_help = "The number of a GPU is what --device gpu=NUMBER takes, a part of its name what --device gpu=NAME
takes. WGPU_BACKEND=vulkan|metal|dx12|gl restricts the interfaces that are asked."
)]
pub(super) struct Args {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What there is.
#[derive(Serialize)]
struct Devices {
    cpu: Cpu,
    /// Absent in a build that cannot use GPUs.
    gpus: Option<Vec<Gpu>>,
}

#[derive(Serialize)]
struct Cpu {
    name: String,
    threads: usize,
    /// The instruction set in use, and all that the machine has.
    isa: &'static str,
    isas: Vec<&'static str>,
}

#[cfg(feature = "gpu")]
#[derive(Serialize)]
struct Gpu {
    #[serde(flatten)]
    adapter: sterna::backend::gpu::AdapterSummary,
    verdict: String,
}

#[cfg(not(feature = "gpu"))]
#[derive(Serialize)]
struct Gpu {}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let devices = Devices {
        cpu: Cpu {
            name: tune::cpu_name(),
            threads: Pool::default_threads(),
            isa: Isa::from_env()?.name(),
            isas: Isa::available().map(Isa::name).collect(),
        },
        gpus: gpus(),
    };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&devices)?);
    } else {
        print!("{}", devices.as_text());
    }
    Ok(())
}

#[cfg(feature = "gpu")]
fn gpus() -> Option<Vec<Gpu>> {
    use sterna::backend::gpu::{adapters, verdicts};
    let found = adapters();
    let verdicts = verdicts(&found);
    Some(found.into_iter().zip(verdicts).map(|(found, verdict)| Gpu { adapter: found.summary, verdict }).collect())
}

#[cfg(not(feature = "gpu"))]
fn gpus() -> Option<Vec<Gpu>> {
    None
}

impl Devices {
    fn as_text(&self) -> String {
        let cpu = &self.cpu;
        let mut out = format!("cpu     {}, {} threads\n", cpu.name, cpu.threads);
        // Writing to a string cannot fail.
        let _ = writeln!(out, "        instruction set {} (of {})", cpu.isa, cpu.isas.join(", "));
        match &self.gpus {
            None => out += "gpu     this build cannot use GPUs: build it with the feature gpu\n",
            Some(gpus) if gpus.is_empty() => out += "gpu     none found\n",
            Some(gpus) => gpus.iter().for_each(|gpu| gpu.describe(&mut out)),
        }
        out
    }
}

#[cfg(feature = "gpu")]
impl Gpu {
    fn describe(&self, out: &mut String) {
        let a = &self.adapter;
        let mib = |bytes: u64| bytes >> 20;
        let mut line = |text: String| {
            // Writing to a string cannot fail.
            let _ = writeln!(out, "{text}");
        };
        line(format!("gpu={:<3} {} ({}, {})", a.index, a.name, a.kind, a.api));
        if !a.driver.is_empty() {
            line(format!("        driver {}", a.driver));
        }
        let (buffer, binding) = (mib(a.max_buffer), mib(a.max_binding));
        line(match a.memory {
            Some(memory) => format!("        memory {} MiB, shared with the CPU (now free)", mib(memory)),
            None => "        memory of its own, how much is not told: --gpu-memory sets what a model may take".into(),
        });
        let (threads, memory) = (a.workgroup_threads, a.workgroup_memory >> 10);
        line(format!("        buffers of {buffer} MiB, {binding} MiB of them seen by a kernel"));
        line(format!("        workgroups of {threads} threads and {memory} KiB"));
        let subgroups = match a.subgroups {
            Some((least, most)) if least == most => format!("of {least}"),
            Some((least, most)) => format!("of {least} to {most}"),
            None => "not usable".into(),
        };
        line(format!("        subgroups {subgroups}, half precision {}", if a.f16 { "yes" } else { "no" }));
        line(format!("        {}", self.verdict));
    }
}

#[cfg(not(feature = "gpu"))]
impl Gpu {
    fn describe(&self, _out: &mut String) {}
}
