//! Bytes that somebody else owns, such as those of a mapped file.

use std::fmt;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::Arc;

use bytemuck::Pod;

use super::AlignedBuf;
use crate::readers::Readers;

/// Bytes that are read where they are and live as long as their owner, which this keeps alive. Cloning it clones a
/// reference.
#[derive(Clone)]
pub struct SharedBytes {
    bytes: NonNull<[u8]>,
    _owner: Arc<dyn AsRef<[u8]> + Send + Sync>,
}

// SAFETY: the bytes are only read, and their owner may be sent to other threads and be seen by them.
unsafe impl Send for SharedBytes {}
// SAFETY: as above.
unsafe impl Sync for SharedBytes {}

impl SharedBytes {
    /// The bytes that `owner` shows. It is asked once.
    pub fn new(owner: impl AsRef<[u8]> + Send + Sync + 'static) -> SharedBytes {
        let owner: Arc<dyn AsRef<[u8]> + Send + Sync> = Arc::new(owner);
        SharedBytes { bytes: NonNull::from((*owner).as_ref()), _owner: owner }
    }

    /// Whether they begin at a cache line, as the kernels want.
    pub fn is_aligned(&self) -> bool {
        self.as_ptr().addr().is_multiple_of(64)
    }
}

impl Deref for SharedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: they were borrowed from the owner, which does not move within its `Arc` and which nobody can have
        // exclusively as long as this reference to it exists: the borrow may go on.
        unsafe { self.bytes.as_ref() }
    }
}

impl fmt::Debug for SharedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedBytes({})", self.len())
    }
}

/// What is read as a stream: in memory of its own, or where somebody else has it.
#[derive(Clone, Debug)]
pub(crate) enum Stored<T: Pod> {
    Own(AlignedBuf<T>),
    Shared(SharedBytes),
}

impl<T: Pod + Send + Sync> Stored<T> {
    /// In memory of its own, in huge pages where the system has them, near to the threads that read its `rows` rows.
    pub(crate) fn copied(self, near: Readers<'_>, rows: usize) -> Stored<T> {
        let Stored::Shared(bytes) = &self else { return self };
        let source: &[T] = bytemuck::cast_slice(bytes);
        let mut own = AlignedBuf::streamed(source.len());
        near.write(&mut own, rows, |range, part| part.copy_from_slice(&source[range]));
        Stored::Own(own)
    }
}

impl<T: Pod> Deref for Stored<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match self {
            Stored::Own(buffer) => buffer,
            Stored::Shared(bytes) => bytemuck::cast_slice(bytes),
        }
    }
}

/// Why bytes are not those of a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SharedError {
    /// There are more or fewer than the matrix has.
    #[error("{found} bytes where the matrix has {expected}")]
    Length {
        /// Bytes of the matrix.
        expected: usize,
        /// Bytes that are there.
        found: usize,
    },
    /// They do not begin at a multiple of 64 in memory.
    #[error("the bytes do not begin at a multiple of 64")]
    Alignment,
    /// The bounds of the rows of an int8 copy are not four numbers to a row, or one is negative or not a number.
    #[error("the bounds are not four numbers, zero or above, for each of {rows} rows")]
    Bounds {
        /// Rows of the copy.
        rows: usize,
    },
}

impl SharedError {
    /// Refuses bytes that are not `expected` many, or not aligned.
    pub(crate) fn check(bytes: &SharedBytes, expected: usize) -> Result<(), SharedError> {
        if bytes.len() != expected {
            return Err(SharedError::Length { expected, found: bytes.len() });
        }
        if bytes.is_aligned() { Ok(()) } else { Err(SharedError::Alignment) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_outlive_what_made_them_and_end_with_the_last_reference() {
        struct Owner {
            bytes: Vec<u8>,
            _alive: Arc<()>,
        }
        impl AsRef<[u8]> for Owner {
            fn as_ref(&self) -> &[u8] {
                &self.bytes
            }
        }
        let alive = Arc::new(());
        let shared = SharedBytes::new(Owner { bytes: vec![1, 2, 3], _alive: Arc::clone(&alive) });
        let clone = shared.clone();
        drop(shared);
        assert_eq!((*clone).to_vec(), [1, 2, 3]);
        assert_eq!(Arc::strong_count(&alive), 2);
        drop(clone);
        assert_eq!(Arc::strong_count(&alive), 1);
    }
}
