//! Opens a model, continues a prompt and prints the text as it is generated: `generate MODEL_DIR PROMPT`.

use glue_lm::{AnyTextModel, GenerateOptions, Prompt, Sampling};
use std::error::Error;
use std::io::Write;
use std::ops::ControlFlow;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, directory, prompt] = arguments.as_slice() else {
        return Err("two arguments are needed: MODEL_DIR PROMPT".into());
    };
    let model = AnyTextModel::open(directory)?;
    let sampling = Sampling { temperature: 0.7, top_p: Some(0.9), ..Sampling::default() };
    let options = GenerateOptions { max_new_tokens: 64, sampling, ..GenerateOptions::default() };
    let mut stdout = std::io::stdout();
    let answer = model.generate_stream(&Prompt::text(prompt), &options, &mut |piece| {
        // Whoever closes the output has seen enough.
        match write!(stdout, "{piece}").and_then(|()| stdout.flush()) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    })?;
    eprintln!("\n{} tokens after a prompt of {}", answer.tokens.len(), answer.prompt_tokens);
    Ok(())
}
