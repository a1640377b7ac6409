//! Stages: each runs once, appears when it is complete, and is reused as long as nothing that it depends on has
//! changed.
//!
//! A stage has a directory in `stages/`. While it runs, the directory is called `NAME.work`, from which a long stage
//! can resume after it was killed; once everything is on disk it is renamed. The key of a stage holds what it depends
//! on: [`SCORING_REVISION`], that of the runtime, its part of the config, its inputs, and key and result of the stage
//! before.
//!
//! Nothing is deleted. A stage whose key no longer fits, finished or interrupted, is moved aside to `old/NAME-N`, where
//! N counts up from 1, and [`StageProgress::moved_aside`] says what has changed. Later stages follow when they are
//! reached.
//!
//! A budget is not part of a key. A stage that was finished within a smaller budget becomes the stage at work again:
//! it finds its own files, such as the journal of a search, and continues. Later stages follow only if its result is
//! another one.
//!
//! Everything that is read back is checked. Notes have a checksum ([`glue_tensor::state`]), and the manifest of a stage
//! has those of all its files, including weights. A mismatch is refused: `--from STAGE` re-runs the stage.

use crate::error::PipelineError;
use crate::progress::{MovedStage, StageProgress};
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
    /// Which models are merged with which, and which stay apart: the best score for each number of models.
    Frontier,
    /// At which level and depth experts are mixed, with trained routers.
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
        Stage::Frontier,
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
            Stage::Frontier => "frontier",
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
    /// Seconds of the run that finished it, and of those that finished it within smaller budgets.
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

/// Part of the key of every stage. Raise it with each change of the code that gives other results from the same config,
/// models and tasks: a score, a decision, the bits of a merge. A change of speed, texts or options is none.
pub(crate) const SCORING_REVISION: u64 = 3;

/// Where stages are moved to, in `stages/`.
const OLD: &str = "old";
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
    /// The budget within which it was finished.
    budget: StageBudget,
    /// Of all other files of the stage.
    files: Hashes,
}

/// What a stage may spend. `None` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StageBudget {
    /// Evaluations.
    pub(crate) evaluations: Option<u64>,
    /// Seconds of each search.
    pub(crate) seconds: Option<f64>,
    /// Seconds of all searches together.
    pub(crate) all_seconds: Option<f64>,
}

impl StageBudget {
    /// Whether it allows more than the one `before`.
    fn exceeds(&self, before: &StageBudget) -> bool {
        fn more<T: PartialOrd>(now: Option<T>, before: Option<T>) -> bool {
            before.is_some_and(|before| now.is_none_or(|now| now > before))
        }
        more(self.evaluations, before.evaluations)
            || more(self.seconds, before.seconds)
            || more(self.all_seconds, before.all_seconds)
    }
}

/// The stages of one run.
#[derive(Debug)]
pub(crate) struct Stages<'a> {
    root: PathBuf,
    zoo: &'a Zoo,
    until: Stage,
    from: Option<Stage>,
    /// What the next stage depends on, apart from its own: the models, or the stage before.
    depends_on: Value,
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
        Stages { root: out.join("stages"), zoo, until, from, depends_on: identity, costs: Vec::new() }
    }

    /// Time, memory and disk of the stages, in order.
    pub(crate) fn costs(&self) -> &[(Stage, Cost)] {
        &self.costs
    }

    /// The result of `stage`: reused if its key is unchanged, otherwise made by `work`, which gets the directory for
    /// its files. `None` if the run ends before it.
    ///
    /// `own` is what the stage depends on besides the stages before it. `budget` is what `work` may spend. A stage that
    /// was finished within a smaller budget is continued: `work` gets the directory with the files of the finished
    /// stage, as it does after an interruption.
    pub(crate) fn run<T: Serialize + DeserializeOwned>(
        &mut self,
        stage: Stage,
        own: Value,
        budget: StageBudget,
        progress: &dyn StageProgress,
        work: impl FnOnce(&Path) -> Result<T, PipelineError>,
    ) -> Result<Option<Made<T>>, PipelineError> {
        if stage > self.until {
            return Ok(None);
        }
        let key = json!({
            "stage": stage.name(),
            "revision": SCORING_REVISION,
            "runtime": glue_lm::RUNTIME_REVISION,
            "depends_on": self.depends_on,
            "own": own,
        });
        let directory = self.root.join(stage.directory());
        let rerun = self.from.is_some_and(|from| stage >= from);
        let manifest = if rerun { None } else { read_manifest(&directory, stage)? };
        let place = directory.with_extension("work");
        match manifest {
            Some(manifest) if manifest.key == key => {
                if !budget.exceeds(&manifest.budget) {
                    let result = self.found(stage, &directory, &manifest)?;
                    progress.stage(stage, true);
                    return self.made(stage, &key, &result, directory);
                }
                check_files(&directory, &manifest.files, stage)?;
                // Left by another key, if it is there.
                self.move_aside(stage, &place, Vec::new(), progress)?;
                rename(&directory, &place)?;
                abort_point("stage taken up again");
            }
            Some(manifest) => self.move_aside(stage, &directory, changes(&manifest.key, &key), progress)?,
            None => self.move_aside(stage, &directory, Vec::new(), progress)?,
        }
        self.prepare(stage, &place, &key, rerun, progress)?;
        progress.stage(stage, false);
        let start = Instant::now();
        let result = work(&place);
        if let Err(changed) = self.zoo.check_unchanged() {
            // The files may be those of other models.
            self.move_aside(stage, &place, vec![changed.to_string()], progress)?;
            return Err(changed.into());
        }
        let result = result?;
        let path = place.join(RESULT);
        let text = serde_json::to_string_pretty(&result).map_err(|e| PipelineError::json(&path, e))?;
        write_atomic(&path, text.as_bytes())?;
        let earlier = read_json::<Cost>(&place.join(COST), stage)?.map_or(0.0, |cost| cost.seconds);
        let cost = Cost {
            seconds: earlier + start.elapsed().as_secs_f64(),
            peak_memory: peak_memory(),
            disk: disk(&place).map_err(|e| PipelineError::io(&place, e))?,
            found: false,
        };
        write_json(&place.join(COST), &cost)?;
        let manifest = Manifest { key: key.clone(), budget, files: hashes(&place)? };
        write_json(&place.join(MANIFEST), &manifest)?;
        remove_file(&place.join(KEY))?;
        abort_point("stage complete");
        rename(&place, &directory)?;
        abort_point("stage renamed");
        sync(&self.root)?;
        self.costs.push((stage, cost));
        self.made(stage, &key, text.as_bytes(), directory)
    }

    /// The result of `stage` from its text: later stages work with exactly what a later run will read, and depend on
    /// it.
    fn made<T: DeserializeOwned>(
        &mut self,
        stage: Stage,
        key: &Value,
        text: &[u8],
        directory: PathBuf,
    ) -> Result<Option<Made<T>>, PipelineError> {
        let result = serde_json::from_slice(text).map_err(|e| PipelineError::json(&directory.join(RESULT), e))?;
        self.depends_on =
            json!({ "stage": stage.name(), "key": hash(key), "result": ContentHash::of(text).to_string() });
        Ok(Some(Made { result, directory }))
    }

    /// The text of the result of a finished stage, once all its files are checked.
    fn found(&mut self, stage: Stage, directory: &Path, manifest: &Manifest) -> Result<Vec<u8>, PipelineError> {
        check_files(directory, &manifest.files, stage)?;
        let path = directory.join(RESULT);
        let text = files::read(&path, files::DATA_BYTES).map_err(|e| PipelineError::io(&path, e))?;
        if let Some(cost) = read_json::<Cost>(&directory.join(COST), stage)? {
            self.costs.push((stage, Cost { found: true, ..cost }));
        }
        Ok(text)
    }

    /// Makes `place` the directory to work in, with what an interrupted run with this key left there.
    fn prepare(
        &self,
        stage: Stage,
        place: &Path,
        key: &Value,
        rerun: bool,
        progress: &dyn StageProgress,
    ) -> Result<(), PipelineError> {
        if rerun {
            self.move_aside(stage, place, Vec::new(), progress)?;
        } else {
            // The key goes last, when the manifest with it is there.
            let found = match read_json::<Value>(&place.join(KEY), stage)? {
                Some(found) => Some(found),
                None => read_json::<Manifest>(&place.join(MANIFEST), stage)?.map(|manifest| manifest.key),
            };
            match found {
                Some(found) if found == *key => return Ok(()),
                Some(found) => self.move_aside(stage, place, changes(&found, key), progress)?,
                // Killed while it was created: the key is its first file.
                None => remove(place)?,
            }
        }
        fs::create_dir_all(place).map_err(|e| PipelineError::io(place, e))?;
        write_json(&place.join(KEY), key)
    }

    /// Moves a directory of `stage` to `old`, if there is one, and announces it.
    fn move_aside(
        &self,
        stage: Stage,
        directory: &Path,
        changed: Vec<String>,
        progress: &dyn StageProgress,
    ) -> Result<(), PipelineError> {
        if !directory.exists() {
            return Ok(());
        }
        let old = self.root.join(OLD);
        fs::create_dir_all(&old).map_err(|e| PipelineError::io(&old, e))?;
        // It only informs: damage to it must not prevent the move.
        let cost = read_json::<Cost>(&directory.join(COST), stage).ok().flatten();
        let mut n = 1;
        let to = loop {
            let to = old.join(format!("{}-{n}", stage.directory()));
            if !to.exists() {
                break to;
            }
            n += 1;
        };
        rename(directory, &to)?;
        abort_point("stage moved aside");
        sync(&old)?;
        sync(&self.root)?;
        progress.moved_aside(&MovedStage { stage, to, changed, seconds: cost.map(|cost| cost.seconds) });
        Ok(())
    }
}

/// The manifest of a finished stage; `None` if there is no such stage.
fn read_manifest(directory: &Path, stage: Stage) -> Result<Option<Manifest>, PipelineError> {
    let path = directory.join(MANIFEST);
    match read_json(&path, stage)? {
        None if directory.exists() => Err(PipelineError::Damaged { path, stage, found: "it is missing".into() }),
        manifest => Ok(manifest),
    }
}

/// How many changes are named.
const MAX_CHANGES: usize = 5;

/// What differs between two keys, in words: `select.racing (was true, is false)`, `models.a-chat`, `stage baselines`.
fn changes(before: &Value, now: &Value) -> Vec<String> {
    let mut found = Vec::new();
    // Of the stage before there is no more than hashes.
    let earlier = &now["depends_on"]["stage"];
    match (earlier.as_str(), before["depends_on"] == now["depends_on"]) {
        (_, true) => {}
        (Some(earlier), false) => found.push(format!("stage {earlier}")),
        (None, false) => compare("", &before["depends_on"], &now["depends_on"], &mut found),
    }
    compare("scoring revision", &before["revision"], &now["revision"], &mut found);
    compare("", &before["own"], &now["own"], &mut found);
    let more = found.len().saturating_sub(MAX_CHANGES);
    if more > 0 {
        found.truncate(MAX_CHANGES);
        found.push(format!("{more} more"));
    }
    found
}

/// Adds what differs between two values at `path`.
fn compare(path: &str, before: &Value, now: &Value, found: &mut Vec<String>) {
    match (before, now) {
        _ if before == now => {}
        (Value::Object(before), Value::Object(now)) => {
            let new = now.keys().filter(|name| !before.contains_key(*name));
            for name in before.keys().chain(new) {
                let below = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                let of = |map: &serde_json::Map<String, Value>| map.get(name).cloned().unwrap_or_default();
                compare(&below, &of(before), &of(now), found);
            }
        }
        _ => {
            let path = if path.is_empty() { "config" } else { path };
            found.push(match (short(before), short(now)) {
                (Some(before), Some(now)) => format!("{path} (was {before}, is {now})"),
                _ => path.to_string(),
            });
        }
    }
}

/// A value that fits into a sentence.
fn short(value: &Value) -> Option<String> {
    match value {
        Value::Null => Some("unset".into()),
        Value::String(text) => (text.len() <= 24).then(|| format!("`{text}`")),
        Value::Array(_) | Value::Object(_) => None,
        number => Some(number.to_string()),
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

fn rename(from: &Path, to: &Path) -> Result<(), PipelineError> {
    fs::rename(from, to).map_err(|e| PipelineError::io(to, e))
}

fn remove_file(path: &Path) -> Result<(), PipelineError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(PipelineError::io(path, error)),
        _ => Ok(()),
    }
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

#[cfg(test)]
mod tests;
