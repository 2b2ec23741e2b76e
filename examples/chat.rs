//! A conversation in a few lines: `cargo run --release --example chat MODEL` (a model with a chat template).

use std::io::{BufRead, Write};

use sterna::{GenerateOptions, Message, Model, OpenOptions};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("usage: chat MODEL")?;
    let model = Model::open(path, &OpenOptions::default())?;
    let options = GenerateOptions { sampling: model.default_sampling().clone(), ..GenerateOptions::default() };
    let mut session = model.session();
    let mut messages = Vec::new();
    for line in std::io::stdin().lock().lines() {
        messages.push(Message { role: "user".into(), content: line? });
        let mut answer = String::new();
        // The whole conversation is given each time; what the session already holds is not computed again.
        for token in session.chat(&messages, options.clone())? {
            let text = token?.text;
            print!("{text}");
            std::io::stdout().flush()?;
            answer += &text;
        }
        println!();
        messages.push(Message { role: "assistant".into(), content: answer });
    }
    Ok(())
}
