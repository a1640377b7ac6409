//! Stages: each runs once, appears when it is complete, and is reused as long as nothing that it depends on has
//! changed.
//!
//! A stage has a directory in `stages/`. While it runs, the directory is called `NAME.work`, from which a long stage
//! can resume after it was killed; once everything is on disk it is renamed. The key of a stage holds what it depends
//! on: [`SCORING_REVISION`], its part of the config, its inputs, and key and result of the stage before.
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
pub(crate) const SCORING_REVISION: u64 = 2;

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
mod tests {
    //! Three stages, the second of which is a search with a journal.
    use super::*;
    use std::process::Command;
    use std::sync::Mutex;

    /// A config of the three stages.
    #[derive(Clone, Copy)]
    struct Config {
        model: &'static str,
        racing: bool,
        budget: Option<u64>,
        seed: u64,
    }

    const CONFIG: Config = Config { model: "m1", racing: true, budget: Some(3), seed: 7 };

    /// What was announced, one line each.
    #[derive(Default)]
    struct Announced(Mutex<Vec<String>>);

    impl glue_progress::Progress for Announced {}

    impl StageProgress for Announced {
        fn stage(&self, stage: Stage, reused: bool) {
            self.0.lock().unwrap().push(format!("{} {}", stage.name(), if reused { "reused" } else { "runs" }));
        }

        fn moved_aside(&self, moved: &MovedStage) {
            let name = moved.to.file_name().unwrap().to_string_lossy().into_owned();
            let finished = if moved.seconds.is_some() { "finished" } else { "interrupted" };
            self.0.lock().unwrap().push(format!("{finished} {name}: {}", moved.changed.join(", ")));
        }
    }

    /// Runs the stages, and returns what was announced and the number of evaluations that were made.
    fn run(out: &Path, config: Config, from: Option<Stage>, stop: bool) -> Result<(Vec<String>, u64), PipelineError> {
        let zoo = Zoo { models: Vec::new() };
        let announced = Announced::default();
        fs::create_dir_all(out.join("stages")).unwrap();
        let mut stages = Stages::new(out, json!({ "models": { "a": config.model } }), from, None, &zoo);
        let own = json!(null);
        stages.run(Stage::Baselines, own, None, &announced, |_| Ok(config.model.len()))?.unwrap();
        let own = json!({ "select": { "racing": config.racing, "space": [1, 2] } });
        let mut evaluations = 0;
        let budget = StageBudget { evaluations: config.budget, ..StageBudget::default() };
        let found = stages.run(Stage::Select, own, budget, &announced, |place| {
            let journal = place.join("journal");
            let mut lines = fs::read_to_string(&journal).unwrap_or_default();
            while (lines.len() as u64) < config.budget.unwrap_or(9).min(9) {
                lines.push('.');
                write_atomic(&journal, lines.as_bytes())?;
                evaluations += 1;
                if stop {
                    return Err(PipelineError::Stopped);
                }
            }
            Ok(lines)
        })?;
        let found = found.unwrap().result;
        let own = json!(config.seed);
        let last = stages.run(Stage::Test, own, None, &announced, |place| {
            write_atomic(place.join("scores"), found.as_bytes())?;
            Ok(found.clone())
        })?;
        assert_eq!(last.unwrap().result, found);
        Ok((announced.0.into_inner().unwrap(), evaluations))
    }

    fn check(out: &Path, config: Config, from: Option<Stage>, announced: &[&str], evaluations: u64) {
        let found = run(out, config, from, false).unwrap();
        assert_eq!(found, (announced.iter().map(|line| line.to_string()).collect(), evaluations));
    }

    #[test]
    fn what_no_longer_fits_is_moved_aside_and_announced() {
        let directory = tempfile::tempdir().unwrap();
        let out = directory.path();
        check(out, CONFIG, None, &["baselines runs", "select runs", "test runs"], 3);
        check(out, CONFIG, None, &["baselines reused", "select reused", "test reused"], 0);
        // The last stage alone.
        let seed = Config { seed: 8, ..CONFIG };
        let moved = "finished 08-test-1: config (was 7, is 8)";
        check(out, seed, None, &["baselines reused", "select reused", moved, "test runs"], 0);
        let moved = "finished 08-test-2: ";
        check(out, seed, Some(Stage::Test), &["baselines reused", "select reused", moved, "test runs"], 0);
        // A part of the config in the middle; the last stage depends on it.
        let racing = Config { racing: false, ..seed };
        let moved = "finished 05-select-1: select.racing (was true, is false)";
        let moved_later = "finished 08-test-3: stage select";
        let all = ["baselines reused", moved, "select runs", moved_later, "test runs"];
        check(out, racing, None, &all, 3);
        // A model.
        let model = Config { model: "other", ..racing };
        let announced = run(out, model, None, false).unwrap().0;
        assert_eq!(announced[0], "finished 04-baselines-1: models.a (was `m1`, is `other`)");
        assert_eq!(announced[2], "finished 05-select-2: stage baselines");
        assert!(out.join("stages/old/05-select-1/journal").is_file());
        // An interrupted stage continues, unless it is another one.
        assert!(matches!(run(out, CONFIG, Some(Stage::Select), true), Err(PipelineError::Stopped)));
        let announced = run(out, racing, None, false).unwrap().0;
        assert_eq!(announced[1], "interrupted 05-select-4: select.racing (was true, is false)");
    }

    #[test]
    fn a_larger_budget_continues_the_finished_stage() {
        let directory = tempfile::tempdir().unwrap();
        let out = directory.path();
        run(out, CONFIG, None, false).unwrap();
        let moved = "finished 08-test-1: stage select";
        let with = |budget| Config { budget, ..CONFIG };
        check(out, with(Some(5)), None, &["baselines reused", "select runs", moved, "test runs"], 2);
        // A smaller one changes nothing.
        check(out, with(Some(4)), None, &["baselines reused", "select reused", "test reused"], 0);
        // Interrupted.
        assert!(matches!(run(out, with(Some(8)), None, true), Err(PipelineError::Stopped)));
        let moved = "finished 08-test-2: stage select";
        let all = ["baselines reused", "select runs", moved, "test runs"];
        check(out, with(Some(8)), None, &all, 2);
        let moved = "finished 08-test-3: stage select";
        check(out, with(None), None, &["baselines reused", "select runs", moved, "test runs"], 1);
        check(out, with(Some(99)), None, &["baselines reused", "select reused", "test reused"], 0);
    }

    #[test]
    fn any_limit_that_was_raised_counts() {
        let budget = |evaluations, seconds, all_seconds| StageBudget { evaluations, seconds, all_seconds };
        let before = budget(Some(10), Some(60.0), None);
        for (now, more) in [
            (before, false),
            (budget(Some(11), Some(60.0), None), true),
            (budget(Some(10), Some(61.0), None), true),
            (budget(Some(10), None, None), true),
            (budget(Some(9), Some(60.0), Some(30.0)), false),
        ] {
            assert_eq!(now.exceeds(&before), more, "{now:?}");
        }
        let all = budget(None, None, Some(30.0));
        assert!(budget(None, None, Some(31.0)).exceeds(&all) && StageBudget::default().exceeds(&all));
        assert!(!all.exceeds(&StageBudget::default()));
    }

    /// Names of all files and their contents, without those that hold times and what a kill in a write leaves.
    fn listing(out: &Path) -> Vec<(String, Vec<u8>)> {
        let names: Vec<String> = hashes(out).unwrap().into_keys().filter(|name| !name.ends_with(".partial")).collect();
        let content = |name: &String| match name.rsplit('/').next() {
            Some(COST | MANIFEST) => Vec::new(),
            _ => fs::read(out.join(name)).unwrap(),
        };
        names.iter().map(|name| (name.clone(), content(name))).collect()
    }

    fn copy(from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for name in hashes(from).unwrap().keys() {
            fs::create_dir_all(to.join(name).parent().unwrap()).unwrap();
            fs::copy(from.join(name), to.join(name)).unwrap();
        }
    }

    const CHILD: &str = "GLUE_TEST_STAGES";

    /// The changes of a config that the next test makes, one after another.
    const STEPS: [Config; 3] =
        [CONFIG, Config { budget: Some(5), ..CONFIG }, Config { budget: Some(5), racing: false, ..CONFIG }];

    #[test]
    #[cfg_attr(not(debug_assertions), ignore = "points to abort at need debug assertions")]
    fn killed_at_any_step_it_ends_the_same() {
        if let Ok(task) = std::env::var(CHILD) {
            let (step, out) = task.split_once(' ').unwrap();
            run(Path::new(out), STEPS[step.parse::<usize>().unwrap()], None, false).unwrap();
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let start = |out: &Path, step: usize, abort: Option<usize>| {
            let mut child = Command::new(std::env::current_exe().unwrap());
            child.args(["stage::tests::killed_at_any_step_it_ends_the_same", "--exact"]);
            child.env(CHILD, format!("{step} {}", out.display()));
            if let Some(abort) = abort {
                child.env("GLUE_ABORT_AT", abort.to_string());
            }
            child.output().unwrap().status.success()
        };
        let mut before = directory.path().join("before");
        fs::create_dir_all(&before).unwrap();
        for step in 0..STEPS.len() {
            let whole = directory.path().join(format!("whole-{step}"));
            copy(&before, &whole);
            assert!(start(&whole, step, None));
            let expected = listing(&whole);
            let mut kills = 0;
            loop {
                let out = directory.path().join(format!("out-{step}-{kills}"));
                copy(&before, &out);
                if start(&out, step, Some(kills + 1)) {
                    break;
                }
                kills += 1;
                assert!(start(&out, step, None), "step {step}, killed at point {kills}");
                let found = listing(&out);
                assert!(found == expected, "step {step}, killed at point {kills}: {:?}", found.iter().map(|f| &f.0));
            }
            assert!(kills > 20, "{kills} points");
            before = whole;
        }
    }
}
