//! A growable-once buffer aligned to 64 bytes: one cache line, one AVX-512 register.

use std::ops::{Deref, DerefMut};

use bytemuck::{Pod, Zeroable};

/// One cache line; its alignment is what [`AlignedBuf`] is made for.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// A zero-initialised slice of `T` whose first element is aligned to 64 bytes.
#[derive(Clone, Default)]
pub struct AlignedBuf<T> {
    lines: Vec<Line>,
    len: usize,
    element: std::marker::PhantomData<T>,
}

impl<T: Pod> AlignedBuf<T> {
    /// A buffer of `len` zeros. The pages are touched only when they are first written.
    pub fn zeroed(len: usize) -> Self {
        let lines = (len * size_of::<T>()).div_ceil(64);
        AlignedBuf { lines: bytemuck::zeroed_vec(lines), len, element: std::marker::PhantomData }
    }

    /// Makes the length `len`; elements beyond the old allocation are zero, others keep what they held.
    pub fn resize(&mut self, len: usize) {
        let lines = (len * size_of::<T>()).div_ceil(64);
        if lines > self.lines.len() {
            self.lines.resize(lines, Line([0; 64]));
        }
        self.len = len;
    }
}

impl<T: Pod> Deref for AlignedBuf<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &bytemuck::cast_slice::<u8, T>(bytemuck::cast_slice(&self.lines))[..self.len]
    }
}

impl<T: Pod> DerefMut for AlignedBuf<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut bytemuck::cast_slice_mut::<u8, T>(bytemuck::cast_slice_mut(&mut self.lines))[..self.len]
    }
}

impl<T: Pod + std::fmt::Debug> std::fmt::Debug for AlignedBuf<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}
