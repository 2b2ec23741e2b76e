//! Chunks of a prompt on several devices at the same time: while one stage has chunk i, the stage before it has chunk i + 1.
//!
//! Each stage works in a thread of its own and gets the chunks in order, so each computes what it would compute alone.
//! Stages of one device take turns.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

use sterna_cpu::AlignedBuf;

use super::{Executor, ExecutorError, Phase, Slot};
use crate::backend::{Batch, Outputs};

/// Chunks that wait between two stages.
const WAITING: usize = 1;

impl Executor {
    /// Whether chunks of prompts are worked on at the same time: there are stages of several devices.
    pub fn overlaps(&self, phase: Phase) -> bool {
        let mut devices = self.slots.iter().filter(|slot| slot.serves[phase as usize]).map(|slot| slot.device);
        devices.next().is_some_and(|first| devices.any(|device| device != first))
    }

    /// Runs several batches as [`Executor::forward`] would one after the other; the outputs are those of the last one, and no
    /// other may have any.
    ///
    /// # Errors
    /// As [`Executor::forward`], for the positions of all batches.
    pub fn forward_all(&mut self, phase: Phase, batches: &[Batch<'_>]) -> Result<(), ExecutorError> {
        if batches.len() < 2 || !self.overlaps(phase) {
            return batches.iter().try_for_each(|batch| self.forward(phase, batch, None));
        }
        self.phase = phase;
        let Executor { slots, outputs, .. } = self;
        let count = slots.iter().map(|slot| slot.device + 1).max().unwrap_or(0);
        let devices: Vec<Mutex<()>> = (0..count).map(|_| Mutex::new(())).collect();
        let spare: Mutex<Vec<AlignedBuf<f32>>> = Mutex::new(Vec::new());
        let mut slots: Vec<&mut Slot> = slots.iter_mut().filter(|slot| slot.serves[phase as usize]).collect();
        let last = slots.pop();
        thread::scope(|scope| {
            let mut input: Option<Receiver<AlignedBuf<f32>>> = None;
            let mut threads = Vec::new();
            for slot in slots {
                let (sender, receiver) = sync_channel(WAITING);
                let from = std::mem::replace(&mut input, Some(receiver));
                let (devices, spare) = (&devices, &spare);
                threads.push(scope.spawn(move || {
                    let device = &devices[slot.device];
                    run(slot, device, batches, from, Some(sender), spare, &mut Outputs::default())
                }));
            }
            // The stage of the head, on this thread.
            let result = match last {
                Some(slot) => {
                    let device = &devices[slot.device];
                    run(slot, device, batches, input, None, &spare, outputs)
                }
                None => Ok(()),
            };
            let results = threads.into_iter().map(|thread| match thread.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            });
            // The first stage that failed made the others stop.
            results.collect::<Vec<_>>().into_iter().chain([result]).collect()
        })
    }
}

/// Takes the batches through a stage. Ends without an error where another stage has failed.
fn run(
    slot: &mut Slot,
    device: &Mutex<()>,
    batches: &[Batch<'_>],
    from: Option<Receiver<AlignedBuf<f32>>>,
    to: Option<SyncSender<AlignedBuf<f32>>>,
    spare: &Mutex<Vec<AlignedBuf<f32>>>,
    outputs: &mut Outputs,
) -> Result<(), ExecutorError> {
    // No step in which a lock is held leaves anything half done.
    let spare = || spare.lock().unwrap_or_else(PoisonError::into_inner);
    for batch in batches {
        let mut hidden = match &from {
            Some(from) => match from.recv() {
                Ok(hidden) => hidden,
                Err(_) => return Ok(()),
            },
            None => spare().pop().unwrap_or_default(),
        };
        {
            let _turn = device.lock().unwrap_or_else(PoisonError::into_inner);
            slot.forward(batch, &mut hidden, outputs)?;
        }
        match &to {
            Some(to) => {
                if to.send(hidden).is_err() {
                    return Ok(());
                }
            }
            None => spare().push(hidden),
        }
    }
    Ok(())
}
