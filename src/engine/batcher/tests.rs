//! Many requests at once give what each gives alone.

use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, channel};

use sterna_cpu::kv::KvType;

use super::*;
use crate::backend::hooked::HookedBackend;
use crate::backend::{BackendError, KvOptions};
use crate::engine::{Engine, FinishReason, GenerateOptions, OpenOptions, Sampling};
use crate::graph::{Executor, Placement};

/// A client.
struct Channel(Sender<Event>);

impl EventSink for Channel {
    fn send(&mut self, event: Event) -> bool {
        self.0.send(event).is_ok()
    }
}

/// What a request gave.
#[derive(Debug, Default, PartialEq)]
struct Answer {
    ids: Vec<u32>,
    text: String,
    finish: Option<FinishReason>,
    cached: usize,
    logprobs: Vec<TokenLogprobs>,
    failure: Option<String>,
}

fn collect(events: &Receiver<Event>) -> Answer {
    let mut answer = Answer::default();
    for event in events {
        match event {
            Event::Token { token, logprobs } => {
                answer.ids.push(token.id);
                answer.text += &token.text;
                answer.logprobs.extend(logprobs);
            }
            Event::Finished { reason, timings } => {
                answer.finish = Some(reason);
                answer.cached = timings.cached_tokens;
                assert_eq!(timings.generated_tokens, answer.ids.len());
            }
            Event::Failed(failure) => answer.failure = Some(failure.to_string()),
        }
    }
    answer
}

fn model(pages: usize, context: usize) -> Model {
    let options = OpenOptions {
        threads: Some(2),
        context: Some(context),
        cache_positions: Some(pages * sterna_cpu::kv::PAGE_LEN),
        chunk: 64,
        ..OpenOptions::default()
    };
    Model::open("demo", &options).expect("the demo model opens")
}

fn start(model: &Model, options: BatcherOptions) -> Batcher {
    Batcher::start(model.clone(), options, ()).expect("a thread can be started")
}

fn request(len: usize, first: u32, max_tokens: usize, seed: u64) -> Request {
    let sampling = match seed % 3 {
        0 => Sampling::default(),
        1 => Sampling { temperature: 0.9, top_k: 30, seed: Some(seed), ..Sampling::default() },
        _ => Sampling {
            temperature: 0.8,
            top_p: 0.9,
            seed: Some(seed),
            presence_penalty: 0.5,
            frequency_penalty: 0.2,
            logit_bias: vec![(5, 1.5), (17, -100.0)],
            ..Sampling::default()
        },
    };
    Request {
        tokens: (0..len as u32).map(|i| (first + i * 7 + i * i) % 1000).collect(),
        options: GenerateOptions { max_tokens: Some(max_tokens), sampling, ignore_eos: true, ..Default::default() },
        logprobs: None,
        timeout: None,
    }
}

fn submit(batcher: &Batcher, request: Request) -> Receiver<Event> {
    let (sender, receiver) = channel();
    batcher.submit(request, Channel(sender)).expect("there is room");
    receiver
}

/// What a session alone gives.
fn alone(model: &Model, request: &Request) -> Vec<u32> {
    let mut session = model.session();
    let generation = session.generate_tokens(request.tokens.clone(), request.options.clone()).expect("fits");
    generation.map(|token| token.expect("no device fails").id).collect()
}

fn mixed_requests() -> Vec<Request> {
    (0..14u64).map(|i| request(3 + (i as usize * 37) % 210, i as u32 % 4, 5 + i as usize * 3, i)).collect()
}

#[test]
fn company_changes_nothing() {
    let lonely = model(16, 512);
    for (pages, parallel, prefix_cache) in [(60, 8, true), (60, 3, false), (9, 8, true), (9, 8, false)] {
        let model = model(pages, 512);
        let batcher = start(&model, BatcherOptions { parallel, prefix_cache, ..Default::default() });
        let receivers: Vec<_> = mixed_requests().into_iter().map(|request| submit(&batcher, request)).collect();
        for (request, receiver) in mixed_requests().iter().zip(&receivers) {
            let answer = collect(receiver);
            assert_eq!(answer.failure, None);
            assert_eq!(answer.ids, alone(&lonely, request), "{pages} pages, {parallel} at once");
            assert_eq!(answer.finish, Some(FinishReason::Length));
        }
        assert!(batcher.stop(Duration::ZERO));
        assert_eq!(model.engine().available_pages(), pages, "no page is lost");
    }
}

/// Counts what a batcher does.
#[derive(Clone, Default)]
struct Counts(Arc<std::sync::Mutex<(usize, usize, usize)>>);

impl Observer for Counts {
    fn step(&self, step: &Step) {
        let mut counts = self.0.lock().expect("nobody panics here");
        counts.0 = counts.0.max(step.answers);
        if step.answers > 0 {
            counts.1 = counts.1.max(step.prompt_tokens);
        }
    }

    fn preempted(&self) {
        self.0.lock().expect("nobody panics here").2 += 1;
    }
}

#[test]
fn a_full_cache_takes_turns() {
    let model = model(8, 512);
    let counts = Counts::default();
    let options = BatcherOptions { parallel: 8, ..Default::default() };
    let batcher = Batcher::start(model.clone(), options, counts.clone()).expect("starts");
    // Each needs four pages in the end, and one at first.
    let requests: Vec<_> = (0..6).map(|i| request(40, i, 200, u64::from(i))).collect();
    let receivers: Vec<_> = requests.iter().map(|request| submit(&batcher, request.clone())).collect();
    for (request, receiver) in requests.iter().zip(&receivers) {
        assert_eq!(collect(receiver).ids, alone(&self::model(8, 512), request));
    }
    let (answers, _, preempted) = *counts.0.lock().expect("nobody panics here");
    assert!(preempted > 0 && answers > 2, "{answers} at once, {preempted} preempted");
}

#[test]
fn prompts_are_computed_once() {
    let model = model(40, 512);
    let batcher = start(&model, BatcherOptions::default());
    let first = request(150, 0, 4, 0);
    // Together: the later ones wait for the first.
    let receivers: Vec<_> = (0..3).map(|_| submit(&batcher, first.clone())).collect();
    let answers: Vec<_> = receivers.iter().map(collect).collect();
    assert_eq!(answers.iter().map(|answer| answer.cached).collect::<Vec<_>>(), [0, 149, 149]);
    assert!(answers.iter().all(|answer| answer.ids == answers[0].ids));
    // Later: the conversation goes on. What was kept are whole pages.
    let mut longer = first.clone();
    longer.tokens.extend(&answers[0].ids);
    longer.tokens.extend([9, 8, 7]);
    let again = collect(&submit(&batcher, longer.clone()));
    assert_eq!(again.cached, 128);
    assert_eq!(again.ids, alone(&self::model(16, 512), &longer));
    let other = collect(&submit(&batcher, request(150, 1, 4, 0)));
    assert_eq!(other.cached, 0);
    assert!(batcher.stop(Duration::from_secs(60)));
}

#[test]
fn a_broken_device_is_told_to_all() {
    let model = model(16, 512);
    let calls = std::sync::atomic::AtomicUsize::new(0);
    let device = HookedBackend::new("gpu", 1.0, move |_| match calls.fetch_add(1, Ordering::SeqCst) {
        0..30 => Ok(()),
        _ => Err(BackendError::NoGpuSupport),
    });
    let graph = model.graph();
    let placement = Placement::parse("gpu", graph.blocks().len()).expect("a placement");
    let kv = KvOptions { kind: KvType::F16, pages: 16 };
    let executor = Executor::build_phases(graph, [&placement, &placement], &[Arc::new(device) as _], kv, &());
    *model.engine() = Engine::new(executor.expect("the first calls work"), model.config().vocab_size, 16, 512, 64);
    let batcher = start(&model, BatcherOptions::default());
    let receivers: Vec<_> = (0..3).map(|i| submit(&batcher, request(10, i, 400, u64::from(i)))).collect();
    for receiver in &receivers {
        let answer = collect(receiver);
        assert!(!answer.ids.is_empty() && answer.finish.is_none());
        assert!(answer.failure.is_some_and(|failure| failure.contains("cannot be run any more: gpu")));
    }
    assert!(batcher.failure().is_some());
    let (sender, _receiver) = channel();
    assert!(matches!(batcher.submit(request(10, 0, 4, 0), Channel(sender)), Err(Refusal::Broken(_))));
    assert_eq!(model.engine().available_pages(), 16);
}

#[test]
fn those_who_leave_disturb_nobody() {
    let model = model(40, 512);
    let batcher = start(&model, BatcherOptions { parallel: 4, ..Default::default() });
    let stays = request(30, 2, 60, 1);
    let staying = submit(&batcher, stays.clone());
    for i in 0..12 {
        let leaving = submit(&batcher, request(20 + i * 9, i as u32, 100, i as u64));
        for _ in 0..i % 4 {
            leaving.recv().expect("an event");
        }
    }
    assert_eq!(collect(&staying).ids, alone(&self::model(16, 512), &stays));
    assert!(batcher.stop(Duration::from_secs(60)));
    assert_eq!(model.engine().available_pages(), 40);
}

#[test]
fn probabilities_are_those_of_the_logits() {
    let model = model(16, 512);
    let batcher = start(&model, BatcherOptions::default());
    let request = Request { logprobs: Some(3), ..request(20, 1, 5, 0) };
    let answer = collect(&submit(&batcher, request.clone()));
    assert_eq!(answer.ids, alone(&self::model(16, 512), &request));
    let mut tokens = request.tokens.clone();
    tokens.extend(&answer.ids);
    let mut expected = Vec::new();
    model
        .session()
        .logits(&tokens[..tokens.len() - 1], |at, logits| {
            if at + 1 >= request.tokens.len() {
                expected.push(TokenLogprobs::new(logits, tokens[at + 1], 3));
            }
        })
        .expect("fits");
    assert_eq!(answer.logprobs, expected);
}

#[test]
fn time_runs_out_and_queues_fill_up() {
    let model = model(16, 512);
    let batcher = start(&model, BatcherOptions { parallel: 1, queue: 1, ..Default::default() });
    let long = request(10, 0, 400, 0);
    let running = submit(&batcher, long.clone());
    running.recv().expect("it has begun");
    let waiting = submit(&batcher, Request { timeout: Some(Duration::from_millis(1)), ..long.clone() });
    let (sender, _receiver) = channel();
    let refused = batcher.submit(long.clone(), Channel(sender)).expect_err("the queue is full");
    assert!(matches!(refused, Refusal::Busy { waiting: 1 }), "{refused}");
    assert!(collect(&waiting).failure.is_some_and(|failure| failure.contains("longer than 1ms")));
    // Stopping without grace cuts the answer short.
    assert!(!batcher.stop(Duration::ZERO));
    let answer = collect(&running);
    assert!(answer.finish.is_none() && answer.failure.is_some_and(|failure| failure.contains("shutting down")));
    let (sender, _receiver) = channel();
    assert!(matches!(batcher.submit(long, Channel(sender)), Err(Refusal::Stopping)));
}

#[test]
fn bad_requests_are_refused() {
    let model = model(16, 512);
    let batcher = start(&model, BatcherOptions::default());
    let refusal = |request: Request| {
        let (sender, _receiver) = channel();
        batcher.submit(request, Channel(sender)).expect_err("makes no sense").to_string()
    };
    let good = request(10, 0, 4, 0);
    assert!(refusal(Request { tokens: Vec::new(), ..good.clone() }).contains("empty"));
    assert!(refusal(request(513, 0, 4, 0)).contains("513 tokens do not fit"));
    assert!(refusal(Request { tokens: vec![u32::MAX], ..good.clone() }).contains("not in the vocabulary"));
    let mut hot = good.clone();
    hot.options.sampling.temperature = -1.0;
    assert!(refusal(hot).contains("temperature"));
    let mut biased = good.clone();
    biased.options.sampling.logit_bias = vec![(u32::MAX, 1.0)];
    assert!(refusal(biased).contains("not in the vocabulary"));
    // No tokens asked for: none given.
    let mut none = good;
    none.options.max_tokens = Some(0);
    let answer = collect(&submit(&batcher, none));
    assert_eq!((answer.ids.len(), answer.finish), (0, Some(FinishReason::Length)));
}
