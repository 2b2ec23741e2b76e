//! `sterna rm`: remove a model from the cache.

use std::io::{BufRead, IsTerminal, Write};

use anyhow::bail;
use indicatif::HumanBytes;
use sterna::hub::{Cache, HubError, Reference};

/// Arguments of `sterna rm`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// A short name, or owner/repository: all that was pulled from it goes
    name: Reference,

    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let (cache, repository) = (Cache::from_env()?, args.name.repository());
    if args.name.to_string() != repository {
        bail!("files and revisions share their contents and go together: sterna rm {repository}");
    }
    let Some(bytes) = cache.size(repository)? else {
        return Err(HubError::NotPulled { name: repository.to_owned() }.into());
    };
    let folder = cache.folder(repository);
    if !args.yes {
        if !std::io::stdin().is_terminal() {
            bail!("--yes is needed to remove {} where nobody can be asked", folder.display());
        }
        eprint!("remove {} ({})? [y/N] ", folder.display(), HumanBytes(bytes));
        std::io::stderr().flush()?;
        let mut answer = String::new();
        std::io::stdin().lock().read_line(&mut answer)?;
        if !["y", "yes"].contains(&answer.trim().to_lowercase().as_str()) {
            bail!("nothing was removed");
        }
    }
    cache.remove(repository)?;
    eprintln!("removed {} ({})", folder.display(), HumanBytes(bytes));
    Ok(())
}
