//! A decode step takes no memory from the heap.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use sterna::backend::cpu::{CpuBackend, CpuOptions};
use sterna::backend::{Backend, Batch, BatchSequence, Best, KvOptions, LogitsFor};
use sterna::graph::{Executor, Phase, Placement};
use sterna::{KvType, demo};

/// Counts what it hands out.
struct Counting;

static COUNT: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is left to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise; `alloc` left it to the system.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn decode_steps_allocate_nothing() {
    let graph = sterna::model::build_graph(Arc::new(demo::checkpoint().unwrap())).unwrap();
    let placement = Placement::parse("cpu", graph.blocks().len()).unwrap();
    let pages: Vec<u32> = (0..16).collect();
    for kind in [KvType::F16, KvType::Int8] {
        let backend: Arc<dyn Backend> =
            Arc::new(CpuBackend::new(CpuOptions { threads: Some(2), ..CpuOptions::default() }).unwrap());
        let kv = KvOptions { kind, pages: pages.len() };
        let mut executor = Executor::build(&graph, &placement, &[backend], kv, &()).unwrap();
        let greedy = Best { count: 1, margin: 0.0, also: &[], temperature: None };
        let wanted = [
            LogitsFor::Last,
            LogitsFor::Best(greedy),
            LogitsFor::Best(Best { count: 40, also: &[1, 2, 3], ..greedy }),
            LogitsFor::Best(Best { temperature: Some(0.7), margin: 1.0, ..greedy }),
        ];
        let mut step = |position| {
            let logits = wanted[position % wanted.len()];
            let sequence = BatchSequence { tokens: &[5], position, pages: &pages, logits };
            let batch = Batch { sequences: vec![sequence] };
            let before = COUNT.load(Ordering::Relaxed);
            executor.forward(Phase::Decode, &batch, None).unwrap();
            COUNT.load(Ordering::Relaxed) - before
        };
        // The longest context that is measured has grown the buffers; threads meet their own in the first steps.
        (0..20).for_each(|i| _ = step(980 + i));
        for position in 0..1000 {
            let allocations = step(position);
            assert_eq!(allocations, 0, "{kind:?}, position {position}");
        }
    }
}
