//! Requests to the hub.

use std::io::{ErrorKind, Read};
use std::time::Duration;

use serde::Deserialize;
use ureq::config::RedirectAuthHeaders;
use ureq::http::{Response, StatusCode};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, Body, Timeout};

use super::names::is_safe_path;
use super::{HubError, Reference, cache};

/// Where the hub is, unless `HF_ENDPOINT` says otherwise.
const ENDPOINT: &str = "https://huggingface.co";

/// The wait before a request is made again after the connection broke, or the hub was too busy. It doubles each time.
const FIRST_WAIT: Duration = Duration::from_millis(500);

/// The longest wait; who needs a longer one gets an error.
const LONGEST_WAIT: Duration = Duration::from_secs(4);

/// Redirections within the hub that are followed: repositories that were renamed.
const MAX_REDIRECTS: usize = 5;

/// The longest list of files that is read.
const MAX_LISTING: u64 = 32 << 20;

/// A connection to the hub.
#[derive(Clone, Debug)]
pub struct Client {
    agent: Agent,
    endpoint: String,
    token: Option<String>,
}

/// The files of a repository at a commit.
pub(super) struct Listing {
    pub(super) commit: String,
    pub(super) files: Vec<String>,
}

/// What the hub says of a file before it is downloaded.
#[derive(Clone, Debug)]
pub(super) struct RemoteFile {
    /// The name in the repository.
    pub(super) name: String,
    /// The name of the contents: SHA-256 of large files, Git's SHA-1 of small ones.
    pub(super) etag: String,
    /// Bytes.
    pub(super) size: u64,
}

impl Client {
    /// A client for `HF_ENDPOINT`, with the access token of `HF_TOKEN` or of the file that `hf auth login` writes.
    ///
    /// # Errors
    /// If the endpoint is no address.
    pub fn from_env() -> Result<Client, HubError> {
        let variable = |name| std::env::var(name).ok().filter(|value: &String| !value.trim().is_empty());
        let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned());
        let token_file = || {
            let file = cache::path_variable("HF_TOKEN_PATH").or_else(|| Some(cache::home().ok()?.join("token")))?;
            std::fs::read_to_string(file).ok()
        };
        let token = variable("HF_TOKEN").or_else(|| variable("HUGGING_FACE_HUB_TOKEN")).or_else(token_file);
        Client::new(&endpoint, token.as_deref())
    }

    /// A client for the hub at `endpoint`, with an access token.
    ///
    /// # Errors
    /// If the endpoint is no address, or the token can be none.
    pub fn new(endpoint: &str, token: Option<&str>) -> Result<Client, HubError> {
        let endpoint = endpoint.trim().trim_end_matches('/');
        if !endpoint.starts_with("http://") && !endpoint.starts_with("https://") {
            let reason = "HF_ENDPOINT must begin with https:// or http://";
            return Err(HubError::Answer { url: endpoint.to_owned(), reason: reason.to_owned() });
        }
        let token = token.map(str::trim).filter(|token| !token.is_empty());
        if token.is_some_and(|token| !token.bytes().all(|byte| byte.is_ascii_graphic())) {
            return Err(HubError::Name { name: "HF_TOKEN".to_owned(), reason: "the access token has odd characters" });
        }
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .user_agent(concat!("sterna/", env!("CARGO_PKG_VERSION")))
            // The access token is for the hub, not for where its large files are.
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .tls_config(TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build())
            .timeout_connect(Some(Duration::from_secs(30)))
            .timeout_recv_response(Some(Duration::from_secs(60)))
            .timeout_per_read(Some(Duration::from_secs(60)))
            .build();
        Ok(Client { agent: agent.new_agent(), endpoint: endpoint.to_owned(), token: token.map(str::to_owned) })
    }

    /// The files of a repository.
    pub(super) fn files(&self, reference: &Reference) -> Result<Listing, HubError> {
        #[derive(Deserialize)]
        struct Info {
            sha: String,
            siblings: Vec<Sibling>,
        }
        #[derive(Deserialize)]
        struct Sibling {
            rfilename: String,
        }
        let (repository, revision) = (reference.repository(), escape(reference.revision(), true));
        let url = format!("{}/api/models/{repository}/revision/{revision}", self.endpoint);
        let response = self.send(&url, |client| client.get(&url, 0))?;
        check_status(&url, &response, repository, || match reference.revision() {
            "main" => format!("repository {repository}"),
            revision => format!("repository {repository}, or it has no revision {revision}"),
        })?;
        let answer = |reason: String| HubError::Answer { url: url.clone(), reason };
        let mut text = Vec::new();
        let mut body = response.into_body().into_reader().take(MAX_LISTING + 1);
        body.read_to_end(&mut text).map_err(|error| connection(&url, &error))?;
        if text.len() as u64 > MAX_LISTING {
            return Err(answer("the list of files is too long".into()));
        }
        let info: Info = serde_json::from_slice(&text)
            .map_err(|error| answer(format!("this is no list of files as the hub writes it: {error}")))?;
        if !is_commit(&info.sha) {
            return Err(answer(format!("{:?} is no commit", info.sha)));
        }
        let files: Vec<String> = info.siblings.into_iter().map(|sibling| sibling.rfilename).collect();
        match files.iter().find(|file| !is_safe_path(file)) {
            Some(bad) => Err(answer(format!("the file name {bad:?} leads out of the repository"))),
            None => Ok(Listing { commit: info.sha, files }),
        }
    }

    /// Size and checksum of a file. Redirections within the hub are followed, to the new name of a repository; the one to where
    /// the contents of large files are is not, because its answer tells their checksum and theirs may not.
    pub(super) fn describe(&self, repository: &str, commit: &str, file: &str) -> Result<RemoteFile, HubError> {
        let mut url = self.url(repository, commit, file);
        for _ in 0..=MAX_REDIRECTS {
            let response = self.send(&url, |client| client.head(&url))?;
            let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
            let is_moved = response.status().is_redirection() && header("x-linked-etag").is_none();
            let target = if is_moved { header("location") } else { None };
            if let Some(next) = target.and_then(|target| self.within(target)) {
                url = next;
                continue;
            }
            if !response.status().is_redirection() {
                check_status(&url, &response, repository, || format!("file {file} in {repository} at {commit}"))?;
            }
            let answer = |reason: String| HubError::Answer { url: url.clone(), reason };
            let etag = header("x-linked-etag").or_else(|| header("etag"));
            let etag = etag.map(|etag| etag.trim_start_matches("W/").trim_matches('"').to_owned());
            let etag = etag.filter(|etag| is_etag(etag)).ok_or_else(|| answer("it has no usable ETag".into()))?;
            let size = header("x-linked-size").or_else(|| header("content-length")).and_then(|size| size.parse().ok());
            let size = size.ok_or_else(|| answer("it does not say how long the file is".into()))?;
            return Ok(RemoteFile { name: file.to_owned(), etag, size });
        }
        Err(HubError::Answer { url, reason: "it redirects in a circle".into() })
    }

    /// The contents of a file from the byte `start` on.
    pub(super) fn contents(
        &self,
        repository: &str,
        commit: &str,
        file: &str,
        start: u64,
    ) -> Result<Response<Body>, HubError> {
        let url = self.url(repository, commit, file);
        self.send(&url, |client| client.get(&url, start))
    }

    /// The address of a file.
    pub(super) fn url(&self, repository: &str, commit: &str, file: &str) -> String {
        format!("{}/{repository}/resolve/{commit}/{}", self.endpoint, escape(file, false))
    }

    /// The address that a redirection leads to, if it is on the hub too.
    fn within(&self, location: &str) -> Option<String> {
        let (scheme, rest) = self.endpoint.split_once("://")?;
        let origin = format!("{scheme}://{}", rest.split('/').next()?);
        if location.starts_with('/') && !location.starts_with("//") {
            return Some(format!("{origin}{location}"));
        }
        location.strip_prefix(&origin)?.starts_with('/').then(|| location.to_owned())
    }

    fn get(&self, url: &str, start: u64) -> Result<Response<Body>, ureq::Error> {
        let mut request = self.agent.get(url).header("accept-encoding", "identity");
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if start > 0 {
            request = request.header("range", format!("bytes={start}-"));
        }
        request.call()
    }

    fn head(&self, url: &str) -> Result<Response<Body>, ureq::Error> {
        let mut request = self.agent.head(url).config().max_redirects(0).build().header("accept-encoding", "identity");
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        request.call()
    }

    /// Makes a request, again if the hub is too busy or the connection fails.
    fn send(
        &self,
        url: &str,
        request: impl Fn(&Client) -> Result<Response<Body>, ureq::Error>,
    ) -> Result<Response<Body>, HubError> {
        let mut wait = FIRST_WAIT;
        loop {
            let error = match request(self) {
                Ok(response) if !is_busy(response.status()) => return Ok(response),
                Ok(response) => {
                    let reason = format!("the hub answers {}", response.status());
                    HubError::Connection { url: url.to_owned(), reason }
                }
                Err(error) if !may_pass(&error) => return Err(connection(url, &error)),
                Err(error) => connection(url, &error),
            };
            if wait > LONGEST_WAIT {
                return Err(error);
            }
            tracing::info!("{error}; trying again");
            std::thread::sleep(wait);
            wait *= 2;
        }
    }
}

/// Refuses an answer that is none to the request.
pub(super) fn check_status(
    url: &str,
    response: &Response<Body>,
    repository: &str,
    what: impl FnOnce() -> String,
) -> Result<(), HubError> {
    let url = || url.to_owned();
    match response.status() {
        status if status.is_success() => Ok(()),
        status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
            Err(HubError::Permission { url: url(), status: status.as_u16(), repository: repository.to_owned() })
        }
        StatusCode::NOT_FOUND => Err(HubError::NotFound { url: url(), what: what() }),
        status => {
            let detail = response.headers().get("x-error-message").and_then(|message| message.to_str().ok());
            let reason = format!("the hub answers {status}{}", detail.map(|d| format!(": {d}")).unwrap_or_default());
            Err(HubError::Answer { url: url(), reason })
        }
    }
}

/// A failed connection.
pub(super) fn connection(url: &str, reason: &dyn std::error::Error) -> HubError {
    let mut text = reason.to_string();
    // The system's own words are further down.
    let mut source = reason.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    HubError::Connection { url: url.to_owned(), reason: text }
}

/// Whether a hub that answers so asks to come again.
fn is_busy(status: StatusCode) -> bool {
    status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS || status == StatusCode::REQUEST_TIMEOUT
}

/// Whether the same request may succeed a moment later.
fn may_pass(error: &ureq::Error) -> bool {
    match error {
        ureq::Error::Io(error) => error.kind() != ErrorKind::ConnectionRefused,
        ureq::Error::Timeout(phase) => *phase != Timeout::Connect && *phase != Timeout::Resolve,
        ureq::Error::Protocol(_) => true,
        _ => false,
    }
}

/// `text` as a part of an address; a slash stays one unless it is to be escaped too.
fn escape(text: &str, slash: bool) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'/' if !slash => escaped.push('/'),
            byte if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => escaped.push(byte.into()),
            byte => escaped += &format!("%{byte:02X}"),
        }
    }
    escaped
}

/// Whether this is the checksum of a commit.
fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Whether an ETag can be the name of a file.
fn is_etag(text: &str) -> bool {
    (1..=128).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;

    #[test]
    fn redirections_stay_on_the_hub_or_are_told_from_it() {
        let client = Client::new("https://hub.example/mirror/", None).unwrap();
        assert_eq!(client.within("/c/d").unwrap(), "https://hub.example/c/d");
        assert_eq!(client.within("https://hub.example/e").unwrap(), "https://hub.example/e");
        for elsewhere in ["https://hub.example.com/e", "//other/e", "http://hub.example/e", "e"] {
            assert_eq!(client.within(elsewhere), None, "{elsewhere}");
        }
        assert_eq!(client.url("a/b", "c", "d/e f#.gguf"), "https://hub.example/mirror/a/b/resolve/c/d/e%20f%23.gguf");
    }

    #[test]
    fn addresses_and_tokens_are_checked() {
        assert!(Client::new("hub.example", None).is_err());
        assert!(Client::new("https://hub.example", Some("a\nb")).is_err());
        assert!(Client::new("https://hub.example", Some(" hf_x\n")).is_ok());
        assert!(!is_etag("../x") && !is_etag("") && is_etag("0123abc"));
    }
}
