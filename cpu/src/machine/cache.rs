//! Sizes of the caches.

/// Bytes of the first-level cache for data of a core, where the processor tells.
pub fn first_level_bytes() -> Option<usize> {
    #[cfg(target_arch = "x86_64")]
    {
        use raw_cpuid::{CacheType, CpuId};
        let is_first = |cache: &raw_cpuid::CacheParameter| cache.level() == 1 && cache.cache_type() == CacheType::Data;
        let cache = CpuId::new().get_cache_parameters()?.find(is_first)?;
        Some(cache.associativity() * cache.physical_line_partitions() * cache.coherency_line_size() * cache.sets())
    }
    #[cfg(not(target_arch = "x86_64"))]
    None
}
