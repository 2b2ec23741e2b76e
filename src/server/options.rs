//! How a server behaves.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::engine::BatcherOptions;

/// Options of [`super::serve`].
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// Where to listen; port 0 takes any free one.
    pub address: SocketAddr,
    /// Who may ask.
    pub keys: Keys,
    /// Origins whose pages may use the API (CORS); `*` for all.
    pub origins: Vec<String>,
    /// Names of this server beside `localhost` and IP addresses. Where no key is needed, requests to other names are refused:
    /// a page of another site could have made its name point here (DNS rebinding).
    pub hosts: Vec<String>,
    /// Certificate and key, to serve HTTPS.
    pub tls: Option<TlsFiles>,
    /// Batching.
    pub batcher: BatcherOptions,
    /// Largest body of a request, in bytes.
    pub max_body: usize,
    /// An answer that takes longer fails.
    pub request_timeout: Duration,
    /// How long running answers may take when the server is told to stop.
    pub grace: Duration,
    /// Serve the page.
    pub page: bool,
}

/// Files for HTTPS, in PEM.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The certificate, and those that certify it.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// API keys; only their hashes are kept.
#[derive(Clone, Default)]
pub struct Keys(Vec<[u8; 32]>);

impl Keys {
    /// These keys; empty ones are left out.
    pub fn new<T: AsRef<str>>(keys: impl IntoIterator<Item = T>) -> Keys {
        let keys = keys.into_iter().map(|key| key.as_ref().trim().to_owned());
        Keys(keys.filter(|key| !key.is_empty()).map(|key| hash(&key)).collect())
    }

    /// Whether anybody may ask.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `key` is one of them. How long that takes does not depend on it.
    pub fn contains(&self, key: &str) -> bool {
        let key = hash(key);
        self.0.iter().fold(subtle::Choice::from(0), |found, known| found | known.ct_eq(&key)).into()
    }
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} keys", self.0.len())
    }
}

fn hash(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_known_by_their_hashes() {
        let keys = Keys::new(["one", " two\n", ""]);
        assert!(keys.contains("one") && keys.contains("two"));
        assert!(!keys.contains("") && !keys.contains("One") && !keys.contains("three"));
        assert_eq!(format!("{keys:?}"), "2 keys");
        assert!(Keys::default().is_empty() && !keys.is_empty());
    }
}
