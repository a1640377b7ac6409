//! A model that is a function of the text of a request, the same as in `data/harness/make.py`.

use glue_eval::{GenerateRequest, Generation, LanguageModel, LogLikelihood, LogLikelihoodRequest, ModelError};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{LazyLock, Mutex};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Answers, and keeps what it was asked.
#[derive(Default)]
pub(crate) struct Table {
    /// Context and continuation; a text alone; context and settings.
    pub(crate) asked: Mutex<Vec<Vec<String>>>,
    pub(crate) calls: AtomicUsize,
    pub(crate) hash: Option<String>,
    /// Contexts longer than this many characters count as cut.
    pub(crate) max_characters: Option<usize>,
    /// What is generated instead.
    pub(crate) answers: Vec<String>,
}

/// CRC-32 as zlib has it, of texts joined by the unit separator.
pub(crate) fn crc(texts: &[&str]) -> u32 {
    let joined = texts.join("\u{1f}");
    let step = |crc: u32, byte: u8| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 })
    };
    !joined.bytes().fold(!0, step)
}

impl Table {
    fn score(&self, context: &str, continuation: &str) -> LogLikelihood {
        let hash = crc(&[context, continuation]);
        let characters = continuation.chars().count();
        LogLikelihood {
            logprob: -(1.5 * characters as f64 + f64::from(hash % 1000) / 64.0),
            greedy: hash.is_multiple_of(3),
            n_tokens: characters,
            truncated: self.truncated(context),
        }
    }

    fn truncated(&self, context: &str) -> usize {
        self.max_characters.map_or(0, |most| context.chars().count().saturating_sub(most))
    }
}

impl LanguageModel for Table {
    fn name(&self) -> String {
        "table".into()
    }

    fn content_hash(&self) -> Result<Option<String>, ModelError> {
        Ok(self.hash.clone())
    }

    fn loglikelihoods(
        &self,
        requests: &[LogLikelihoodRequest<'_>],
        progress: &(dyn Fn(usize) + Sync),
    ) -> Result<Vec<LogLikelihood>, ModelError> {
        self.calls.fetch_add(requests.len(), Ordering::Relaxed);
        progress(requests.len());
        let mut asked = self.asked.lock().unwrap();
        asked
            .extend(requests.iter().map(|request| vec![request.context.to_string(), request.continuation.to_string()]));
        Ok(requests.iter().map(|request| self.score(request.context, request.continuation)).collect())
    }

    fn rolling(&self, texts: &[&str], progress: &(dyn Fn(usize) + Sync)) -> Result<Vec<LogLikelihood>, ModelError> {
        self.calls.fetch_add(texts.len(), Ordering::Relaxed);
        progress(texts.len());
        self.asked.lock().unwrap().extend(texts.iter().map(|text| vec![text.to_string()]));
        Ok(texts.iter().map(|text| self.score("", text)).collect())
    }

    fn generate(
        &self,
        requests: &[GenerateRequest<'_>],
        progress: &(dyn Fn(usize) + Sync),
    ) -> Result<Vec<Vec<Generation>>, ModelError> {
        self.calls.fetch_add(requests.len(), Ordering::Relaxed);
        progress(requests.len());
        self.asked.lock().unwrap().extend(requests.iter().map(|request| vec![request.context.to_string()]));
        let table = ["The answer is 7.", " Seven #### 7 ", "I think 7, no 12", "TWELVE!", "#### 12 or #### 5"]
            .map(String::from);
        let answers = if self.answers.is_empty() { &table[..] } else { &self.answers };
        let answer = |request: &GenerateRequest<'_>, j: usize| Generation {
            text: answers[crc(&[request.context, &j.to_string()]) as usize % answers.len()].clone(),
            n_tokens: 1,
            truncated: self.truncated(request.context),
        };
        Ok(requests.iter().map(|request| (0..request.n).map(|j| answer(request, j)).collect()).collect())
    }
}

/// A file of the tests.
pub(crate) fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

/// Whether there is a Python interpreter; the project builds and passes its tests without one.
pub(crate) fn python() -> bool {
    static FOUND: LazyLock<bool> = LazyLock::new(|| {
        let found = Command::new("python3").arg("--version").stdout(Stdio::null()).status();
        found.is_ok_and(|status| status.success())
    });
    if !*FOUND {
        eprintln!("skipped: there is no python3 on PATH");
    }
    *FOUND
}
