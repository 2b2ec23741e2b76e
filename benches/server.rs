//! What the server adds to the engine: the same answer of the demo model by the library and over HTTP, in one process.
//!
//! `cargo bench --bench server [-- NAME]`
#![allow(missing_docs, reason = "a program")]

use std::hint::black_box;
use std::io::{BufRead, BufReader};
use std::sync::mpsc;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use serde_json::{Value, json};
use sterna::engine::BatcherOptions;
use sterna::server::{Keys, ServeOptions, serve};
use sterna::{GenerateOptions, Model, OpenOptions};

const PROMPT: &str = "Once upon a time";

/// Tokens of an answer.
const TOKENS: usize = 64;

fn demo() -> Model {
    Model::open("demo", &OpenOptions { threads: Some(1), ..OpenOptions::default() }).expect("the demo model")
}

/// The text of an answer by the library, in a session of its own.
fn by_engine(model: &Model) -> String {
    let options = GenerateOptions { max_tokens: Some(TOKENS), ..GenerateOptions::default() };
    let mut session = model.session();
    let answer = session.generate(PROMPT, options).expect("a prompt that fits");
    answer.map(|token| token.expect("a token").text).collect()
}

/// Starts a server, which ends with the process; where it listens. It computes each prompt anew, as sessions do.
fn start() -> String {
    let options = ServeOptions {
        address: ([127, 0, 0, 1], 0).into(),
        keys: Keys::default(),
        origins: vec![],
        hosts: vec![],
        tls: None,
        batcher: BatcherOptions { prefix_cache: false, ..BatcherOptions::default() },
        max_body: 1 << 20,
        request_timeout: Duration::from_secs(60),
        grace: Duration::from_secs(1),
        page: false,
    };
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        let models = vec![("demo".to_owned(), demo())];
        serve(models, options, false, |address| tell.send(address).expect("the bench waits for it"))
    });
    format!("http://{}", told.recv().expect("an address"))
}

struct Client {
    agent: ureq::Agent,
    server: String,
}

impl Client {
    /// Asks for an answer; the response, as far as it has come.
    fn ask(&self, is_stream: bool) -> BufReader<impl std::io::Read> {
        let body = json!({ "prompt": PROMPT, "max_tokens": TOKENS, "temperature": 0, "stream": is_stream });
        let url = format!("{}/v1/completions", self.server);
        let sent = self.agent.post(url).header("content-type", "application/json").send(body.to_string());
        BufReader::new(sent.expect("an answer").into_body().into_reader())
    }

    /// The text of an answer that comes at once.
    fn whole(&self) -> String {
        text(&serde_json::from_reader(self.ask(false)).expect("JSON"))
    }

    /// The text of an answer that comes in an event for each piece.
    fn stream(&self) -> String {
        let lines = self.ask(true).lines().map(|line| line.expect("a line"));
        let events = lines.filter_map(|line| Some(line.strip_prefix("data: ")?.to_owned()));
        let events = events.take_while(|event| event != "[DONE]");
        events.map(|event| text(&serde_json::from_str(&event).expect("JSON"))).collect()
    }

    fn health(&self) -> u16 {
        self.agent.get(format!("{}/health", self.server)).call().expect("an answer").status().as_u16()
    }
}

fn text(event: &Value) -> String {
    event["choices"][0]["text"].as_str().unwrap_or_default().to_owned()
}

fn answers(c: &mut Criterion) {
    let model = demo();
    let client = Client { agent: ureq::Agent::new_with_defaults(), server: start() };
    let want = by_engine(&model);
    assert!(client.whole() == want && client.stream() == want, "the server gives the text of the engine");
    let mut group = c.benchmark_group(format!("{TOKENS} tokens of the demo model"));
    group.throughput(Throughput::Elements(TOKENS as u64));
    group.bench_function("engine", |b| b.iter(|| by_engine(black_box(&model))));
    group.bench_function("HTTP", |b| b.iter(|| client.whole()));
    group.bench_function("HTTP stream", |b| b.iter(|| client.stream()));
    group.finish();
    c.bench_function("HTTP without a model: /health", |b| b.iter(|| client.health()));
}

criterion_group!(benches, answers);
criterion_main!(benches);
