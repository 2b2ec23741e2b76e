//! What can go wrong between the hub, the cache and a model.

use std::path::{Path, PathBuf};

use crate::size;

/// Why a model cannot be pulled, found or removed. Each message is complete in itself.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// A name that stands for no model.
    #[error("{name:?}: {reason}")]
    Name {
        /// The name.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The operating system refused to read, write or remove something.
    #[error("{}: {reason}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        reason: std::io::Error,
    },
    /// There is no folder for the cache.
    #[error("this user has no home folder for the models; set HF_HOME to a folder")]
    NoHome,
    /// The cache has no such model.
    #[error("{name} has not been pulled; `sterna pull {name}` downloads it")]
    NotPulled {
        /// The model.
        name: String,
    },
    /// `HF_HUB_OFFLINE` forbids to use the network.
    #[error("HF_HUB_OFFLINE is set, so that nothing is downloaded; unset it to pull {name}")]
    Offline {
        /// The model.
        name: String,
    },
    /// No connection, or one that broke.
    #[error(
        "{url}: {reason}; what has arrived is kept: check the connection (and HTTPS_PROXY), then run the command again"
    )]
    Connection {
        /// What was asked for.
        url: String,
        /// What happened.
        reason: String,
    },
    /// The hub does not show a repository.
    #[error(
        "{url}: the hub answers {status}: {repository} does not exist, or needs permission: accept its terms on its page, and \
         set HF_TOKEN to an access token"
    )]
    Permission {
        /// What was asked for.
        url: String,
        /// The status code.
        status: u16,
        /// The repository.
        repository: String,
    },
    /// The hub has no such repository, revision or file.
    #[error("{url}: not found: there is no {what}")]
    NotFound {
        /// What was asked for.
        url: String,
        /// What is missing.
        what: String,
    },
    /// Another answer than the hub's protocol allows.
    #[error("{url}: {reason}")]
    Answer {
        /// What was asked for.
        url: String,
        /// What is wrong with the answer.
        reason: String,
    },
    /// A repository has files, but none that is certain to be meant.
    #[error("{repository}: {reason}{}", list(files))]
    Unclear {
        /// The repository.
        repository: String,
        /// Why none is taken.
        reason: &'static str,
        /// The files to choose from.
        files: Vec<String>,
    },
    /// What was downloaded is not what the hub announced.
    #[error(
        "{file}: what was downloaded has another checksum ({found}) than the hub announces ({expected}); it has been removed: \
         pull again"
    )]
    Checksum {
        /// The file in the repository.
        file: String,
        /// The hexadecimal checksum that the hub announces.
        expected: String,
        /// That of what arrived.
        found: String,
    },
    /// The disk is too small.
    #[error(
        "{}: {} are needed and {} are free; make room, or set HF_HUB_CACHE to a folder on another disk",
        folder.display(), size::text(*needed), size::text(*free)
    )]
    Space {
        /// The cache.
        folder: PathBuf,
        /// Bytes still to be downloaded.
        needed: u64,
        /// Bytes that there is room for.
        free: u64,
    },
}

impl HubError {
    /// A function that wraps an I/O error about `path`.
    pub(super) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> HubError {
        move |reason| HubError::Io { path: path.to_path_buf(), reason }
    }
}

/// The tail of a message that offers files.
fn list(files: &[String]) -> String {
    if files.is_empty() { String::new() } else { format!("; it has:\n  {}", files.join("\n  ")) }
}
