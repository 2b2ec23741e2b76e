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

/// The same into the second cache only. More such lines can be on their way than into the first (48 and 24 on Zen 4),
/// and they push nothing out of that.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn prefetch_far(at: *const u8, ahead: usize) {
    // SAFETY: SSE belongs to x86-64, and a prefetch may name any address.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(at.wrapping_add(ahead).cast());
    }
}
