//! What the program wrote itself, or another process of it, and reads again: journals, caches, reports, the protocol of
//! workers. Any of it may have been cut off, damaged or made up.

use super::folder::{Folder, write};
use super::says_why;
use super::tasks::Echo;
use glue_eval::{Cache, EvalOptions, evaluate, load_tasks};
use glue_merge::Registry;
use glue_metrics::Matrix;
use glue_progress::NoProgress;
use glue_recipe::Recipe;
use glue_report as report_crate;
use glue_select::config::SearchConfig;
use glue_select::journal::Journal;
use glue_select::workers::serve;
use glue_select::{Candidate, CandidateError, ItemRole, Rival, Scorer, Scores, Stopped, TaskScore};
use serde_json::{Value, json};
use std::fs;
use std::io::BufReader;
use std::path::{Path, PathBuf};

/// The journal of a search. Any bytes: refused, or entries to which one can be appended, and all of them are there
/// again. A journal whose entries are the lines of the input, cut off anywhere: its first entries, and it goes on. The
/// same journal with a byte that was changed: refused, or its first entries.
pub fn journal(input: &[u8]) {
    thread_local! {
        static FOLDER: Folder = Folder::new(|_| {});
    }
    let header = json!({"of": "fuzz", "seed": 1});
    FOLDER.with(|folder| {
        let path = folder.with("journal.jsonl", input).join("journal.jsonl");
        match Journal::resume(&path, &header) {
            Ok((journal, entries)) => goes_on(journal, &path, &header, &entries),
            Err(error) => says_why(&error),
        }

        fs::remove_file(&path).expect("the journal");
        let lines = input.split(|&byte| byte == b'\n').take(16);
        let entries: Vec<Value> = lines.filter_map(|line| serde_json::from_slice(line).ok()).collect();
        let mut journal = Journal::create(&path, &header).expect("a new journal");
        entries.iter().for_each(|entry| journal.append(entry).expect("an entry is appended"));
        drop(journal);
        let bytes = fs::read(&path).expect("the journal");
        fs::write(&path, &bytes[..number(input) % (bytes.len() + 1)]).expect("a part of the journal");
        let (journal, found) = Journal::resume(&path, &header).expect("a journal that was cut off is read");
        assert_eq!(found, entries[..found.len()]);
        goes_on(journal, &path, &header, &found);

        fs::write(&path, with_a_change(&bytes, input)).expect("a changed journal");
        match Journal::resume(&path, &header) {
            Ok((_, found)) => assert_eq!(found, entries[..found.len()]),
            Err(error) => says_why(&error),
        }
    });
}

/// A number below a million that follows from `input`.
fn number(input: &[u8]) -> usize {
    input.iter().fold(input.len(), |sum, &byte| (sum * 31 + usize::from(byte)) % 1_000_003)
}

/// `bytes` with another value in one place.
fn with_a_change(bytes: &[u8], input: &[u8]) -> Vec<u8> {
    let mut changed = bytes.to_vec();
    let at = number(input) % bytes.len();
    changed[at] ^= (number(input) / bytes.len() % 255) as u8 + 1;
    changed
}

fn goes_on(mut journal: Journal, path: &Path, header: &Value, entries: &[Value]) {
    journal.append(&json!("more")).expect("an entry is appended");
    drop(journal);
    let (_, again) = Journal::resume(path, header).expect("a journal that was opened opens again");
    let (last, before) = again.split_last().expect("what was appended");
    assert_eq!((before, last), (entries, &json!("more")));
}

/// What a pool says to a worker: refused, or answered, in JSON with a type, a line for a document.
pub fn worker(input: &[u8]) {
    struct Parses;
    impl Scorer for Parses {
        fn score(
            &self,
            candidates: &[Candidate],
            _: ItemRole,
            rival: Option<Rival<'_>>,
            _: &(dyn Fn(usize, &Result<Scores, CandidateError>) + Sync),
        ) -> Result<Vec<Result<Scores, CandidateError>>, Stopped> {
            let score = |candidate: &Candidate| {
                Recipe::parse(&candidate.recipe, "candidate", &Registry::builtin())
                    .map_err(|error| CandidateError { message: error.to_string() })?;
                let task = TaskScore { task: "a".into(), metric: "acc".into(), value: 0.5, n: 3, items: vec![] };
                Ok(Scores {
                    tasks: vec![task],
                    average: rival.map_or(0.5, |rival| rival.cutoff),
                    stderr: None,
                    dropped: rival.is_some(),
                })
            };
            Ok(candidates.iter().map(score).collect())
        }
    }
    let mut output = Vec::new();
    let served = serve(BufReader::new(input), &mut output, |setup| {
        let config: SearchConfig = serde_json::from_value(setup.clone()).map_err(|error| error.to_string())?;
        let _ = config.space();
        Ok(Box::new(Parses))
    });
    if let Err(error) = served {
        says_why(&error);
    }
    let output = String::from_utf8(output).expect("answers are text");
    for line in output.lines() {
        let answer: Value = serde_json::from_str(line).expect("an answer is JSON");
        assert!(answer["type"].is_string(), "{line}");
    }
}

/// `report.json`: refused, or written as it was read, and shown in every form.
pub fn report(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let report = match report_crate::from_json(text) {
        Ok(report) => report,
        Err(error) => return says_why(&error),
    };
    let written = report_crate::json(&report).expect("a report that was read is written");
    assert_eq!(report_crate::from_json(&written).expect("a report that was written is read"), report);
    let html = report_crate::html(&report, None).expect("a report that was read is shown");
    assert!(html.to_lowercase().starts_with("<!doctype html>"));
    report_crate::markdown(&report, None).expect("a report that was read is shown");
    let _ = report_crate::lines(&report);
}

/// `similarity.json` of `glue similarity`, which `glue cluster` reads: refused, or written as it was read.
pub fn similarity(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    match Matrix::from_json(text) {
        Ok(matrix) => {
            assert!(matrix.rows().len() == matrix.n() && matrix.rows().iter().all(|row| row.len() == matrix.n()));
            assert_eq!(Matrix::from_json(&matrix.to_json()).expect("a matrix that was written is read"), matrix);
            assert_eq!(matrix.dissimilarity(matrix.n(), 0), None);
            let _ = matrix.to_csv();
        }
        Err(error) => says_why(&error),
    }
}

/// An entry of the cache of scores, any bytes or one in which a byte was changed: the scores are the same as without.
pub fn cache(input: &[u8]) {
    struct Place {
        folder: Folder,
        entry: PathBuf,
        content: Vec<u8>,
        scores: String,
    }
    fn score(folder: &Folder) -> String {
        let tasks = load_tasks(&[folder.path().join("task")]).expect("a task");
        let cache = Some(Cache::open(folder.path().join("cache")).expect("a cache"));
        let options = EvalOptions { samples: true, cache, ..EvalOptions::default() };
        let report = evaluate(&Echo, &tasks, &options, &NoProgress).expect("a task is scored whatever the cache holds");
        format!("{:?}", (&report.tasks[0].metrics, &report.tasks[0].items, &report.samples))
    }
    thread_local! {
        static PLACE: Place = {
            let folder = Folder::new(|path| {
                write(path, "task/task.json", r#"{"name": "t", "kind": "multiple_choice"}"#);
                write(path, "task/test.jsonl", r#"{"context": "2 + 2 =", "choices": ["3", "4"], "gold": 1}"#);
            });
            let scores = score(&folder);
            let mut entries = fs::read_dir(folder.path().join("cache")).expect("a cache");
            let entry = entries.next().expect("an entry").expect("an entry").path();
            let content = fs::read(&entry).expect("an entry");
            Place { folder, entry, content, scores }
        };
    }
    PLACE.with(|place| {
        for content in [input, &with_a_change(&place.content, input)] {
            fs::write(&place.entry, content).expect("an entry");
            assert_eq!(score(&place.folder), place.scores);
        }
    });
}
