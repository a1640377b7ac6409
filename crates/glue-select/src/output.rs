//! The result on disk: a directory that appears once it is complete.

use crate::context::SearchContext;
use crate::convergence::{csv, steps, svg};
use crate::evaluation_log::Budget;
use crate::model_set::ModelSet;
use crate::report::report;
use crate::search::{Options, Timings};
use crate::summary::Summary;
use glue_progress::{ErrorChain, NoProgress};
use glue_recipe::{PlanOptions, Recipe, RunOptions};
use glue_tensor::{FileChanged, Staging, WriteError};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// The recipe of the best merge.
pub const RECIPE: &str = "best.yml";
/// The merged model.
pub const MODEL: &str = "best";
/// All trials, and the tables.
pub const SUMMARY: &str = "search.json";
/// How long it took.
pub const TIMINGS: &str = "timings.json";
/// The journal, in the complete directory.
pub const JOURNAL: &str = "journal.jsonl";

/// Why the result cannot be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OutputError {
    /// The directory exists already, or cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A file of the models changed after they were scored.
    #[error(transparent)]
    Changed(#[from] FileChanged),
    /// The best recipe cannot be merged again.
    #[error("the best recipe: {0}")]
    Recipe(String),
    /// The picture cannot be drawn.
    #[error("convergence.svg")]
    Picture(#[from] glue_report::ReportError),
    /// A file of the search cannot be read, copied or moved.
    #[error("{}", path.display())]
    Journal {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: std::io::Error,
    },
}

/// Refuses a directory that is not empty.
pub(crate) fn check_vacant(out: &Path) -> Result<(), OutputError> {
    let taken = match std::fs::read_dir(out) {
        Ok(mut entries) => entries.next().is_some(),
        Err(_) => out.exists(),
    };
    if taken { Err(WriteError::NotEmpty { path: out.into() }.into()) } else { Ok(()) }
}

/// Whether a search into `out` is complete.
pub fn is_complete(out: &Path) -> bool {
    out.join(SUMMARY).is_file()
}

/// Whether the complete search in `out` was ended by a budget, and `budget` allows more.
///
/// # Errors
/// A summary that cannot be read, or is none.
pub fn can_continue(out: &Path, budget: Budget) -> Result<bool, OutputError> {
    #[derive(Deserialize)]
    struct Ended {
        #[serde(default)]
        budget: Option<Budget>,
    }
    let path = out.join(SUMMARY);
    let at = |error| OutputError::Journal { path: path.clone(), error };
    let bytes = glue_tensor::files::read(&path, glue_tensor::files::DATA_BYTES).map_err(at)?;
    let Ended { budget: ended } = serde_json::from_slice(&bytes).map_err(|error| at(error.into()))?;
    let Some(ended) = ended else { return Ok(false) };
    let more = |was: Option<f64>, is: Option<f64>| was.is_some_and(|was| is.is_none_or(|is| is > was));
    let count = |evaluations: Option<u64>| evaluations.map(|evaluations| evaluations as f64);
    Ok(more(count(ended.evaluations), count(budget.evaluations)) || more(ended.seconds, budget.seconds))
}

/// Puts the journal of the complete search in `out` where a search in progress has it, unless a longer one is there: of
/// a search that was killed while it continued.
pub(crate) fn take_back_journal(out: &Path, path: &Path) -> Result<(), OutputError> {
    let kept = out.join(JOURNAL);
    let at = |path: &Path, error| OutputError::Journal { path: path.into(), error };
    let bytes = std::fs::read(&kept).map_err(|error| at(&kept, error))?;
    if std::fs::metadata(path).is_ok_and(|file| file.len() >= bytes.len() as u64) {
        return Ok(());
    }
    glue_tensor::write_atomic(path, &bytes)?;
    glue_tensor::abort_point("journal taken back");
    Ok(())
}

/// Removes the journal beside the complete search in `out` if it holds nothing else: a search that was killed between
/// its last two steps left it.
pub fn remove_spent_journal(out: &Path) {
    let path = crate::search::journal_path(out);
    let length = |path: &Path| std::fs::metadata(path).map_or(0, |file| file.len());
    if length(&path) <= length(&out.join(JOURNAL)) {
        let _ = std::fs::remove_file(&path);
    }
}

/// Where a new result stands until it takes the place of the one before, and the one before until it is removed.
fn neighbours(out: &Path) -> [PathBuf; 2] {
    let name = out.file_name().unwrap_or_default().to_string_lossy().into_owned();
    [".next", ".previous"].map(|suffix| out.with_file_name(format!(".{name}{suffix}")))
}

/// Puts the directory `next` in the place of `out`. A process that is killed here leaves the journal, from which the
/// next one writes the result again.
fn replace(out: &Path, next: &Path, previous: &Path) -> Result<(), OutputError> {
    let rename = |from: &Path, to: &Path| {
        std::fs::rename(from, to).map_err(|error| OutputError::Journal { path: to.into(), error })
    };
    rename(out, previous)?;
    glue_tensor::abort_point("previous result of a search set aside");
    rename(next, out)
}

/// Writes all files, then makes the directory appear.
pub(crate) fn write(
    summary: &Summary,
    timings: &Timings,
    (search, models): (&SearchContext<'_>, &ModelSet),
    options: &Options<'_>,
    journal: &Path,
) -> Result<(), OutputError> {
    let [next, previous] = neighbours(options.out);
    // Left by a search that was killed while it replaced its result.
    for left in [&next, &previous].into_iter().filter(|left| is_complete(left)) {
        std::fs::remove_dir_all(left).map_err(|error| OutputError::Journal { path: left.clone(), error })?;
    }
    let replaces = is_complete(options.out);
    let staging = Staging::create(if replaces { &next } else { options.out })?;
    let recipe = summary.best_row().map(|row| row.row.recipe.clone()).unwrap_or_default();
    merge(&recipe, search, options, &staging.path().join(MODEL))?;
    let steps = steps(summary);
    staging.write_file(RECIPE, recipe.as_bytes())?;
    staging.write_file("convergence.csv", csv(&steps).as_bytes())?;
    staging.write_file("convergence.svg", svg(&steps)?.as_bytes())?;
    staging.write_file("report.md", report(summary).as_bytes())?;
    let json = |value: serde_json::Result<String>| value.unwrap_or_default() + "\n";
    staging.write_file(TIMINGS, json(serde_json::to_string_pretty(timings)).as_bytes())?;
    let lines = std::fs::read(journal).map_err(|error| OutputError::Journal { path: journal.into(), error })?;
    staging.write_file(JOURNAL, &lines)?;
    staging.write_file(SUMMARY, json(serde_json::to_string_pretty(summary)).as_bytes())?;
    // The models that were merged are those that were scored.
    models.check_unchanged()?;
    staging.commit()?;
    if replaces {
        replace(options.out, &next, &previous)?;
        let _ = std::fs::remove_dir_all(&previous);
    }
    Ok(())
}

fn merge(text: &str, search: &SearchContext<'_>, options: &Options<'_>, out: &Path) -> Result<(), OutputError> {
    let refuse = |error: &dyn std::error::Error| OutputError::Recipe(error.chain());
    let recipes = Recipe::parse(text, RECIPE, search.operators).map_err(|error| refuse(&error))?;
    let recipe = recipes.first().ok_or_else(|| OutputError::Recipe("it is empty".into()))?;
    let mut from = PlanOptions::default();
    from.links = options.links;
    let plan = glue_recipe::plan(recipe, &from).map_err(|error| refuse(&error))?;
    let options = RunOptions { executor: options.executor.get(), ..RunOptions::default() };
    glue_recipe::run(&plan, out, &options, &NoProgress).map_err(|error| refuse(&error))
}
