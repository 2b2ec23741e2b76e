//! The most probable next tokens at each position: `cargo run --release --example logits [MODEL] [TEXT]`.

use sterna::{Error, Model, OpenOptions};

fn main() -> Result<(), Error> {
    let mut args = std::env::args().skip(1);
    let model = args.next().unwrap_or_else(|| "demo".into());
    let text = args.next().unwrap_or_else(|| "Once upon a time there was".into());

    let model = Model::open(model, &OpenOptions::default())?;
    let tokenizer = model.tokenizer()?;
    let tokens = tokenizer.encode(&text, true)?;
    let name = |id: usize| tokenizer.decode(&[id as u32], false).unwrap_or_default();
    model.session().logits(&tokens, |i, logits| {
        let mut ids: Vec<usize> = (0..logits.len()).collect();
        ids.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
        let best: Vec<String> = ids[..5].iter().map(|&id| format!("{:?} {:.2}", name(id), logits[id])).collect();
        println!("{:>12?} -> {}", name(tokens[i] as usize), best.join(", "));
    })
}
