//! A growable-once buffer aligned to 64 bytes: one cache line, one AVX-512 register.

mod shared;
mod slab;

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use bytemuck::{Pod, Zeroable};
pub(crate) use shared::Stored;
pub use shared::{SharedBytes, SharedError};
use slab::Part;

/// One cache line; its alignment is what [`AlignedBuf`] is made for.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// A zero-initialised slice of `T` whose first element is aligned to 64 bytes.
#[derive(Default)]
pub struct AlignedBuf<T> {
    memory: Memory,
    len: usize,
    element: PhantomData<T>,
}

enum Memory {
    Heap(Vec<Line>),
    /// In huge pages where the system has them.
    Part(Part),
}

impl Default for Memory {
    fn default() -> Memory {
        Memory::Heap(Vec::new())
    }
}

impl Memory {
    fn bytes(&self) -> &[u8] {
        match self {
            Memory::Heap(lines) => bytemuck::cast_slice(lines),
            Memory::Part(part) => part.bytes(),
        }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Memory::Heap(lines) => bytemuck::cast_slice_mut(lines),
            Memory::Part(part) => part.bytes_mut(),
        }
    }
}

/// Bytes from which on it matters where a stream lies: less stays in the caches.
const STREAM: usize = 256 << 10;

impl<T: Pod> AlignedBuf<T> {
    /// A buffer of `len` zeros. The pages are touched only when they are first written.
    pub fn zeroed(len: usize) -> Self {
        let lines = (len * size_of::<T>()).div_ceil(64);
        AlignedBuf { memory: Memory::Heap(bytemuck::zeroed_vec(lines)), len, element: PhantomData }
    }

    /// A buffer of `len` zeros that will be read as a stream, as weights are: in huge pages where the system has them,
    /// which makes that a few percent faster.
    pub fn streamed(len: usize) -> Self {
        match Some(len * size_of::<T>()).filter(|&bytes| bytes >= STREAM).and_then(Part::new) {
            Some(part) => AlignedBuf { memory: Memory::Part(part), len, element: PhantomData },
            None => AlignedBuf::zeroed(len),
        }
    }

    /// Makes the length `len`; elements beyond the old allocation are zero, others keep what they held.
    pub fn resize(&mut self, len: usize) {
        let bytes = len * size_of::<T>();
        if bytes > self.memory.bytes().len() {
            let mut lines = match std::mem::take(&mut self.memory) {
                Memory::Heap(lines) => lines,
                Memory::Part(part) => {
                    let mut lines: Vec<Line> = bytemuck::zeroed_vec(part.bytes().len().div_ceil(64));
                    bytemuck::cast_slice_mut::<_, u8>(&mut lines)[..part.bytes().len()].copy_from_slice(part.bytes());
                    lines
                }
            };
            lines.resize(bytes.div_ceil(64), Line([0; 64]));
            self.memory = Memory::Heap(lines);
        }
        self.len = len;
    }
}

impl<T: Pod> Clone for AlignedBuf<T> {
    fn clone(&self) -> Self {
        let mut copy = match self.memory {
            Memory::Heap(_) => AlignedBuf::zeroed(self.len),
            Memory::Part(_) => AlignedBuf::streamed(self.len),
        };
        copy.copy_from_slice(self);
        copy
    }
}

impl<T: Pod> Deref for AlignedBuf<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        bytemuck::cast_slice(&self.memory.bytes()[..self.len * size_of::<T>()])
    }
}

impl<T: Pod> DerefMut for AlignedBuf<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        let bytes = self.len * size_of::<T>();
        bytemuck::cast_slice_mut(&mut self.memory.bytes_mut()[..bytes])
    }
}

impl<T: Pod + std::fmt::Debug> std::fmt::Debug for AlignedBuf<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_are_zero_aligned_and_grow() {
        for make in [AlignedBuf::<u32>::zeroed, AlignedBuf::<u32>::streamed] {
            for len in [0, 3, 16, 1 << 19, (1 << 19) + 5] {
                let mut buffer = make(len);
                assert!(buffer.len() == len && buffer.iter().all(|&v| v == 0));
                assert!(buffer.as_ptr().addr().is_multiple_of(64));
                buffer.fill(7);
                let copy = buffer.clone();
                buffer.resize(len + 1000);
                assert_eq!(buffer[..len], copy[..]);
                assert!(buffer[(len + 16).min(len + 999)..].iter().all(|&v| v == 0), "beyond the old allocation");
                buffer.resize(1);
                assert_eq!(buffer.len(), 1);
            }
        }
    }
}
