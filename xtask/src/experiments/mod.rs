//! `cargo xtask experiments`: questions that the published work leaves open, answered with the
//! binary on the shipped zoo.
//!
//! Each experiment is a file with a function that gives a section of `docs/experiments.md`. Searches see the proxy
//! split alone; the test split is looked at here, at the end of each experiment, through `glue eval`. What the figures
//! say is written by a person, in `docs/findings.md`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Error, Result, bail};
use serde_json::Value;

use crate::bench::machine;
use crate::repo::Repo;
use crate::shell;

mod items;
mod mixture;
mod operators;
mod optimisers;
mod plot;
mod stacking;
mod strategies;
mod threshold;

/// Options of `cargo xtask experiments`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Run only these and keep the other sections: threshold, strategies, items, optimisers, operators, stacking,
    /// mixture.
    only: Vec<String>,
    /// Threads per run.
    #[arg(long, default_value_t = 2)]
    threads: u16,
    /// Run this binary instead of building one.
    #[arg(long, value_name = "FILE")]
    glue: Option<PathBuf>,
}

/// A question, and what answers it.
struct Experiment {
    /// What it is called on the command line.
    name: &'static str,
    /// The heading of its section, which begins with it.
    heading: &'static str,
    /// Gives the section in Markdown.
    run: fn(&Lab) -> Result<String>,
}

/// In the order of the document.
const ALL: &[Experiment] = &[
    Experiment { name: "threshold", heading: "Threshold", run: threshold::run },
    Experiment { name: "strategies", heading: "Strategies", run: strategies::run },
    Experiment { name: "items", heading: "Items", run: items::run },
    Experiment { name: "optimisers", heading: "Optimisers and spaces", run: optimisers::run },
    Experiment { name: "operators", heading: "Operators", run: operators::run },
    Experiment { name: "stacking", heading: "Stacking", run: stacking::run },
    Experiment { name: "mixture", heading: "Mixtures", run: mixture::run },
];

/// What an experiment works with.
pub(crate) struct Lab {
    glue: PathBuf,
    zoo: PathBuf,
    /// Where pictures go.
    images: PathBuf,
    scratch: tempfile::TempDir,
    threads: String,
}

/// What came of a search.
pub(crate) struct Search {
    /// What `glue search --json` printed.
    pub(crate) document: Value,
    /// Wall time of the whole command.
    pub(crate) seconds: f64,
    /// The directory of the result.
    pub(crate) out: PathBuf,
}

impl Lab {
    fn new(args: &Args, repo: &Repo) -> Result<Self> {
        Ok(Self {
            glue: std::path::absolute(args.glue.clone().unwrap_or_else(|| repo.glue("release")))?,
            zoo: repo.path("tests/data/zoo"),
            images: repo.path("docs/images"),
            scratch: tempfile::tempdir()?,
            threads: args.threads.to_string(),
        })
    }

    /// Runs `glue` in the zoo's directory and reads the document that it prints.
    pub(crate) fn glue(&self, args: &[&str]) -> Result<Value> {
        let text = shell::read(&mut self.command(args))?;
        serde_json::from_str(&text).with_context(|| format!("output of `glue {}`", args.join(" ")))
    }

    /// The same, where being refused is an answer as well: the first line of the error.
    pub(crate) fn try_glue(&self, args: &[&str]) -> Result<Result<Value, String>> {
        let output = self.command(args).output().context("cannot start glue")?;
        if !output.status.success() {
            let words = String::from_utf8_lossy(&output.stderr);
            let first = words.lines().next().unwrap_or("it failed without a word");
            return Ok(Err(first.trim_start_matches("error: ").to_owned()));
        }
        Ok(Ok(serde_json::from_slice(&output.stdout).with_context(|| format!("output of `glue {}`", args.join(" ")))?))
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.glue);
        command.args(args).args(["--json", "--quiet", "--threads", &self.threads]).current_dir(&self.zoo);
        command
    }

    /// A search with this config.
    pub(crate) fn search(&self, name: &str, config: &str) -> Result<Search> {
        let (path, out) = (self.scratch.path().join(format!("{name}.yml")), self.scratch.path().join(name));
        fs::write(&path, config)?;
        let start = Instant::now();
        let document = self.glue(&["search", text(&path)?, "--out", text(&out)?])?;
        Ok(Search { document, seconds: start.elapsed().as_secs_f64(), out })
    }

    /// The average of a model over the tasks of the test split.
    pub(crate) fn test(&self, model: &Path) -> Result<f64> {
        Ok(self.scores(model, "test")?.average)
    }

    /// The scores of a model on a split.
    pub(crate) fn scores(&self, model: &Path, split: &str) -> Result<Scores> {
        let report = self.glue(&["eval", text(model)?, "--tasks", "tasks", "--split", split])?;
        let score = |task: &Value| task[task["metric"].as_str()?].as_f64();
        let tasks = report["tasks"].as_object().context("no tasks")?.iter();
        Ok(Scores {
            average: report["average"].as_f64().context("no average")?,
            tasks: tasks
                .map(|(name, task)| Ok((name.clone(), score(task).with_context(|| format!("no score of {name}"))?)))
                .collect::<Result<_>>()?,
        })
    }

    /// The test average of what a recipe makes.
    pub(crate) fn test_recipe(&self, name: &str, recipe: &str) -> Result<f64> {
        let out = self.merge(name, recipe)?.map_err(Error::msg)?;
        self.test(&out)
    }

    /// The directory of what a recipe makes, or why it is refused.
    pub(crate) fn merge(&self, name: &str, recipe: &str) -> Result<Result<PathBuf, String>> {
        let (path, out) =
            (self.scratch.path().join(format!("{name}.yml")), self.scratch.path().join(format!("{name}-m")));
        fs::write(&path, recipe)?;
        Ok(self.try_glue(&["merge", text(&path)?, text(&out)?])?.map(|_| out))
    }

    /// Puts the convergence of a search among the pictures of the docs.
    pub(crate) fn keep_picture(&self, search: &Search, name: &str) -> Result<String> {
        self.picture(name, &fs::read_to_string(search.out.join("convergence.svg"))?)
    }

    /// Puts a picture in SVG among those of the docs, and gives what shows it.
    pub(crate) fn picture(&self, name: &str, svg: &str) -> Result<String> {
        fs::create_dir_all(&self.images)?;
        let file = format!("{name}.svg");
        fs::write(self.images.join(&file), svg)?;
        Ok(format!("![{name}](images/{file})"))
    }
}

/// The four useful fine-tunes of the zoo's first family, whose base is `base-a`.
pub(crate) const USEFUL: [&str; 4] = ["a-chat", "a-math", "a-code", "a-reason"];

/// What a model is worth.
#[derive(Debug, Clone)]
pub(crate) struct Scores {
    /// The mean over the tasks.
    pub(crate) average: f64,
    /// Each task with its main metric.
    pub(crate) tasks: Vec<(String, f64)>,
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is not UTF-8")
}

/// A number of a document with four digits, or a dash.
pub(crate) fn figure(value: &Value) -> String {
    value.as_f64().map_or("–".into(), |x| format!("{x:.4}"))
}

/// Runs the experiments and writes their sections of the document, each as soon as it is there.
///
/// # Errors
/// Something does not build or run.
pub(crate) fn run(args: &Args) -> Result<()> {
    if let Some(unknown) = args.only.iter().find(|name| ALL.iter().all(|known| known.name != **name)) {
        let known: Vec<&str> = ALL.iter().map(|experiment| experiment.name).collect();
        bail!("no experiment is called {unknown}; there are {}", known.join(", "));
    }
    let repo = Repo::find()?;
    if args.glue.is_none() {
        shell::run(shell::cargo().args(["build", "--release", "--workspace", "--bin", "glue"]))?;
    }
    let lab = Lab::new(args, &repo)?;
    let path = repo.path("docs/experiments.md");
    for Experiment { name, heading, run } in ALL {
        if !args.only.is_empty() && args.only.iter().all(|only| only != name) {
            continue;
        }
        let section = run(&lab).with_context(|| format!("experiment {name}"))?;
        let (section, machine) = (section.trim_end(), machine());
        let section = format!("{section}\n\nRun on {machine}; {} threads for each command.\n", lab.threads);
        let old = fs::read_to_string(&path).unwrap_or_default();
        fs::write(&path, with_section(&old, heading, &section)).context("cannot write docs/experiments.md")?;
        println!("{heading}: docs/experiments.md");
    }
    Ok(())
}

const HEAD: &str = "# Experiments

Written by `cargo xtask experiments`, on the small zoo in `tests/data/zoo`. Searches use the proxy split only; the test split is scored
once, at the end. The standard error of a test average is about 0.01, so differences below 0.02 mean little. The zoo was designed so that
merging helps: the best choice here need not be the best elsewhere. [Findings](findings.md) discusses the figures.
";

/// The document with this section in its place, instead of an older one; sections of no experiment are left out.
fn with_section(document: &str, heading: &str, section: &str) -> String {
    let old = |heading: &str| {
        let start = format!("\n## {heading}\n");
        let rest = &document[document.find(&start)? + 1..];
        Some(rest.find("\n## ").map_or(rest, |end| &rest[..end]).trim_end().to_owned())
    };
    let sections = ALL.iter().filter_map(|experiment| match experiment.heading == heading {
        true => Some(section.trim_end().to_owned()),
        false => old(experiment.heading),
    });
    sections.fold(HEAD.to_owned(), |text, section| format!("{text}\n{section}\n"))
}

#[cfg(test)]
mod tests {
    //! Sections keep their places.
    use super::*;

    #[test]
    fn a_section_replaces_the_one_before() {
        let first = with_section("", "Stacking", "## Stacking\n\nold\n");
        assert_eq!(first, format!("{HEAD}\n## Stacking\n\nold\n"));
        let second = with_section(&first, "Threshold", "## Threshold\n\n### A part\n\ntext");
        let both = format!("{HEAD}\n## Threshold\n\n### A part\n\ntext\n\n## Stacking\n\nold\n");
        assert_eq!(second, both);
        assert_eq!(with_section(&both, "Stacking", "## Stacking\n\nnew"), both.replace("\n\nold", "\n\nnew"));
        assert_eq!(with_section(&format!("{both}\n## Nothing\n\nold\n"), "Stacking", "## Stacking\n\nold"), both);
    }
}
