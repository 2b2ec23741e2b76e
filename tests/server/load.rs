//! Many clients at once, clients that leave, and the end of the server.

use std::time::Duration;

use serde_json::{Value, json};

use crate::client::{Server, data, eventually, json};
use crate::{demo, told};

fn body(seed: u64) -> Value {
    json!({ "prompt": prompt(seed), "max_tokens": 30 + seed % 40, "seed": seed, "stream": true })
}

fn prompt(seed: u64) -> String {
    let start = ["Once upon a time", "The fox said to the wolf", "A king had three sons, and"][seed as usize % 3];
    // Some are long enough to be computed in several passes and to share pages.
    start.repeat(1 + seed as usize % 5 * 4)
}

/// The text of a stream that must end well.
fn text(events: impl Iterator<Item = String>) -> String {
    let mut events: Vec<String> = events.collect();
    assert_eq!(events.pop().as_deref(), Some("[DONE]"), "{events:?}");
    let pieces = events.iter().map(|event| serde_json::from_str::<Value>(event).unwrap());
    pieces.map(|event| event["choices"][0]["text"].as_str().unwrap_or_else(|| panic!("{event}")).to_owned()).collect()
}

#[test]
fn company_and_those_who_leave_change_no_answer() {
    let (server, model) = (Server::start(&["--parallel", "6", "--ctx", "512", "--cache-tokens", "1536"]), demo());
    std::thread::scope(|scope| {
        let server = &server;
        for seed in 0..8u64 {
            scope.spawn(move || {
                // Leaves after a few tokens.
                let response = server.post("/v1/completions", &body(100 + seed));
                let some: Vec<String> = data(response.into_body().into_reader()).take(seed as usize).collect();
                assert_eq!(some.len(), seed as usize);
            });
        }
        let answers: Vec<_> = (0..24u64)
            .map(|seed| {
                let ask = move || text(data(server.post("/v1/completions", &body(seed)).into_body().into_reader()));
                (seed, scope.spawn(ask))
            })
            .collect();
        for (seed, answer) in answers {
            assert_eq!(answer.join().unwrap(), told(&model, &prompt(seed), 30 + seed as usize % 40, seed), "{seed}");
        }
    });
    // Nothing is left of those who left.
    eventually("rest", || {
        (json(server.get("/sterna/status")).1["requests"] == json!({ "running": 0, "queued": 0 })).then_some(())
    });
}

#[test]
fn a_full_queue_says_when_to_come_again() {
    let server = Server::start(&["--parallel", "1", "--queue", "1"]);
    let long = json!({ "prompt": "Once", "max_tokens": 2000, "ignore_eos": true, "stream": true });
    let mut running: Vec<_> = Vec::new();
    let refused = (0..20).find_map(|_| {
        let response = server.post("/v1/completions", &long);
        if response.status() == 200 {
            // Dropping it would give it up.
            running.push(response);
            return None;
        }
        Some(response)
    });
    let refused = refused.expect("the queue is full");
    assert_eq!(refused.status(), 429);
    assert!(refused.headers()["retry-after"].to_str().unwrap().parse::<u32>().unwrap() > 0);
    let (_, answer) = json(refused);
    assert_eq!(answer["error"]["code"], "queue_full");
    let (status, health) = json(server.get("/ready"));
    assert_eq!((status, &health["status"]), (503, &json!("the queue is full")));
    assert_eq!(json(server.get("/health")).0, 200);
}

#[cfg(unix)]
#[test]
fn a_server_that_is_told_to_stop_finishes_its_answers() {
    let (mut server, model) = (Server::start(&["--grace", "60"]), demo());
    let mut answers: Vec<_> = (0..4u64)
        .map(|seed| {
            let body = json!({ "prompt": "Once upon a time", "max_tokens": 150, "seed": seed, "stream": true });
            let mut events = data(server.post("/v1/completions", &body).into_body().into_reader());
            let first = events.next().unwrap();
            (seed, std::iter::once(first).chain(events))
        })
        .collect();
    server.signal("TERM");
    for (seed, events) in answers.drain(..) {
        assert_eq!(text(events), told(&model, "Once upon a time", 150, seed));
    }
    assert!(server.wait(Duration::from_secs(20)).success(), "{}", server.log());

    assert!(!server.log().contains("cut short"), "{}", server.log());

    // Nor does one that has nothing to finish say so, which it did half of the time.
    for _ in 0..8 {
        let mut server = Server::start(&[]);
        server.signal("TERM");
        assert!(server.wait(Duration::from_secs(20)).success(), "{}", server.log());
        assert!(server.log().contains("stopping") && !server.log().contains("cut short"), "{}", server.log());
    }

    // Without a time of grace the streams end with an error, not in the middle of a line.
    let mut server = Server::start(&["--grace", "0"]);
    let body = json!({ "prompt": "Once", "max_tokens": 2000, "ignore_eos": true, "stream": true });
    let mut events = data(server.post("/v1/completions", &body).into_body().into_reader());
    events.next().unwrap();
    server.signal("TERM");
    let rest: Vec<String> = events.collect();
    assert!(rest.iter().any(|event| event.contains("shutting down")), "{:?}", rest.last());
    assert!(server.wait(Duration::from_secs(20)).success(), "{}", server.log());
}
