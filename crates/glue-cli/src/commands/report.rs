//! `glue report`: the report of a run, rendered again; two runs, compared.

use crate::failure::{Failure, of_file};
use crate::shell::Shell;
use crate::table::{Align, Table};
use crate::units;
use crate::visible::one_line;
use glue_report::{Cost, Line, Report, Side, compare, size_table};
use glue_tensor::{files, write_atomic};
use serde_json::{Value, json};
use std::io;
use std::path::{Path, PathBuf};

/// Render the report of a run again, or compare two runs
///
/// With one output directory of glue run, this writes its report.html and report.md from the report.json and cost.json
/// in it. With two, it writes comparison.html and comparison.md: sizes, test scores, decisions that differ, cost, and
/// changes of the config.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  glue report result
  glue report first second --out compared")]
pub(crate) struct Args {
    /// Output directory of glue run; two to compare them
    #[arg(required = true, num_args = 1..=2, value_name = "DIR")]
    runs: Vec<PathBuf>,

    /// Directory to write into (default: that of the run; the working directory for a comparison)
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Renders one run, or compares two.
pub(crate) fn run(args: &Args, shell: &mut Shell<'_>) -> Result<(), Failure> {
    match args.runs.as_slice() {
        [first, second] => both(first, second, args.out.as_deref().unwrap_or(Path::new(".")), shell),
        runs => runs.iter().try_for_each(|run| again(run, args.out.as_deref().unwrap_or(run), shell)),
    }
}

/// The data of a run.
struct Data {
    name: String,
    report: Report,
    cost: Option<Cost>,
}

impl Data {
    fn read(run: &Path) -> Result<Data, Failure> {
        let path = run.join("report.json");
        let text = files::read_named(&path, files::DATA_BYTES).map_err(|error| {
            let hint = "DIR is an output directory of glue run, which has a report.json";
            Failure::refused(of_file(&path, error)).hint(Some(hint))
        })?;
        let report = glue_report::from_json(&text).map_err(|error| damaged(&path, error))?;
        let path = run.join("cost.json");
        let cost = match files::read_named(&path, files::DATA_BYTES) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            text => {
                let text = text.map_err(|error| Failure::failed(of_file(&path, error)))?;
                Some(serde_json::from_str(&text).map_err(|error| damaged(&path, error))?)
            }
        };
        Ok(Data { name: run.display().to_string(), report, cost })
    }

    fn side(&self) -> Side<'_> {
        Side { name: &self.name, report: &self.report, cost: self.cost.as_ref() }
    }
}

fn damaged(path: &Path, error: impl std::error::Error + Send + Sync + 'static) -> Failure {
    Failure::failed(error).context(path.display().to_string())
}

/// Writes a file into `out`.
fn write(out: &Path, name: &str, text: &str) -> Result<PathBuf, Failure> {
    let path = out.join(name);
    write_atomic(&path, text.as_bytes()).map_err(Failure::failed)?;
    Ok(path)
}

fn again(run: &Path, out: &Path, shell: &mut Shell<'_>) -> Result<(), Failure> {
    let Data { report, cost, .. } = Data::read(run)?;
    let at = |error| damaged(&run.join("report.json"), error);
    let html = glue_report::html(&report, cost.as_ref()).map_err(at)?;
    write(out, "report.md", &glue_report::markdown(&report, cost.as_ref()).map_err(at)?)?;
    let html = write(out, "report.html", &html)?;
    print(&report, cost.as_ref(), run, &html, shell)
}

fn both(first: &Path, second: &Path, out: &Path, shell: &mut Shell<'_>) -> Result<(), Failure> {
    let (first, second) = (Data::read(first)?, Data::read(second)?);
    let found = compare(first.side(), second.side()).map_err(Failure::failed)?;
    write(out, "comparison.md", &found.markdown())?;
    let html = write(out, "comparison.html", &found.html().map_err(Failure::failed)?)?;
    if shell.json() {
        let lines: Vec<Value> =
            found.lines().iter().map(|line| json!({ "label": line.label, "text": line.text })).collect();
        return shell.print_json(&json!({ "lines": lines, "warnings": found.warnings(), "html": html }));
    }
    let mut text = lines(found.lines());
    for warning in found.warnings() {
        text += &line("Warning", warning);
    }
    text += &line("Page", &html.display().to_string());
    shell.print(&text)
}

/// Lines with their labels.
fn lines(lines: &[Line]) -> String {
    lines.iter().map(|fact| line(fact.label, &fact.text)).collect()
}

/// A line with its label.
fn line(label: &str, text: &str) -> String {
    format!("{label:<9} {}\n", one_line(text))
}

/// Prints the summary of the run in `run`: its first lines, the table of sizes, and where models and page are. With
/// `--json`, the contents of report.json.
pub(super) fn print(
    report: &Report,
    cost: Option<&Cost>,
    run: &Path,
    html: &Path,
    shell: &mut Shell<'_>,
) -> Result<(), Failure> {
    if shell.json() {
        let text = glue_report::json(report).map_err(Failure::failed)?;
        let value: Value = serde_json::from_str(&text).map_err(Failure::failed)?;
        return shell.print_json(&value);
    }
    let mut text = lines(&glue_report::lines(report));
    let sizes = size_table(report, cost);
    if !sizes.rows.is_empty() {
        let align = |number: bool| if number { Align::Right } else { Align::Left };
        let columns: Vec<(String, Align)> =
            sizes.columns.iter().map(|(name, number)| (name.to_uppercase(), align(*number))).collect();
        let columns: Vec<(&str, Align)> = columns.iter().map(|(name, align)| (name.as_str(), *align)).collect();
        let mut table = Table::with_header(&columns);
        sizes.rows.into_iter().for_each(|row| table.row(row));
        text += &format!("\n{}\n", table.render(|line| shell.heading(line)));
    }
    for row in &report.sizes {
        if let Some(path) = row.path.as_ref().map(|path| run.join(path)).filter(|path| path.is_dir()) {
            text += &line(if row.last { "Final" } else { "Model" }, &format!("{} ({})", path.display(), row.what));
        }
    }
    let time = cost.map_or(String::new(), |cost| format!(" ({})", units::duration(cost.seconds())));
    text += &line("Report", &format!("{}{time}", html.display()));
    shell.print(&text)
}
