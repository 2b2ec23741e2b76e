//! The thread that computes the answers.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sterna_cpu::kv::PAGE_LEN;

use super::inbox::Inbox;
use super::job::{Choice, Job};
use super::prefix_cache::PrefixCache;
use super::share::share;
use super::{BatcherOptions, Failure, Load, Observer, Step, TokenLogprobs};
use crate::backend::LogitsFor;
use crate::engine::{Engine, Error, Model, Sampler, SequenceId, Work};
use crate::graph::Output;

/// Prompts get at least so many tokens of a pass, however slow the machine is.
const LEAST_PROMPT_TOKENS: usize = 16;

/// The rate of tokens is counted over this long.
const RATE_WINDOW: Duration = Duration::from_secs(1);

/// What the thread works with.
pub(super) struct Worker {
    model: Model,
    options: BatcherOptions,
    inbox: Arc<Inbox>,
    observer: Box<dyn Observer>,
    /// Requests that are being answered, in the order in which they were admitted.
    running: Vec<Job>,
    prefixes: PrefixCache,
    /// Seconds that a token of a prompt takes, of late.
    prompt_token_seconds: f64,
    rate: Rate,
    /// When figures were published, and how many requests were running then.
    reported: (Instant, usize),
}

/// Figures are published when requests come and go, and this often.
const REPORT_INTERVAL: Duration = Duration::from_millis(100);

/// Tokens per second.
struct Rate {
    since: Instant,
    tokens: usize,
    last: f64,
    /// Tokens since the start.
    total: u64,
}

impl Worker {
    pub(super) fn new(model: Model, options: BatcherOptions, inbox: Arc<Inbox>, observer: Box<dyn Observer>) -> Worker {
        let rate = Rate { since: Instant::now(), tokens: 0, last: 0.0, total: 0 };
        Worker {
            model,
            options,
            inbox,
            observer,
            running: Vec::new(),
            prefixes: PrefixCache::default(),
            prompt_token_seconds: 0.0,
            rate,
            reported: (Instant::now(), 0),
        }
    }

    /// Answers requests until it is told to stop.
    pub(super) fn run(mut self) {
        let served = std::panic::catch_unwind(AssertUnwindSafe(|| self.serve()));
        let cut_short = self.running.len();
        if served.is_err() {
            tracing::error!("the batcher has failed: this is an error of sterna, please report it");
            self.break_down("an error inside sterna");
        }
        let mut engine = self.model.engine();
        for job in std::mem::take(&mut self.running) {
            if let Some(id) = job.sequence {
                self.prefixes.release(&mut engine, id);
            }
            job.fail(Failure::Stopped);
        }
        self.prefixes.clear(&mut engine);
        drop(engine);
        self.inbox.end(cut_short);
    }

    fn serve(&mut self) {
        self.report();
        loop {
            if self.running.is_empty() {
                self.inbox.wait();
            }
            self.drop_those_that_are_over();
            self.admit();
            if let Some(deadline) = self.inbox.deadline() {
                let is_done = self.running.is_empty() && self.inbox.load().queued == 0;
                if is_done || Instant::now() > deadline {
                    return;
                }
            }
            if !self.running.is_empty()
                && let Err(error) = self.step()
            {
                self.observer.device_error();
                let reason = error.to_string();
                tracing::error!("{reason}");
                self.break_down(&reason);
            }
            let (at, running) = self.reported;
            if running != self.running.len() || at.elapsed() > REPORT_INTERVAL {
                self.report();
            }
        }
    }

    /// Removes requests that nobody waits for any more.
    fn drop_those_that_are_over(&mut self) {
        let over: Vec<Job> = self.running.extract_if(.., |job| job.is_over()).collect();
        if !over.is_empty() {
            let model = self.model.clone();
            let mut engine = model.engine();
            over.into_iter().for_each(|job| self.leave(&mut engine, job));
        }
        self.inbox.with_queue(|queue| queue.retain_mut(|job| !job.is_over()));
    }

    /// Takes requests from the queue while there is room for them.
    fn admit(&mut self) {
        let (model, inbox) = (self.model.clone(), Arc::clone(&self.inbox));
        let mut engine = model.engine();
        inbox.with_queue(|queue| {
            let mut at = 0;
            while self.running.len() < self.options.parallel && at < queue.len() {
                match self.place(&mut engine, &queue[at].history) {
                    Place::Wait => at += 1,
                    Place::Found(id, cached) => {
                        let Some(mut job) = queue.remove(at) else { break };
                        job.admitted(id, cached, &*self.observer);
                        self.running.push(job);
                    }
                    Place::Full => {
                        // With nothing running, nothing will ever make room: others use the model's cache.
                        if self.running.is_empty()
                            && let Some(job) = queue.remove(at)
                        {
                            job.fail(Error::CacheFull { pages: engine.pages() }.into());
                            continue;
                        }
                        break;
                    }
                }
            }
        });
    }

    /// Makes a sequence for `tokens`, with what is known of them, if there is room.
    fn place(&mut self, engine: &mut Engine, tokens: &[u32]) -> Place {
        let found = self.options.prefix_cache.then(|| self.prefixes.find(engine, tokens)).flatten();
        let known = found.map_or(0, |(_, common)| common);
        if self.options.prefix_cache && self.is_being_computed(engine, tokens, known) {
            return Place::Wait;
        }
        let id = match found {
            Some((source, common)) => {
                self.prefixes.touch(source);
                let id = engine.fork(source);
                engine.truncate(id, common);
                id
            }
            None => engine.create(),
        };
        // Room for the prompt and its first token, and for a page more of each of the others.
        let needed = engine.pages_for(id, tokens.len() + 1 - known);
        let used = engine.pages_together(self.sequences().chain([id])) + self.running.len();
        if used + needed <= engine.pages() && self.prefixes.make_room(engine, needed) {
            return Place::Found(id, known);
        }
        engine.release(id);
        Place::Full
    }

    /// Whether a prompt that is being computed begins like `tokens` and has a page more in common with them than the `known`
    /// ones: waiting for it is faster.
    fn is_being_computed(&self, engine: &Engine, tokens: &[u32], known: usize) -> bool {
        self.running.iter().any(|job| {
            let cached = job.sequence.map_or(0, |id| engine.tokens(id).len());
            let common = || job.history.iter().zip(&tokens[..tokens.len() - 1]).take_while(|(a, b)| a == b).count();
            cached < job.prompt && common() >= known + PAGE_LEN
        })
    }

    /// Sequences of running requests.
    fn sequences(&self) -> impl Iterator<Item = SequenceId> {
        self.running.iter().filter_map(|job| job.sequence)
    }

    /// One pass: the next token of every answer, and a part of the prompts.
    fn step(&mut self) -> Result<(), Error> {
        let start = Instant::now();
        let model = self.model.clone();
        let mut engine = model.engine();
        let Some(counts) = self.make_room(&mut engine) else { return Ok(()) };
        let mut work = Vec::with_capacity(counts.len());
        let mut choosers = Vec::with_capacity(counts.len());
        let (mut answers, mut prompt_tokens) = (0, 0);
        for (job, &count) in self.running.iter_mut().zip(&counts) {
            let Job { history, prompt, sampler, adjusted, logprobs, sequence, .. } = job;
            let Some(sequence) = *sequence else { continue };
            let cached = engine.tokens(sequence).len();
            let is_last = cached + count == history.len();
            let logits = match logprobs {
                _ if !is_last => LogitsFor::None,
                Some(_) => LogitsFor::Last,
                None => sampler.wanted(history, adjusted),
            };
            answers += usize::from(is_last);
            prompt_tokens += if cached < *prompt { count } else { 0 };
            let history = &history[..];
            work.push(Work { sequence, tokens: &history[cached..cached + count], logits });
            choosers.push((sampler, history, *logprobs));
        }
        let mut choices: Vec<Option<Result<Choice, Error>>> = counts.iter().map(|_| None).collect();
        let mut sink = |item: usize, _: usize, output: &mut Output<'_>| {
            let (sampler, history, logprobs) = &mut choosers[item];
            match choose(sampler, history, *logprobs, output) {
                // Another device may take over, and this is called again.
                Err(error @ Error::Executor(_)) => Err(error),
                choice => {
                    choices[item] = Some(choice);
                    Ok(())
                }
            }
        };
        engine.forward(&work, &mut sink, None)?;
        let step = Step { answers, prompt_tokens, time: start.elapsed() };
        self.take_note(&step);
        self.tell(&mut engine, choices);
        Ok(())
    }

    /// How many tokens of each request the next pass computes. Requests that there is no room for give their place up.
    fn make_room(&mut self, engine: &mut Engine) -> Option<Vec<usize>> {
        loop {
            let counts = self.plan(engine);
            let ids = self.running.iter().zip(&counts);
            let needed = ids.filter_map(|(job, &count)| Some(engine.pages_for(job.sequence?, count))).sum();
            if self.prefixes.make_room(engine, needed) {
                return (!counts.is_empty()).then_some(counts);
            }
            let mut youngest = self.running.pop()?;
            if let Some(id) = youngest.sequence.take() {
                self.prefixes.release(engine, id);
            }
            if self.running.is_empty() {
                youngest.fail(Error::CacheFull { pages: engine.pages() }.into());
                return None;
            }
            self.observer.preempted();
            self.inbox.with_queue(|queue: &mut VecDeque<Job>| queue.push_front(youngest));
        }
    }

    /// Tokens of each request for the next pass: one of each answer, and the prompts share what is left.
    fn plan(&self, engine: &Engine) -> Vec<usize> {
        let left = |job: &Job| job.history.len() - job.sequence.map_or(0, |id| engine.tokens(id).len());
        let lefts: Vec<usize> = self.running.iter().map(left).collect();
        let prompts: Vec<usize> = lefts.iter().copied().filter(|&left| left > 1).collect();
        let answers = lefts.len() - prompts.len();
        let whole = engine.chunk().saturating_sub(answers).max(1);
        let budget = match answers {
            0 => whole,
            _ => self.tokens_within_the_stall().min(whole),
        };
        let mut shares = share(&prompts, budget).into_iter();
        lefts.iter().map(|&left| if left > 1 { shares.next().unwrap_or(0) } else { left }).collect()
    }

    /// Tokens of prompts that take as long as running answers may be held up.
    fn tokens_within_the_stall(&self) -> usize {
        if self.prompt_token_seconds == 0.0 {
            return LEAST_PROMPT_TOKENS;
        }
        ((self.options.stall.as_secs_f64() / self.prompt_token_seconds) as usize).max(LEAST_PROMPT_TOKENS)
    }

    /// Learns from a pass how fast prompts and answers are.
    fn take_note(&mut self, step: &Step) {
        if step.prompt_tokens >= LEAST_PROMPT_TOKENS {
            let seconds = step.time.as_secs_f64() / (step.prompt_tokens + step.answers) as f64;
            let last = self.prompt_token_seconds;
            self.prompt_token_seconds = if last == 0.0 { seconds } else { 0.7 * last + 0.3 * seconds };
        }
        self.rate.count(step.answers);
        self.observer.step(step);
    }

    /// Hands the chosen tokens out; those whose answers are complete leave.
    fn tell(&mut self, engine: &mut Engine, choices: Vec<Option<Result<Choice, Error>>>) {
        let mut going_on = Vec::with_capacity(self.running.len());
        for (mut job, choice) in std::mem::take(&mut self.running).into_iter().zip(choices) {
            let is_first = job.generated() == 0;
            match choice {
                Some(Ok(choice)) => {
                    if job.push(&self.model, choice, &*self.observer) {
                        self.leave(engine, job);
                        continue;
                    }
                    if let Some(id) = job.sequence.filter(|_| is_first && self.options.prefix_cache) {
                        self.prefixes.insert(engine, id);
                    }
                }
                Some(Err(error)) => {
                    if let Some(id) = job.sequence {
                        self.prefixes.release(engine, id);
                    }
                    job.fail(error.into());
                    continue;
                }
                None => {}
            }
            going_on.push(job);
        }
        self.running = going_on;
    }

    /// Ends a request whose client has been told; what was computed for it may serve others.
    fn leave(&mut self, engine: &mut Engine, job: Job) {
        match job.sequence {
            Some(id) if self.options.prefix_cache => self.prefixes.retain(engine, id),
            Some(id) => engine.release(id),
            None => {}
        }
    }

    /// Gives up: no request can be served any more.
    fn break_down(&mut self, reason: &str) {
        // First: whoever is told of the failure must not find the door open.
        self.inbox.fail(reason);
        let mut engine = self.model.engine();
        for job in std::mem::take(&mut self.running) {
            if let Some(id) = job.sequence {
                self.prefixes.release(&mut engine, id);
            }
            job.fail(Failure::Broken(reason.to_owned()));
        }
        self.prefixes.clear(&mut engine);
    }

    /// Publishes figures.
    fn report(&mut self) {
        self.reported = (Instant::now(), self.running.len());
        let engine = self.model.engine();
        let running = engine.pages_together(self.sequences());
        let all = engine.pages_together(self.sequences().chain(self.prefixes.retained()));
        let (free_pages, pages) = (engine.available_pages(), engine.pages());
        drop(engine);
        let tokens_per_second = if self.running.is_empty() { self.rate.reset() } else { self.rate.last };
        self.inbox.report(Load {
            running: self.running.len(),
            free_pages,
            retained_pages: all - running,
            pages,
            tokens_per_second,
            generated_tokens: self.rate.total,
            ..Load::default()
        });
    }
}

/// Where a request would have its tokens.
enum Place {
    /// In this sequence, which has so many of them in the cache.
    Found(SequenceId, usize),
    /// It had better wait for a prompt that is being computed.
    Wait,
    /// There is no room.
    Full,
}

/// The next token after `history`, and the probabilities there if they are asked for.
fn choose(
    sampler: &mut Sampler,
    history: &[u32],
    logprobs: Option<usize>,
    output: &mut Output<'_>,
) -> Result<Choice, Error> {
    let Some(top) = logprobs else { return Ok((sampler.choose(output, history)?, None)) };
    let logits = output.all()?;
    let id = sampler.sample(logits, history)?;
    Ok((id, Some(TokenLogprobs::new(logits, id, top))))
}

impl Rate {
    fn count(&mut self, tokens: usize) {
        self.tokens += tokens;
        self.total += tokens as u64;
        let elapsed = self.since.elapsed();
        if elapsed >= RATE_WINDOW {
            self.last = self.tokens as f64 / elapsed.as_secs_f64();
            (self.since, self.tokens) = (Instant::now(), 0);
        }
    }

    /// Starts anew; the rate of nothing.
    fn reset(&mut self) -> f64 {
        *self = Rate { since: Instant::now(), tokens: 0, last: 0.0, total: self.total };
        0.0
    }
}
