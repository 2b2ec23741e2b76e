//! All peers of a run, round by round, on the CPU like Sterna.

use super::bound::{Part, Repetition, by_state};
use super::limits::Limits;
use super::measure::{describe_skipped, row_of, steady};
use super::peer::{Measured, Peer};
use super::row::Skipped;
use super::{Options, Row, Spec};
use crate::Error;
use crate::backend::Device;

/// Peers and what they have measured.
pub(super) struct Peers {
    peers: Vec<Running>,
    /// Models, tests and threads.
    specs: Vec<Spec>,
    skipped: Vec<Skipped>,
}

struct Running {
    peer: Peer,
    /// For each combination, the repetitions and what the peer last said.
    results: Vec<(Vec<Repetition>, Option<Measured>)>,
    /// Combinations that it cannot do, with the reason.
    refused: Vec<(usize, String)>,
}

impl Peers {
    /// Starts the commands. Those that cannot be started are left out, with the reason.
    pub(super) fn start(options: &Options, specs: &[Spec]) -> Peers {
        let mut own: Vec<Spec> = Vec::new();
        if let Some(first) = specs.first() {
            for spec in specs {
                // A peer has one device and no choice of kernels.
                let (isa, layout, kv) = (first.isa, None, first.kv);
                let spec = Spec { device: Device::Cpu, placement: None, isa, layout, kv, ..spec.clone() };
                if !own.contains(&spec) {
                    own.push(spec);
                }
            }
        }
        let mut peers = Peers { peers: Vec::new(), specs: own, skipped: Vec::new() };
        for command in &options.peers {
            match Peer::start(command) {
                Ok(peer) => {
                    let results = vec![(Vec::new(), None); peers.specs.len()];
                    peers.peers.push(Running { peer, results, refused: Vec::new() });
                }
                Err(reason) => peers.skip(options, command, 0, reason),
            }
        }
        peers
    }

    fn skip(&mut self, options: &Options, peer: &str, spec: usize, reason: String) {
        let skipped = self.specs.get(spec).map(|spec| describe_skipped(options, spec, reason));
        self.skipped.extend(skipped.map(|skipped| Skipped { device: format!("peer {peer}"), ..skipped }));
    }

    /// One repetition of each combination by each peer.
    pub(super) fn measure(&mut self, options: &Options, is_first: bool, limits: &mut Limits) -> Result<(), Error> {
        for running in &mut self.peers {
            for (index, spec) in self.specs.iter().enumerate() {
                if running.refused.iter().any(|(refused, _)| *refused == index) {
                    continue;
                }
                let model = options.models[spec.model].prepare()?;
                let part = [on_cpu(None, None)];
                let mut last = None;
                let once = &mut || {
                    let is_first = is_first && last.is_none();
                    let measured = running.peer.measure(&model, spec, is_first)?;
                    let tokens_per_second = measured.tokens_per_second;
                    last = Some(measured);
                    Ok(Repetition { tokens_per_second, ..Repetition::default() })
                };
                match steady(&mut || limits.bounds(options, spec, &part), once) {
                    Ok(repetition) => {
                        running.results[index].0.push(repetition);
                        running.results[index].1 = last;
                    }
                    Err(reason) => running.refused.push((index, reason)),
                }
            }
        }
        Ok(())
    }

    /// Ends the peers; their rows, and what they left out. `macs` are the multiply-adds of a token of each model.
    pub(super) fn finish(mut self, options: &Options, macs: &dyn Fn(usize) -> Option<u64>) -> (Vec<Row>, Vec<Skipped>) {
        let mut rows = Vec::new();
        for Running { peer, results, refused } in std::mem::take(&mut self.peers) {
            for (spec, (repetitions, last)) in self.specs.iter().zip(results) {
                let Some(last) = last else { continue };
                let part = [on_cpu(last.bytes_per_token, macs(spec.model))];
                rows.extend(by_state(&part, repetitions).into_iter().map(|state| Row {
                    layout: last.layout.clone(),
                    kernel: last.kernel.clone(),
                    ..row_of(options, spec, peer.name(), &part, &state)
                }));
            }
            for (spec, reason) in refused {
                self.skip(options, peer.name(), spec, reason);
            }
        }
        (rows, self.skipped)
    }
}

/// What a peer does for a token.
fn on_cpu(bytes: Option<u64>, macs: Option<u64>) -> Part {
    Part { backend: "cpu".into(), bytes, macs }
}
