//! Continues a text: `cargo run --release --example generate [MODEL] [PROMPT]`.

use std::io::Write;

use sterna::{Error, GenerateOptions, Model, OpenOptions};

fn main() -> Result<(), Error> {
    let mut args = std::env::args().skip(1);
    let model = args.next().unwrap_or_else(|| "demo".into());
    let prompt = args.next().unwrap_or_else(|| "Once upon a time".into());

    let model = Model::open(model, &OpenOptions::default())?;
    let mut session = model.session();
    let options = GenerateOptions {
        max_tokens: Some(100),
        sampling: model.default_sampling().clone(),
        ..GenerateOptions::default()
    };
    print!("{prompt}");
    for token in session.generate(&prompt, options)? {
        print!("{}", token?.text);
        // Nothing is lost if the terminal does not flush at once.
        let _ = std::io::stdout().flush();
    }
    println!();
    Ok(())
}
