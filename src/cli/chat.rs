//! `sterna chat`: a conversation at the terminal.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, bail};
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{Config, Editor};
use serde_json::json;
use sterna::{Error, GenerateOptions, Message, Session};

use super::common::{self, ModelArgs, SamplingArgs};

/// Arguments of `sterna chat`.
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub(super) struct Args {
    /// The model [default: the demo model, which continues stories]
    model: Option<PathBuf>,

    /// Instructions in front of the conversation
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,

    /// At most this many tokens an answer
    #[arg(short = 'n', long, default_value_t = 1024)]
    max_tokens: usize,

    /// No timings after an answer
    #[arg(short, long)]
    quiet: bool,

    #[command(flatten)]
    sampling: SamplingArgs,

    #[command(flatten)]
    options: ModelArgs,
}

const HELP: &str = "In the conversation:
  /reset        forget everything that was said
  /save FILE    write the conversation to a JSON file (never over an existing one)
  /help         this list
  /exit         leave (also Ctrl-D)
A line that ends with \\ goes on in the next one; \"\"\" begins and ends a text of several lines.
Ctrl-C stops an answer.";

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let path = common::model_or_demo(args.model);
    let model = args.options.open(&path, Vec::new())?;
    let has_template = model.tokenizer()?.chat_template().is_some();
    let stopped = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stopped);
    ctrlc::set_handler(move || flag.store(true, Ordering::Relaxed)).context("cannot listen for Ctrl-C")?;
    let mut chat = Chat {
        options: args.sampling.options(&model, Some(args.max_tokens)),
        session: model.session(),
        messages: Vec::new(),
        system: args.system.map(|content| Message { role: "system".into(), content }),
        has_template,
        stopped,
        quiet: args.quiet,
    };
    chat.reset();
    eprintln!("{} ({}). /help lists the commands.", path.display(), model.backend());
    if !has_template {
        eprintln!("This model has no chat template: it goes on with whatever you write, as one text.");
    }
    let mut input = Input::new()?;
    while let Some(text) = input.read()? {
        match text.trim() {
            "" => {}
            "/exit" | "/quit" => break,
            "/help" => eprintln!("{HELP}"),
            "/reset" => chat.reset(),
            command if command == "/save" || command.starts_with("/save ") => {
                // A file that cannot be written must not end the conversation.
                match chat.save(command["/save".len()..].trim()) {
                    Ok(()) => {}
                    Err(error) => eprintln!("error: {error:#}"),
                }
            }
            command if command.starts_with('/') && !command.contains(char::is_whitespace) => {
                eprintln!("unknown command {command}; /help lists the commands");
            }
            _ => match chat.answer(text) {
                Err(error) if !common::is_broken_pipe(&error) => eprintln!("error: {error:#}"),
                result => result?,
            },
        }
    }
    Ok(())
}

/// A conversation.
struct Chat {
    session: Session,
    messages: Vec<Message>,
    system: Option<Message>,
    options: GenerateOptions,
    has_template: bool,
    /// Set by Ctrl-C.
    stopped: Arc<AtomicBool>,
    quiet: bool,
}

impl Chat {
    fn reset(&mut self) {
        self.messages = self.system.iter().cloned().collect();
        self.session.reset();
    }

    /// Answers `text` on standard output.
    fn answer(&mut self, text: String) -> anyhow::Result<()> {
        self.messages.push(Message { role: "user".into(), content: text });
        let tokens = match self.fitting_tokens() {
            Ok(tokens) => tokens,
            Err(error) => {
                self.messages.pop();
                return Err(error);
            }
        };
        self.stopped.store(false, Ordering::Relaxed);
        let mut answer = String::new();
        let result = self.print_answer(tokens, &mut answer);
        // What was said stays part of the conversation, also when it was cut short.
        self.messages.push(Message { role: "assistant".into(), content: answer });
        result
    }

    fn print_answer(&mut self, tokens: Vec<u32>, answer: &mut String) -> anyhow::Result<()> {
        let mut generation = self.session.generate_tokens(tokens, self.options.clone())?;
        let mut out = std::io::stdout().lock();
        for token in &mut generation {
            let text = token?.text;
            write!(out, "{text}")?;
            out.flush()?;
            answer.push_str(&text);
            if self.stopped.swap(false, Ordering::Relaxed) {
                write!(out, " [stopped]")?;
                break;
            }
        }
        writeln!(out)?;
        if !self.quiet {
            eprintln!("[{}]", common::summary(&generation.timings()));
        }
        Ok(())
    }

    /// The conversation as tokens. When it has outgrown the context, the oldest exchanges are left out.
    fn fitting_tokens(&mut self) -> anyhow::Result<Vec<u32>> {
        let context = self.session.model().context();
        let room = context - context / 4;
        let mut forgotten = 0;
        loop {
            let tokens = self.tokens()?;
            let first = usize::from(self.system.is_some());
            if tokens.len() <= room || self.messages.len() <= first + 1 {
                if forgotten > 0 {
                    eprintln!(
                        "[the context of {context} tokens is full: the {forgotten} oldest messages are forgotten]"
                    );
                }
                return Ok(tokens);
            }
            let exchange = first..(first + 2).min(self.messages.len() - 1);
            forgotten += exchange.len();
            self.messages.drain(exchange);
        }
    }

    fn tokens(&self) -> Result<Vec<u32>, Error> {
        let tokenizer = self.session.model().tokenizer()?;
        Ok(if self.has_template {
            tokenizer.encode_chat(&self.messages, true)?
        } else {
            let text: String = self.messages.iter().map(|message| message.content.as_str()).collect();
            tokenizer.encode(&text, true)?
        })
    }

    /// Writes the conversation to a new file.
    fn save(&self, file: &str) -> anyhow::Result<()> {
        if file.is_empty() {
            bail!("/save needs the name of a file");
        }
        let messages: Vec<_> = self.messages.iter().map(|m| json!({ "role": m.role, "content": m.content })).collect();
        let text = serde_json::to_string_pretty(&json!({ "messages": messages }))?;
        let mut out = std::fs::File::create_new(file).with_context(|| format!("cannot create {file}"))?;
        writeln!(out, "{text}").with_context(|| format!("cannot write {file}"))?;
        eprintln!("saved {} messages to {file}", messages.len());
        Ok(())
    }
}

/// Lines from the terminal, with editing and a history that outlives the program.
struct Input {
    editor: Editor<(), FileHistory>,
    history: Option<PathBuf>,
}

impl Input {
    fn new() -> anyhow::Result<Input> {
        let config = Config::builder().auto_add_history(false).max_history_size(1000)?.build();
        let mut editor = Editor::with_config(config).context("cannot open the terminal")?;
        let history =
            directories::ProjectDirs::from("", "", "sterna").map(|dirs| dirs.data_local_dir().join("chat_history"));
        if let Some(file) = history.as_deref().filter(|file| file.exists())
            && let Err(error) = editor.load_history(file)
        {
            tracing::warn!("cannot read the history {}: {error}", file.display());
        }
        Ok(Input { editor, history })
    }

    /// The next message; `None` at the end of the input.
    fn read(&mut self) -> anyhow::Result<Option<String>> {
        let mut message = String::new();
        let mut prompt = "> ";
        loop {
            let line = match self.editor.readline(prompt) {
                Ok(line) => line,
                // Ctrl-C drops the message that is being written.
                Err(ReadlineError::Interrupted) => return Ok(Some(String::new())),
                Err(ReadlineError::Eof) if message.is_empty() => return Ok(None),
                Err(ReadlineError::Eof) => break,
                Err(error) => return Err(error.into()),
            };
            message.push_str(&line);
            match continuation(&message) {
                Continuation::Complete => break,
                Continuation::NextLine => message.push('\n'),
                Continuation::Backslash => {
                    message.pop();
                    message.push('\n');
                }
            }
            prompt = ". ";
        }
        if !message.trim().is_empty() {
            self.remember(&message)?;
        }
        let text = message.strip_prefix(QUOTES).map_or(message.as_str(), |m| m.strip_suffix(QUOTES).unwrap_or(m));
        Ok(Some(text.trim_matches('\n').to_owned()))
    }

    fn remember(&mut self, message: &str) -> anyhow::Result<()> {
        self.editor.add_history_entry(message)?;
        if let Some(file) = &self.history
            && let Err(error) = save_history(&mut self.editor, file)
        {
            tracing::warn!("cannot write the history {}: {error}", file.display());
            self.history = None;
        }
        Ok(())
    }
}

fn save_history(editor: &mut Editor<(), FileHistory>, file: &Path) -> rustyline::Result<()> {
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder)?;
    }
    editor.save_history(file)
}

const QUOTES: &str = "\"\"\"";

/// Whether a message goes on in the next line.
#[derive(Debug, PartialEq, Eq)]
enum Continuation {
    Complete,
    /// Inside quotes.
    NextLine,
    /// The line ends with a backslash, which is dropped.
    Backslash,
}

fn continuation(message: &str) -> Continuation {
    match message.strip_prefix(QUOTES) {
        Some(rest) if rest.ends_with(QUOTES) => Continuation::Complete,
        Some(_) => Continuation::NextLine,
        None if message.ends_with('\\') => Continuation::Backslash,
        None => Continuation::Complete,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_may_have_several_lines() {
        assert_eq!(continuation("one"), Continuation::Complete);
        assert_eq!(continuation("one\\"), Continuation::Backslash);
        assert_eq!(continuation("\"\"\""), Continuation::NextLine);
        assert_eq!(continuation("\"\"\"one\ntwo"), Continuation::NextLine);
        assert_eq!(continuation("\"\"\"one\ntwo\"\"\""), Continuation::Complete);
    }
}
