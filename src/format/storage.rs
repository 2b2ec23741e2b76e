//! Where the bytes of a checkpoint live: a memory-mapped file, a part of the program, or the heap.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::ops::{Deref, Range};
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;

use super::FormatError;

/// The bytes of one file.
pub(super) enum Storage {
    /// A file mapped read-only; pages are read when they are touched.
    Mapped(Mmap),
    /// Bytes embedded in the program.
    Static(&'static [u8]),
    /// A small file that was read whole.
    Owned(Vec<u8>),
}

impl Storage {
    /// Maps `path` read-only.
    pub(super) fn map(path: &Path) -> Result<Storage, FormatError> {
        let file = File::open(path).map_err(FormatError::io(path))?;
        // SAFETY: the map is read-only and only ever seen as bytes, for which every bit pattern is valid. Another
        // process that shortens or rewrites the file meanwhile is outside what a program can exclude; checkpoint
        // files are replaced, not edited in place, and every reader of weight bytes accepts any value without
        // undefined behaviour.
        let map = unsafe { Mmap::map(&file) }.map_err(FormatError::io(path))?;
        Ok(Storage::Mapped(map))
    }

    /// Reads the file at `path` whole, if it exists and has at most `limit` bytes.
    pub(super) fn read(path: &Path, limit: u64) -> Result<Option<Storage>, FormatError> {
        let length = match std::fs::metadata(path) {
            // Opening a pipe would wait for its writer.
            Ok(kind) if !kind.is_file() => return Err(FormatError::header(path, "the path", "this is no file")),
            Ok(kind) => kind.len(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(reason) => return Err(FormatError::Io { file: path.to_path_buf(), reason }),
        };
        let file = File::open(path).map_err(FormatError::io(path))?;
        let too_long =
            |length: u64| FormatError::header(path, "the file", format!("{length} bytes exceed the limit of {limit}"));
        if length > limit {
            return Err(too_long(length));
        }
        // The limit holds for what is read, too: a file may grow meanwhile.
        let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
        file.take(limit + 1).read_to_end(&mut bytes).map_err(FormatError::io(path))?;
        if bytes.len() as u64 > limit {
            return Err(too_long(bytes.len() as u64));
        }
        Ok(Some(Storage::Owned(bytes)))
    }
}

impl Storage {
    /// Tells the system that the bytes `range` are not needed for now: those of a mapped file leave memory, and come back
    /// from the file if they are read again.
    fn release(&self, range: &Range<usize>) {
        #[cfg(unix)]
        if let Storage::Mapped(map) = self {
            // SAFETY: of a read-only map of a file, dropped pages are read from the file again: no byte changes.
            let advised =
                unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.len()) };
            // A hint: a system that does not take it keeps the pages.
            let _ = advised;
        }
        #[cfg(not(unix))]
        let _ = range;
    }
}

impl Deref for Storage {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Storage::Mapped(map) => map,
            Storage::Static(bytes) => bytes,
            Storage::Owned(bytes) => bytes,
        }
    }
}

/// A run of bytes of a checkpoint, shared and not copied. Cloning it clones a reference.
#[derive(Clone)]
pub struct TensorData {
    storage: Arc<Storage>,
    range: Range<usize>,
}

impl TensorData {
    /// The bytes `range` of `storage`, or `None` if they are not all there.
    pub(super) fn new(storage: Arc<Storage>, range: Range<usize>) -> Option<TensorData> {
        storage.get(range.clone())?;
        Some(TensorData { storage, range })
    }

    /// Tells the system that the bytes `range` are not needed for now.
    pub fn release(&self, range: Range<usize>) {
        let start = self.range.start;
        self.storage.release(&(start + range.start..(start + range.end).min(self.range.end)));
    }

    /// The bytes `range` of these, which are there.
    pub(super) fn part(&self, range: Range<usize>) -> TensorData {
        let start = self.range.start;
        let range = start + range.start..(start + range.end).min(self.range.end);
        TensorData { storage: Arc::clone(&self.storage), range }
    }

    /// All bytes of `storage`.
    pub(super) fn whole(storage: Storage) -> TensorData {
        let range = 0..storage.len();
        TensorData { storage: Arc::new(storage), range }
    }
}

impl Deref for TensorData {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // `new` checked the range, and no storage ever shrinks.
        &self.storage[self.range.clone()]
    }
}

impl AsRef<[u8]> for TensorData {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for TensorData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TensorData({} bytes)", self.len())
    }
}
