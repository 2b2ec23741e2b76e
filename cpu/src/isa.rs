//! The instruction sets that kernels exist for, and which of them this machine has.

use std::fmt;
use std::str::FromStr;

/// An instruction set with kernels of its own. Ordered from the slowest to the fastest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// Portable Rust: the reference that all others must equal bit for bit.
    Scalar,
    /// x86-64 AVX2 + FMA + F16C.
    Avx2,
    /// x86-64 AVX-VNNI (256-bit VEX `vpdpbusd`) on top of [`Isa::Avx2`].
    AvxVnni,
    /// x86-64 AVX-512 F/BW/VL/DQ + VNNI.
    Avx512,
}

impl Isa {
    /// All instruction sets, the slowest first.
    pub const ALL: [Isa; 4] = [Isa::Scalar, Isa::Avx2, Isa::AvxVnni, Isa::Avx512];

    /// The name used by `STERNA_ISA` and in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::AvxVnni => "avxvnni",
            Isa::Avx512 => "avx512",
        }
    }

    /// Whether this machine can run the kernels of this instruction set.
    pub fn is_available(self) -> bool {
        match self {
            Isa::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => {
                is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni => Isa::Avx2.is_available() && is_x86_feature_detected!("avxvnni"),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => {
                Isa::Avx2.is_available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vnni")
            }
            #[cfg(not(target_arch = "x86_64"))]
            _ => false,
        }
    }

    /// The fastest instruction set of this machine.
    pub fn detect() -> Isa {
        Isa::ALL.into_iter().rev().find(|isa| isa.is_available()).unwrap_or(Isa::Scalar)
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
    #[error("unknown instruction set {0:?}: expected scalar, avx2, avxvnni or avx512")]
    Unknown(String),
    /// The machine lacks it.
    #[error("this CPU does not have the instruction set {0}; the best one it has is {best}", best = Isa::detect())]
    Unavailable(Isa),
}
