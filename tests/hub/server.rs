//! A hub for tests: an HTTP server that speaks as much of the Hugging Face hub's protocol as clients need, with faults on
//! demand. Written from the protocol as `huggingface_hub` uses it.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};

use serde_json::json;
use sha1::Sha1;
use sha2::{Digest, Sha256};

/// The commit of all repositories.
pub(crate) const COMMIT: &str = "8f3c0a5d2b1e49706a8d7c6b5e4f30219a8b7c6d";

/// A repository.
#[derive(Clone, Default)]
pub(crate) struct Repository {
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    /// Needs this token.
    pub(crate) token: Option<&'static str>,
    /// The ETag of all files, instead of their checksums.
    pub(crate) etag: Option<String>,
    /// Large files are on the hub itself, as mirrors have them.
    pub(crate) own_storage: bool,
    /// The size of all files, instead of their own.
    pub(crate) size: Option<u64>,
}

impl Repository {
    pub(crate) fn with(files: impl IntoIterator<Item = (impl Into<String>, Vec<u8>)>) -> Repository {
        let files = files.into_iter().map(|(name, bytes)| (name.into(), bytes)).collect();
        Repository { files, ..Repository::default() }
    }
}

/// What goes wrong.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The connection ends after so many bytes of a large file.
    Cut(usize),
    /// A range is not looked at.
    NoRanges,
    /// The answer is this status.
    Status(u16),
}

/// A request as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) range: Option<String>,
    pub(crate) authorization: Option<String>,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) repositories: BTreeMap<String, Repository>,
    /// Faults of the next requests for the contents of large files (or of any request, for a status), first one first.
    pub(crate) faults: Vec<Fault>,
    pub(crate) requests: Vec<Request>,
}

/// The running server. Its thread ends with the tests.
pub(crate) struct Hub {
    pub(crate) endpoint: String,
    state: Arc<Mutex<State>>,
}

impl Hub {
    pub(crate) fn start(repositories: impl IntoIterator<Item = (&'static str, Repository)>) -> Hub {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let repositories = repositories.into_iter().map(|(name, files)| (name.to_owned(), files)).collect();
        let state = Arc::new(Mutex::new(State { repositories, ..State::default() }));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                // A client that goes away is not the server's trouble.
                let _ = serve(stream.unwrap(), port, &shared);
            }
        });
        Hub { endpoint: format!("http://127.0.0.1:{port}"), state }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// The requests since the last call.
    pub(crate) fn take_requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.state().requests)
    }
}

fn serve(stream: TcpStream, port: u16, state: &Mutex<State>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let (Some(method), Some(path)) = (words.next(), words.next()) else { return Ok(()) };
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let request =
        Request { method, path, range: headers.remove("range"), authorization: headers.remove("authorization") };
    let mut state = state.lock().unwrap();
    state.requests.push(request.clone());
    let answer = state.answer(&request, port);
    drop(state);
    let mut out = reader.into_inner();
    let length = answer.length.unwrap_or(answer.body.len());
    let mut head = format!("HTTP/1.1 {} -\r\nconnection: close\r\ncontent-length: {length}\r\n", answer.status);
    for (name, value) in &answer.headers {
        head += &format!("{name}: {value}\r\n");
    }
    out.write_all((head + "\r\n").as_bytes())?;
    if request.method != "HEAD" {
        out.write_all(&answer.body)?;
    }
    Ok(())
}

struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    /// What is announced, if it is not what is sent.
    length: Option<usize>,
}

impl Answer {
    fn status(status: u16) -> Answer {
        Answer { status, headers: Vec::new(), body: Vec::new(), length: None }
    }
}

/// Files from this size on are "large": their contents are elsewhere, under their SHA-256.
const LARGE: usize = 10_000;

impl State {
    fn answer(&mut self, request: &Request, port: u16) -> Answer {
        if let Some(&Fault::Status(status)) = self.faults.first() {
            self.faults.remove(0);
            return Answer::status(status);
        }
        if let Some(checksum) = request.path.strip_prefix("/storage/") {
            return self.contents(checksum, request);
        }
        if let Some(rest) = request.path.strip_prefix("/renamed/") {
            let mut answer = Answer::status(307);
            answer.headers.push(("location", format!("/tiny/{rest}")));
            return answer;
        }
        let is_list = request.path.strip_prefix("/api/models/").and_then(|rest| rest.split_once("/revision/"));
        let (name, revision, file) = match is_list {
            Some((name, revision)) => (name.to_owned(), revision, None),
            None => {
                let Some((name, rest)) = request.path[1..].split_once("/resolve/") else { return Answer::status(404) };
                let (revision, file) = rest.split_once('/').unwrap();
                (name.to_owned(), revision, Some(file))
            }
        };
        let name = name.strip_prefix("renamed/").map_or(name.clone(), |rest| format!("tiny/{rest}"));
        let Some(repository) = self.repositories.get(&name) else { return Answer::status(404) };
        if repository.token.is_some_and(|token| request.authorization != Some(format!("Bearer {token}"))) {
            return Answer::status(401);
        }
        if ![COMMIT, "main", "v1", "refs%2Fpr%2F1"].contains(&revision) {
            return Answer::status(404);
        }
        let Some(file) = file else {
            let siblings: Vec<_> = repository.files.keys().map(|name| json!({ "rfilename": name })).collect();
            let body = json!({ "id": name, "sha": COMMIT, "siblings": siblings }).to_string().into_bytes();
            return Answer { body, ..Answer::status(200) };
        };
        let Some(bytes) = repository.files.get(file) else { return Answer::status(404) };
        let mut headers = vec![("x-repo-commit", COMMIT.to_owned())];
        let quoted = |etag: String| format!("\"{}\"", repository.etag.clone().unwrap_or(etag));
        if bytes.len() >= LARGE {
            let checksum = hexadecimal(&Sha256::digest(bytes));
            headers.push(("x-linked-etag", quoted(checksum.clone())));
            headers.push(("x-linked-size", repository.size.unwrap_or(bytes.len() as u64).to_string()));
            // Another host by name, or the hub itself.
            let host = if repository.own_storage { "127.0.0.1" } else { "localhost" };
            headers.push(("location", format!("http://{host}:{port}/storage/{checksum}")));
            return Answer { headers, ..Answer::status(302) };
        }
        let mut git = Sha1::new();
        git.update(format!("blob {}\0", bytes.len()));
        git.update(bytes);
        headers.push(("etag", quoted(hexadecimal(&git.finalize()))));
        Answer { headers, body: bytes.clone(), ..Answer::status(200) }
    }

    /// The contents of a large file.
    fn contents(&mut self, checksum: &str, request: &Request) -> Answer {
        let fault = if self.faults.is_empty() { None } else { Some(self.faults.remove(0)) };
        let mut files = self.repositories.values().flat_map(|repository| repository.files.values());
        let Some(bytes) = files.find(|bytes| hexadecimal(&Sha256::digest(bytes)) == checksum) else {
            return Answer::status(404);
        };
        let range = request.range.as_deref().filter(|_| fault != Some(Fault::NoRanges));
        let start =
            range.map_or(0, |range| range.strip_prefix("bytes=").unwrap().trim_end_matches('-').parse().unwrap());
        let mut answer = Answer { body: bytes[start..].to_vec(), ..Answer::status(200) };
        if range.is_some() {
            answer.status = 206;
            let (last, all) = (bytes.len() - 1, bytes.len());
            answer.headers.push(("content-range", format!("bytes {start}-{last}/{all}")));
        }
        if let Some(Fault::Cut(length)) = fault {
            answer.length = Some(answer.body.len());
            answer.body.truncate(length);
        }
        answer
    }
}

pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
