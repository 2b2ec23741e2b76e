//! `sterna tune`: measures what suits this machine and keeps it for later runs.

use sterna::Isa;
use sterna::tune::{self, Effort};

use super::common;

/// Arguments of `sterna tune`.
#[derive(clap::Args)]
#[command(
    after_help = "The settings go to a file (shown at the end; STERNA_TUNING names another one) that run, chat, logits
and bench read. Options such as --threads, --layout, --prefetch go before it. No setting changes
what a model says."
)]
pub(super) struct Args {
    /// At most so many threads [default: one per core]
    #[arg(short, long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,

    /// Instruction set [default: the best of this machine]
    #[arg(long, env = "STERNA_ISA", hide_env_values = true)]
    isa: Option<Isa>,

    /// Only show what would be written
    #[arg(long)]
    dry_run: bool,
}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let isa = args.isa.map_or_else(Isa::from_env, Isa::require)?;
    let threads = args.threads.unwrap_or_else(common::default_threads).into();
    let mut setting = "";
    let tuned = tune::measure(isa, threads, Effort::default(), &mut |trial| {
        if trial.setting != setting {
            setting = trial.setting;
            let unit = if setting == "block_bytes" { "prompts" } else { "generation" };
            println!("{setting} ({unit}, 10^9 weights/s)");
        }
        println!("  {:<8} {:8.1}{}", trial.value, trial.rate, if trial.chosen { "  <-" } else { "" });
    });
    let file = common::tuning_file();
    match file.filter(|_| !args.dry_run) {
        Some(file) => {
            tuned.save(&file)?;
            println!("written to {}", file.display());
        }
        None => println!("{}", serde_json::to_string_pretty(&tuned)?),
    }
    Ok(())
}
