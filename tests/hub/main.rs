//! `sterna pull`, `list` and `rm` against a hub on this machine, and running what was pulled by its name.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

#[path = "../common/mod.rs"]
mod common;
mod server;

use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use common::fixture;
use predicates::prelude::PredicateBooleanExt;
use predicates::str::contains;
use serde_json::Value;
use server::{COMMIT, Fault, Hub, Repository, hexadecimal};
use sha2::{Digest, Sha256};

/// A hub, and a cache of its own.
struct Setup {
    hub: Hub,
    home: tempfile::TempDir,
}

impl Setup {
    fn new(repositories: impl IntoIterator<Item = (&'static str, Repository)>) -> Setup {
        Setup { hub: Hub::start(repositories), home: tempfile::tempdir().unwrap() }
    }

    /// The command, with this hub and cache.
    fn sterna(&self, args: &[&str]) -> Command {
        let mut command = Command::cargo_bin("sterna").unwrap();
        for variable in [
            "STERNA_ISA",
            "STERNA_LOG",
            "HF_HUB_CACHE",
            "HUGGINGFACE_HUB_CACHE",
            "HF_TOKEN",
            "HUGGING_FACE_HUB_TOKEN",
            "HF_TOKEN_PATH",
            "HF_HUB_OFFLINE",
            "HTTP_PROXY",
            "http_proxy",
            "ALL_PROXY",
            "all_proxy",
            "HTTPS_PROXY",
            "https_proxy",
        ] {
            command.env_remove(variable);
        }
        command.env("HF_ENDPOINT", &self.hub.endpoint).env("HF_HOME", self.home.path()).args(args);
        command
    }

    fn repository(&self, name: &str) -> PathBuf {
        self.home.path().join("hub").join(format!("models--{}", name.replace('/', "--")))
    }

    fn incomplete(&self, name: &str) -> Vec<PathBuf> {
        let blobs = fs::read_dir(self.repository(name).join("blobs")).unwrap();
        let paths = blobs.map(|entry| entry.unwrap().path());
        paths.filter(|path| path.extension().is_some_and(|extension| extension == "incomplete")).collect()
    }
}

fn json(command: &mut Command) -> Value {
    serde_json::from_slice(&command.assert().success().get_output().stdout).unwrap()
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A repository as those with GGUF files are: several encodings, of which one runs best here.
fn gguf_repository() -> Repository {
    let folder = fixture("llama_a");
    Repository::with([
        ("README.md", b"# a tiny model".to_vec()),
        ("model-i2_s.gguf", read(&folder.join("model-i2_s.gguf"))),
        ("model-tq2_0.gguf", read(&folder.join("model-tq2_0.gguf"))),
        ("model-Q4_K_M.gguf", b"GGUF".to_vec()),
    ])
}

/// A repository with a Hugging Face folder.
fn folder_repository() -> Repository {
    let folder = fixture("bitnet_a");
    let files = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];
    let mut files: Vec<_> = files.map(|name| (name.to_owned(), read(&folder.join(name)))).into();
    files.push(("onnx/model.onnx".to_owned(), b"not wanted".to_vec()));
    Repository::with(files)
}

/// Greedy tokens of a model.
fn tokens(setup: &Setup, model: &str) -> Value {
    let run = json(&mut setup.sterna(&["run", model, "--tokens", "1,5,9", "-n", "6", "--temp", "0", "--json"]));
    assert_eq!(run["tokens"].as_array().unwrap().len(), 6);
    run["tokens"].clone()
}

#[test]
fn a_gguf_file_is_pulled_run_by_its_name_listed_and_removed() {
    let setup = Setup::new([("tiny/llama-gguf", gguf_repository())]);
    let pulled = setup.sterna(&["pull", "tiny/llama-gguf"]).assert().success();
    let pulled = pulled.stderr(contains("left out").and(contains("model-tq2_0.gguf")));
    let path = PathBuf::from(String::from_utf8(pulled.get_output().stdout.clone()).unwrap().trim());
    let repository = setup.repository("tiny/llama-gguf");
    assert_eq!(path, repository.join("snapshots").join(COMMIT).join("model-i2_s.gguf"));
    assert_eq!(fs::read_to_string(repository.join("refs/main")).unwrap(), COMMIT);
    let original = read(&fixture("llama_a").join("model-i2_s.gguf"));
    assert_eq!(read(&path), original);
    #[cfg(unix)]
    assert_eq!(
        fs::read_link(&path).unwrap(),
        Path::new("../../blobs").join(hexadecimal(&Sha256::digest(&original))),
        "a link as Python makes it"
    );

    // What is there is not downloaded again.
    setup.hub.take_requests();
    setup.sterna(&["pull", "tiny/llama-gguf"]).assert().success();
    assert!(setup.hub.take_requests().iter().all(|request| !request.path.starts_with("/storage/")));

    let by_path = tokens(&setup, fixture("llama_a").join("model-i2_s.gguf").to_str().unwrap());
    assert_eq!(tokens(&setup, "tiny/llama-gguf"), by_path);
    assert_eq!(tokens(&setup, "tiny/llama-gguf/model-i2_s.gguf"), by_path);
    assert_eq!(json(&mut setup.sterna(&["inspect", "tiny/llama-gguf", "--json"]))["architecture"], "llama");
    let copy = setup.home.path().join("copy.gguf");
    setup.sterna(&["convert", "tiny/llama-gguf", copy.to_str().unwrap()]).assert().success();
    assert_eq!(tokens(&setup, copy.to_str().unwrap()), by_path);
    assert!(setup.hub.take_requests().is_empty(), "names are looked up in the cache only");

    let list = json(&mut setup.sterna(&["list", "--json"]));
    assert_eq!((list[0]["name"].as_str(), list[0]["path"].as_str()), (Some("tiny/llama-gguf"), path.to_str()));
    setup.sterna(&["list"]).assert().success().stdout(contains("tiny/llama-gguf"));
    setup.sterna(&["rm", "tiny/llama-gguf"]).assert().failure().stderr(contains("--yes"));
    assert!(path.exists());
    setup.sterna(&["rm", "tiny/llama-gguf", "--yes"]).assert().success();
    assert!(!repository.exists());
    setup.sterna(&["rm", "tiny/llama-gguf", "--yes"]).assert().failure().stderr(contains("has not been pulled"));
    setup.sterna(&["list"]).assert().success().stdout(contains("no models"));
    let run = setup.sterna(&["run", "tiny/llama-gguf", "Hello"]).assert().failure();
    run.stderr(contains("`sterna pull tiny/llama-gguf`"));
}

#[test]
fn a_folder_is_pulled_at_a_revision_and_under_an_old_name() {
    let setup = Setup::new([("tiny/bitnet", folder_repository())]);
    let pulled = json(&mut setup.sterna(&["pull", "renamed/bitnet", "--revision", "refs/pr/1", "--json"]));
    assert_eq!(pulled["problem"], Value::Null);
    let files = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];
    assert_eq!(pulled["files"], serde_json::json!(files));
    let snapshot = PathBuf::from(pulled["path"].as_str().unwrap());
    for file in files {
        assert_eq!(read(&snapshot.join(file)), read(&fixture("bitnet_a").join(file)), "{file}");
    }
    let by_path = tokens(&setup, fixture("bitnet_a").to_str().unwrap());
    assert_eq!(tokens(&setup, "renamed/bitnet@refs/pr/1"), by_path);
    assert_eq!(tokens(&setup, &format!("renamed/bitnet@{COMMIT}")), by_path);
    setup.sterna(&["run", "renamed/bitnet@v1", "Hello"]).assert().failure().stderr(contains("sterna pull"));
    // By hand in another place, as HF_HUB_CACHE says.
    let mut elsewhere = setup.sterna(&["inspect", "renamed/bitnet@refs/pr/1"]);
    elsewhere.env("HF_HUB_CACHE", setup.home.path().join("other")).assert().failure();
    let mut elsewhere = setup.sterna(&["inspect", "renamed/bitnet@refs/pr/1"]);
    elsewhere.env("HF_HOME", "/nowhere").env("HF_HUB_CACHE", setup.home.path().join("hub")).assert().success();
}

#[test]
fn an_interrupted_download_goes_on_where_it_stopped() {
    let setup = Setup::new([("tiny/llama-gguf", gguf_repository())]);
    let length = read(&fixture("llama_a").join("model-i2_s.gguf")).len();
    // Within one command.
    setup.hub.state().faults = vec![Fault::Cut(30_000), Fault::Cut(0), Fault::Cut(12_345)];
    setup.sterna(&["pull", "tiny/llama-gguf"]).assert().success();
    let ranges = |setup: &Setup| -> Vec<Option<String>> {
        let requests = setup.hub.take_requests();
        requests
            .into_iter()
            .filter(|request| request.path.starts_with("/storage/"))
            .map(|request| request.range)
            .collect()
    };
    let from = |start: usize| Some(format!("bytes={start}-"));
    assert_eq!(ranges(&setup), [None, from(30_000), from(30_000), from(42_345)]);
    assert!(setup.incomplete("tiny/llama-gguf").is_empty());
    tokens(&setup, "tiny/llama-gguf");

    // By a second command, after the first one gave up.
    setup.sterna(&["rm", "tiny/llama-gguf", "--yes"]).assert().success();
    setup.hub.state().faults = vec![Fault::Cut(50_000), Fault::Cut(0), Fault::Cut(0), Fault::Cut(0)];
    let failed = setup.sterna(&["pull", "tiny/llama-gguf"]).assert().failure();
    failed.stderr(contains("run the command again"));
    let [incomplete] = &setup.incomplete("tiny/llama-gguf")[..] else { panic!("one file") };
    assert_eq!(fs::metadata(incomplete).unwrap().len(), 50_000);
    setup.sterna(&["run", "tiny/llama-gguf", "Hello"]).assert().failure().stderr(contains("sterna pull"));
    ranges(&setup);
    setup.sterna(&["pull", "tiny/llama-gguf"]).assert().success();
    assert_eq!(ranges(&setup), [from(50_000)]);
    tokens(&setup, "tiny/llama-gguf");

    // From a server that sends all of it again.
    setup.sterna(&["rm", "tiny/llama-gguf", "--yes"]).assert().success();
    setup.hub.state().faults = vec![Fault::Cut(length - 1), Fault::NoRanges];
    setup.sterna(&["pull", "tiny/llama-gguf"]).assert().success();
    tokens(&setup, "tiny/llama-gguf");
}

#[test]
fn damaged_bytes_are_found_and_removed() {
    let setup = Setup::new([("tiny/llama-gguf", gguf_repository())]);
    let blobs = setup.repository("tiny/llama-gguf").join("blobs");
    fs::create_dir_all(&blobs).unwrap();
    // The beginning of another file, as an attempt with a broken disk would leave it.
    let checksum = hexadecimal(&Sha256::digest(read(&fixture("llama_a").join("model-i2_s.gguf"))));
    fs::write(blobs.join(format!("{checksum}.incomplete")), vec![7; 1000]).unwrap();
    let failed = setup.sterna(&["pull", "tiny/llama-gguf"]).assert().failure();
    failed.stderr(contains("another checksum").and(contains("model-i2_s.gguf")).and(contains(&checksum)));
    assert_eq!(fs::read_dir(&blobs).unwrap().count(), 0, "nothing is left of it");
    setup.sterna(&["pull", "tiny/llama-gguf"]).assert().success();

    // Small files have Git's checksums.
    let wrong = Repository { etag: Some("0".repeat(40)), ..folder_repository() };
    let setup = Setup::new([("tiny/bitnet", wrong)]);
    let failed = setup.sterna(&["pull", "tiny/bitnet"]).assert().failure();
    failed.stderr(contains("another checksum").and(contains("config.json")));
}

#[test]
fn refusals_of_the_hub_are_told_with_a_remedy() {
    let gated = Repository { token: Some("hf_secret"), ..gguf_repository() };
    let setup = Setup::new([("tiny/gated", gated), ("tiny/empty", Repository::default())]);
    let fails = |args: &[&str], parts: &[&str]| {
        let output = setup.sterna(args).assert().failure().get_output().stderr.clone();
        let text = String::from_utf8(output).unwrap();
        assert!(parts.iter().all(|part| text.contains(part)), "{args:?}: {text}");
    };
    fails(&["pull", "tiny/gated"], &["401", "tiny/gated", "HF_TOKEN"]);
    fails(&["pull", "tiny/none"], &["not found", "tiny/none"]);
    fails(&["pull", "tiny/empty", "--revision", "v9"], &["not found", "revision v9"]);
    fails(&["pull", "tiny/empty"], &["tiny/empty", "neither GGUF files"]);
    fails(&["pull", "nonsense"], &["owner/repository"]);
    fails(&["pull", "tiny/../../etc"], &["letters, digits"]);
    fails(&["pull", "tiny/gated/../../etc"], &["no file of a repository"]);

    // The token is for the hub and not for where large files are.
    setup.hub.take_requests();
    setup.sterna(&["pull", "tiny/gated"]).env("HF_TOKEN", "hf_secret").assert().success();
    let requests = setup.hub.take_requests();
    assert!(requests.iter().any(|request| request.path.starts_with("/storage/")));
    for request in requests {
        assert_eq!(request.authorization.is_some(), !request.path.starts_with("/storage/"), "{request:?}");
    }
    setup.sterna(&["rm", "tiny/gated", "-y"]).assert().success();
    fs::write(setup.home.path().join("token"), "hf_secret\n").unwrap();
    setup.sterna(&["pull", "tiny/gated/model-tq2_0.gguf"]).assert().success();
    fails(&["pull", "tiny/gated/model-q8_0.gguf"], &["no such file", "model-i2_s.gguf"]);
}

#[test]
fn a_hub_that_is_busy_is_asked_again() {
    let setup = Setup::new([("tiny/llama-gguf", Repository { own_storage: true, ..gguf_repository() })]);
    setup.hub.state().faults = vec![Fault::Status(503), Fault::Status(429)];
    setup.sterna(&["pull", "tiny/llama-gguf"]).assert().success();
}

#[test]
fn without_a_network_the_message_says_so() {
    let setup = Setup::new([]);
    let mut pull = setup.sterna(&["pull", "bitnet-2b"]);
    // Nobody listens on the port of a socket that is closed again.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    pull.env("HF_ENDPOINT", format!("http://127.0.0.1:{port}")).assert().failure().stderr(contains("connection"));
    let mut pull = setup.sterna(&["pull", "bitnet-2b"]);
    pull.env("HF_ENDPOINT", "http://name.invalid").assert().failure().stderr(contains("connection"));
    let mut pull = setup.sterna(&["pull", "bitnet-2b"]);
    pull.env("HF_HUB_OFFLINE", "1").assert().failure().stderr(contains("HF_HUB_OFFLINE"));
    let mut pull = setup.sterna(&["pull", "bitnet-2b"]);
    pull.env("HF_ENDPOINT", "hub.example").assert().failure().stderr(contains("HF_ENDPOINT must begin"));
    setup.sterna(&["run", "bitnet-2b", "Hello"]).assert().failure().stderr(contains("`sterna pull bitnet-2b`"));
    assert!(setup.hub.take_requests().is_empty());
}

#[test]
fn names_that_lead_out_of_the_cache_are_refused() {
    let evil = Repository::with([("../../../evil-i2_s.gguf", b"GGUF".to_vec())]);
    let etag = Repository { etag: Some("../../../evil".into()), ..gguf_repository() };
    let setup = Setup::new([("tiny/evil", evil), ("tiny/etag", etag)]);
    setup.sterna(&["pull", "tiny/evil"]).assert().failure().stderr(contains("leads out of the repository"));
    setup.sterna(&["pull", "tiny/etag"]).assert().failure().stderr(contains("no usable ETag"));
    let written: Vec<_> = fs::read_dir(setup.home.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(written.is_empty() || written == ["hub"], "{written:?}");
}

#[test]
fn a_disk_without_room_is_noticed_before_the_download() {
    let huge = Repository { size: Some(1 << 60), ..gguf_repository() };
    let setup = Setup::new([("tiny/huge", huge)]);
    setup.sterna(&["pull", "tiny/huge"]).assert().failure().stderr(contains("are free").and(contains("HF_HUB_CACHE")));
    assert!(setup.hub.take_requests().iter().all(|request| !request.path.starts_with("/storage/")));
}

#[test]
fn what_does_not_run_is_pulled_with_a_warning_and_listed_on_demand() {
    let other = Repository::with([
        ("config.json", br#"{"architectures":["OtherForCausalLM"]}"#.to_vec()),
        ("model.safetensors", read(&fixture("bitnet_a").join("model.safetensors"))),
    ]);
    let setup = Setup::new([("tiny/other", other)]);
    setup.sterna(&["pull", "tiny/other"]).assert().success().stderr(contains("does not run here"));
    setup.sterna(&["list"]).assert().success().stderr(contains("1 more"));
    let list = json(&mut setup.sterna(&["list", "--all", "--json"]));
    assert!(list[0]["problem"].as_str().unwrap().contains("OtherForCausalLM"), "{list}");
}
