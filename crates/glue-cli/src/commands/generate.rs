//! `glue generate`: text from prompts.

use super::{gguf_models, models, recipes};
use crate::app::Global;
use crate::failure::{Failure, of_file};
use crate::numbers;
use crate::shell::{HEADING, Shell, paint};
use crate::table::{Align, Table};
use crate::units;
use clap::ValueEnum;
use glue_lm::{
    AnyTextModel, ChatOptions, DateTime, Finish, GenerateOptions, Generated, KvCacheType, Message, Prompt, Sampling,
    TextError,
};
use serde_json::{Value, json};
use std::fmt::Write;
use std::io::{self, Error, ErrorKind, Read};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Generate text from prompts
///
/// Decoding is greedy unless a temperature is given. Several prompts run as one batch; an answer does not depend on the
/// other prompts.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  glue generate models/base --prompt 'Once upon a time'
  glue generate models/chat --chat --prompt 'Why is the sky blue?' --temperature 0.7 --top-p 0.9
  glue generate models/base --prompts prompts.txt --stop '\\n' --json
  glue generate models/base --prompts prompts.txt --samples 8 --max-memory 2GiB --dry-run")]
pub(crate) struct Args {
    /// Model directory or GGUF file
    model: PathBuf,

    /// Prompt; can be repeated (default: read from standard input, unless --prompts is given)
    #[arg(long, short, value_name = "TEXT")]
    prompt: Vec<String>,

    /// File with one prompt per line; a line that starts with a double quote is a JSON string
    #[arg(long, value_name = "FILE")]
    prompts: Option<PathBuf>,

    /// Maximum number of new tokens
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = numbers::whole(1..=1 << 20))]
    max_new_tokens: usize,

    /// Sampling temperature; 0 is greedy
    #[arg(long, value_name = "T", default_value_t = 0.0, allow_negative_numbers = true)]
    temperature: f32,

    /// Sample from the K most likely tokens
    #[arg(long, value_name = "K", value_parser = numbers::whole(1..=u64::from(u32::MAX)))]
    top_k: Option<usize>,

    /// Sample from the most likely tokens whose probabilities add up to P
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    top_p: Option<f32>,

    /// Sample from tokens with at least this fraction of the highest probability
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    min_p: Option<f32>,

    /// Penalty for tokens that have already occurred; 1 is none
    #[arg(long, value_name = "R", default_value_t = 1.0, allow_negative_numbers = true)]
    repetition_penalty: f32,

    /// Text that ends an answer and is not part of it; can be repeated. \n, \t and \\ are understood
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,

    /// Number of answers per prompt
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = numbers::whole(1..=10_000))]
    samples: usize,

    /// Format each prompt as a user message with the model's chat template
    #[arg(long)]
    chat: bool,

    /// System message
    #[arg(long, value_name = "TEXT", requires = "chat")]
    system: Option<String>,

    /// Cut the start of a prompt that is too long, instead of refusing it
    #[arg(long)]
    truncate: bool,

    /// Show special tokens in answers
    #[arg(long)]
    special: bool,

    /// Maximum memory for keys, values, activations and logits, such as 2GiB; weights excluded (default: half of what
    /// is available). With less, fewer answers are generated at a time
    #[arg(long, value_name = "SIZE", value_parser = units::parse_size)]
    max_memory: Option<u64>,

    /// Type of the KV cache; bf16 takes half the memory of f32 and rounds keys and values
    #[arg(long, value_name = "TYPE", value_enum, default_value_t = KvCache::F32)]
    kv_cache: KvCache,

    /// Show how many answers are generated at a time and the memory that they take, without running the model
    #[arg(long)]
    dry_run: bool,
}

/// Types of the KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum KvCache {
    F32,
    Bf16,
}

/// Generates and prints.
pub(crate) fn run(args: &Args, global: &Global, shell: &mut Shell<'_>) -> Result<(), Failure> {
    let texts = prompts(args)?;
    let model = models::open_any(&gguf_models::directory(&args.model, global, shell)?)?;
    if let AnyTextModel::One(text) = &model {
        models::note_left_aside(&args.model, &text.model, shell);
    }
    let prompts = texts.iter().map(|text| prompt(args, &model, text)).collect::<Result<Vec<_>, _>>()?;
    let options = GenerateOptions {
        max_new_tokens: args.max_new_tokens,
        sampling: Sampling {
            temperature: args.temperature,
            top_k: args.top_k,
            top_p: args.top_p,
            min_p: args.min_p,
            repetition_penalty: args.repetition_penalty,
            seed: global.seed.unwrap_or(0),
        },
        stop: args.stop.iter().map(|text| unescape(text)).collect(),
        samples: args.samples,
        truncate_left: args.truncate,
        skip_special: !args.special,
        memory: args.max_memory,
        cache_type: match args.kv_cache {
            KvCache::F32 => KvCacheType::F32,
            KvCache::Bf16 => KvCacheType::Bf16,
        },
        ..GenerateOptions::default()
    };
    if args.dry_run {
        return plan(args, &model, &prompts, &options, shell);
    }
    let pool = recipes::pool(global)?;
    if let ([prompt], 1, false) = (&prompts[..], args.samples, shell.json()) {
        return stream(args, &model, prompt, &options, &pool, shell);
    }
    let start = Instant::now();
    let answers =
        pool.install(|| model.generate(&prompts, &options, &|_| ())).map_err(|error| refusal(error, &args.model))?;
    let seconds = start.elapsed().as_secs_f64();
    if shell.json() {
        return shell.print_json(&document(args, &texts, &answers, seconds));
    }
    let mut text = String::new();
    for answer in &answers {
        let title = match args.samples {
            1 => texts[answer.prompt].clone(),
            n => format!("{} ({} of {n})", texts[answer.prompt], answer.sample + 1),
        };
        let _ = writeln!(text, "{}\n{}\n", paint(&title, HEADING, shell.colours_out()), answer.text);
    }
    shell.print_generated(&text)
}

/// Shows what would be generated, and what it takes.
fn plan(
    args: &Args,
    model: &AnyTextModel,
    prompts: &[Prompt],
    options: &GenerateOptions,
    shell: &mut Shell<'_>,
) -> Result<(), Failure> {
    let estimate = model.estimate(prompts, options).map_err(|error| refusal(error, &args.model))?;
    let answers = prompts.len() * options.samples;
    if shell.json() {
        return shell.print_json(&json!({
            "model": args.model.display().to_string(),
            "prompts": prompts.len(),
            "answers": answers,
            "at_a_time": estimate.sequences,
            "kv_bytes_per_token": estimate.kv_per_token,
            "memory_bytes": estimate.memory,
        }));
    }
    let mut facts = Table::new(&[Align::Left, Align::Left]);
    facts.row(["prompts", &prompts.len().to_string()]);
    facts.row(["answers", &format!("{answers}, {} at a time", estimate.sequences)]);
    facts.row(["KV cache", &format!("{} per token", units::bytes(estimate.kv_per_token))]);
    facts.row(["memory", &format!("up to {}, excluding weights", units::bytes(estimate.memory))]);
    shell.print(&facts.render(str::to_string))
}

/// Prints each piece of the only answer as soon as it is final.
fn stream(
    args: &Args,
    model: &AnyTextModel,
    prompt: &Prompt,
    options: &GenerateOptions,
    pool: &rayon::ThreadPool,
    shell: &mut Shell<'_>,
) -> Result<(), Failure> {
    let mut printed = Ok(());
    let mut show = |text: &str| {
        printed = shell.print_generated(text);
        if printed.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    let generated = pool
        .install(|| model.generate_stream(prompt, options, &mut show))
        .map_err(|error| refusal(error, &args.model))?;
    printed?;
    shell.print("\n")?;
    if generated.truncated > 0 {
        let tokens = units::things(generated.truncated, "token", "tokens");
        shell.note(&format!("{tokens} cut from the start of the prompt"));
    }
    Ok(())
}

fn prompts(args: &Args) -> Result<Vec<String>, Failure> {
    let mut texts = args.prompt.clone();
    if let Some(path) = &args.prompts {
        let name = path.display().to_string();
        let file = glue_tensor::files::read_named(path, glue_tensor::files::DATA_BYTES)
            .map_err(|error| Failure::refused(of_file(path, error)))?;
        for (number, line) in file.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            texts.push(match line.starts_with('"') {
                true => serde_json::from_str(line).map_err(|error| {
                    let message = format!("{name}, line {}: not a JSON string: {error}", number + 1);
                    Failure::refused(Error::new(ErrorKind::InvalidData, message))
                })?,
                false => line.to_owned(),
            });
        }
    } else if texts.is_empty() {
        let mut text = String::new();
        let read = io::stdin().read_to_string(&mut text);
        read.map_err(|error| Failure::failed(of_file(Path::new("standard input"), error)))?;
        texts.push(text.strip_suffix('\n').map(str::to_owned).unwrap_or(text));
    }
    if texts.is_empty() {
        return Err(Failure::refused(Error::new(ErrorKind::InvalidInput, "no prompt given")));
    }
    Ok(texts)
}

fn prompt(args: &Args, model: &AnyTextModel, text: &str) -> Result<Prompt, Failure> {
    if !args.chat {
        return Ok(Prompt::text(text));
    }
    let system = args.system.iter().map(|text| Message::new("system", text.clone()));
    let messages: Vec<Message> = system.chain([Message::new("user", text)]).collect();
    let options = ChatOptions { add_generation_prompt: true, now: now(), ..ChatOptions::default() };
    model.chat(&messages, &options).map_err(|error| match error {
        // The template comes from a file of the model.
        TextError::Chat(_) => refusal(error, &args.model).context(args.model.display().to_string()),
        error => refusal(error, &args.model),
    })
}

/// The current time, in UTC.
fn now() -> Option<DateTime> {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs();
    DateTime::from_unix(seconds).ok()
}

fn refusal(error: TextError, model: &Path) -> Failure {
    match &error {
        TextError::Option { .. } | TextError::Sampling(_) | TextError::EmptyPrompt { .. } => Failure::refused(error),
        TextError::NoChatTemplate => Failure::refused(error).hint(Some("leave out --chat")),
        TextError::PromptTooLong { .. } => {
            Failure::refused(error).hint(Some("cut its start with --truncate, or lower --max-new-tokens"))
        }
        TextError::Choice { .. } => Failure::failed(error).context(format!("model `{}`", model.display())),
        _ => Failure::failed(error),
    }
}

/// Replaces escapes of characters that are hard to pass in a shell.
fn unescape(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        match (c, rest.clone().next()) {
            ('\\', Some(escape @ ('n' | 't' | 'r' | '\\'))) => {
                rest.next();
                out.push(match escape {
                    'n' => '\n',
                    't' => '\t',
                    'r' => '\r',
                    other => other,
                });
            }
            _ => out.push(c),
        }
    }
    out
}

fn document(args: &Args, texts: &[String], answers: &[Generated], seconds: f64) -> Value {
    let answer = |answer: &Generated| {
        let (finish, stop) = match answer.finish {
            Finish::Stop(index) => ("stop", args.stop.get(index)),
            Finish::Eos => ("eos", None),
            Finish::Length => ("length", None),
            _ => ("cancelled", None),
        };
        json!({
            "text": answer.text,
            "tokens": answer.tokens,
            "finish": finish,
            "stop": stop,
            "prompt_tokens": answer.prompt_tokens,
            "truncated": answer.truncated,
        })
    };
    let prompts = texts.iter().enumerate().map(|(index, text)| {
        let own: Vec<Value> = answers.iter().filter(|answer| answer.prompt == index).map(answer).collect();
        json!({ "prompt": text, "answers": own })
    });
    json!({
        "model": args.model.display().to_string(),
        "prompts": prompts.collect::<Vec<_>>(),
        "new_tokens": answers.iter().map(|answer| answer.tokens.len()).sum::<usize>(),
        "seconds": seconds,
    })
}

#[cfg(test)]
mod tests {
    //! What the shell passes.
    use super::*;

    #[test]
    fn escapes_are_read() {
        for (text, expected) in
            [(r"\n", "\n"), (r"a\\n", r"a\n"), (r"\q\", r"\q\"), ("plain", "plain"), (r"\t\r", "\t\r")]
        {
            assert_eq!(unescape(text), expected);
        }
    }
}
