//! One file: from the hub to the cache, going on where an earlier attempt stopped, with its checksum compared.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use sha1::Sha1;
use sha2::{Digest, Sha256};
use ureq::http::StatusCode;

use super::client::{self, RemoteFile};
use super::{Cache, Client, HubError, cache};

/// Attempts that may bring nothing before the download is given up. One that brings bytes starts the count anew.
const FUTILE_ATTEMPTS: u32 = 3;

/// Bytes that are received at a time.
const BUFFER: usize = 256 << 10;

/// A repository at a commit, and where its files go.
pub(super) struct Download<'a> {
    pub(super) client: &'a Client,
    pub(super) cache: &'a Cache,
    pub(super) repository: &'a str,
    pub(super) commit: &'a str,
}

impl Download<'_> {
    /// Bytes of a file that are still to be downloaded.
    pub(super) fn missing(&self, file: &RemoteFile) -> u64 {
        let length = |path: PathBuf| fs::metadata(path).map(|metadata| metadata.len());
        let blob = self.cache.blob(self.repository, &file.etag);
        match length(blob.clone()) {
            Ok(length) if length == file.size => 0,
            _ => file.size.saturating_sub(length(partial(&blob)).unwrap_or(0)),
        }
    }

    /// Downloads a file unless it is there, and links it. `progress` is told how many of its bytes are there.
    pub(super) fn fetch(&self, file: &RemoteFile, progress: &mut dyn FnMut(u64)) -> Result<(), HubError> {
        let blob = self.cache.blob(self.repository, &file.etag);
        cache::create_parent(&blob)?;
        let lock_path = self.cache.lock(self.repository, &file.etag);
        cache::create_parent(&lock_path)?;
        let lock = File::create(&lock_path).map_err(HubError::io(&lock_path))?;
        // Another process may be downloading the same file; then it is there when the lock is free.
        match lock.lock() {
            // Some file systems of networks have no locks.
            Err(reason) if reason.kind() == ErrorKind::Unsupported => {}
            result => result.map_err(HubError::io(&lock_path))?,
        }
        if fs::metadata(&blob).is_ok_and(|metadata| metadata.len() == file.size) {
            progress(file.size);
        } else {
            self.receive(file, &partial(&blob), progress)?;
            fs::rename(partial(&blob), &blob).map_err(HubError::io(&blob))?;
        }
        self.cache.link(self.repository, self.commit, &file.name, &file.etag)
    }

    /// Completes the partial file and compares its checksum.
    fn receive(&self, file: &RemoteFile, path: &Path, progress: &mut dyn FnMut(u64)) -> Result<(), HubError> {
        let mut part = Part::open(path, file)?;
        progress(part.length);
        let mut futile = 0;
        while part.length < file.size {
            let before = part.length;
            match self.attempt(file, &mut part, progress) {
                Err(error @ HubError::Connection { .. }) => {
                    futile = if part.length > before { 0 } else { futile + 1 };
                    if futile == FUTILE_ATTEMPTS {
                        return Err(error);
                    }
                    tracing::info!("{error}; going on from byte {}", part.length);
                }
                result => result?,
            }
        }
        part.finish(file)
    }

    /// Asks for the bytes that are missing and appends those that come.
    fn attempt(&self, file: &RemoteFile, part: &mut Part, progress: &mut dyn FnMut(u64)) -> Result<(), HubError> {
        let url = self.client.url(self.repository, self.commit, &file.name);
        let response = self.client.contents(self.repository, self.commit, &file.name, part.length)?;
        let is_rest = response.status() == StatusCode::PARTIAL_CONTENT
            && response.headers().get("content-range").and_then(|range| range.to_str().ok()).is_some_and(|range| {
                range.trim_start().strip_prefix("bytes ").is_some_and(|range| {
                    range.split('-').next().is_some_and(|start| start.trim().parse() == Ok(part.length))
                })
            });
        if !is_rest && part.length > 0 {
            // A server that cannot go on, or has another file than the one that was begun.
            part.restart()?;
            progress(0);
        }
        if response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
            return Err(HubError::Connection { url, reason: "the hub has no such bytes".into() });
        }
        client::check_status(&url, &response, self.repository, || format!("file {}", file.name))?;
        if response.status() == StatusCode::PARTIAL_CONTENT && !is_rest {
            return Err(HubError::Connection { url, reason: "the hub sends other bytes than were asked for".into() });
        }
        let mut body = response.into_body().into_reader();
        let mut buffer = vec![0; BUFFER];
        while part.length < file.size {
            // What exceeds the announced length would fill the disk for nothing.
            let room = usize::try_from(file.size - part.length).unwrap_or(BUFFER).min(BUFFER);
            match body.read(&mut buffer[..room]) {
                Ok(0) => {
                    let reason = format!("the connection ended after {} of {} bytes", part.length, file.size);
                    return Err(HubError::Connection { url, reason });
                }
                Ok(count) => part.append(&buffer[..count])?,
                Err(error) => return Err(client::connection(&url, &error)),
            }
            progress(part.length);
        }
        Ok(())
    }
}

/// The name of a file that is not complete, as Python has it.
fn partial(blob: &Path) -> PathBuf {
    blob.with_added_extension("incomplete")
}

/// A file of which the first bytes are there.
struct Part {
    path: PathBuf,
    file: File,
    length: u64,
    checksum: Checksum,
    /// The state of the checksum before any byte.
    empty: Checksum,
}

impl Part {
    fn open(path: &Path, file: &RemoteFile) -> Result<Part, HubError> {
        let io = || HubError::io(path);
        let mut opened =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(io())?;
        let empty = Checksum::of(file);
        let (mut checksum, mut length) = (empty.clone(), 0);
        if opened.metadata().map_err(io())?.len() > file.size {
            opened.set_len(0).map_err(io())?;
        }
        let mut buffer = vec![0; BUFFER];
        loop {
            match opened.read(&mut buffer).map_err(io())? {
                0 => break,
                count => {
                    checksum.update(&buffer[..count]);
                    length += count as u64;
                }
            }
        }
        Ok(Part { path: path.to_path_buf(), file: opened, length, checksum, empty })
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), HubError> {
        self.file.write_all(bytes).map_err(HubError::io(&self.path))?;
        self.checksum.update(bytes);
        self.length += bytes.len() as u64;
        Ok(())
    }

    fn restart(&mut self) -> Result<(), HubError> {
        self.file.set_len(0).map_err(HubError::io(&self.path))?;
        self.file.seek(SeekFrom::Start(0)).map_err(HubError::io(&self.path))?;
        (self.length, self.checksum) = (0, self.empty.clone());
        Ok(())
    }

    /// Compares the checksum; a file with another one is removed.
    fn finish(self, file: &RemoteFile) -> Result<(), HubError> {
        if let Some(found) = self.checksum.finish().filter(|found| !found.eq_ignore_ascii_case(&file.etag)) {
            fs::remove_file(&self.path).map_err(HubError::io(&self.path))?;
            return Err(HubError::Checksum { file: file.name.clone(), expected: file.etag.clone(), found });
        }
        // The name must not outlive the bytes when the power goes.
        self.file.sync_all().map_err(HubError::io(&self.path))
    }
}

/// The checksum that an ETag is.
#[derive(Clone)]
enum Checksum {
    /// Of large files.
    Sha256(Sha256),
    /// Of small files: that of Git, over a header and the contents.
    Git(Sha1),
    /// Of a server whose ETags are none.
    None,
}

impl Checksum {
    fn of(file: &RemoteFile) -> Checksum {
        let is_hexadecimal = file.etag.bytes().all(|byte| byte.is_ascii_hexdigit());
        match file.etag.len() {
            64 if is_hexadecimal => Checksum::Sha256(Sha256::new()),
            40 if is_hexadecimal => Checksum::Git(Sha1::new_with_prefix(format!("blob {}\0", file.size))),
            _ => Checksum::None,
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Checksum::Sha256(hash) => hash.update(bytes),
            Checksum::Git(hash) => hash.update(bytes),
            Checksum::None => {}
        }
    }

    /// In hexadecimal; `None` if there is none to compare.
    fn finish(self) -> Option<String> {
        let hexadecimal = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        match self {
            Checksum::Sha256(hash) => Some(hexadecimal(&hash.finalize())),
            Checksum::Git(hash) => Some(hexadecimal(&hash.finalize())),
            Checksum::None => None,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;

    fn checksum(etag: &str, contents: &str) -> Option<String> {
        let file = RemoteFile { name: "x".into(), etag: etag.into(), size: contents.len() as u64 };
        let mut checksum = Checksum::of(&file);
        checksum.update(contents.as_bytes());
        checksum.finish()
    }

    #[test]
    fn checksums_are_those_of_the_hub() {
        // `printf hello | git hash-object --stdin`, `printf hello | sha256sum`
        let git = "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0";
        let sha256 = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
        assert_eq!(checksum(git, "hello").as_deref(), Some(git));
        assert_eq!(checksum(sha256, "hello").as_deref(), Some(sha256));
        assert_eq!(checksum("some-etag", "hello"), None);
    }
}
