//! The table of kernels: which exist, what they need, and which one is taken.

use super::{Form, Kernel, MAX_TOKENS, portable};
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512, avxvnni};
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
    entry(Isa::Avx2, Layout::T16, "T16 maddubs 256", Form::Rows, avx2::multiply),
    #[cfg(target_arch = "x86_64")]
    entry(Isa::AvxVnni, Layout::T16, "T16 VNNI 256", Form::Rows, avxvnni::multiply),
    #[cfg(target_arch = "x86_64")]
    entry(Isa::Avx512, Layout::T16, "T16 VNNI 512", Form::Rows, avx512::multiply),
];

/// The best kernel for `layout` that `isa`, which the machine has, covers.
pub(super) fn find(isa: Isa, layout: Layout) -> &'static Entry {
    let usable =
        |entry: &&Entry| entry.layout == layout && entry.isa <= isa && entry.isa.is_available() && (entry.extra)();
    TABLE.iter().rev().find(usable).expect("every layout has a portable kernel")
}

/// The layout to pack for `isa`.
pub(super) fn best_layout(_isa: Isa) -> Layout {
    Layout::T16
}
