//! Pulling a model: which files, whether there is room, one after the other.

use std::path::PathBuf;

use super::download::Download;
use super::select::{self, Selection};
use super::{Cache, Client, HubError, Reference};

/// What happens while a model is pulled.
#[derive(Clone, Copy, Debug)]
pub enum PullEvent<'a> {
    /// It is known what will be there in the end.
    Start {
        /// GGUF files of the repository that were not chosen.
        others: &'a [String],
        /// Bytes of all files.
        total: u64,
        /// Bytes still to be downloaded.
        missing: u64,
    },
    /// A file is next.
    File(&'a str),
    /// So many bytes of all files are there.
    Bytes(u64),
}

/// A pulled model.
#[derive(Clone, Debug)]
pub struct Pulled {
    /// The file or folder to open.
    pub path: PathBuf,
    /// The commit.
    pub commit: String,
    /// The files in the repository that were taken.
    pub files: Vec<String>,
    /// Bytes of all of them.
    pub bytes: u64,
}

/// Downloads a model to the cache, as far as it is not there: the GGUF file of a repository, or the files of a Hugging Face
/// folder. `progress` is told what happens.
///
/// # Errors
/// If the hub cannot be reached, does not have the model or asks for permission; if several files may be meant; if there is no
/// room; if a file has another checksum than the hub announces, which removes it. What has arrived stays and need not be
/// downloaded again.
pub fn pull(
    client: &Client,
    cache: &Cache,
    reference: &Reference,
    progress: &mut dyn FnMut(PullEvent<'_>),
) -> Result<Pulled, HubError> {
    let repository = reference.repository();
    let listing = client.files(reference)?;
    let commit = listing.commit.as_str();
    let snapshot = cache.snapshot(repository, commit);
    let (names, others, path) = match select::select(repository, &listing.files, reference.file())? {
        Selection::Gguf { file, others } => (vec![file.clone()], others, snapshot.join(file)),
        Selection::Folder(files) => (files, Vec::new(), snapshot),
    };
    let files: Vec<_> = names.iter().map(|name| client.describe(repository, commit, name)).collect::<Result<_, _>>()?;
    let download = Download { client, cache, repository, commit };
    // Sizes are what a server says: a sum beyond all numbers is more than any disk has.
    let sum = |sizes: &mut dyn Iterator<Item = u64>| sizes.fold(0u64, u64::saturating_add);
    let total = sum(&mut files.iter().map(|file| file.size));
    let missing = sum(&mut files.iter().map(|file| download.missing(file)));
    check_space(cache, missing)?;
    progress(PullEvent::Start { others: &others, total, missing });
    let mut before = 0;
    for file in &files {
        progress(PullEvent::File(&file.name));
        download.fetch(file, &mut |bytes| progress(PullEvent::Bytes(before + bytes)))?;
        before += file.size;
    }
    cache.set_revision(repository, reference.revision(), commit)?;
    Ok(Pulled { path, commit: commit.to_owned(), files: names, bytes: total })
}

/// Refuses to download more than the disk has room for.
fn check_space(cache: &Cache, needed: u64) -> Result<(), HubError> {
    let folder = cache.root();
    std::fs::create_dir_all(folder).map_err(HubError::io(folder))?;
    let free = fs4::available_space(folder).map_err(HubError::io(folder))?;
    match needed > free {
        true => Err(HubError::Space { folder: folder.to_path_buf(), needed, free }),
        false => Ok(()),
    }
}
