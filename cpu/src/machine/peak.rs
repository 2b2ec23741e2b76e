//! The instructions that multiply and add int8 numbers, as fast as the registers allow.

use crate::Isa;

/// Chains of dependent instructions: enough to hide the latency of each.
pub(super) const CHAINS: usize = 12;

/// The instructions of an instruction set that the machine has.
pub(super) struct Probe {
    run: unsafe fn(usize),
    macs: usize,
}

impl Probe {
    /// Does `rounds` steps of each chain.
    pub(super) fn run(&self, rounds: usize) {
        // SAFETY: `probe` gives instructions that the machine has.
        unsafe { (self.run)(rounds) }
    }

    /// Multiply-adds of one step of a chain.
    pub(super) fn macs(&self) -> usize {
        self.macs
    }
}

/// The instructions of `isa`, if the machine has it and it has any.
pub(super) fn probe(isa: Isa) -> Option<Probe> {
    let (run, macs): (unsafe fn(usize), usize) = match isa {
        _ if !isa.is_available() => return None,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => (x86::maddubs_256, 32),
        #[cfg(target_arch = "x86_64")]
        Isa::AvxVnni => (x86::vnni_256, 32),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Bw => (x86::maddubs_512, 64),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => (x86::vnni_512, 64),
        #[cfg(target_arch = "x86_64")]
        Isa::Amx => (x86::amx, 1024),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => (aarch64::smlal, 8),
        #[cfg(target_arch = "aarch64")]
        Isa::NeonDot => (aarch64::sdot, 16),
        #[cfg(target_arch = "aarch64")]
        Isa::NeonI8mm => (aarch64::smmla, 32),
        _ => return None,
    };
    Some(Probe { run, macs })
}

/// Runs `$step` on each of the chains, `$rounds` times.
macro_rules! chains {
    ($rounds:expr, $zero:expr, |$sum:ident| $step:expr) => {
        let mut sums = [$zero; CHAINS];
        for _ in 0..$rounds {
            for $sum in &mut sums {
                *$sum = $step;
            }
        }
        std::hint::black_box(sums);
    };
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::asm;
    use std::arch::x86_64::*;
    use std::hint::black_box;

    use super::CHAINS;
    use crate::kernel::amx_products;

    /// # Safety
    /// The machine has AVX2.
    #[target_feature(enable = "avx2")]
    pub(super) fn maddubs_256(rounds: usize) {
        let (codes, q) = (black_box(_mm256_set1_epi8(2)), black_box(_mm256_set1_epi8(3)));
        chains!(rounds, _mm256_setzero_si256(), |sum| {
            let product: __m256i;
            // SAFETY: the instruction reads and writes registers only. As text, so that it is not done once for all.
            unsafe {
                asm!("vpmaddubsw {0}, {1}, {2}", out(ymm_reg) product, in(ymm_reg) codes, in(ymm_reg) q,
                    options(nomem, nostack, preserves_flags));
            }
            _mm256_add_epi16(*sum, product)
        });
    }

    /// # Safety
    /// The machine has AVX-VNNI.
    #[target_feature(enable = "avx2,avxvnni")]
    pub(super) fn vnni_256(rounds: usize) {
        let (codes, q) = (black_box(_mm256_set1_epi8(2)), black_box(_mm256_set1_epi8(3)));
        chains!(rounds, _mm256_setzero_si256(), |sum| _mm256_dpbusd_avx_epi32(*sum, codes, q));
    }

    /// # Safety
    /// The machine has AVX-512 F and BW.
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) fn maddubs_512(rounds: usize) {
        let (codes, q) = (black_box(_mm512_set1_epi8(2)), black_box(_mm512_set1_epi8(3)));
        chains!(rounds, _mm512_setzero_si512(), |sum| {
            let product: __m512i;
            // SAFETY: as in `maddubs_256`.
            unsafe {
                asm!("vpmaddubsw {0}, {1}, {2}", out(zmm_reg) product, in(zmm_reg) codes, in(zmm_reg) q,
                    options(nomem, nostack, preserves_flags));
            }
            _mm512_add_epi16(*sum, product)
        });
    }

    /// # Safety
    /// The machine has AVX-512 F and VNNI.
    #[target_feature(enable = "avx512f,avx512vnni")]
    pub(super) fn vnni_512(rounds: usize) {
        let (codes, q) = (black_box(_mm512_set1_epi8(2)), black_box(_mm512_set1_epi8(3)));
        chains!(rounds, _mm512_setzero_si512(), |sum| _mm512_dpbusd_epi32(*sum, codes, q));
    }

    /// A product of tile registers counts as 16 steps, one for each of its rows.
    ///
    /// # Safety
    /// The machine has AMX with int8 products.
    pub(super) unsafe fn amx(rounds: usize) {
        // SAFETY: the caller's promise.
        unsafe { amx_products(rounds * CHAINS / 16) }
    }
}

#[cfg(target_arch = "aarch64")]
mod aarch64 {
    use std::arch::aarch64::*;
    use std::arch::asm;
    use std::hint::black_box;

    use super::CHAINS;

    /// A step of a chain: an instruction that adds the products of two registers to a third.
    macro_rules! step {
        ($text:literal, $sum:ident, $codes:ident, $q:ident) => {{
            let mut sum = *$sum;
            // SAFETY: the instruction reads and writes registers only, and the function's features have it.
            unsafe {
                asm!($text, inout(vreg) sum, in(vreg) $codes, in(vreg) $q, options(nomem, nostack, preserves_flags));
            }
            sum
        }};
    }

    /// # Safety
    /// The machine has NEON.
    #[target_feature(enable = "neon")]
    pub(super) fn smlal(rounds: usize) {
        let (codes, q) = (black_box(vdupq_n_s8(2)), black_box(vdupq_n_s8(3)));
        chains!(rounds, vdupq_n_s16(0), |sum| step!("smlal {0:v}.8h, {1:v}.8b, {2:v}.8b", sum, codes, q));
    }

    /// # Safety
    /// The machine has the dot product.
    #[target_feature(enable = "neon,dotprod")]
    pub(super) fn sdot(rounds: usize) {
        let (codes, q) = (black_box(vdupq_n_s8(2)), black_box(vdupq_n_s8(3)));
        chains!(rounds, vdupq_n_s32(0), |sum| step!("sdot {0:v}.4s, {1:v}.16b, {2:v}.16b", sum, codes, q));
    }

    /// # Safety
    /// The machine has the matrix product.
    #[target_feature(enable = "neon,i8mm")]
    pub(super) fn smmla(rounds: usize) {
        let (codes, q) = (black_box(vdupq_n_s8(2)), black_box(vdupq_n_s8(3)));
        chains!(rounds, vdupq_n_s32(0), |sum| step!("smmla {0:v}.4s, {1:v}.16b, {2:v}.16b", sum, codes, q));
    }
}
