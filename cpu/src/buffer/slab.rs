//! Memory for what is read as a stream, cut from mappings of whole huge pages.
//!
//! The matrices of a model have odd sizes: each in a mapping of its own, a good part of them would lie in small pages.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use memmap2::{MmapMut, MmapRaw};

/// A huge page of x86-64, and of AArch64 with small pages of 4 KiB.
const HUGE_PAGE: usize = 2 << 20;

/// Bytes of a slab, unless more are needed at once.
const SLAB: usize = 32 * HUGE_PAGE;

/// Parts start at multiples of this: two cache lines, which prefetchers take in pairs.
const ALIGN: usize = 128;

/// A mapping that parts are cut from, front to back. What was cut is never given out again, so it is zero at first.
struct Slab {
    memory: MmapRaw,
}

/// The slab that the next parts are cut from, as long as one of its parts is alive, and the bytes that are taken.
static CURRENT: Mutex<(Weak<Slab>, usize)> = Mutex::new((Weak::new(), 0));

impl Slab {
    /// A slab with room for `bytes`, and where its first huge page starts.
    fn new(bytes: usize) -> Option<(Arc<Slab>, usize)> {
        let memory = MmapMut::map_anon(bytes.max(SLAB).checked_add(HUGE_PAGE)?).ok()?;
        // A hint: without huge pages everything works, a little slower.
        #[cfg(target_os = "linux")]
        let _ = memory.advise(memmap2::Advice::HugePage);
        let memory = MmapRaw::from(memory);
        let start = memory.as_ptr().align_offset(HUGE_PAGE);
        Some((Arc::new(Slab { memory }), start))
    }
}

/// A part of a slab, which nobody else has.
pub(super) struct Part {
    slab: Arc<Slab>,
    start: usize,
    len: usize,
}

impl Part {
    /// `len` bytes of zeros; `None` if the system has no memory for them.
    pub(super) fn new(len: usize) -> Option<Part> {
        let mut current = CURRENT.lock().unwrap_or_else(PoisonError::into_inner);
        let (slab, start) = match (current.0.upgrade(), current.1) {
            (Some(slab), taken) if slab.memory.len() - taken >= len => (slab, taken),
            _ => Slab::new(len)?,
        };
        *current = (Arc::downgrade(&slab), (start + len).next_multiple_of(ALIGN).min(slab.memory.len()));
        Some(Part { slab, start, len })
    }

    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: the part lies within the mapping, which lives as long as `slab`; only this part's owner writes to it.
        unsafe { std::slice::from_raw_parts(self.slab.memory.as_ptr().add(self.start), self.len) }
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`; parts do not overlap, and this one is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.slab.memory.as_mut_ptr().add(self.start), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_zero_aligned_and_apart() {
        let lens = [1, 64, 1000, 3 << 20, 0, SLAB, 5, SLAB + 12345, 77];
        let mut parts: Vec<Part> = lens.iter().map(|&len| Part::new(len).expect("memory")).collect();
        for (i, part) in parts.iter_mut().enumerate() {
            assert!(part.bytes().iter().all(|&byte| byte == 0));
            assert!(part.bytes().as_ptr().addr().is_multiple_of(ALIGN));
            part.bytes_mut().fill(i as u8 + 1);
        }
        for ((i, part), len) in parts.iter().enumerate().zip(lens) {
            assert!(part.bytes().len() == len && part.bytes().iter().all(|&byte| byte == i as u8 + 1));
        }
    }

    #[test]
    fn a_slab_ends_with_its_last_part() {
        let part = Part::new(2 * SLAB).expect("memory");
        let slab = Arc::downgrade(&part.slab);
        drop(part);
        // Parts of other tests may hold it for a moment.
        let ended = (0..1000).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(1));
            slab.upgrade().is_none()
        });
        assert!(ended);
    }
}
