//! The command line: one file per subcommand.

mod bench;
mod bench_diff;
mod chat;
mod common;
mod compare;
mod completions;
mod convert;
mod devices;
mod doctor;
mod embed;
mod explain;
mod graphics;
mod inspect;
#[cfg(feature = "hub")]
mod list;
mod logits;
mod perplexity;
mod plan;
#[cfg(feature = "hub")]
mod pull;
mod report;
#[cfg(feature = "hub")]
mod rm;
mod run;
#[cfg(feature = "server")]
mod serve;
mod synth;
mod tune;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Runs ternary (BitNet b1.58) language models on any machine.
#[derive(Parser)]
#[command(version, about, long_about = LONG_ABOUT, max_term_width = 100, arg_required_else_help = true)]
struct Cli {
    /// Say more: -v what is loaded and which kernels run, -vv everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,

    #[command(subcommand)]
    command: Command,
}

const LONG_ABOUT: &str = "Runs ternary (\"1-bit\", BitNet b1.58) language models on any machine.

MODEL is a GGUF file (T16, I2_S, TQ1_0, TQ2_0, Q2_0), a Hugging Face folder (config.json and *.safetensors),
the name of a model that `sterna pull` has downloaded, or `demo`, a small model that is part of this
program and tells fairy tales. Without MODEL, the demo model runs.

  sterna run \"Once upon a time\"                the demo model continues a text
  sterna run model.gguf \"Once upon a time\"     your model does
  sterna chat model.gguf                       a conversation
  sterna serve model.gguf                      OpenAI's API and a page on http://127.0.0.1:8080
  sterna pull bitnet-2b                        a model from the Hugging Face hub
  sterna inspect model.gguf                    what is in the file";

#[derive(Subcommand)]
enum Command {
    /// Continue a text
    Run(run::Args),
    /// Talk with a model
    Chat(chat::Args),
    /// Serve models over HTTP: OpenAI's API, and a page to talk with them
    #[cfg(feature = "server")]
    Serve(serve::Args),
    /// Download a model from the Hugging Face hub
    #[cfg(feature = "hub")]
    Pull(pull::Args),
    /// List the models that were pulled
    #[cfg(feature = "hub")]
    List(list::Args),
    /// Remove a pulled model
    #[cfg(feature = "hub")]
    Rm(rm::Args),
    /// Show what a checkpoint holds
    Inspect(inspect::Args),
    /// Write logits (and hidden states) of a text to a safetensors file, to check against other software
    Logits(logits::Args),
    /// Turn texts into vectors, for search and comparison
    Embed(embed::Args),
    /// Measure tokens per second, next to the limits of this machine
    Bench(bench::Args),
    /// Check this machine: kernels, memory, settings; say what would make it faster
    Doctor(doctor::Args),
    /// List what a model can run on: instruction sets and GPUs
    Devices(devices::Args),
    /// Show which device would serve which layer of a model, what that takes and how fast it would be
    Plan(plan::Args),
    /// Measure what suits this machine (threads, layout, prefetch, task sizes) and keep it for later runs
    Tune(tune::Args),
    /// Measure how well a model predicts a text
    Perplexity(perplexity::Args),
    /// Write a model again as a GGUF file, with other encodings of its weights
    Convert(convert::Args),
    /// Write a random model of a given shape, for benchmarks
    Synth(synth::Args),
    /// Print the completion script of a shell
    Completions(completions::Args),
}

/// Lets the program say on standard error what it does: as much as was asked for.
fn log(cli: &Cli) {
    #[cfg(feature = "server")]
    let (serves, json) = match &cli.command {
        Command::Serve(args) => (true, args.logs_json()),
        _ => (false, false),
    };
    #[cfg(not(feature = "server"))]
    let (serves, json) = (false, false);
    let level = match cli.verbose {
        // wgpu tells of drivers that it tried in vain.
        0 if !serves => "warn,wgpu_hal=off",
        0 | 1 => "warn,wgpu_hal=off,sterna=info",
        _ => "debug",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_env("STERNA_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(level));
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    // Colours are for people, not for files.
    let subscriber = subscriber.with_ansi(std::io::stderr().is_terminal());
    if json { subscriber.json().init() } else { subscriber.init() }
}

/// Runs the command line of this process.
pub(crate) fn main() -> ExitCode {
    let cli = Cli::parse();
    log(&cli);
    let result = match cli.command {
        Command::Run(args) => run::run(args),
        Command::Chat(args) => chat::run(args),
        #[cfg(feature = "server")]
        Command::Serve(args) => serve::run(args),
        #[cfg(feature = "hub")]
        Command::Pull(args) => pull::run(args),
        #[cfg(feature = "hub")]
        Command::List(args) => list::run(args),
        #[cfg(feature = "hub")]
        Command::Rm(args) => rm::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::Logits(args) => logits::run(args),
        Command::Embed(args) => embed::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Devices(args) => devices::run(args),
        Command::Plan(args) => plan::run(args),
        Command::Tune(args) => tune::run(args),
        Command::Perplexity(args) => perplexity::run(args),
        Command::Convert(args) => convert::run(args),
        Command::Synth(args) => synth::run(args),
        Command::Completions(args) => completions::run(args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if common::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
