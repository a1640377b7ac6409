//! Results in files, in the layout of lm-evaluation-harness.

use super::{Args, Limit, Scored, refusal};
use crate::failure::Failure;
use glue_eval::results_layout::{RunDetails, results, samples, sanitized};
use glue_eval::{EvalOptions, TaskSet};
use glue_lm::{ClockError, DateTime};
use glue_tensor::OutputFile;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The directory of each model below `--output-path`, made before the work; none without that option.
pub(super) fn directories(args: &Args) -> Result<Vec<PathBuf>, Failure> {
    let Some(output) = &args.output_path else { return Ok(Vec::new()) };
    let mut directories: Vec<PathBuf> = Vec::new();
    for model in &args.models {
        let directory = output.join(sanitized(&model.display().to_string()));
        if directories.contains(&directory) {
            return Err(refusal(format!("two models would write to {}", directory.display())));
        }
        std::fs::create_dir_all(&directory).map_err(|error| Failure::failed(of_file(&directory, error)))?;
        directories.push(directory);
    }
    Ok(directories)
}

fn of_file(path: &Path, error: std::io::Error) -> std::io::Error {
    std::io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Writes `results_DATE.json` and `samples_TASK_DATE.jsonl`.
pub(super) fn write(
    directory: &Path,
    args: &Args,
    scored: &Scored,
    set: &TaskSet,
    options: &EvalOptions,
    model: &Path,
) -> Result<(), Failure> {
    let since = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let details = RunDetails {
        model_path: model.display().to_string(),
        limit: args.limit.map(|limit| match limit {
            Limit::Items(items) => items.into(),
            Limit::Fraction(fraction) => fraction,
        }),
        seed: options.seed,
        chat_template: options.apply_chat_template,
        fewshot_as_multiturn: options.fewshot_as_multiturn,
        system_instruction: options.system_instruction.clone(),
        gen_kwargs: options.gen_kwargs.clone(),
        start: since(scored.start).as_secs_f64(),
        seconds: scored.time.as_secs_f64(),
    };
    let date = date(since(SystemTime::now())).map_err(Failure::failed)?;
    let write = |name: String, text: String| {
        let file = OutputFile::create(directory.join(name)).map_err(Failure::failed)?;
        file.write_with(|out| out.write_all(text.as_bytes())).map_err(Failure::failed)
    };
    for task in &set.tasks {
        let lines = samples(task, &scored.report.samples).map_err(Failure::failed)?;
        let text: String = lines.into_iter().map(|line| line + "\n").collect();
        write(format!("samples_{}_{date}.jsonl", sanitized(task.name())), text)?;
    }
    // Last: whoever finds results finds the samples too.
    let document = results(&scored.report, &set.tasks, &set.groups, &details);
    let text = serde_json::to_string_pretty(&document).map_err(Failure::failed)?;
    write(format!("results_{date}.json"), text + "\n")
}

/// A moment since 1970 as `2026-01-31T09-05-07.000123`, in UTC: that of the harness, without colons.
fn date(since: Duration) -> Result<String, ClockError> {
    let seconds = DateTime::from_unix(since.as_secs())?.format("%Y-%m-%dT%H-%M-%S")?;
    Ok(format!("{seconds}.{:06}", since.subsec_micros()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        // date -u -d @SECONDS
        for (seconds, expected) in [
            (0, "1970-01-01T00-00-00.000000"),
            (951_782_399, "2000-02-28T23-59-59.000000"),
            (951_868_799, "2000-02-29T23-59-59.000000"),
            (1_798_761_600, "2027-01-01T00-00-00.000000"),
            (4_107_542_400, "2100-03-01T00-00-00.000000"),
        ] {
            assert_eq!(date(Duration::from_secs(seconds)).unwrap(), expected);
        }
    }
}
