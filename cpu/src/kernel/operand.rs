//! Where a kernel finds four columns of a token.

#[cfg(target_arch = "x86_64")]
use super::MAX_TOKENS;

/// The activations of a block, as a pointer.
pub(super) trait Source: Copy {
    /// Columns `4 · quad … 4 · quad + 3` of `token`.
    ///
    /// # Safety
    /// They are within the operand.
    unsafe fn at(self, quad: usize, token: usize) -> *const i8;

    /// The same from `token` on.
    ///
    /// # Safety
    /// The operand has such a token.
    unsafe fn skip(self, token: usize) -> Self;
}

/// One row per token.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    q: *const i8,
    stride: usize,
}

impl Rows {
    #[inline(always)]
    pub(super) fn new(q: &[i8], stride: usize) -> Rows {
        Rows { q: q.as_ptr(), stride }
    }
}

impl Source for Rows {
    #[inline(always)]
    unsafe fn at(self, quad: usize, token: usize) -> *const i8 {
        // SAFETY: the caller's promise.
        unsafe { self.q.add(token * self.stride + 4 * quad) }
    }

    #[inline(always)]
    unsafe fn skip(self, token: usize) -> Rows {
        // SAFETY: the caller's promise.
        unsafe { Rows { q: self.q.add(token * self.stride), ..self } }
    }
}

/// Four columns of all tokens of a panel after each other.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(super) struct Panel {
    q: *const i8,
}

#[cfg(target_arch = "x86_64")]
impl Panel {
    #[inline(always)]
    pub(super) fn new(q: *const i8) -> Panel {
        Panel { q }
    }
}

#[cfg(target_arch = "x86_64")]
impl Source for Panel {
    #[inline(always)]
    unsafe fn at(self, quad: usize, token: usize) -> *const i8 {
        // SAFETY: the caller's promise.
        unsafe { self.q.add(4 * (quad * MAX_TOKENS + token)) }
    }

    #[inline(always)]
    unsafe fn skip(self, token: usize) -> Panel {
        // SAFETY: the caller's promise.
        unsafe { Panel { q: self.q.add(4 * token) } }
    }
}
