//! The embedded demo model: a small ternary model that tells fairy tales, so that a first run needs no download.

use std::path::Path;

use crate::format::{Checkpoint, FormatError};

/// The name under which the embedded model is opened.
pub const NAME: &str = "demo";

/// Whether `path` names the embedded model: it is `demo`, and no file or folder of that name is in the way.
pub fn is_demo(path: &Path) -> bool {
    path.as_os_str() == NAME && !path.exists()
}

/// The embedded model.
///
/// # Errors
/// None that a build with intact files can give.
pub fn checkpoint() -> Result<Checkpoint, FormatError> {
    macro_rules! files {
        ($($name:literal),*) => { [$(($name, include_bytes!(concat!("../models/demo/", $name)).as_slice())),*] };
    }
    Checkpoint::from_static(
        NAME,
        &files![
            "config.json",
            "generation_config.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json"
        ],
    )
}
