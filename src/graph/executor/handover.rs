//! The key-value cache goes from the device of prompts to that of generated tokens, and back.

use sterna_cpu::kv::KvLayer;

use super::{Executor, ExecutorError, Phase, Slot};
use crate::graph::{Graph, Layer};

/// Two stages with the same layers, for prompts and for generated tokens.
#[derive(Clone, Copy, Debug)]
pub(super) struct Handover {
    stages: [usize; 2],
    /// Numbers of a page in all blocks of a stage.
    page_len: usize,
}

/// Numbers that are handed over at a time, about: 16 MiB.
const AT_ONCE: usize = 4 << 20;

impl Handover {
    /// All that there are between `slots`, in which stages of the same layers follow each other.
    pub(super) fn between(slots: &[Slot], graph: &Graph) -> Vec<Handover> {
        let config = graph.config();
        let page = KvLayer::page_len(config.num_kv_heads, config.head_dim);
        let pairs = slots.windows(2).enumerate().filter(|(_, pair)| pair[0].serves == [true, false]);
        pairs
            .map(|(index, pair)| {
                let is_block = |layer: &usize| matches!(graph.layer(*layer), Layer::Block(..));
                let blocks = pair[0].stage.layers().filter(is_block).count();
                Handover { stages: [index, index + 1], page_len: blocks * page }
            })
            .filter(|handover| handover.page_len > 0)
            .collect()
    }
}

impl Executor {
    /// Whether the phases have stages of their own, so that a pass is for one of them and [`Executor::hand_over`] is needed
    /// between them.
    pub fn has_phases(&self) -> bool {
        self.slots.iter().any(|slot| slot.serves != [true, true])
    }

    /// Copies pages of the cache from where the other phase has them to where `to` does, number for number.
    ///
    /// # Errors
    /// If a backend fails; the pages of `to` are then undefined.
    pub fn hand_over(&mut self, to: Phase, pages: &[u32]) -> Result<(), ExecutorError> {
        let mut numbers: Vec<f32> = Vec::new();
        for Handover { stages, page_len } in &self.handovers {
            let (source, target) = (stages[1 - to as usize], stages[to as usize]);
            for pages in pages.chunks((AT_ONCE / page_len).max(1)) {
                numbers.resize(pages.len() * page_len, 0.0);
                let slot = &mut self.slots[source];
                slot.stage.export_pages(pages, &mut numbers).map_err(|reason| slot.error(reason))?;
                let slot = &mut self.slots[target];
                slot.stage.import_pages(pages, &numbers).map_err(|reason| slot.error(reason))?;
            }
        }
        Ok(())
    }
}
