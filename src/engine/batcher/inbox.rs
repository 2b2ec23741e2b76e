//! What the batcher's thread and everybody else share: the queue of requests, the wish to stop, and figures.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::job::Job;
use super::{Failure, Load, Refusal};

/// A queue of requests between threads.
#[derive(Debug)]
pub(super) struct Inbox {
    capacity: usize,
    state: Mutex<State>,
    /// Something came, or is done.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Job>,
    /// When what is not finished fails.
    deadline: Option<Instant>,
    failure: Option<String>,
    /// The thread has ended.
    ended: bool,
    /// Requests that failed because of the deadline.
    cut_short: usize,
    load: Load,
}

impl Inbox {
    /// An empty queue for `capacity` requests.
    pub(super) fn new(capacity: usize) -> Inbox {
        Inbox { capacity, state: Mutex::default(), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is complete before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends a request.
    ///
    /// # Errors
    /// If the queue is full, the batcher is stopping or its device has failed.
    pub(super) fn push(&self, job: Job) -> Result<(), Refusal> {
        let mut state = self.lock();
        if let Some(failure) = &state.failure {
            return Err(Refusal::Broken(failure.clone()));
        }
        if state.deadline.is_some() || state.ended {
            return Err(Refusal::Stopping);
        }
        if state.queue.len() >= self.capacity {
            return Err(Refusal::Busy { waiting: state.queue.len() });
        }
        state.queue.push_back(job);
        self.changed.notify_all();
        Ok(())
    }

    /// Waits for a request, or for the wish to stop.
    pub(super) fn wait(&self) {
        let state = self.lock();
        let idle = |state: &mut State| state.queue.is_empty() && state.deadline.is_none();
        drop(self.changed.wait_while(state, idle).unwrap_or_else(PoisonError::into_inner));
    }

    /// Hands the queue to `f`.
    pub(super) fn with_queue<T>(&self, f: impl FnOnce(&mut VecDeque<Job>) -> T) -> T {
        f(&mut self.lock().queue)
    }

    /// When what is not finished fails, if the batcher is to stop.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.lock().deadline
    }

    /// Takes note of what the thread is busy with; the queue is counted here.
    pub(super) fn report(&self, load: Load) {
        self.lock().load = load;
    }

    /// What the batcher is busy with.
    pub(super) fn load(&self) -> Load {
        let state = self.lock();
        Load { queued: state.queue.len(), ..state.load }
    }

    /// Why no request can be served any more.
    pub(super) fn failure(&self) -> Option<String> {
        self.lock().failure.clone()
    }

    /// Refuses all requests from now on; those that wait fail.
    pub(super) fn fail(&self, reason: &str) {
        let waiting = {
            let mut state = self.lock();
            state.failure = Some(reason.to_owned());
            std::mem::take(&mut state.queue)
        };
        waiting.into_iter().for_each(|job| job.fail(Failure::Broken(reason.to_owned())));
    }

    /// Takes note that the thread has ended, with so many requests cut short; those that wait fail.
    pub(super) fn end(&self, cut_short: usize) {
        let waiting = {
            let mut state = self.lock();
            state.ended = true;
            state.load = Load { running: 0, tokens_per_second: 0.0, ..state.load };
            state.cut_short = cut_short + state.queue.len();
            self.changed.notify_all();
            std::mem::take(&mut state.queue)
        };
        waiting.into_iter().for_each(|job| job.fail(Failure::Stopped));
    }

    /// Lets the thread end when all requests are answered, at the latest after `grace`, and waits for that. Returns whether no
    /// request was cut short.
    pub(super) fn stop(&self, grace: Duration) -> bool {
        let mut state = self.lock();
        let deadline = Instant::now() + grace;
        state.deadline = Some(state.deadline.map_or(deadline, |known| known.min(deadline)));
        self.changed.notify_all();
        let state = self.changed.wait_while(state, |state| !state.ended).unwrap_or_else(PoisonError::into_inner);
        state.cut_short == 0
    }
}
