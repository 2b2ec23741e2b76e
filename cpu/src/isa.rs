//! The instruction sets that kernels exist for, and which of them this machine has.

use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

/// An instruction set with kernels of its own. Ordered from the slowest to the fastest within an architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// Portable Rust: the reference that all others must equal bit for bit.
    Scalar,
    /// x86-64 AVX2 + FMA + F16C.
    Avx2,
    /// x86-64 AVX-VNNI (256-bit VEX `vpdpbusd`) on top of [`Isa::Avx2`].
    AvxVnni,
    /// x86-64 AVX-512 F/BW/VL/DQ on top of [`Isa::Avx2`].
    Avx512Bw,
    /// x86-64 AVX-512 VNNI on top of [`Isa::Avx512Bw`].
    Avx512,
    /// x86-64 AMX with int8 products on top of [`Isa::Avx512`].
    Amx,
    /// AArch64 NEON.
    Neon,
    /// AArch64 NEON with the int8 dot product (`sdot`).
    NeonDot,
    /// AArch64 NEON with the int8 matrix product (`smmla`) on top of [`Isa::NeonDot`].
    NeonI8mm,
}

impl Isa {
    /// All instruction sets, the slowest of each architecture first.
    pub const ALL: [Isa; 9] = [
        Isa::Scalar,
        Isa::Avx2,
        Isa::AvxVnni,
        Isa::Avx512Bw,
        Isa::Avx512,
        Isa::Amx,
        Isa::Neon,
        Isa::NeonDot,
        Isa::NeonI8mm,
    ];

    /// The name used by `STERNA_ISA` and in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::AvxVnni => "avxvnni",
            Isa::Avx512Bw => "avx512bw",
            Isa::Avx512 => "avx512",
            Isa::Amx => "amx",
            Isa::Neon => "neon",
            Isa::NeonDot => "neondot",
            Isa::NeonI8mm => "neoni8mm",
        }
    }

    /// Whether this machine can run the kernels of this instruction set. Looked up once: every kernel asks.
    pub fn is_available(self) -> bool {
        static AVAILABLE: LazyLock<[bool; Isa::ALL.len()]> = LazyLock::new(|| Isa::ALL.map(Isa::is_present));
        AVAILABLE[self as usize]
    }

    /// Whether this machine has the instruction set and those that it is built on.
    fn is_present(self) -> bool {
        match self {
            Isa::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => {
                is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni => Isa::Avx2.is_present() && is_x86_feature_detected!("avxvnni"),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bw => {
                Isa::Avx2.is_present()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512dq")
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => Isa::Avx512Bw.is_present() && is_x86_feature_detected!("avx512vnni"),
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Isa::Amx => Isa::Avx512.is_present() && crate::amx::is_granted(),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => std::arch::is_aarch64_feature_detected!("neon"),
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDot => Isa::Neon.is_present() && std::arch::is_aarch64_feature_detected!("dotprod"),
            #[cfg(target_arch = "aarch64")]
            Isa::NeonI8mm => Isa::NeonDot.is_present() && std::arch::is_aarch64_feature_detected!("i8mm"),
            #[allow(unreachable_patterns, reason = "the instruction sets of other architectures")]
            _ => false,
        }
    }

    /// The instruction sets that this machine has, the slowest first.
    pub fn available() -> impl DoubleEndedIterator<Item = Isa> {
        Isa::ALL.into_iter().filter(|isa| isa.is_available())
    }

    /// The fastest instruction set of this machine.
    pub fn detect() -> Isa {
        Isa::available().next_back().unwrap_or(Isa::Scalar)
    }

    /// The instruction set to use: `STERNA_ISA` if it is set, else [`Isa::detect`].
    ///
    /// # Errors
    /// If `STERNA_ISA` names no instruction set, or one that this machine does not have.
    pub fn from_env() -> Result<Isa, IsaError> {
        match std::env::var("STERNA_ISA") {
            Ok(name) if !name.is_empty() => name.parse::<Isa>()?.require(),
            _ => Ok(Isa::detect()),
        }
    }

    /// Itself if this machine has it.
    ///
    /// # Errors
    /// [`IsaError::Unavailable`] otherwise.
    pub fn require(self) -> Result<Isa, IsaError> {
        if self.is_available() { Ok(self) } else { Err(IsaError::Unavailable(self)) }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Isa {
    type Err = IsaError;

    fn from_str(name: &str) -> Result<Isa, IsaError> {
        Isa::ALL
            .into_iter()
            .find(|isa| isa.name().eq_ignore_ascii_case(name))
            .ok_or_else(|| IsaError::Unknown(name.to_owned()))
    }
}

/// Why an instruction set cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IsaError {
    /// The name is none of [`Isa::ALL`].
    #[error("unknown instruction set {0:?}: expected one of {names}", names = Isa::ALL.map(Isa::name).join(", "))]
    Unknown(String),
    /// The machine lacks it.
    #[error("this CPU does not have the instruction set {0}; the best one it has is {best}", best = Isa::detect())]
    Unavailable(Isa),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_in_the_order_of_the_variants() {
        assert!(
            Isa::ALL.iter().enumerate().all(|(i, &isa)| isa as usize == i && isa.is_available() == isa.is_present())
        );
    }
}
