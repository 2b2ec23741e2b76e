//! Asking for memory before it is needed.

/// Asks for the cache line `ahead` bytes behind `at`. No address is wrong: a prefetch never faults.
#[inline(always)]
pub(crate) fn prefetch(at: *const u8, ahead: usize) {
    let line = at.wrapping_add(ahead);
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE belongs to x86-64, and a prefetch may name any address.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(line.cast());
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: a prefetch may name any address and changes neither memory nor registers.
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{line}]", line = in(reg) line, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = line;
}

/// The same, but only into the second cache: more lines can be on their way there (on Zen 4 twice as many), and what is in
/// use in the first is not pushed out. Where lines are read one by one this wins; where a kernel takes them as fast as
/// the first cache gives them, [`prefetch`] does.
#[inline(always)]
pub(crate) fn prefetch_far(at: *const u8, ahead: usize) {
    let line = at.wrapping_add(ahead);
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE belongs to x86-64, and a prefetch may name any address.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(line.cast());
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: a prefetch may name any address and changes neither memory nor registers.
    unsafe {
        std::arch::asm!("prfm pldl2keep, [{line}]", line = in(reg) line, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = line;
}
