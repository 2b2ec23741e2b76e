//! What stages take of a device's memory, and what the machine has.

/// Bytes that a run of layers takes on a device as one stage, counted before anything is built.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StageNeeds {
    /// Ternary weights, norms, embedding and head.
    pub weights: u64,
    /// Key-value cache, when all its pages are in use.
    pub kv_cache: u64,
    /// Buffers between kernels, for the largest pass.
    pub buffers: u64,
}

impl StageNeeds {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.weights + self.kv_cache + self.buffers
    }
}

/// Free memory of the machine, in bytes, where the system says it; within a container, what its limit leaves.
pub fn free_memory() -> Option<u64> {
    let ram = sysinfo::MemoryRefreshKind::nothing().with_ram();
    let system = sysinfo::System::new_with_specifics(sysinfo::RefreshKind::nothing().with_memory(ram)).ok()?;
    // Cached files count as used in a container, but make room.
    let limited = system.cgroup_limits().map_or(u64::MAX, |limits| limits.total_memory.saturating_sub(limits.rss));
    Some(system.available_memory().min(limited)).filter(|&bytes| bytes > 0)
}
