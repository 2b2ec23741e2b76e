//! Whether this process may use the tile registers of AMX.
//!
//! They are 8 KiB that a system has to save, so that Linux gives them to a process only when it asks.

use std::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};
use std::sync::OnceLock;

/// `ARCH_REQ_XCOMP_PERM` of `arch_prctl`: ask for a part of the registers. Source: Linux,
/// Documentation/arch/x86/xstate.rst.
const REQUEST_PERMISSION: libc::c_int = 0x1023;

/// The number of that part for the tiles.
const TILE_DATA: libc::c_ulong = 18;

/// Whether the processor has AMX with int8 products, and the system has given this process the registers; asks for them
/// the first time.
pub(crate) fn is_granted() -> bool {
    static GRANTED: OnceLock<bool> = OnceLock::new();
    *GRANTED.get_or_init(|| {
        /// CPUID leaf 7: AMX-TILE and AMX-INT8.
        const TILES_AND_INT8: u32 = 1 << 24 | 1 << 25;
        /// CPUID leaf 1: the system saves registers by XSAVE, and XGETBV can be used.
        const OSXSAVE: u32 = 1 << 27;
        /// XCR0: the configuration and the data of tiles.
        const TILE_STATE: u64 = 1 << 17 | 1 << 18;
        // SAFETY: the instruction is there, as CPUID has told.
        let enabled = || unsafe { xcr0() } & TILE_STATE == TILE_STATE;
        // SAFETY: the call takes two numbers and changes nothing but what the process may use.
        let ask = || unsafe { libc::syscall(libc::SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) } == 0;
        __cpuid(1).ecx & OSXSAVE != 0
            && __cpuid(0).eax >= 7
            && __cpuid_count(7, 0).edx & TILES_AND_INT8 == TILES_AND_INT8
            && enabled()
            && ask()
    })
}

/// Which registers the system saves.
///
/// # Safety
/// The processor has XGETBV.
#[target_feature(enable = "xsave")]
unsafe fn xcr0() -> u64 {
    // SAFETY: the caller's promise.
    unsafe { _xgetbv(0) }
}
