//! `sterna serve`: models over HTTP.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::ValueEnum;
use sterna::engine::BatcherOptions;
use sterna::server::{Keys, ServeOptions, TlsFiles, serve};
use sterna::{Model, OpenOptions};

use super::common::ModelArgs;

/// Arguments of `sterna serve`.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  sterna serve                                   the demo model; open http://127.0.0.1:8080
  sterna serve bitnet-2b --parallel 16
  sterna serve model.gguf --host 0.0.0.0 --api-key-file keys.txt --tls-cert cert.pem --tls-key key.pem

  curl http://127.0.0.1:8080/v1/completions -H 'Content-Type: application/json' \\
    -d '{\"prompt\": \"Once upon a time\", \"max_tokens\": 50}'")]
pub(super) struct Args {
    /// The models; requests that name none get the first
    #[arg(value_name = "MODEL")]
    models: Vec<PathBuf>,

    /// What requests call the models, in their order [default: the name of the file]
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    alias: Vec<String>,

    /// The address to listen on; 0.0.0.0 for all of this machine
    #[arg(long, default_value = "127.0.0.1", env = "STERNA_HOST", hide_env_values = true, help_heading = "Network")]
    host: IpAddr,

    /// The port; 0 for any free one
    #[arg(long, default_value_t = 8080, env = "STERNA_PORT", hide_env_values = true, help_heading = "Network")]
    port: u16,

    /// A key that requests must have; may be given several times
    #[arg(long, value_name = "KEY", env = "STERNA_API_KEY", hide_env_values = true, help_heading = "Network")]
    api_key: Vec<String>,

    /// A file with one key per line; # begins a remark
    #[arg(long, value_name = "FILE", help_heading = "Network")]
    api_key_file: Option<PathBuf>,

    /// Serve other machines without a key
    #[arg(long, help_heading = "Network")]
    insecure: bool,

    /// Certificate, to serve HTTPS (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_key", help_heading = "Network")]
    tls_cert: Option<PathBuf>,

    /// Its private key (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert", help_heading = "Network")]
    tls_key: Option<PathBuf>,

    /// An origin such as https://example.org whose pages may use the API, or * for all
    #[arg(long, value_name = "ORIGIN", help_heading = "Network")]
    cors: Vec<String>,

    /// A name by which this server may be asked without a key, beside localhost and IP addresses; * for any
    #[arg(long, value_name = "NAME", help_heading = "Network")]
    host_name: Vec<String>,

    /// Serve the API only
    #[arg(long, help_heading = "Network")]
    no_page: bool,

    /// Answers that are computed together at most
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1024), help_heading = "Load")]
    parallel: u16,

    /// Requests that may wait; more are refused with status 429
    #[arg(long, default_value_t = 256, help_heading = "Load")]
    queue: usize,

    /// Tokens that the key-value cache holds for all answers together [default: --parallel times the context, if that takes at
    /// most a quarter of the free memory]
    #[arg(long, value_name = "TOKENS", help_heading = "Load")]
    cache_tokens: Option<usize>,

    /// Compute every prompt anew, even if it begins like an earlier one
    #[arg(long, help_heading = "Load")]
    no_prefix_cache: bool,

    /// How long prompts may hold running answers up at a time, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 100, help_heading = "Load")]
    stall: u64,

    /// Largest body of a request
    #[arg(long, value_name = "SIZE", default_value = "4M", value_parser = sterna::size::parse, help_heading = "Load")]
    max_body: u64,

    /// An answer that takes longer than so many seconds fails
    #[arg(long, value_name = "SECONDS", default_value_t = 600, help_heading = "Load")]
    request_timeout: u64,

    /// How many seconds running answers have to finish when the server is told to stop
    #[arg(long, value_name = "SECONDS", default_value_t = 30, help_heading = "Load")]
    grace: u64,

    /// How the log is written
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,

    #[command(flatten)]
    model: ModelArgs,
}

/// Forms of the log.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// For people
    Text,
    /// One JSON object per line
    Json,
}

impl Args {
    /// Whether the log is for programs.
    pub(super) fn logs_json(&self) -> bool {
        self.log_format == LogFormat::Json
    }

    fn options(&self) -> anyhow::Result<ServeOptions> {
        let mut keys = self.api_key.clone();
        if let Some(file) = &self.api_key_file {
            let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
            let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim().to_owned());
            let before = keys.len();
            keys.extend(lines.filter(|line| !line.is_empty()));
            if keys.len() == before {
                bail!("{} holds no key", file.display());
            }
        }
        let tls = self.tls_cert.clone().zip(self.tls_key.clone());
        Ok(ServeOptions {
            address: SocketAddr::new(self.host, self.port),
            keys: Keys::new(keys),
            origins: self.cors.clone(),
            hosts: self.host_name.clone(),
            tls: tls.map(|(certificate, key)| TlsFiles { certificate, key }),
            batcher: BatcherOptions {
                parallel: self.parallel.into(),
                queue: self.queue,
                stall: Duration::from_millis(self.stall),
                prefix_cache: !self.no_prefix_cache,
            },
            max_body: usize::try_from(self.max_body).unwrap_or(usize::MAX),
            request_timeout: Duration::from_secs(self.request_timeout),
            grace: Duration::from_secs(self.grace),
            page: !self.no_page,
        })
    }
}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let options = args.options()?;
    let paths = if args.models.is_empty() { vec![sterna::demo::NAME.into()] } else { args.models.clone() };
    if args.alias.len() > paths.len() {
        bail!("{} names (--alias) for {} models", args.alias.len(), paths.len());
    }
    let mut models = Vec::with_capacity(paths.len());
    for (nth, path) in paths.iter().enumerate() {
        let name = args.alias.get(nth).cloned().unwrap_or_else(|| name_of(path));
        models.push((name, open(&args, path)?));
    }
    let scheme = if options.tls.is_some() { "https" } else { "http" };
    Ok(serve(models, options, args.insecure, |address| eprintln!("listening on {scheme}://{address}"))?)
}

/// What requests call the model under `path`.
fn name_of(path: &Path) -> String {
    let is_file = path.extension().is_some_and(|extension| extension == "gguf");
    let name = if is_file { path.file_stem() } else { path.file_name() };
    name.unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// Opens a model for many answers at once.
fn open(args: &Args, path: &Path) -> anyhow::Result<Model> {
    let options = OpenOptions {
        sequences: args.parallel.into(),
        cache_positions: args.cache_tokens,
        cache_bytes: sterna::backend::free_memory().map(|bytes| bytes / 4),
        embedding_if_trained: true,
        ..args.model.options(Vec::new())?
    };
    args.model.open_with(path, &options)
}
