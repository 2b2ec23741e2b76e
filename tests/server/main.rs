//! `sterna serve` as clients see it.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod client;
#[path = "../common/mod.rs"]
mod common;
mod hostile;
mod load;
mod protocols;

use std::io::Write;

use assert_cmd::Command;
use client::{Server, agent, eventually, json};
use predicates::str::contains;
use serde_json::{Value, json};
use sterna::{GenerateOptions, Model, OpenOptions, Sampling};

/// What the library gives for a prompt.
fn expected(model: &Model, prompt: &str, max_tokens: usize, sampling: Sampling) -> String {
    let options = GenerateOptions { max_tokens: Some(max_tokens), sampling, ..GenerateOptions::default() };
    model.session().generate(prompt, options).unwrap().map(|token| token.unwrap().text).collect()
}

/// As [`expected`], of the demo model with what it recommends and a seed.
fn told(model: &Model, prompt: &str, max_tokens: usize, seed: u64) -> String {
    let sampling = Sampling { seed: Some(seed), ..model.default_sampling().clone() };
    expected(model, prompt, max_tokens, sampling)
}

fn demo() -> Model {
    Model::open("demo", &OpenOptions { threads: Some(1), ..OpenOptions::default() }).unwrap()
}

#[test]
fn texts_are_those_of_the_library() {
    let (server, model) = (Server::start(&[]), demo());
    let greedy =
        server.ask("/v1/completions", &json!({ "prompt": "Once upon a time", "max_tokens": 30, "temperature": 0 }));
    assert_eq!(greedy["choices"][0]["text"], expected(&model, "Once upon a time", 30, Sampling::default()).as_str());
    assert_eq!((&greedy["object"], &greedy["model"]), (&json!("text_completion"), &json!("demo")));
    assert_eq!(greedy["usage"]["completion_tokens"], 30);
    assert_eq!(greedy["choices"][0]["finish_reason"], "length");

    // Several prompts, several answers, in order, each with a seed of its own.
    let body = json!({ "prompt": ["The fox", "A king"], "max_tokens": 20, "n": 2, "seed": 7, "echo": true });
    let answers = server.ask("/v1/completions", &body);
    for (index, (prompt, seed)) in
        [("The fox", 7), ("The fox", 8), ("A king", 7), ("A king", 8)].into_iter().enumerate()
    {
        let text = format!("{prompt}{}", told(&model, prompt, 20, seed));
        assert_eq!(answers["choices"][index]["text"], text.as_str(), "{index}");
    }

    // The demo model has no chat template: it goes on with what was said.
    let body = json!({ "messages": [{ "role": "user", "content": "The fox" }], "max_tokens": 20, "seed": 7 });
    let chat = server.ask("/v1/chat/completions", &body);
    assert_eq!(chat["choices"][0]["message"]["content"], told(&model, "The fox", 20, 7).as_str());
    assert_eq!(chat["choices"][0]["message"]["role"], "assistant");

    // Tokens instead of a text, and a stop.
    let tokens = server.ask("/tokenize", &json!({ "prompt": "The fox" }))["tokens"].clone();
    assert_eq!(server.ask("/detokenize", &json!({ "tokens": tokens }))["prompt"], "<s>The fox");
    let whole = told(&model, "The fox", 60, 7);
    let stop = whole.split_whitespace().nth(9).unwrap();
    let body = json!({ "prompt": tokens, "max_tokens": 60, "seed": 7, "stop": [stop] });
    let stopped = server.ask("/v1/completions", &body);
    assert_eq!(stopped["choices"][0]["text"], whole.split(stop).next().unwrap());
    assert_eq!(stopped["choices"][0]["finish_reason"], "stop");
}

#[test]
fn streams_hold_the_same_as_whole_answers() {
    let server = Server::start(&[]);
    let mut body = json!({
        "messages": [{ "role": "user", "content": [{ "type": "text", "text": "Once" }, { "type": "text", "text": " upon" }] }],
        "max_tokens": 25, "seed": 3, "n": 2, "logprobs": true, "top_logprobs": 2, "presence_penalty": 0.5,
    });
    let whole = server.ask("/v1/chat/completions", &body);
    body["stream"] = true.into();
    body["stream_options"] = json!({ "include_usage": true });
    let events = server.events("/v1/chat/completions", &body);
    for index in 0..2 {
        let pieces =
            || events.iter().flat_map(|event| event["choices"].as_array().unwrap()).filter(|c| c["index"] == index);
        let text: String = pieces().filter_map(|piece| piece["delta"]["content"].as_str()).collect();
        assert_eq!(text, whole["choices"][index]["message"]["content"].as_str().unwrap());
        let logprobs: Vec<&Value> =
            pieces().filter_map(|piece| piece["logprobs"]["content"].as_array()).flatten().collect();
        assert_eq!(json!(logprobs), whole["choices"][index]["logprobs"]["content"]);
        assert_eq!(logprobs.len(), 25);
        assert!(logprobs.iter().all(|token| token["top_logprobs"].as_array().unwrap().len() == 2));
        assert_eq!(pieces().filter(|piece| piece["finish_reason"] == "length").count(), 1);
    }
    let last = events.last().unwrap();
    assert_eq!(last["usage"]["completion_tokens"], whole["usage"]["completion_tokens"]);
    assert_eq!(last["usage"]["completion_tokens"], 50);
    assert!(last["timings"]["decode_tokens_per_second"].as_f64().unwrap() > 0.0);
    assert_eq!(last["choices"], json!([]));
    let ids: Vec<_> = events.iter().map(|event| &event["id"]).collect();
    assert!(ids.iter().all(|id| *id == ids[0]));

    let mut body = json!({ "prompt": "Once", "max_tokens": 12, "seed": 3, "logprobs": 1, "stop": "zzz" });
    let whole = server.ask("/v1/completions", &body);
    body["stream"] = true.into();
    let events = server.events("/v1/completions", &body);
    let text: String = events.iter().map(|event| event["choices"][0]["text"].as_str().unwrap()).collect();
    assert_eq!(text, whole["choices"][0]["text"].as_str().unwrap());
    let offsets: Vec<u64> = events
        .iter()
        .filter_map(|event| event["choices"][0]["logprobs"]["text_offset"].as_array())
        .flatten()
        .map(|offset| offset.as_u64().unwrap())
        .collect();
    assert_eq!(json!(offsets), whole["choices"][0]["logprobs"]["text_offset"]);
    assert!(offsets.is_sorted() && offsets.len() == 12);
}

#[test]
fn errors_name_the_field() {
    let server = Server::start(&["--ctx", "128"]);
    let chat = |field: &str, value: Value| {
        let mut body = json!({ "messages": [{ "role": "user", "content": "x" }], "max_tokens": 1 });
        body[field] = value;
        json(server.post("/v1/chat/completions", &body))
    };
    for (field, value, param) in [
        ("temperature", json!("hot"), "temperature"),
        ("temperature", json!(3), "temperature"),
        ("top_p", json!(-0.1), "top_p"),
        ("min_p", json!(2), "min_p"),
        ("top_k", json!(-1), "top_k"),
        ("presence_penalty", json!(9), "presence_penalty"),
        ("n", json!(0), "n"),
        ("max_tokens", json!(0), "max_tokens"),
        ("max_tokens", json!(1.5), "max_tokens"),
        ("stop", json!(5), "stop"),
        ("logit_bias", json!({ "x": 1 }), "logit_bias"),
        ("logit_bias", json!({ "1": 1000 }), "logit_bias"),
        ("top_logprobs", json!(3), "top_logprobs"),
        ("messages", json!([]), "messages"),
        ("messages", json!([{ "role": "king", "content": "x" }]), "messages[0].role"),
        ("messages", json!([{ "role": "user", "content": [{ "type": "image_url" }] }]), "messages[0].content"),
        ("messages", json!([{ "role": "user", "content": 7 }]), "messages[0].content"),
        ("tools", json!([{ "type": "function" }]), "tools"),
        ("response_format", json!({ "type": "json_object" }), "response_format"),
        ("stream_options", json!({ "include_usage": 1 }), "stream_options.include_usage"),
    ] {
        let (status, answer) = chat(field, value.clone());
        assert_eq!((status, &answer["error"]["param"]), (400, &json!(param)), "{field} {value}: {answer}");
        assert_eq!(answer["error"]["type"], "invalid_request_error");
        assert!(answer["error"]["message"].as_str().unwrap().contains(param), "{answer}");
    }
    let (status, answer) = chat("model", json!("gpt-4"));
    assert_eq!((status, &answer["error"]["code"]), (404, &json!("model_not_found")));
    // What is not known is ignored, and so is what asks for nothing.
    assert_eq!(chat("no_such_field", json!([1, { "a": 2 }])).0, 200);
    assert_eq!(chat("response_format", json!({ "type": "text" })).0, 200);
    assert_eq!(chat("stop", Value::Null).0, 200);

    let long = json!({ "prompt": "word ".repeat(200), "max_tokens": 1 });
    let (status, answer) = json(server.post("/v1/completions", &long));
    assert_eq!((status, &answer["error"]["code"]), (400, &json!("context_length_exceeded")), "{answer}");
    let (status, answer) = json(server.post("/v1/embeddings", &json!({ "input": "x" })));
    assert_eq!((status, &answer["error"]["param"]), (400, &json!("model")), "{answer}");
    assert_eq!(json(server.get("/v1/nothing")).0, 404);
    assert_eq!(json(agent().delete(format!("{}/v1/models", server.url)).call().unwrap()).0, 405);
    let plain = agent().post(format!("{}/v1/completions", server.url)).header("content-type", "text/plain").send("{}");
    assert_eq!(json(plain.unwrap()).0, 415);
}

#[test]
fn keys_and_names_guard_the_server() {
    let file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file.as_file(), "# keys\nfirst-key # of Anna\n\nsecond-key").unwrap();
    let server = Server::start(&["--api-key", "third-key", "--api-key-file", file.path().to_str().unwrap()]);
    let body = json!({ "prompt": "x", "max_tokens": 1 });
    let status = |headers: &[(&str, &str)]| json(server.post_with("/v1/completions", &body, headers)).0;
    for key in ["first-key", "second-key", "third-key"] {
        assert_eq!(status(&[("authorization", &format!("Bearer {key}"))]), 200);
        assert_eq!(status(&[("x-api-key", key)]), 200);
    }
    assert_eq!(status(&[]), 401);
    assert_eq!(status(&[("authorization", "Bearer fourth-key")]), 401);
    assert_eq!(json(server.get("/metrics")).0, 401);
    assert_eq!(json(server.get("/v1/models")).1["error"]["code"], "invalid_api_key");
    // The page asks for the key itself; others ask for health.
    for path in ["/", "/health", "/ready", "/openapi.json"] {
        assert_eq!(server.get(path).status(), 200, "{path}");
    }

    let open = Server::start(&[]);
    let named = |name: &str| open.post_with("/v1/completions", &body, &[("host", name)]).status();
    assert_eq!(named("evil.example"), 421);
    assert_eq!(named("localhost:1234"), 200);
    assert!(open.get("/v1/models").headers().get("access-control-allow-origin").is_none());
    let shared = Server::start(&["--cors", "https://app.example", "--host-name", "llm.example"]);
    let response =
        shared.post_with("/v1/completions", &body, &[("origin", "https://app.example"), ("host", "llm.example")]);
    assert_eq!(response.headers()["access-control-allow-origin"], "https://app.example");

    let refused = |args: &[&str], message: &str| {
        Command::cargo_bin("sterna").unwrap().arg("serve").args(args).assert().failure().stderr(contains(message));
    };
    refused(&["--host", "0.0.0.0"], "no API key is set");
    refused(&["demo", "demo"], "two models are called demo");
    refused(&["--port", server.address().rsplit_once(':').unwrap().1], "cannot listen on");
    refused(&["--api-key-file", "/no/such/file"], "cannot read /no/such/file");
}

#[test]
fn texts_are_embedded() {
    let fixture = common::fixture("embed_qwen3");
    let server = Server::start(&[fixture.to_str().unwrap(), "demo", "--alias", "embed"]);
    let model = Model::open(&fixture, &OpenOptions::default().for_embedding()).unwrap();
    let texts: Vec<Vec<u32>> = vec![vec![5, 9, 30, 12], vec![7, 2]];
    let answer = server.ask("/v1/embeddings", &json!({ "model": "embed", "input": texts }));
    let vectors = model.embed_tokens(&texts).unwrap();
    for (index, vector) in vectors.iter().enumerate() {
        let numbers: Vec<f32> = serde_json::from_value(answer["data"][index]["embedding"].clone()).unwrap();
        assert_eq!(&numbers, vector);
        assert_eq!(answer["data"][index]["index"], index);
    }
    assert_eq!(answer["usage"]["total_tokens"], 6);
    // As the clients of OpenAI ask for it.
    let body = json!({ "model": "embed", "input": texts[0], "encoding_format": "base64" });
    let text = server.ask("/v1/embeddings", &body)["data"][0]["embedding"].as_str().unwrap().to_owned();
    use base64::Engine as _;
    let bytes = base64::engine::general_purpose::STANDARD.decode(text).unwrap();
    assert_eq!(bytes, vectors[0].iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>());
    for (field, value) in
        [("input", json!([])), ("input", json!(3)), ("dimensions", json!(3)), ("model", json!("demo"))]
    {
        let mut body = json!({ "model": "embed", "input": [1, 2] });
        body[field] = value;
        let (status, answer) = json(server.post("/v1/embeddings", &body));
        assert_eq!((status, &answer["error"]["param"]), (400, &json!(field)), "{answer}");
    }
    let models = json(server.get("/v1/models")).1;
    assert_eq!(models["data"][0]["kind"], "embedding");
    assert_eq!(models["data"][1]["id"], "demo");
    let (status, _) = json(server.post("/v1/completions", &json!({ "model": "embed", "prompt": "x" })));
    assert_eq!(status, 400);
}

#[test]
fn the_server_tells_how_it_is() {
    let server = Server::start(&["--log-format", "json"]);
    server.ask("/v1/completions", &json!({ "prompt": "Once upon a time", "max_tokens": 9 }));
    for line in [
        "sterna_generated_tokens_total{model=\"demo\"} 9",
        "sterna_time_to_first_token_seconds_count{model=\"demo\"} 1",
        "sterna_inter_token_latency_seconds_count{model=\"demo\"} 8",
        "sterna_requests_total{route=\"/v1/completions\",status=\"200\"} 1",
        "sterna_requests_running{model=\"demo\"} 0",
        "sterna_device_errors_total{model=\"demo\"} 0",
    ] {
        let has_line = || server.get("/metrics").body_mut().read_to_string().unwrap().contains(line).then_some(());
        eventually(line, has_line);
    }
    let status = eventually("all tokens", || {
        Some(json(server.get("/sterna/status")).1).filter(|status| status["generated_tokens"] == 9)
    });
    assert_eq!(status["models"][0]["id"], "demo");
    assert_eq!(status["requests"], json!({ "running": 0, "queued": 0 }));
    let document = json(server.get("/openapi.json")).1;
    for path in
        ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings", "/v1/messages", "/api/chat"]
    {
        assert!(document["paths"][path]["post"].is_object(), "{path}");
    }
    let page = server.get("/");
    assert_eq!(page.headers()["content-type"], "text/html");
    assert!(page.headers()["content-security-policy"].to_str().unwrap().contains("default-src 'none'"));
    assert_eq!(page.headers()["x-content-type-options"], "nosniff");
    let tag = page.headers()["etag"].clone();
    let again = agent().get(&server.url).header("if-none-match", tag).call().unwrap();
    assert_eq!(again.status(), 304);
    let id = server.post_with("/v1/completions", &json!({ "prompt": "x" }), &[("x-request-id", "my-request")]);
    assert_eq!(id.headers()["x-request-id"], "my-request");
    let entry = eventually("the request in the log", || {
        server.log().lines().find(|line| line.contains("my-request")).map(str::to_owned)
    });
    assert_eq!(serde_json::from_str::<Value>(&entry).unwrap()["fields"]["status"], 200);
    assert!(!server.log().contains("Once upon a time"), "prompts are not logged");
}

#[test]
fn https_is_served_with_a_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    std::fs::write(&cert, certificate.cert.pem()).unwrap();
    std::fs::write(&key, certificate.signing_key.serialize_pem()).unwrap();
    let (cert, key) = (cert.to_str().unwrap(), key.to_str().unwrap());
    let server = Server::start(&["--tls-cert", cert, "--tls-key", key]);
    let port = server.address().rsplit_once(':').unwrap().1;
    let root = ureq::tls::Certificate::from_pem(certificate.cert.pem().as_bytes()).unwrap();
    let roots = ureq::tls::RootCerts::new_with_certs(&[root]);
    let tls = ureq::tls::TlsConfig::builder().root_certs(roots).build();
    let agent: ureq::Agent = ureq::Agent::config_builder().tls_config(tls).build().into();
    let response = agent.get(format!("https://localhost:{port}/health")).call().unwrap();
    assert_eq!(response.status(), 200);
    let refused = |args: &[&str], message: &str| {
        Command::cargo_bin("sterna").unwrap().arg("serve").args(args).assert().failure().stderr(contains(message));
    };
    refused(&["--tls-cert", key, "--tls-key", key], "key.pem");
    refused(&["--tls-cert", cert, "--tls-key", "/no/such/key"], "/no/such/key");
}
