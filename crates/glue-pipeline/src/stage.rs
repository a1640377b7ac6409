//! Stages: each runs once, appears when it is complete, and is reused as long as nothing that it depends on has
//! changed.
//!
//! A stage has a directory in `stages/`. While it runs, the directory is called `NAME.work`, from which a long stage
//! can resume after it was killed; once everything is on disk it is renamed. The key of a stage holds what it depends
//! on: its part of the config, its inputs, and the key of the stage before. A stage whose key has changed is discarded,
//! and so are all later stages, whose keys depend on it.
//!
//! Everything that is read back is checked. Notes have a checksum ([`glue_tensor::state`]), and the manifest of a stage
//! has those of all its files, including weights. A mismatch is refused: `--from STAGE` re-runs the stage.

use crate::error::PipelineError;
use crate::zoo::Zoo;
use glue_tensor::{ContentHash, abort_point, files, state, write_atomic};
use rayon::prelude::*;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The stages of a run, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Which models can be merged with which, from headers.
    Compatibility,
    /// The similarity of the weights of all pairs.
    Similarity,
    /// Which models form clusters.
    Clusters,
    /// The scores of every model alone on the proxy items.
    Baselines,
    /// Selective merging inside each cluster.
    Select,
    /// Candidates for experts: merges, single models, stacked layers.
    Candidates,
    /// Which candidates are mixed, at which level and depth, with trained routers.
    Mixture,
    /// The scores on the test items, once.
    Test,
    /// The report and the final model.
    Report,
}

impl Stage {
    /// All, in order.
    pub const ALL: [Stage; 9] = [
        Stage::Compatibility,
        Stage::Similarity,
        Stage::Clusters,
        Stage::Baselines,
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
            Stage::Baselines => "baselines",
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

/// Time, memory and disk of a stage. They differ from run to run: no result contains them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Seconds of the run that finished it.
    pub seconds: f64,
    /// Peak memory of the process until the stage ended, in bytes; absent if the system does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_memory: Option<u64>,
    /// Bytes of the stage on disk.
    pub disk: u64,
    /// Whether the stage was reused from an earlier run.
    #[serde(skip)]
    pub found: bool,
}

const MANIFEST: &str = "manifest.json";
const RESULT: &str = "result.json";
const COST: &str = "cost.json";
const KEY: &str = "key.json";

/// A finished stage.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Made<T> {
    pub(crate) result: T,
    /// The directory of its files.
    pub(crate) directory: PathBuf,
}

/// Hashes of files by their paths below a directory.
pub(crate) type Hashes = BTreeMap<String, String>;

/// The manifest of a finished stage.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    key: Value,
    /// Of all other files of the stage.
    files: Hashes,
}

/// The stages of one run.
#[derive(Debug)]
pub(crate) struct Stages<'a> {
    root: PathBuf,
    zoo: &'a Zoo,
    until: Stage,
    from: Option<Stage>,
    /// Hash of everything that the next stage depends on.
    chain: Value,
    costs: Vec<(Stage, Cost)>,
}

impl<'a> Stages<'a> {
    /// The stages in `out`. Those from `from` on are re-run; none after `until` runs.
    pub(crate) fn new(
        out: &Path,
        identity: Value,
        from: Option<Stage>,
        until: Option<Stage>,
        zoo: &'a Zoo,
    ) -> Stages<'a> {
        let until = until.unwrap_or(Stage::Report);
        Stages { root: out.join("stages"), zoo, until, from, chain: identity, costs: Vec::new() }
    }

    /// Time, memory and disk of the stages, in order.
    pub(crate) fn costs(&self) -> &[(Stage, Cost)] {
        &self.costs
    }

    /// The result of `stage`: reused if its key is unchanged, otherwise made by `work`, which gets the directory for
    /// its files. `None` if the run ends before it.
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
        let rerun = self.from.is_some_and(|from| stage >= from);
        if !rerun && let Some(result) = self.found(stage, &directory, &key)? {
            begin(stage, true);
            return Ok(Some(Made { result, directory }));
        }
        begin(stage, false);
        remove(&directory)?;
        abort_point("earlier stage removed");
        let place = self.work_directory(stage, &directory, &key, rerun)?;
        let start = Instant::now();
        let result = self.of_same_models(work(&place), &place)?;
        // Through text and back: later stages work with exactly what a later run will read.
        let path = place.join(RESULT);
        let text = serde_json::to_string_pretty(&result).map_err(|e| PipelineError::json(&path, e))?;
        let result = serde_json::from_str(&text).map_err(|e| PipelineError::json(&path, e))?;
        write_atomic(&path, text.as_bytes())?;
        let cost = Cost {
            seconds: start.elapsed().as_secs_f64(),
            peak_memory: peak_memory(),
            disk: disk(&place).map_err(|e| PipelineError::io(&place, e))?,
            found: false,
        };
        write_json(&place.join(COST), &cost)?;
        let manifest = Manifest { key, files: hashes(&place)? };
        write_json(&place.join(MANIFEST), &manifest)?;
        remove_file(&place.join(KEY))?;
        abort_point("stage complete");
        fs::rename(&place, &directory).map_err(|e| PipelineError::io(&directory, e))?;
        abort_point("stage renamed");
        sync(&self.root)?;
        self.costs.push((stage, cost));
        Ok(Some(Made { result, directory }))
    }

    /// `result`, if the models are unchanged. Otherwise the contents of `place` may be those of other models and are
    /// removed.
    fn of_same_models<T>(&self, result: Result<T, PipelineError>, place: &Path) -> Result<T, PipelineError> {
        match self.zoo.check_unchanged() {
            Ok(()) => result,
            Err(changed) => {
                remove(place)?;
                Err(changed.into())
            }
        }
    }

    /// The result of a stage with this key, once all its files are checked.
    fn found<T: DeserializeOwned>(
        &mut self,
        stage: Stage,
        directory: &Path,
        key: &Value,
    ) -> Result<Option<T>, PipelineError> {
        let path = directory.join(MANIFEST);
        let Some(manifest) = read_json::<Manifest>(&path, stage)? else {
            return match directory.join(RESULT).exists() {
                false => Ok(None),
                true => Err(PipelineError::Damaged { path, stage, found: "it is missing".into() }),
            };
        };
        if manifest.key != *key {
            return Ok(None);
        }
        check_files(directory, &manifest.files, stage)?;
        let path = directory.join(RESULT);
        let text = files::read(&path, files::DATA_BYTES).map_err(|e| PipelineError::io(&path, e))?;
        let result = serde_json::from_slice(&text).map_err(|e| PipelineError::json(&path, e))?;
        if let Some(cost) = read_json::<Cost>(&directory.join(COST), stage)? {
            self.costs.push((stage, Cost { found: true, ..cost }));
        }
        Ok(Some(result))
    }

    /// The directory to work in, with what an interrupted run of the same stage left there.
    fn work_directory(
        &self,
        stage: Stage,
        directory: &Path,
        key: &Value,
        rerun: bool,
    ) -> Result<PathBuf, PipelineError> {
        let place = directory.with_extension("work");
        if rerun || read_json::<Value>(&place.join(KEY), stage)?.as_ref() != Some(key) {
            remove(&place)?;
            fs::create_dir_all(&place).map_err(|e| PipelineError::io(&place, e))?;
            write_json(&place.join(KEY), key)?;
        }
        Ok(place)
    }
}

/// A hash of content.
pub(crate) fn hash(content: &(impl ToString + ?Sized)) -> String {
    ContentHash::of(content.to_string().as_bytes()).to_string()
}

/// Writes a note atomically, with a checksum.
pub(crate) fn write_json(path: &Path, note: &impl Serialize) -> Result<(), PipelineError> {
    let json = serde_json::to_string_pretty(note).map_err(|e| PipelineError::json(path, e))?;
    Ok(write_atomic(path, state::seal(&json).as_bytes())?)
}

/// Reads a note that `stage` wrote; `None` if there is none.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path, stage: Stage) -> Result<Option<T>, PipelineError> {
    let damaged = |found: String| PipelineError::Damaged { path: path.into(), stage, found };
    let bytes = match files::read(path, files::DATA_BYTES) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        bytes => bytes.map_err(|e| PipelineError::io(path, e))?,
    };
    let json = state::unseal(&bytes).map_err(|error| damaged(error.to_string()))?;
    serde_json::from_slice(json).map(Some).map_err(|error| damaged(error.to_string()))
}

/// Checks that a directory holds these files and no others.
///
/// # Errors
/// [`PipelineError::Damaged`] with the first file that differs.
pub(crate) fn check_files(directory: &Path, written: &Hashes, stage: Stage) -> Result<(), PipelineError> {
    let found = hashes(directory)?;
    for name in written.keys().chain(found.keys()) {
        let found = match (written.get(name), found.get(name)) {
            (Some(written), Some(found)) if written == found => continue,
            (Some(_), Some(_)) => "its checksum does not match",
            (Some(_), None) => "it is missing",
            (None, _) => "no such file was written",
        };
        return Err(PipelineError::Damaged { path: directory.join(name), stage, found: found.into() });
    }
    Ok(())
}

/// Hashes of all files below a directory, except its manifest and key.
pub(crate) fn hashes(directory: &Path) -> Result<Hashes, PipelineError> {
    let mut open = vec![directory.to_path_buf()];
    let mut found = Vec::new();
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(&next).map_err(|e| PipelineError::io(&next, e))? {
            let entry = entry.map_err(|e| PipelineError::io(&next, e))?;
            match entry.file_type().map_err(|e| PipelineError::io(&next, e))?.is_dir() {
                true => open.push(entry.path()),
                false => found.push(entry.path()),
            }
        }
    }
    let own = [MANIFEST, KEY].map(|name| directory.join(name));
    let hash = |path: &PathBuf| {
        let name = path.strip_prefix(directory).unwrap_or(path).to_string_lossy().into_owned();
        let hash = state::hash_file(path).map_err(|e| PipelineError::io(path, e))?;
        Ok((name, hash.to_string()))
    };
    found.par_iter().filter(|path| !own.contains(path)).map(hash).collect()
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

/// The peak memory of this process, in bytes.
fn peak_memory() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}
