//! Clients that mean no good: the server stays responsive.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::Server;

/// Sends bytes; gives the answer as far as it comes.
fn raw(server: &Server, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    // The server may close the connection before it has read everything.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        answer.extend_from_slice(&buffer[..count]);
        if answer.windows(2).any(|pair| pair == b"}}") {
            break;
        }
    }
    String::from_utf8_lossy(&answer).into_owned()
}

fn post(path: &str, body: &[u8], length: usize) -> Vec<u8> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

fn assert_alive(server: &Server) {
    let start = Instant::now();
    server.ask("/v1/completions", &json!({ "prompt": "Once", "max_tokens": 2 }));
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

#[test]
fn bodies_without_sense_are_refused() {
    let server = Server::start(&[]);
    let refused = |body: &[u8], status: &str| {
        let answer = raw(&server, &post("/v1/chat/completions", body, body.len()));
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
        let body = answer.split("\r\n\r\n").nth(1).unwrap();
        assert!(serde_json::from_str::<Value>(body).unwrap()["error"]["message"].is_string(), "{answer}");
    };
    refused(b"", "400");
    refused(b"[]", "400");
    refused(b"{\"messages\": ", "400");
    refused(b"{\"messages\": \"\xff\xfe\"}", "400");
    refused(b"{\"messages\": [{\"role\": \"user\", \"content\": \"\\ud800\"}]}", "400");
    refused("[".repeat(100_000).as_bytes(), "400");
    refused(format!("{{\"messages\": {}", "{\"a\":".repeat(50_000)).as_bytes(), "400");
    // A number that no float holds, and one that no integer does.
    refused(b"{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}], \"temperature\": 1e999}", "400");
    refused(b"{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}], \"seed\": 99999999999999999999999}", "400");
    // 100 MB, announced and sent.
    let answer = raw(&server, &post("/v1/chat/completions", &vec![b' '; 100 << 20], 100 << 20));
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert_alive(&server);
}

#[test]
fn idle_and_slow_connections_hold_nobody_up() {
    let server = Server::start(&[]);
    let connect = || TcpStream::connect(server.address()).unwrap();
    let idle: Vec<TcpStream> = (0..300).map(|_| connect()).collect();
    // Half a head, half a body.
    let mut slow: Vec<TcpStream> = (0..50).map(|_| connect()).collect();
    for (nth, stream) in slow.iter_mut().enumerate() {
        let half = post("/v1/completions", b"{\"prompt\": ", 100);
        stream.write_all(if nth % 2 == 0 { &half } else { &half[..40] }).unwrap();
    }
    assert_alive(&server);
    drop((idle, slow));
    assert_alive(&server);
}
