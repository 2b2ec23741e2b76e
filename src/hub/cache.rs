//! The cache on disk, in the layout of Python's `huggingface_hub`, which shares it.
//!
//! ```text
//! models--owner--repository/
//!   blobs/<etag>                    the contents of a file, under its checksum
//!   refs/<revision>                 the commit that a branch or tag was at when it was pulled
//!   snapshots/<commit>/<file>       links to blobs
//! .locks/models--owner--repository/<etag>.lock
//! ```

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::names::is_repository_name;
use super::select::{self, Selection};
use super::{HubError, Reference};

/// A folder with pulled models.
#[derive(Clone, Debug)]
pub struct Cache {
    root: PathBuf,
}

/// A model in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CachedModel {
    /// How it is named on the command line.
    pub reference: Reference,
    /// The commit.
    pub commit: String,
    /// The file or folder to open.
    pub path: PathBuf,
}

impl Cache {
    /// The cache of this user: `HF_HUB_CACHE`, or `hub` in `HF_HOME`, or in `huggingface` of the folder for caches.
    ///
    /// # Errors
    /// If no variable names a folder and there is no home folder.
    pub fn from_env() -> Result<Cache, HubError> {
        match path_variable("HF_HUB_CACHE").or_else(|| path_variable("HUGGINGFACE_HUB_CACHE")) {
            Some(root) => Ok(Cache { root }),
            None => Ok(Cache { root: home()?.join("hub") }),
        }
    }

    /// The cache in the folder `root`.
    pub fn new(root: impl Into<PathBuf>) -> Cache {
        Cache { root: root.into() }
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where a pulled model is: its GGUF file, or its Hugging Face folder. No network is used.
    ///
    /// # Errors
    /// If it is not in the cache, or several files may be meant.
    pub fn find(&self, reference: &Reference) -> Result<CachedModel, HubError> {
        let not_pulled = || HubError::NotPulled { name: reference.shortest() };
        let commit = self.commit(reference).ok_or_else(not_pulled)?;
        let snapshot = self.snapshot(reference.repository(), &commit);
        let files = files_in(&snapshot);
        if files.is_empty() || reference.file().is_some_and(|wanted| !files.iter().any(|file| file == wanted)) {
            return Err(not_pulled());
        }
        let path = match select::select(reference.repository(), &files, reference.file())? {
            Selection::Gguf { file, .. } => snapshot.join(file),
            Selection::Folder(_) => snapshot,
        };
        Ok(CachedModel { reference: reference.clone(), commit, path })
    }

    /// All models in the cache, sorted by name: each GGUF file and each folder with weights of each revision. Whether they run
    /// is not looked at.
    ///
    /// # Errors
    /// If the cache cannot be read. A cache that does not exist is empty.
    pub fn models(&self) -> Result<Vec<CachedModel>, HubError> {
        let mut models = Vec::new();
        for repository in self.repositories()? {
            for (revision, commit) in self.revisions(&repository) {
                let Ok(whole) = repository.parse::<Reference>().and_then(|reference| reference.at(&revision)) else {
                    continue;
                };
                let snapshot = self.snapshot(&repository, &commit);
                let files = files_in(&snapshot);
                let ggufs: Vec<&String> = files.iter().filter(|file| file.ends_with(".gguf")).collect();
                let mut push = |reference, path| models.push(CachedModel { reference, commit: commit.clone(), path });
                // A lone file needs no name.
                let chosen = match select::select(&repository, &files, None) {
                    Ok(Selection::Gguf { file, .. }) => Some(file),
                    Ok(Selection::Folder(_)) => {
                        push(whole.clone(), snapshot.clone());
                        None
                    }
                    Err(_) => None,
                };
                for file in ggufs {
                    let reference =
                        if chosen.as_ref() == Some(file) { Some(whole.clone()) } else { whole.file_named(file) };
                    if let Some(reference) = reference {
                        push(reference, snapshot.join(file));
                    }
                }
            }
        }
        models.sort_by_cached_key(|model| model.reference.to_string());
        Ok(models)
    }

    /// Bytes on disk of everything that was pulled from a repository, or `None` if nothing was.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn size(&self, repository: &str) -> Result<Option<u64>, HubError> {
        let folder = self.folder(repository);
        if fs::symlink_metadata(&folder).is_err() {
            return Ok(None);
        }
        let mut bytes = 0;
        walk(&folder, &mut |_, metadata| bytes += if metadata.is_file() { metadata.len() } else { 0 })
            .map_err(HubError::io(&folder))?;
        Ok(Some(bytes))
    }

    /// Removes everything that was pulled from a repository, and nothing else.
    ///
    /// # Errors
    /// If nothing was, or a file cannot be removed.
    pub fn remove(&self, repository: &str) -> Result<(), HubError> {
        let folder = self.folder(repository);
        fs::remove_dir_all(&folder).map_err(|reason| match reason.kind() {
            ErrorKind::NotFound => HubError::NotPulled { name: repository.to_owned() },
            _ => HubError::Io { path: folder.clone(), reason },
        })?;
        let locks = self.root.join(LOCKS).join(folder_name(repository));
        match fs::remove_dir_all(&locks) {
            Err(reason) if reason.kind() != ErrorKind::NotFound => Err(HubError::Io { path: locks, reason }),
            _ => Ok(()),
        }
    }

    /// The folder of a repository.
    pub fn folder(&self, repository: &str) -> PathBuf {
        self.root.join(folder_name(repository))
    }

    /// The file that holds the contents with this checksum.
    pub(super) fn blob(&self, repository: &str, etag: &str) -> PathBuf {
        self.folder(repository).join("blobs").join(etag)
    }

    /// The file whose lock says who downloads a blob.
    pub(super) fn lock(&self, repository: &str, etag: &str) -> PathBuf {
        self.root.join(LOCKS).join(folder_name(repository)).join(format!("{etag}.lock"))
    }

    /// The folder of a commit.
    pub(super) fn snapshot(&self, repository: &str, commit: &str) -> PathBuf {
        self.folder(repository).join("snapshots").join(commit)
    }

    /// Notes that `file` of `commit` has the contents of a blob.
    pub(super) fn link(&self, repository: &str, commit: &str, file: &str, etag: &str) -> Result<(), HubError> {
        let blob = self.blob(repository, etag);
        let pointer = self.snapshot(repository, commit).join(file);
        create_parent(&pointer)?;
        if fs::canonicalize(&pointer).is_ok_and(|target| fs::canonicalize(&blob).is_ok_and(|blob| target == blob)) {
            return Ok(());
        }
        match fs::remove_file(&pointer) {
            Err(reason) if reason.kind() != ErrorKind::NotFound => return Err(HubError::Io { path: pointer, reason }),
            _ => {}
        }
        // From snapshots/<commit>/<folders of the file> up to the folder of the repository.
        let up = 2 + file.matches('/').count();
        let target: PathBuf = std::iter::repeat_n("..", up).chain(["blobs", etag]).collect();
        // Where links need a permission that the user lacks, the file itself goes there, as Python does it.
        symlink(&target, &pointer).or_else(|_| fs::rename(&blob, &pointer)).map_err(HubError::io(&pointer))
    }

    /// Notes that a branch or tag is at `commit`.
    pub(super) fn set_revision(&self, repository: &str, revision: &str, commit: &str) -> Result<(), HubError> {
        if revision == commit {
            return Ok(());
        }
        let path = self.folder(repository).join("refs").join(revision);
        create_parent(&path)?;
        fs::write(&path, commit).map_err(HubError::io(&path))
    }

    /// The commit of a reference: that of its branch or tag, or itself. Where only one commit is there, the default branch is
    /// that one.
    fn commit(&self, reference: &Reference) -> Option<String> {
        let revisions = self.revisions(reference.repository());
        let named =
            revisions.iter().find(|(revision, commit)| [revision, commit].contains(&&reference.revision().into()));
        let only = || match &revisions[..] {
            [only] if reference.revision() == "main" => Some(only),
            _ => None,
        };
        named.or_else(only).map(|(_, commit)| commit.clone())
    }

    /// Branches and tags with their commits, and commits that have no other name, as far as there are snapshots of them.
    fn revisions(&self, repository: &str) -> Vec<(String, String)> {
        let folder = self.folder(repository);
        let mut commits: Vec<String> = names_in(&folder.join("snapshots"));
        commits.sort();
        let refs = folder.join("refs");
        let mut revisions: Vec<(String, String)> = files_in(&refs)
            .into_iter()
            .filter_map(|revision| {
                let commit = fs::read_to_string(refs.join(&revision)).ok()?.trim().to_owned();
                commits.contains(&commit).then_some((revision, commit))
            })
            .collect();
        commits.retain(|commit| !revisions.iter().any(|(_, named)| named == commit));
        revisions.extend(commits.into_iter().map(|commit| (commit.clone(), commit)));
        revisions
    }

    /// The repositories in the cache.
    fn repositories(&self) -> Result<Vec<String>, HubError> {
        let entries = match fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(reason) if reason.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(reason) => return Err(HubError::Io { path: self.root.clone(), reason }),
        };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        Ok(names
            .filter_map(|name| {
                let (owner, repository) = name.strip_prefix(PREFIX)?.split_once("--")?;
                let is_valid = is_repository_name(owner) && is_repository_name(repository);
                is_valid.then(|| format!("{owner}/{repository}"))
            })
            .collect())
    }
}

/// What the folders of models begin with; data sets have another prefix.
const PREFIX: &str = "models--";

/// The folder with files whose locks say who writes what.
const LOCKS: &str = ".locks";

/// Folders in folders of a snapshot that are looked into.
const MAX_DEPTH: usize = 8;

/// The folder for the hub's settings and caches.
pub(super) fn home() -> Result<PathBuf, HubError> {
    if let Some(home) = path_variable("HF_HOME") {
        return Ok(home);
    }
    let caches = path_variable("XDG_CACHE_HOME").or_else(|| Some(std::env::home_dir()?.join(".cache")));
    Ok(caches.ok_or(HubError::NoHome)?.join("huggingface"))
}

/// The path in an environment variable; an empty one counts as unset.
pub(super) fn path_variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

fn folder_name(repository: &str) -> String {
    format!("{PREFIX}{}", repository.replace('/', "--"))
}

/// Makes the folder that a file will be in.
pub(super) fn create_parent(file: &Path) -> Result<(), HubError> {
    match file.parent() {
        Some(folder) => fs::create_dir_all(folder).map_err(HubError::io(folder)),
        None => Ok(()),
    }
}

/// Names of what is in a folder; none if it cannot be read.
fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()
}

/// The files in a folder and its folders, sorted, relative to it and with slashes. Links count if there is a file behind
/// them.
fn files_in(folder: &Path) -> Vec<String> {
    fn add(folder: &Path, prefix: &str, depth: usize, files: &mut Vec<String>) {
        for name in names_in(folder) {
            let path = folder.join(&name);
            match fs::metadata(&path) {
                Ok(metadata) if metadata.is_file() => files.push(format!("{prefix}{name}")),
                Ok(metadata) if metadata.is_dir() && depth < MAX_DEPTH => {
                    add(&path, &format!("{prefix}{name}/"), depth + 1, files);
                }
                _ => {}
            }
        }
    }
    let mut files = Vec::new();
    add(folder, "", 0, &mut files);
    files.sort();
    files
}

/// Tells `visit` of everything in a folder. Links are not followed.
fn walk(folder: &Path, visit: &mut dyn FnMut(&Path, &fs::Metadata)) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let metadata = fs::symlink_metadata(&path)?;
        visit(&path, &metadata);
        if metadata.is_dir() {
            walk(&path, visit)?;
        }
    }
    Ok(())
}

#[cfg(unix)]
fn symlink(target: &Path, link: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(windows)]
fn symlink(target: &Path, link: &Path) -> std::io::Result<()> {
    std::os::windows::fs::symlink_file(target, link)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    /// A cache with files of the repository `a/b` at `commit`, whose contents are their names.
    fn with_files(commit: &str, files: &[&str]) -> (tempfile::TempDir, Cache) {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path());
        add(&cache, commit, files);
        (folder, cache)
    }

    fn add(cache: &Cache, commit: &str, files: &[&str]) {
        for file in files {
            let etag = format!("etag-{}", file.replace('/', "-"));
            let blob = cache.blob("a/b", &etag);
            create_parent(&blob).unwrap();
            fs::write(&blob, file).unwrap();
            cache.link("a/b", commit, file, &etag).unwrap();
            cache.link("a/b", commit, file, &etag).unwrap();
        }
    }

    fn find(cache: &Cache, name: &str) -> Result<PathBuf, String> {
        cache.find(&name.parse().unwrap()).map(|model| model.path).map_err(|error| error.to_string())
    }

    #[test]
    fn models_are_found_by_branch_commit_and_file() {
        let (_folder, cache) = with_files(COMMIT, &["m-i2_s.gguf", "deep/er/m-tq1_0.gguf"]);
        let snapshot = cache.snapshot("a/b", COMMIT);
        // The only commit is the default branch, until a branch says otherwise.
        assert_eq!(find(&cache, "a/b").unwrap(), snapshot.join("m-i2_s.gguf"));
        assert_eq!(fs::read_to_string(snapshot.join("deep/er/m-tq1_0.gguf")).unwrap(), "deep/er/m-tq1_0.gguf");
        let other = "f".repeat(40);
        add(&cache, &other, &["config.json", "model.safetensors"]);
        assert!(find(&cache, "a/b").unwrap_err().contains("sterna pull a/b"));
        cache.set_revision("a/b", "main", &other).unwrap();
        cache.set_revision("a/b", "refs/pr/1", COMMIT).unwrap();
        assert_eq!(find(&cache, "a/b").unwrap(), cache.snapshot("a/b", &other));
        assert_eq!(find(&cache, "a/b@refs/pr/1").unwrap(), snapshot.join("m-i2_s.gguf"));
        assert_eq!(
            find(&cache, &format!("a/b/deep/er/m-tq1_0.gguf@{COMMIT}")).unwrap(),
            snapshot.join("deep/er/m-tq1_0.gguf")
        );
        assert!(find(&cache, "a/b/m-tq2_0.gguf").unwrap_err().contains("has not been pulled"));
        assert!(find(&cache, "a/c").unwrap_err().contains("sterna pull a/c"));
        let names: Vec<String> = cache.models().unwrap().iter().map(|model| model.reference.to_string()).collect();
        assert_eq!(names, ["a/b", "a/b/deep/er/m-tq1_0.gguf@refs/pr/1", "a/b@refs/pr/1"]);
    }

    #[test]
    fn commits_that_lead_out_of_the_cache_count_for_nothing() {
        let (_folder, cache) = with_files(COMMIT, &["m-i2_s.gguf"]);
        cache.set_revision("a/b", "main", "../../../..").unwrap();
        assert!(find(&cache, "a/b@main").unwrap().ends_with(format!("{COMMIT}/m-i2_s.gguf")));
    }

    #[test]
    fn removing_takes_one_repository() {
        let (folder, cache) = with_files(COMMIT, &["m-i2_s.gguf"]);
        let kept = folder.path().join("models--a--bb");
        fs::create_dir_all(&kept).unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("file"), "kept").unwrap();
        symlink(outside.path(), &cache.folder("a/b").join("link")).unwrap();
        create_parent(&cache.lock("a/b", "x")).unwrap();
        fs::write(cache.lock("a/b", "x"), "").unwrap();
        assert_eq!(cache.size("a/b").unwrap(), Some("m-i2_s.gguf".len() as u64), "links have no bytes of their own");
        cache.remove("a/b").unwrap();
        assert!(kept.is_dir() && outside.path().join("file").is_file());
        assert!(!cache.folder("a/b").exists() && !cache.lock("a/b", "x").exists());
        assert!(matches!(cache.remove("a/b"), Err(HubError::NotPulled { .. })));
        assert_eq!(cache.size("a/b").unwrap(), None);
    }
}
