//! What a stage has asked of its device: what a token costs, counted rather than measured.

use std::collections::BTreeMap;

/// Counts since the stage was built.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Command buffers handed to the device.
    pub submissions: u64,
    /// Bytes that came back from it.
    pub readback: u64,
    /// Bytes that went to it with the passes (weights not counted).
    pub uploaded: u64,
    /// By kernel.
    pub kernels: BTreeMap<&'static str, KernelCount>,
}

/// Counts of one kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelCount {
    /// How often it was started.
    pub dispatches: u64,
    /// Bytes of weights, cache and logits that it read.
    pub bytes: u64,
}

impl Counters {
    /// Dispatches of all kernels.
    pub fn dispatches(&self) -> u64 {
        self.kernels.values().map(|count| count.dispatches).sum()
    }

    /// `bytes` more were read by a kernel that was started before.
    #[cfg(feature = "gpu")]
    pub(in crate::backend) fn read_more(&mut self, kernel: &'static str, bytes: u64) {
        self.kernels.entry(kernel).or_default().bytes += bytes;
    }

    /// Bytes that all kernels read.
    pub fn bytes(&self) -> u64 {
        self.kernels.values().map(|count| count.bytes).sum()
    }

    /// What was counted since `before`.
    #[must_use]
    pub fn since(&self, before: &Counters) -> Counters {
        let kernel = |(&name, count): (&&'static str, &KernelCount)| {
            let old = before.kernels.get(name).copied().unwrap_or_default();
            let new = KernelCount { dispatches: count.dispatches - old.dispatches, bytes: count.bytes - old.bytes };
            (new.dispatches > 0).then_some((name, new))
        };
        Counters {
            submissions: self.submissions - before.submissions,
            readback: self.readback - before.readback,
            uploaded: self.uploaded - before.uploaded,
            kernels: self.kernels.iter().filter_map(kernel).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_leave_out_what_did_not_run() {
        let count = |dispatches| KernelCount { dispatches, bytes: 100 * dispatches };
        let counters = |a, b| Counters {
            submissions: a,
            kernels: [("a", count(a)), ("b", count(b))].into(),
            ..Counters::default()
        };
        let new = counters(5, 2).since(&counters(3, 2));
        assert_eq!((new.submissions, new.dispatches(), new.bytes()), (2, 2, 200));
        assert_eq!(new.kernels.keys().collect::<Vec<_>>(), [&"a"]);
    }
}
