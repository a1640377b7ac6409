//! Tasks and their items, asked of a model that answers everything.

use super::folder::{Folder, write};
use super::says_why;
use glue_eval::{
    ChatMessage, EvalOptions, GenerateRequest, Generation, LanguageModel, LogLikelihood, LogLikelihoodRequest,
    ModelError, evaluate, load_tasks, preview,
};
use glue_progress::NoProgress;
use serde_json::Value;
use std::path::Path;

/// Gives numbers that follow from the lengths of texts, and answers with what it was asked, a number and a letter.
pub struct Echo;

impl LanguageModel for Echo {
    fn name(&self) -> String {
        "echo".into()
    }

    fn content_hash(&self) -> Result<Option<String>, ModelError> {
        Ok(Some("echo".into()))
    }

    fn loglikelihoods(
        &self,
        requests: &[LogLikelihoodRequest<'_>],
        _: &(dyn Fn(usize) + Sync),
    ) -> Result<Vec<LogLikelihood>, ModelError> {
        Ok(requests.iter().map(|request| likelihood(request.continuation)).collect())
    }

    fn rolling(&self, texts: &[&str], _: &(dyn Fn(usize) + Sync)) -> Result<Vec<LogLikelihood>, ModelError> {
        Ok(texts.iter().map(|text| likelihood(text)).collect())
    }

    fn generate(
        &self,
        requests: &[GenerateRequest<'_>],
        _: &(dyn Fn(usize) + Sync),
    ) -> Result<Vec<Vec<Generation>>, ModelError> {
        let answers = |request: &GenerateRequest<'_>| {
            let end: String = request.context.chars().take(100).collect();
            let answer = Generation { text: format!("{end} #### 12\nThe answer is (B)."), n_tokens: 3, truncated: 0 };
            match request.n {
                0..=1000 => Ok(vec![answer; request.n]),
                n => Err(ModelError::new(format!("{n} answers to one question"))),
            }
        };
        requests.iter().map(answers).collect()
    }

    fn chat(&self, messages: &[ChatMessage]) -> Result<String, ModelError> {
        Ok(messages.iter().map(|message| format!("<{}>{}", message.role, message.content)).collect())
    }
}

fn likelihood(text: &str) -> LogLikelihood {
    let n_tokens = text.len().div_ceil(4);
    LogLikelihood { logprob: -(text.len() as f64), greedy: text.len().is_multiple_of(2), n_tokens, truncated: 0 }
}

/// Loads the task at `path` and asks its first items, as completions and as a chat.
fn ask(path: &Path) {
    let tasks = match load_tasks(&[path]) {
        Ok(tasks) => tasks,
        Err(error) => return says_why(&error),
    };
    let plain = EvalOptions { limit: Some(4), samples: true, ..EvalOptions::default() };
    match preview(&tasks, &plain) {
        Ok(previews) => assert!(previews.iter().all(|preview| preview.items <= 4)),
        Err(error) => return says_why(&error),
    }
    let chat = EvalOptions { apply_chat_template: true, fewshot_as_multiturn: true, ..plain.clone() };
    for options in [plain, chat] {
        match evaluate(&Echo, &tasks, &options, &NoProgress) {
            Ok(report) => {
                assert_eq!(report.tasks.len(), tasks.len());
                // What is printed and kept is JSON that can be read.
                serde_json::from_str::<Value>(&report.to_json().to_string()).expect("a report is JSON");
                for sample in &report.samples {
                    serde_json::from_str::<Value>(&sample.json).expect("a sample is JSON");
                }
            }
            Err(error) => says_why(&error),
        }
    }
}

/// Items that have the fields of every kind of task.
const ITEMS: &str = r#"{"context": "2 + 2 =", "choices": ["3", "4"], "gold": 1, "target": "4", "text": "Two and two are four.", "question": "Why? ", "answer": 1, "number": 12, "deep": {"list": [1, 2.5, null, true]}}
{"context": "", "choices": ["a", "b", "c"], "gold": [0, 2], "target": ["x", "y"], "text": "\u00e9 \ud83d\ude00", "question": "it's", "answer": 0, "number": -1, "deep": {}}
"#;

/// `task.json` beside items: refused with its key, or a task whose items are asked or refused.
pub fn task_json(input: &[u8]) {
    thread_local! {
        static FOLDER: Folder = Folder::new(|path| {
            ["train.jsonl", "test.jsonl"].iter().for_each(|name| write(path, name, ITEMS));
        });
    }
    FOLDER.with(|folder| ask(folder.with("task.json", input)));
}

/// The YAML of lm-evaluation-harness beside items: refused with its key, or tasks whose items are asked or refused.
pub fn task_yaml(input: &[u8]) {
    thread_local! {
        static FOLDER: Folder = harness();
    }
    FOLDER.with(|folder| ask(&folder.with("task.yaml", input).join("task.yaml")));
}

/// A folder with the items of a task of the harness and a file to be included.
fn harness() -> Folder {
    const BASE: &str = "dataset_path: json
dataset_kwargs: {data_files: {train: data/train.jsonl, test: data/test.jsonl}}
test_split: test
training_split: train
";
    Folder::new(|path| {
        write(path, "base.yaml", BASE);
        ["data/train.jsonl", "data/test.jsonl"].iter().for_each(|name| write(path, name, ITEMS));
    })
}

/// A template of a task: refused, or each item becomes text or an error, within the limits on steps and memory.
pub fn task_template(input: &[u8]) {
    let Ok(template) = std::str::from_utf8(input) else { return };
    thread_local! {
        static FOLDER: Folder = harness();
    }
    let template = Value::from(template);
    let task = format!(
        "include: base.yaml\ntask: fuzz\noutput_type: generate_until\nnum_fewshot: 1\ndoc_to_text: {template}\n\
         doc_to_target: \"{{{{answer}}}}\"\ngeneration_kwargs: {{until: [\"\\n\"]}}\n"
    );
    FOLDER.with(|folder| ask(&folder.with("task.yaml", task.as_bytes()).join("task.yaml")));
}

/// Items in JSON Lines: refused with their line, or asked.
pub fn items_jsonl(input: &[u8]) {
    items("test.jsonl", r#"{"kind": "multiple_choice"}"#, input);
    items("test.jsonl", r#"{"kind": "generate"}"#, input);
}

/// Items as comma-separated values: refused with their line, or asked.
pub fn items_csv(input: &[u8]) {
    items("test.csv", r#"{"kind": "generate"}"#, input);
}

/// Items in Parquet: refused, or asked.
pub fn items_parquet(input: &[u8]) {
    items("test.parquet", r#"{"kind": "multiple_choice"}"#, input);
}

fn items(name: &str, task: &str, input: &[u8]) {
    thread_local! {
        static FOLDER: Folder = Folder::new(|_| {});
    }
    FOLDER.with(|folder| {
        // Another format of the same items may be there.
        for other in ["test.jsonl", "test.csv", "test.parquet"].iter().filter(|other| **other != name) {
            let _ = std::fs::remove_file(folder.path().join(other));
        }
        folder.with("task.json", task.as_bytes());
        ask(folder.with(name, input));
    });
}
