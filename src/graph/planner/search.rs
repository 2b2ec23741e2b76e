//! The best choice among those whose blocks on a device are one run: dynamic programming over blocks and sets of devices.

use super::{Assignment, Machine, Workload};

/// A choice that another phase has made already.
pub(super) struct Fixed<'a> {
    /// Its devices.
    pub(super) other: &'a Assignment,
    /// Whether the other phase is that of prompts.
    pub(super) is_prefill: bool,
    /// Bytes that it takes of each device.
    pub(super) taken: Vec<u64>,
}

/// Costs and bytes, summed up so that those of a run are a difference.
struct Sums {
    /// Seconds of a request in layers before each, by device.
    seconds: Vec<Vec<f64>>,
    /// Bytes of layers before each, by device.
    bytes: Vec<Vec<u64>>,
    /// Cuts that the other phase makes in front of layers up to each.
    cuts: Vec<usize>,
}

/// What is searched.
struct Search<'a> {
    machine: &'a Machine,
    fixed: Option<&'a Fixed<'a>>,
    workload: Workload,
    sums: Sums,
    /// Added for each run, so that of choices that are equally fast the one with the fewest stages wins.
    tie: f64,
}

/// The best assignment of all layers that fits, if one does. `workload` weighs the phases; with `fixed` its other phase is
/// given, and the cost of handing over the cache counts.
pub(super) fn search(machine: &Machine, workload: Workload, fixed: Option<&Fixed<'_>>) -> Option<Assignment> {
    let search = Search::new(machine, workload, fixed);
    let devices = machine.devices.len();
    let ends = (0..devices).flat_map(|embed| (0..devices).map(move |head| (embed, head)));
    let found = ends.filter_map(|(embed, head)| search.with_ends(embed, head));
    let whole = (0..devices).filter_map(|device| search.whole(device));
    whole.chain(found).min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, assignment)| assignment)
}

impl<'a> Search<'a> {
    fn new(machine: &'a Machine, workload: Workload, fixed: Option<&'a Fixed<'a>>) -> Search<'a> {
        let layers = machine.layers();
        let mut sums = Sums { seconds: Vec::new(), bytes: Vec::new(), cuts: vec![0; layers + 1] };
        for (d, device) in machine.devices.iter().enumerate() {
            let (mut seconds, mut bytes) = (vec![0.0; layers + 1], vec![0; layers + 1]);
            for (l, layer) in device.layers.iter().enumerate() {
                let other = fixed.map(|fixed| fixed.other[l]);
                // The prompt's positions go from where the prompt is computed to where the answer is.
                let handover = other.filter(|&other| other != d).map_or(0.0, |other| {
                    let (from, to) = if fixed.is_some_and(|f| f.is_prefill) { (other, d) } else { (d, other) };
                    workload.prompt as f64 * machine.handover(l, from, to)
                });
                let own = match fixed {
                    None => workload.seconds(layer.seconds),
                    Some(fixed) if fixed.is_prefill => workload.generated as f64 * layer.seconds.decode,
                    Some(_) => workload.prompt as f64 * layer.seconds.prefill,
                };
                seconds[l + 1] = seconds[l] + own + handover;
                bytes[l + 1] = bytes[l] + if other == Some(d) { 0 } else { layer.weights + layer.cache };
            }
            sums.seconds.push(seconds);
            sums.bytes.push(bytes);
        }
        for layer in 1..layers {
            let cut = fixed.is_some_and(|fixed| fixed.other[layer] != fixed.other[layer - 1]);
            sums.cuts[layer] = sums.cuts[layer - 1] + usize::from(cut);
        }
        let slowest = sums.seconds.iter().filter_map(|sum| sum.last()).fold(0.0f64, |most, &sum| most.max(sum));
        Search { machine, fixed, workload, sums, tie: 1e-9 * slowest + f64::MIN_POSITIVE }
    }

    /// Seconds of a request that a boundary in front of `layer` costs: in this phase from `from` to `to`, and in the other
    /// one if it has none there.
    fn boundary(&self, layer: usize, from: usize, to: usize) -> f64 {
        let crossing = self.machine.crossing(from, to);
        let (prompt, generated) = (self.workload.prompt as f64, self.workload.generated as f64);
        let Some(fixed) = self.fixed else { return self.workload.seconds(crossing) };
        let of = |seconds: super::Seconds, prefill: bool| {
            if prefill { prompt * seconds.prefill } else { generated * seconds.decode }
        };
        let other = &fixed.other;
        let there = if other[layer] != other[layer - 1] || from == to {
            0.0
        } else {
            of(self.machine.crossing(other[layer], other[layer]), fixed.is_prefill)
        };
        of(crossing, !fixed.is_prefill) + there
    }

    /// Seconds of a run of layers, with the boundaries that the other phase makes in it.
    fn run(&self, device: usize, from: usize, to: usize) -> f64 {
        let sums = &self.sums.seconds[device];
        let inside = self.cuts_inside(from, to);
        let cut = if inside > 0 { inside as f64 * self.boundary(from + 1, device, device) } else { 0.0 };
        sums[to] - sums[from] + cut + self.tie
    }

    fn cuts_inside(&self, from: usize, to: usize) -> usize {
        if to > from + 1 { self.sums.cuts[to - 1] - self.sums.cuts[from] } else { 0 }
    }

    fn bytes(&self, device: usize, from: usize, to: usize) -> u64 {
        let sums = &self.sums.bytes[device];
        let stages = 1 + self.cuts_inside(from, to) as u64;
        sums[to] - sums[from] + stages * self.machine.devices[device].stage_bytes
    }

    fn fits(&self, device: usize, bytes: u64) -> bool {
        let taken = self.fixed.map_or(0, |fixed| fixed.taken[device]);
        self.machine.devices[device].budget.is_none_or(|budget| bytes.saturating_add(taken) <= budget)
    }

    /// All layers on one device.
    fn whole(&self, device: usize) -> Option<(f64, Assignment)> {
        let layers = self.machine.layers();
        let shared = self.machine.devices[device].shared_bytes;
        let is_one_stage = self.cuts_inside(0, layers) == 0;
        let bytes = self.bytes(device, 0, layers).saturating_sub(if is_one_stage { shared } else { 0 });
        self.fits(device, bytes).then(|| (self.run(device, 0, layers), vec![device; layers]))
    }

    /// The best choice with these devices for embedding and head.
    fn with_ends(&self, embed: usize, head: usize) -> Option<(f64, Assignment)> {
        let layers = self.machine.layers();
        if layers < 3 {
            return None;
        }
        let (devices, last) = (self.machine.devices.len(), layers - 1);
        // What a device holds beside its blocks `from..to`; an end that touches them is in their stage.
        let beside = |device: usize, from: usize, to: usize| {
            let mut bytes = 0;
            let scratch = self.machine.devices[device].stage_bytes;
            let sums = &self.sums.bytes[device];
            if embed == device {
                bytes += sums[1] + if from == 1 { 0 } else { scratch };
            }
            if head == device {
                bytes += sums[layers] - sums[last] + if to == last { 0 } else { scratch };
            }
            bytes
        };
        let join = |layer: usize, from: usize, to: usize| {
            if from == to && self.sums.cuts[layer] == self.sums.cuts[layer - 1] {
                // One stage: no boundary, and no run more.
                -self.tie
            } else {
                self.boundary(layer, from, to)
            }
        };
        // best[mask][device][end]: blocks up to `end` on the devices of `mask`, the last of them on `device`; with where
        // its run starts and the device before.
        let masks = 1usize << devices;
        let at = |mask: usize, device: usize, end: usize| (mask * devices + device) * layers + end;
        let mut best = vec![f64::INFINITY; masks * devices * layers];
        let mut from = vec![(0usize, usize::MAX); best.len()];
        for device in 0..devices {
            for end in 2..=last {
                if !self.fits(device, self.bytes(device, 1, end) + beside(device, 1, end)) {
                    continue;
                }
                let cost = join(1, embed, device) + self.run(device, 1, end);
                best[at(1 << device, device, end)] = cost;
                from[at(1 << device, device, end)] = (1, usize::MAX);
            }
        }
        for mask in 1..masks {
            for device in (0..devices).filter(|device| mask & 1 << device != 0) {
                for end in 2..last {
                    let here = best[at(mask, device, end)];
                    if here == f64::INFINITY {
                        continue;
                    }
                    for next in (0..devices).filter(|next| mask & 1 << next == 0) {
                        for to in end + 1..=last {
                            if !self.fits(next, self.bytes(next, end, to) + beside(next, end, to)) {
                                continue;
                            }
                            let cost = here + self.boundary(end, device, next) + self.run(next, end, to);
                            let place = at(mask | 1 << next, next, to);
                            if cost < best[place] {
                                best[place] = cost;
                                from[place] = (end, device);
                            }
                        }
                    }
                }
            }
        }
        let ends = self.run(embed, 0, 1) + self.run(head, last, layers);
        let finished = (1..masks).flat_map(|mask| (0..devices).map(move |device| (mask, device)));
        let (cost, mask, device) = finished
            .filter(|&(mask, device)| best[at(mask, device, last)] < f64::INFINITY)
            // A device without blocks must have the room for the ends too.
            .filter(|&(mask, _)| {
                (0..devices).all(|d| mask & 1 << d != 0 || self.fits(d, beside(d, usize::MAX, usize::MAX)))
            })
            .map(|(mask, device)| (best[at(mask, device, last)] + join(last, device, head), mask, device))
            .min_by(|a, b| a.0.total_cmp(&b.0))?;
        let mut assignment = vec![embed; layers];
        assignment[last] = head;
        let (mut mask, mut device, mut end) = (mask, device, last);
        while device != usize::MAX {
            let (start, before) = from[at(mask, device, end)];
            assignment[start..end].fill(device);
            mask &= !(1 << device);
            (device, end) = (before, start);
        }
        Some((cost + ends, assignment))
    }
}
