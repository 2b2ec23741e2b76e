//! What the name of a model stands for: the embedded one, a file or folder, or one that was pulled from the hub.

use std::path::Path;

use crate::demo;
use crate::format::{Checkpoint, FormatError, OpenOptions};

/// The checkpoint that `name` stands for: a path; `demo`; or, with the feature `hub`, a model in the cache under its short name
/// or as `owner/repository`. What exists as a path goes first. No network is used.
///
/// # Errors
/// As [`Checkpoint::open`], or if the model was not pulled.
pub fn open(name: &Path) -> Result<Checkpoint, FormatError> {
    open_with(name, OpenOptions::default())
}

/// As [`open`], with options for files.
///
/// # Errors
/// As [`open`].
pub fn open_with(name: &Path, options: OpenOptions) -> Result<Checkpoint, FormatError> {
    if demo::is_demo(name) {
        return demo::checkpoint();
    }
    #[cfg(feature = "hub")]
    if let Some(pulled) = pulled(name) {
        return Checkpoint::open_with(&pulled?, options);
    }
    Checkpoint::open_with(name, options)
}

/// Whether a word that may be a prompt is the name of a model: of one that can be opened, or a short name of the hub.
pub fn is_model(word: &str) -> bool {
    let path = Path::new(word);
    #[cfg(feature = "hub")]
    if crate::hub::Reference::is_short_name(word) || matches!(pulled(path), Some(Ok(_))) {
        return true;
    }
    demo::is_demo(path) || path.exists()
}

/// Where the pulled model of this name is; `None` if the name is a path, or can be no model of the hub.
#[cfg(feature = "hub")]
fn pulled(name: &Path) -> Option<Result<std::path::PathBuf, FormatError>> {
    use crate::hub::{Cache, HubError, Reference};
    if name.exists() {
        return None;
    }
    let reference: Reference = name.to_str()?.parse().ok()?;
    let found = Cache::from_env().and_then(|cache| cache.find(&reference));
    Some(found.map(|model| model.path).map_err(|error| {
        let reason = match error {
            HubError::NotPulled { name } => format!(
                "there is no such file or folder, and no such model in the cache; `sterna pull {name}` downloads it from the hub"
            ),
            other => other.to_string(),
        };
        FormatError::NotACheckpoint { file: name.to_path_buf(), reason }
    }))
}
