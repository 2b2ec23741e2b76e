//! `sterna completions`: scripts that complete commands and options in a shell.

use clap::CommandFactory;

/// Arguments of `sterna completions`.
#[derive(clap::Args)]
#[command(after_help = "Example:
  sterna completions bash > ~/.local/share/bash-completion/completions/sterna")]
pub(super) struct Args {
    /// The shell
    shell: clap_complete::Shell,
}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::Cli::command(), "sterna", &mut script);
    std::io::Write::write_all(&mut std::io::stdout(), &script)?;
    Ok(())
}
