//! Other programs in the same run: a command that reads a line of JSON for each test and answers with one.
//!
//! `benches/peers/README.md` describes the protocol.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;

use super::{Spec, Test};

/// How long a peer may take for an answer: it may have to load a model first.
const PATIENCE: Duration = Duration::from_secs(600);

/// How long it may take to end by itself when there is nothing more to do.
const FAREWELL: Duration = Duration::from_secs(5);

/// A running peer.
pub(super) struct Peer {
    name: String,
    child: Child,
    requests: Option<ChildStdin>,
    answers: Receiver<std::io::Result<String>>,
}

/// The first line of a peer.
#[derive(Deserialize)]
struct Greeting {
    name: String,
}

/// What a peer says of a test.
#[derive(Deserialize)]
#[serde(untagged)]
enum Answer {
    Measured(Measured),
    Skipped { skip: String },
}

/// How fast a peer was.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(super) struct Measured {
    pub(super) tokens_per_second: f64,
    #[serde(default)]
    pub(super) bytes_per_token: Option<u64>,
    #[serde(default)]
    pub(super) layout: String,
    #[serde(default)]
    pub(super) kernel: String,
}

impl Peer {
    /// Starts a command by the system's shell and waits for its name. The reason, if it does not say one.
    pub(super) fn start(command: &str) -> Result<Peer, String> {
        let (shell, flag) = if cfg!(windows) { ("cmd", "/C") } else { ("sh", "-c") };
        let child = Command::new(shell).args([flag, command]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.map_err(|error| format!("it cannot be started: {error}"))?;
        let (Some(requests), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("it has no standard input or output".into());
        };
        let (send, answers) = channel();
        // Ends with the output of the peer, or when nobody listens any more.
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines() {
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        let mut peer = Peer { name: String::new(), child, requests: Some(requests), answers };
        let Greeting { name } = peer.next("its name")?;
        peer.name = name;
        Ok(peer)
    }

    /// What it calls itself.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Measures a test once; the reason, if it does not.
    pub(super) fn measure(&mut self, model: &Path, spec: &Spec, is_first: bool) -> Result<Measured, String> {
        let (n_prompt, n_gen) = match spec.test {
            Test::Prompt(tokens) => (tokens, 0),
            Test::Generate(tokens) => (0, tokens),
        };
        let request = json!({
            "model": model,
            "test": spec.test.name(),
            "n_prompt": n_prompt,
            "n_gen": n_gen,
            "depth": spec.depth,
            "parallel": spec.parallel,
            "threads": spec.threads,
            "warm_up": is_first,
        });
        let sent =
            self.requests.as_mut().map(|requests| writeln!(requests, "{request}").and_then(|()| requests.flush()));
        if let Some(Err(error)) = sent {
            return Err(format!("it does not listen: {error}"));
        }
        match self.next("an answer")? {
            Answer::Skipped { skip } => Err(skip),
            Answer::Measured(measured)
                if measured.tokens_per_second > 0.0 && measured.tokens_per_second.is_finite() =>
            {
                Ok(measured)
            }
            Answer::Measured(_) => Err("it says that it took no time, or forever".into()),
        }
    }

    /// The next line.
    fn next<T: for<'a> Deserialize<'a>>(&mut self, what: &str) -> Result<T, String> {
        let line = match self.answers.recv_timeout(PATIENCE) {
            Ok(Ok(line)) => line,
            Ok(Err(error)) => return Err(format!("its output cannot be read: {error}")),
            Err(RecvTimeoutError::Timeout) => return Err(format!("no sign of {what} in {} s", PATIENCE.as_secs())),
            Err(RecvTimeoutError::Disconnected) => return Err(format!("it ended instead of giving {what}")),
        };
        serde_json::from_str(&line)
            .map_err(|error| format!("{line:?} is not {what} (benches/peers/README.md): {error}"))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // The end of its input tells it to go.
        self.requests = None;
        let ended = loop {
            match self.answers.recv_timeout(FAREWELL) {
                Ok(_) => {}
                Err(end) => break end == RecvTimeoutError::Disconnected,
            }
        };
        if !ended {
            // It may have ended by now; then there is nothing to kill.
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}
