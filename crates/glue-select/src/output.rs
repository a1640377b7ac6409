//! The result on disk: a directory that appears once it is complete.

use crate::context::SearchContext;
use crate::convergence::{csv, steps, svg};
use crate::model_set::ModelSet;
use crate::report::report;
use crate::search::{Options, Timings};
use crate::summary::Summary;
use glue_progress::{ErrorChain, NoProgress};
use glue_recipe::{PlanOptions, Recipe, RunOptions};
use glue_tensor::{FileChanged, Staging, WriteError};
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
    /// The journal cannot be copied.
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

/// Writes all files, then makes the directory appear.
pub(crate) fn write(
    summary: &Summary,
    timings: &Timings,
    (search, models): (&SearchContext<'_>, &ModelSet),
    options: &Options<'_>,
    journal: &Path,
) -> Result<(), OutputError> {
    let staging = Staging::create(options.out)?;
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
