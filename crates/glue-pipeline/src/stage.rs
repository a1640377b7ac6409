//! Stages: each is made once, appears whole, and is found again as long as nothing that it depends on has changed.
//!
//! A stage has a directory in `stages/`. While it is made, the directory has a name of its own (`NAME.work`), which a long
//! stage may use to go on after it was killed; once all of it is on the disk it is renamed. What a stage depends on is its
//! key: its part of the configuration, what was read, and the key of the stage before. A stage whose key is another one is
//! thrown away, and with it, since their keys follow, all after it.

use crate::error::PipelineError;
use glue_tensor::{ContentHash, abort_point, write_atomic};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// What a run consists of, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Which models can be merged with which, from headers.
    Compatibility,
    /// How alike the weights of all pairs are.
    Similarity,
    /// Which models form groups.
    Clusters,
    /// The scores of every model on the proxy items.
    Singles,
    /// Selective merging inside each cluster.
    Select,
    /// Merged models and those that stayed alone, stacks of layers among them.
    Candidates,
    /// Which candidates are mixed, at which level and depth, with routers trained.
    Mixture,
    /// The test items, once.
    Test,
    /// The report, and the final model in its place.
    Report,
}

impl Stage {
    /// All, in order.
    pub const ALL: [Stage; 9] = [
        Stage::Compatibility,
        Stage::Similarity,
        Stage::Clusters,
        Stage::Singles,
        Stage::Select,
        Stage::Candidates,
        Stage::Mixture,
        Stage::Test,
        Stage::Report,
    ];

    /// Its name on the command line and in files.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Compatibility => "compatibility",
            Stage::Similarity => "similarity",
            Stage::Clusters => "clusters",
            Stage::Singles => "singles",
            Stage::Select => "select",
            Stage::Candidates => "candidates",
            Stage::Mixture => "mixture",
            Stage::Test => "test",
            Stage::Report => "report",
        }
    }

    /// The stage of that name.
    pub fn parse(name: &str) -> Option<Stage> {
        Stage::ALL.into_iter().find(|stage| stage.name() == name)
    }

    fn directory(self) -> String {
        format!("{:02}-{}", self as usize + 1, self.name())
    }
}

/// What a stage took. It differs from run to run, so that no result contains it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Seconds of the attempt that finished it.
    pub seconds: f64,
    /// The most memory the process held at once until the stage ended, in bytes; absent where the system does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_memory: Option<u64>,
    /// Bytes the stage left on the disk.
    pub disk: u64,
    /// Whether an earlier start of the run made it.
    #[serde(skip)]
    pub found: bool,
}

const MANIFEST: &str = "manifest.json";
const RESULT: &str = "result.json";
const COST: &str = "cost.json";
const KEY: &str = "key.json";

/// What became of a stage.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Made<T> {
    pub(crate) result: T,
    /// Where its files are.
    pub(crate) directory: PathBuf,
}

/// The stages of one run.
#[derive(Debug)]
pub(crate) struct Stages {
    root: PathBuf,
    until: Stage,
    from: Option<Stage>,
    /// What everything depends on; after a stage, that it was made from this.
    chain: Value,
    costs: Vec<(Stage, Cost)>,
}

impl Stages {
    /// The stages in `out`. Those from `from` on are made anew; none after `until` is made.
    pub(crate) fn new(out: &Path, identity: Value, from: Option<Stage>, until: Option<Stage>) -> Stages {
        let until = until.unwrap_or(Stage::Report);
        Stages { root: out.join("stages"), until, from, chain: identity, costs: Vec::new() }
    }

    /// What the stages took, in order.
    pub(crate) fn costs(&self) -> &[(Stage, Cost)] {
        &self.costs
    }

    /// The result of `stage`: found, when it was made from the same, else made by `work`, which is given the directory for
    /// its files. `None` when the run ends before.
    pub(crate) fn run<T: Serialize + DeserializeOwned>(
        &mut self,
        stage: Stage,
        own: Value,
        begin: &dyn Fn(Stage, bool),
        work: impl FnOnce(&Path) -> Result<T, PipelineError>,
    ) -> Result<Option<Made<T>>, PipelineError> {
        if stage > self.until {
            return Ok(None);
        }
        let key = json!({ "stage": stage.name(), "version": env!("CARGO_PKG_VERSION"), "depends_on": self.chain, "own": own });
        self.chain = json!(hash(&key));
        let directory = self.root.join(stage.directory());
        let anew = self.from.is_some_and(|from| stage >= from);
        if !anew && let Some(result) = self.found(&directory, &key)? {
            begin(stage, true);
            return Ok(Some(Made { result, directory }));
        }
        begin(stage, false);
        remove(&directory)?;
        abort_point("earlier stage removed");
        let place = self.work_directory(&directory, &key, anew)?;
        let start = Instant::now();
        let result = work(&place)?;
        // Through text and back, so that what goes on from here is what a later run will find.
        let text = serde_json::to_string_pretty(&result).map_err(|e| PipelineError::damaged(&place.join(RESULT), e))?;
        let result = serde_json::from_str(&text).map_err(|e| PipelineError::damaged(&place.join(RESULT), e))?;
        write_atomic(place.join(RESULT), text.as_bytes())?;
        let cost = Cost {
            seconds: start.elapsed().as_secs_f64(),
            peak_memory: peak_memory(),
            disk: disk(&place).map_err(|e| PipelineError::io(&place, e))?,
            found: false,
        };
        write_json(&place.join(COST), &json!(cost))?;
        write_json(&place.join(MANIFEST), &json!({ "key": key, "result": hash(&text) }))?;
        remove_file(&place.join(KEY))?;
        abort_point("stage complete");
        fs::rename(&place, &directory).map_err(|e| PipelineError::io(&directory, e))?;
        abort_point("stage renamed");
        sync(&self.root)?;
        self.costs.push((stage, cost));
        Ok(Some(Made { result, directory }))
    }

    fn found<T: DeserializeOwned>(&mut self, directory: &Path, key: &Value) -> Result<Option<T>, PipelineError> {
        let Some(manifest) = read_json::<Value>(&directory.join(MANIFEST))? else { return Ok(None) };
        let Some(text) = read(&directory.join(RESULT))? else { return Ok(None) };
        if manifest["key"] != *key || manifest["result"] != json!(hash(&text)) {
            return Ok(None);
        }
        let path = directory.join(RESULT);
        let result = serde_json::from_str(&text).map_err(|e| PipelineError::damaged(&path, e))?;
        let stage = key["stage"].as_str().and_then(Stage::parse);
        if let (Some(cost), Some(stage)) = (read_json::<Cost>(&directory.join(COST))?, stage) {
            self.costs.push((stage, Cost { found: true, ..cost }));
        }
        Ok(Some(result))
    }

    /// The directory to work in, with what an interrupted attempt at the same left there.
    fn work_directory(&self, directory: &Path, key: &Value, anew: bool) -> Result<PathBuf, PipelineError> {
        let place = directory.with_extension("work");
        let known = read_json::<Value>(&place.join(KEY))?;
        if anew || known.as_ref() != Some(key) {
            remove(&place)?;
            fs::create_dir_all(&place).map_err(|e| PipelineError::io(&place, e))?;
            write_json(&place.join(KEY), key)?;
        }
        Ok(place)
    }
}

/// A short name for content.
pub(crate) fn hash(content: &(impl ToString + ?Sized)) -> String {
    ContentHash::of(content.to_string().as_bytes()).to_string()
}

/// Writes a JSON document so that it is there whole or not at all.
pub(crate) fn write_json(path: &Path, value: &Value) -> Result<(), PipelineError> {
    Ok(write_atomic(path, format!("{value:#}\n").as_bytes())?)
}

fn read(path: &Path) -> Result<Option<String>, PipelineError> {
    match fs::read_to_string(path) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        text => text.map(Some).map_err(|e| PipelineError::io(path, e)),
    }
}

pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, PipelineError> {
    let Some(text) = read(path)? else { return Ok(None) };
    serde_json::from_str(&text).map(Some).map_err(|e| PipelineError::damaged(path, e))
}

fn remove(directory: &Path) -> Result<(), PipelineError> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(PipelineError::io(directory, error)),
        _ => Ok(()),
    }
}

fn remove_file(path: &Path) -> Result<(), PipelineError> {
    fs::remove_file(path).map_err(|e| PipelineError::io(path, e))
}

fn sync(directory: &Path) -> Result<(), PipelineError> {
    File::open(directory).and_then(|file| file.sync_all()).map_err(|e| PipelineError::io(directory, e))
}

/// Bytes of all files below a directory.
fn disk(directory: &Path) -> io::Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        sum += if metadata.is_dir() { disk(&entry.path())? } else { metadata.len() };
    }
    Ok(sum)
}

/// The most memory this process has held, in bytes.
fn peak_memory() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}
