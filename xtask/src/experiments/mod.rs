//! `cargo xtask experiments`: questions that the published work leaves open, answered with the binary on the shipped zoo.
//!
//! Each experiment is a file with a function that gives a section of `docs/experiments.md`. Searches see the proxy split
//! alone; the test split is looked at here, at the end of each experiment, through `glue eval`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::bench::machine;
use crate::repo::Repo;
use crate::shell;

mod mixture;
mod optimisers;
mod strategies;
mod threshold;

/// Options of `cargo xtask experiments`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Run only these, and print their sections instead of writing the document: threshold, strategies, optimisers, mixture.
    only: Vec<String>,
    /// Threads of each run.
    #[arg(long, default_value_t = 2)]
    threads: u16,
    /// Run this binary instead of building one for release.
    #[arg(long, value_name = "FILE")]
    glue: Option<PathBuf>,
}

/// An experiment: its name, and what gives its section in Markdown.
type Experiment = (&'static str, fn(&Lab) -> Result<String>);

/// In the order of the document.
const ALL: &[Experiment] = &[
    ("threshold", threshold::run),
    ("strategies", strategies::run),
    ("optimisers", optimisers::run),
    ("mixture", mixture::run),
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
            glue: args.glue.clone().unwrap_or_else(|| repo.glue("release")),
            zoo: repo.path("tests/data/zoo"),
            images: repo.path("docs/images"),
            scratch: tempfile::tempdir()?,
            threads: args.threads.to_string(),
        })
    }

    /// Runs `glue` in the zoo's directory and reads the document that it prints.
    pub(crate) fn glue(&self, args: &[&str]) -> Result<Value> {
        let mut command = Command::new(&self.glue);
        command.args(args).args(["--json", "--quiet", "--threads", &self.threads]).current_dir(&self.zoo);
        let text = shell::read(&mut command)?;
        serde_json::from_str(&text).with_context(|| format!("output of `{}`", shell::shown(&command)))
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
        let report = self.glue(&["eval", text(model)?, "--tasks", "tasks", "--split", "test"])?;
        report["average"].as_f64().context("no average")
    }

    /// The test average of what a recipe makes.
    pub(crate) fn test_recipe(&self, name: &str, recipe: &str) -> Result<f64> {
        let (path, out) =
            (self.scratch.path().join(format!("{name}.yml")), self.scratch.path().join(format!("{name}-m")));
        fs::write(&path, recipe)?;
        self.glue(&["merge", text(&path)?, text(&out)?])?;
        self.test(&out)
    }

    /// Puts the convergence of a search among the pictures of the docs.
    pub(crate) fn keep_picture(&self, search: &Search, name: &str) -> Result<String> {
        fs::create_dir_all(&self.images)?;
        let file = format!("{name}.svg");
        fs::copy(search.out.join("convergence.svg"), self.images.join(&file))?;
        Ok(format!("![{name}](images/{file})"))
    }
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is not UTF-8")
}

/// A number of a document with four digits, or a dash.
pub(crate) fn figure(value: &Value) -> String {
    value.as_f64().map_or("–".into(), |x| format!("{x:.4}"))
}

/// Runs the experiments and writes the document.
///
/// # Errors
/// Something does not build or run.
pub(crate) fn run(args: &Args) -> Result<()> {
    if let Some(unknown) = args.only.iter().find(|name| ALL.iter().all(|(known, _)| known != name)) {
        bail!("no experiment is called {unknown}");
    }
    let repo = Repo::find()?;
    if args.glue.is_none() {
        shell::run(shell::cargo().args(["build", "--release", "--workspace", "--bin", "glue"]))?;
    }
    let lab = Lab::new(args, &repo)?;
    let mut sections = Vec::new();
    for (name, experiment) in ALL {
        if args.only.is_empty() || args.only.iter().any(|only| only == name) {
            sections.push(experiment(&lab).with_context(|| format!("experiment {name}"))?);
        }
    }
    let body = sections.join("\n");
    if !args.only.is_empty() {
        println!("{body}");
        return Ok(());
    }
    let head = format!(
        "# Experiments\n\nWritten by `cargo xtask experiments` on {}, {} threads for each run, over the small zoo in \
         `tests/data/zoo`. Searches see the proxy split alone; test scores are taken once, at the end. The standard error of a \
         test average is about 0.01, so that differences below 0.02 mean little. The zoo was made so that merging helps: what \
         is best here need not be best elsewhere.\n",
        machine(),
        lab.threads
    );
    fs::write(repo.path("docs/experiments.md"), format!("{head}\n{body}"))?;
    Ok(())
}
