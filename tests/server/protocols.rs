//! The APIs beside chat and completions.

use serde_json::json;

use crate::client::{Server, data, json};
use crate::{demo, told};

#[test]
fn responses_are_streamed_and_whole() {
    let (server, model) = (Server::start(&[]), demo());
    let mut body = json!({ "input": "The fox", "max_output_tokens": 12, "seed": 5 });
    let text = told(&model, "The fox", 12, 5);
    let whole = server.ask("/v1/responses", &body);
    assert_eq!(whole["output"][0]["content"][0]["text"], text.as_str());
    assert_eq!(
        (&whole["status"], &whole["incomplete_details"]["reason"]),
        (&json!("incomplete"), &json!("max_output_tokens"))
    );
    assert_eq!(whole["usage"]["output_tokens"], 12);
    body["stream"] = true.into();
    let events = server.events("/v1/responses", &body);
    let kinds: Vec<&str> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(
        kinds[..4],
        ["response.created", "response.in_progress", "response.output_item.added", "response.content_part.added"]
    );
    assert_eq!(
        kinds[kinds.len() - 4..],
        ["response.output_text.done", "response.content_part.done", "response.output_item.done", "response.incomplete"]
    );
    let pieces = events.iter().filter(|event| event["type"] == "response.output_text.delta");
    assert_eq!(pieces.map(|event| event["delta"].as_str().unwrap()).collect::<String>(), text);
    assert!(events.iter().enumerate().all(|(at, event)| event["sequence_number"] == at));
    // A conversation with instructions is one text for a model without a template.
    let body = json!({
        "instructions": "The ", "input": [{ "role": "user", "content": [{ "type": "input_text", "text": "fox" }] }],
        "max_output_tokens": 12, "seed": 5,
    });
    assert_eq!(server.ask("/v1/responses", &body)["output"][0]["content"][0]["text"], text.as_str());
    let (status, answer) =
        json(server.post("/v1/responses", &json!({ "input": "x", "previous_response_id": "resp_1" })));
    assert_eq!((status, &answer["error"]["param"]), (400, &json!("previous_response_id")));
}

#[test]
fn clients_of_anthropic_are_answered() {
    let (server, model) = (Server::start(&[]), demo());
    let text = told(&model, "The fox", 12, 5);
    let mut body = json!({ "max_tokens": 12, "seed": 5, "messages": [{ "role": "user", "content": "The fox" }] });
    let whole = server.ask("/v1/messages", &body);
    assert_eq!(whole["content"], json!([{ "type": "text", "text": text }]));
    assert_eq!((&whole["stop_reason"], &whole["usage"]["output_tokens"]), (&json!("max_tokens"), &json!(12)));
    body["stream"] = true.into();
    let events = server.events("/v1/messages", &body);
    let pieces = events.iter().filter(|event| event["type"] == "content_block_delta");
    assert_eq!(pieces.map(|event| event["delta"]["text"].as_str().unwrap()).collect::<String>(), text);
    assert_eq!(events.first().unwrap()["type"], "message_start");
    assert_eq!(events.last().unwrap()["type"], "message_stop");
    let stop = text.split_whitespace().nth(4).unwrap();
    let body = json!({
        "max_tokens": 60, "seed": 5, "messages": [{ "role": "user", "content": "The fox" }], "stop_sequences": [stop],
    });
    let stopped = server.ask("/v1/messages", &body);
    assert_eq!((&stopped["stop_reason"], &stopped["stop_sequence"]), (&json!("stop_sequence"), &json!(stop)));
    let (status, answer) = json(server.post("/v1/messages", &json!({ "messages": [] })));
    assert_eq!((status, &answer["type"]), (400, &json!("error")));
    assert!(answer["error"]["message"].as_str().unwrap().contains("max_tokens"));
}

#[test]
fn clients_of_ollama_are_answered() {
    let (server, model) = (Server::start(&[]), demo());
    let text = told(&model, "The fox", 12, 5);
    let options = json!({ "num_predict": 12, "seed": 5 });
    let body = json!({ "model": "demo:latest", "prompt": "The fox", "options": options });
    let response = server.post("/api/generate", &body);
    assert_eq!(response.headers()["content-type"], "application/x-ndjson");
    let lines = response.into_body().read_to_string().unwrap();
    let objects: Vec<serde_json::Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(objects.iter().map(|object| object["response"].as_str().unwrap()).collect::<String>(), text);
    let last = objects.last().unwrap();
    assert_eq!(
        (&last["done"], &last["done_reason"], &last["eval_count"]),
        (&json!(true), &json!("length"), &json!(12))
    );
    let body = json!({ "messages": [{ "role": "user", "content": "The fox" }], "options": options, "stream": false });
    assert_eq!(server.ask("/api/chat", &body)["message"]["content"], text.as_str());
    assert_eq!(json(server.get("/api/tags")).1["models"][0]["name"], "demo");
    let (status, answer) = json(server.post("/api/chat", &json!({ "messages": 1 })));
    assert_eq!(status, 400);
    assert!(answer["error"].as_str().unwrap().contains("messages"), "{answer}");
    assert!(data("data: x".as_bytes()).eq(["x"]));
}
