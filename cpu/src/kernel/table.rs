//! The table of kernels: which exist, what they need, and which one is taken.

#[cfg(target_arch = "aarch64")]
use super::neon;
#[cfg(target_arch = "x86_64")]
use super::x86;
use super::{Form, Kernel, MAX_TOKENS, portable};
use crate::Isa;
use crate::layout::Layout;

/// A kernel and what it asks for.
#[derive(Debug)]
pub(super) struct Entry {
    /// The instruction set it is written for.
    pub(super) isa: Isa,
    /// Whether the machine has what it needs beyond the instruction set.
    pub(super) extra: fn() -> bool,
    pub(super) layout: Layout,
    pub(super) name: &'static str,
    pub(super) form: Form,
    /// Most tokens at once.
    pub(super) tokens: usize,
    pub(super) multiply: Kernel,
}

const fn entry(isa: Isa, layout: Layout, name: &'static str, form: Form, multiply: Kernel) -> Entry {
    Entry { isa, extra: || true, layout, name, form, tokens: MAX_TOKENS, multiply }
}

/// All kernels of this architecture; of those for one layout, the best last. Every layout has a portable one.
pub(super) static TABLE: &[Entry] = &[
    entry(Isa::Scalar, Layout::T16, "T16 portable", Form::Rows, portable::t16),
    entry(Isa::Scalar, Layout::T16x5, "T16x5 portable", Form::Rows, portable::t16x5),
    #[cfg(target_arch = "x86_64")]
    entry(Isa::Avx2, Layout::T16, "T16 maddubs 256", Form::Panels, x86::t16_avx2),
    #[cfg(target_arch = "x86_64")]
    entry(Isa::AvxVnni, Layout::T16, "T16 VNNI 256", Form::Panels, x86::t16_avxvnni),
    #[cfg(target_arch = "x86_64")]
    entry(Isa::Avx512Bw, Layout::T16, "T16 maddubs 512", Form::Panels, x86::t16_avx512bw),
    #[cfg(target_arch = "x86_64")]
    entry(Isa::Avx512, Layout::T16, "T16 VNNI 512", Form::Panels, x86::t16_avx512),
    #[cfg(target_arch = "x86_64")]
    entry(Isa::Avx2, Layout::T16x5, "T16x5 maddubs 256", Form::Panels, x86::t16x5_avx2),
    #[cfg(target_arch = "x86_64")]
    entry(Isa::AvxVnni, Layout::T16x5, "T16x5 VNNI 256", Form::Panels, x86::t16x5_avxvnni),
    #[cfg(target_arch = "x86_64")]
    entry(Isa::Avx512Bw, Layout::T16x5, "T16x5 maddubs 512", Form::Panels, x86::t16x5_avx512bw),
    #[cfg(target_arch = "x86_64")]
    Entry {
        extra: || is_x86_feature_detected!("avx512vbmi"),
        ..entry(Isa::Avx512, Layout::T16x5, "T16x5 VNNI 512 VBMI", Form::Panels, x86::t16x5_vbmi)
    },
    #[cfg(target_arch = "aarch64")]
    entry(Isa::Neon, Layout::T16, "T16 smlal", Form::Rows, neon::t16_neon),
    #[cfg(target_arch = "aarch64")]
    entry(Isa::NeonDot, Layout::T16, "T16 sdot", Form::Rows, neon::t16_dot),
    #[cfg(target_arch = "aarch64")]
    entry(Isa::NeonI8mm, Layout::T16, "T16 sdot, smmla", Form::Rows, neon::t16_i8mm),
    #[cfg(target_arch = "aarch64")]
    entry(Isa::Neon, Layout::T16x5, "T16x5 smlal", Form::Rows, neon::t16x5_neon),
    #[cfg(target_arch = "aarch64")]
    entry(Isa::NeonDot, Layout::T16x5, "T16x5 sdot", Form::Rows, neon::t16x5_dot),
    #[cfg(target_arch = "aarch64")]
    entry(Isa::NeonI8mm, Layout::T16x5, "T16x5 sdot, smmla", Form::Rows, neon::t16x5_i8mm),
];

/// The best kernel for `layout` that `isa`, which the machine has, covers.
pub(super) fn find(isa: Isa, layout: Layout) -> &'static Entry {
    let usable =
        |entry: &&Entry| entry.layout == layout && entry.isa <= isa && entry.isa.is_available() && (entry.extra)();
    TABLE.iter().rev().find(usable).expect("every layout has a portable kernel")
}

/// The layout to pack for `isa`: fewer bytes where unpacking them costs nothing.
pub(super) fn best_layout(isa: Isa) -> Layout {
    #[cfg(target_arch = "x86_64")]
    if isa == Isa::Avx512 && is_x86_feature_detected!("avx512vbmi") {
        return Layout::T16x5;
    }
    let _ = isa;
    Layout::T16
}
