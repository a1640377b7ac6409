//! Writes the report of an invented run: `cargo run -p glue-report --example sample -- DIR`. DIR is `target/report` by
//! default.

mod figures;
mod zoo;

use std::error::Error;
use std::fs;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn Error>> {
    let dir = std::env::args_os().nth(1).map_or(PathBuf::from("target/report"), PathBuf::from);
    let (report, cost) = zoo::sample();
    fs::create_dir_all(&dir)?;
    fs::write(dir.join("report.html"), glue_report::html(&report, Some(&cost))?)?;
    fs::write(dir.join("report.md"), glue_report::markdown(&report, Some(&cost))?)?;
    fs::write(dir.join("report.json"), glue_report::json(&report)?)?;
    fs::write(dir.join("cost.json"), glue_report::cost_json(&cost)?)?;
    println!("{}", dir.join("report.html").display());
    Ok(())
}
