//! A server of its own for a test, and a client.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use serde_json::Value;
use ureq::Agent;
use ureq::http::Response;

/// A running `sterna serve`, ended when it is dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) url: String,
    /// What it says on standard error.
    log: std::sync::Arc<std::sync::Mutex<String>>,
    /// Reads it.
    reader: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    /// Serves with these arguments beside a free port.
    pub(crate) fn start(args: &[&str]) -> Server {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sterna"));
        command.args(["serve", "--port", "0", "--threads", "2"]).args(args);
        command.env_remove("STERNA_LOG").env_remove("STERNA_API_KEY").env("STERNA_TUNING", "");
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let log = std::sync::Arc::new(std::sync::Mutex::new(String::new()));
        let (sender, receiver) = channel();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let said = std::sync::Arc::clone(&log);
        let reader = std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if let Some((_, url)) = line.split_once("listening on ") {
                    sender.send(url.to_owned()).unwrap_or_default();
                }
                let mut said = said.lock().unwrap();
                said.push_str(&line);
                said.push('\n');
            }
        });
        let Ok(url) = receiver.recv_timeout(Duration::from_secs(60)) else {
            panic!("the server has not started: {}", log.lock().unwrap());
        };
        Server { child, url, log, reader: Some(reader) }
    }

    pub(crate) fn address(&self) -> &str {
        self.url.split_once("://").unwrap().1
    }

    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    pub(crate) fn get(&self, path: &str) -> Response<ureq::Body> {
        agent().get(format!("{}{path}", self.url)).call().unwrap()
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Response<ureq::Body> {
        self.post_with(path, body, &[])
    }

    pub(crate) fn post_with(&self, path: &str, body: &Value, headers: &[(&str, &str)]) -> Response<ureq::Body> {
        let mut request = agent().post(format!("{}{path}", self.url)).header("content-type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send(body.to_string()).unwrap()
    }

    /// The JSON answer to a request that must work.
    pub(crate) fn ask(&self, path: &str, body: &Value) -> Value {
        let (status, answer) = json(self.post(path, body));
        assert_eq!(status, 200, "{path} {body}: {answer}");
        answer
    }

    /// The data of all server-sent events of an answer.
    pub(crate) fn events(&self, path: &str, body: &Value) -> Vec<Value> {
        let response = self.post(path, body);
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let mut events: Vec<String> = data(response.into_body().into_reader()).collect();
        if path == "/v1/chat/completions" || path == "/v1/completions" {
            assert_eq!(events.pop().as_deref(), Some("[DONE]"));
        }
        events.iter().map(|event| serde_json::from_str(event).unwrap()).collect()
    }

    /// Sends a signal.
    #[cfg(unix)]
    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status().unwrap();
        assert!(status.success());
    }

    /// Waits for the end of the process, and of what it says.
    pub(crate) fn wait(&mut self, at_most: Duration) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                self.reader.take().map_or(Ok(()), std::thread::JoinHandle::join).unwrap();
                return status;
            }
            assert!(start.elapsed() < at_most, "the server is still running: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until `f` gives something: what a server does behind an answer may take a moment.
pub(crate) fn eventually<T>(what: &str, mut f: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = f() {
            return found;
        }
        assert!(start.elapsed() < Duration::from_secs(20), "{what} did not come");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A client that takes every status as an answer.
pub(crate) fn agent() -> Agent {
    let config = Agent::config_builder().http_status_as_error(false).timeout_global(Some(Duration::from_secs(120)));
    config.build().new_agent()
}

/// The status and the JSON of a response.
pub(crate) fn json(mut response: Response<ureq::Body>) -> (u16, Value) {
    let status = response.status().as_u16();
    let text = response.body_mut().read_to_string().unwrap();
    (status, serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")))
}

/// The data of server-sent events.
pub(crate) fn data(reader: impl Read) -> impl Iterator<Item = String> {
    let lines = BufReader::new(reader).lines().map_while(Result::ok);
    lines.filter_map(|line| Some(line.strip_prefix("data: ")?.to_owned()))
}
