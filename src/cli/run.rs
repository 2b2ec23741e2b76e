//! `sterna run`: continue a text.

use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde_json::json;
use sterna::{Generation, Message, Timings};

use super::common::{self, ModelArgs, SamplingArgs};

/// Arguments of `sterna run`.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  sterna run \"Once upon a time\"
  sterna run model.gguf \"The capital of France is\" -n 32 --temp 0
  echo \"Once upon a time\" | sterna run -n 100 --seed 1
  sterna run model-folder --tokens 1,529,287 --json")]
pub(super) struct Args {
    /// The model, then the prompt; a single argument is the model if it is a file, a folder, a pulled model or
    /// `demo`, else the prompt. Without a prompt, standard input is read
    #[arg(value_names = ["MODEL", "PROMPT"], num_args = 0..=2)]
    words: Vec<String>,

    /// At most this many tokens
    #[arg(short = 'n', long, default_value_t = 256)]
    max_tokens: usize,

    /// The prompt as token ids, separated by commas
    #[arg(long, value_name = "IDS")]
    tokens: Option<String>,

    /// Put the prompt into the model's chat template, as a question of the user
    #[arg(long, conflicts_with = "tokens")]
    chat: bool,

    /// Print one JSON object: token ids, text, timings, finish reason
    #[arg(long)]
    json: bool,

    /// No summary of timings on standard error
    #[arg(short, long)]
    quiet: bool,

    #[command(flatten)]
    sampling: SamplingArgs,

    #[command(flatten)]
    model: ModelArgs,
}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let (path, prompt) = model_and_prompt(args.words, args.tokens.is_some())?;
    let tokens = args.tokens.as_deref().map(common::parse_tokens).transpose()?;
    let prompt = match (prompt, &tokens) {
        (Some(prompt), None) => prompt,
        (None, None) => read_stdin()?,
        (None, Some(_)) => String::new(),
        (Some(_), Some(_)) => bail!("--tokens takes the place of the prompt: give one of them"),
    };
    let model = args.model.open(&path, Vec::new())?;
    let tokens = match tokens {
        Some(tokens) => tokens,
        None if args.chat => {
            model.tokenizer()?.encode_chat(&[Message { role: "user".into(), content: prompt.clone() }], true)?
        }
        None => model.tokenizer()?.encode(&prompt, true)?,
    };
    let options = args.sampling.options(&model, Some(args.max_tokens));
    let mut session = model.session();
    let mut generation = session.generate_tokens(tokens.clone(), options)?;
    if args.json {
        return print_json(&path, &tokens, generation);
    }
    let mut out = std::io::stdout().lock();
    if out.is_terminal() && !args.chat {
        write!(out, "{prompt}")?;
    }
    for token in &mut generation {
        write!(out, "{}", token?.text)?;
        out.flush()?;
    }
    writeln!(out)?;
    if !args.quiet {
        eprintln!("{}", common::summary(&generation.timings()));
    }
    Ok(())
}

/// Tells the model from the prompt.
fn model_and_prompt(words: Vec<String>, has_tokens: bool) -> anyhow::Result<(PathBuf, Option<String>)> {
    let mut words = words.into_iter();
    match (words.next(), words.next()) {
        (None, _) => Ok((sterna::demo::NAME.into(), None)),
        (Some(model), Some(prompt)) => Ok((model.into(), Some(prompt))),
        (Some(word), None) if has_tokens || names_a_model(&word) => Ok((word.into(), None)),
        (Some(prompt), None) => Ok((sterna::demo::NAME.into(), Some(prompt))),
    }
}

/// Whether a word is a model rather than a prompt: there is such a model, or it could only be a file name.
fn names_a_model(word: &str) -> bool {
    let path = Path::new(word);
    let is_model_file = path.extension().is_some_and(|e| e == "gguf" || e == "safetensors");
    sterna::source::is_model(word) || (is_model_file && !word.contains(char::is_whitespace))
}

fn read_stdin() -> anyhow::Result<String> {
    let mut stdin = std::io::stdin().lock();
    if stdin.is_terminal() {
        bail!("no prompt: give one as the last argument, or pipe a text into the command");
    }
    let mut prompt = String::new();
    stdin.read_to_string(&mut prompt).context("cannot read the prompt from standard input")?;
    // The line end that `echo` adds is not part of the text.
    let end = prompt.trim_end_matches(['\r', '\n']).len();
    prompt.truncate(end);
    if prompt.is_empty() {
        bail!("no prompt: standard input is empty");
    }
    Ok(prompt)
}

fn print_json(path: &Path, prompt: &[u32], mut generation: Generation<'_>) -> anyhow::Result<()> {
    let (mut ids, mut text) = (Vec::new(), String::new());
    for token in &mut generation {
        let token = token?;
        ids.push(token.id);
        text += &token.text;
    }
    let finish_reason = generation.finish_reason().map(|reason| reason.name());
    let object = json!({
        "model": path.display().to_string(),
        "prompt_tokens": prompt,
        "tokens": ids,
        "text": text,
        "finish_reason": finish_reason,
        "seed": generation.seed(),
        "timings": timings_json(&generation.timings()),
    });
    writeln!(std::io::stdout(), "{object}")?;
    Ok(())
}

fn timings_json(timings: &Timings) -> serde_json::Value {
    json!({
        "prompt_tokens": timings.prompt_tokens,
        "cached_tokens": timings.cached_tokens,
        "prompt_seconds": timings.prompt_time.as_secs_f64(),
        "prompt_tokens_per_second": timings.prompt_rate(),
        "generated_tokens": timings.generated_tokens,
        "decode_seconds": timings.decode_time.as_secs_f64(),
        "decode_tokens_per_second": timings.decode_rate(),
    })
}
