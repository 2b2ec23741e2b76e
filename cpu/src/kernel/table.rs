//! The table of kernels: which exist, what they need, and which one is taken.

#[cfg(target_arch = "aarch64")]
use super::neon;
#[cfg(target_arch = "x86_64")]
use super::x86;
use super::{Form, Kernel, MAX_TOKENS, lut, portable};
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
    /// Most tokens at once as rows or tables.
    pub(super) tokens: usize,
    pub(super) multiply: Kernel,
}

const fn entry(isa: Isa, layout: Layout, name: &'static str, form: Form, multiply: Kernel) -> Entry {
    Entry { isa, extra: || true, layout, name, form, tokens: MAX_TOKENS, multiply }
}

/// A kernel that looks up.
const fn look_up(isa: Isa, layout: Layout, name: &'static str, form: Form, multiply: Kernel) -> Entry {
    Entry { tokens: lut::TOKENS, ..entry(isa, layout, name, form, multiply) }
}

/// A kernel that looks up with AVX-512 VBMI.
#[cfg(target_arch = "x86_64")]
const fn look_up_vbmi(layout: Layout, name: &'static str, form: Form, multiply: Kernel) -> Entry {
    Entry { extra: || is_x86_feature_detected!("avx512vbmi"), ..look_up(Isa::Avx512Bw, layout, name, form, multiply) }
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
    #[cfg(target_arch = "x86_64")]
    entry(Isa::Amx, Layout::T16, "T16 VNNI 512, AMX", Form::Squares, x86::t16_amx),
    #[cfg(target_arch = "x86_64")]
    Entry {
        extra: || is_x86_feature_detected!("avx512vbmi"),
        ..entry(Isa::Amx, Layout::T16x5, "T16x5 VNNI 512 VBMI, AMX", Form::Squares, x86::t16x5_amx)
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
    look_up(Isa::Scalar, Layout::Lut2, "Lut2 portable", lut::portable::LUT2, lut::portable::lut2),
    look_up(Isa::Scalar, Layout::Lut3, "Lut3 portable", lut::portable::LUT3, lut::portable::lut3),
    look_up(Isa::Scalar, Layout::Lut5, "Lut5 portable", lut::portable::LUT5, lut::portable::lut5),
    #[cfg(target_arch = "aarch64")]
    look_up(Isa::Neon, Layout::Lut2, "Lut2 tbl 128", lut::neon::LUT2_FORM, lut::neon::lut2),
    #[cfg(target_arch = "aarch64")]
    look_up(Isa::Neon, Layout::Lut3, "Lut3 tbl 128", lut::neon::LUT3_FORM, lut::neon::lut3),
    #[cfg(target_arch = "x86_64")]
    look_up(Isa::Avx2, Layout::Lut2, "Lut2 pshufb 256", lut::avx2::LUT2_FORM, lut::avx2::lut2),
    #[cfg(target_arch = "x86_64")]
    look_up(Isa::Avx2, Layout::Lut3, "Lut3 pshufb 256", lut::avx2::LUT3_FORM, lut::avx2::lut3),
    #[cfg(target_arch = "x86_64")]
    look_up(Isa::Avx512Bw, Layout::Lut2, "Lut2 pshufb 512", lut::avx512::LUT2_FORM, lut::avx512::lut2),
    #[cfg(target_arch = "x86_64")]
    look_up(Isa::Avx512Bw, Layout::Lut3, "Lut3 pshufb 512", lut::avx512::LUT3_FORM, lut::avx512::lut3),
    #[cfg(target_arch = "x86_64")]
    look_up_vbmi(Layout::Lut2, "Lut2 permb 512", lut::avx512::LUT2_FORM, lut::avx512::lut2_vbmi),
    #[cfg(target_arch = "x86_64")]
    look_up_vbmi(Layout::Lut3, "Lut3 permb 512", lut::avx512::LUT3_VBMI_FORM, lut::avx512::lut3_vbmi),
    #[cfg(target_arch = "x86_64")]
    look_up_vbmi(Layout::Lut5, "Lut5 permi2b 512", lut::avx512::LUT5_FORM, lut::avx512::lut5_vbmi),
];

/// The best kernel for `layout` that `isa`, which the machine has, covers.
pub(super) fn find(isa: Isa, layout: Layout) -> &'static Entry {
    let usable =
        |entry: &&Entry| entry.layout == layout && entry.isa <= isa && entry.isa.is_available() && (entry.extra)();
    TABLE.iter().rev().find(usable).expect("every layout has a portable kernel")
}

/// The layout to pack for `isa`, one that is multiplied: fewer bytes where unpacking them costs nothing.
pub(super) fn best_layout(isa: Isa) -> Layout {
    #[cfg(target_arch = "x86_64")]
    if matches!(isa, Isa::Avx512 | Isa::Amx) && is_x86_feature_detected!("avx512vbmi") {
        return Layout::T16x5;
    }
    let _ = isa;
    Layout::T16
}

/// The layout to pack for kernels of `isa` that look up.
pub(super) fn best_looked_up(isa: Isa) -> Layout {
    if isa == Isa::Scalar { Layout::Lut5 } else { Layout::Lut3 }
}
