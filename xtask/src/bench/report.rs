//! The figures of `cargo xtask bench merge`, as a table for people and as JSON for programs.

use std::fs;
use std::thread;

use serde_json::{Value, json};

use super::cases::ANONYMOUS_MIB;
use super::measure::{best, median};
use super::merge::Measured;

const MIB: f64 = 1024.0 * 1024.0;

/// What is derived from the rounds of one operator. Rates are in bytes read and written per second.
struct Figures {
    median: f64,
    best: f64,
    rate: f64,
    copy_rate: f64,
    copy_best: f64,
    sync_rate: f64,
    anonymous: f64,
    resident: f64,
    mergekit: Option<f64>,
}

impl Figures {
    fn of(measured: &Measured) -> Self {
        let rounds = &measured.rounds;
        // A merge reads each input at least once and writes its output; a copy reads and writes one checkpoint.
        let merged = (measured.case.checkpoints() as u64 * measured.checkpoint + measured.output) as f64;
        let copied = 2.0 * measured.checkpoint as f64;
        let glue = || rounds.iter().map(|r| r.glue.seconds);
        let other: Vec<f64> = rounds.iter().filter_map(|r| r.mergekit).map(|r| r.seconds).collect();
        let peak = |of: fn(&super::measure::Run) -> u64| rounds.iter().map(|r| of(&r.glue)).max().unwrap_or(0) as f64;
        Self {
            median: median(glue()),
            best: best(glue()),
            rate: merged / median(glue()),
            copy_rate: copied / median(rounds.iter().map(|r| r.copy)),
            copy_best: copied / best(rounds.iter().map(|r| r.copy)),
            sync_rate: copied / median(rounds.iter().map(|r| r.copy_and_sync)),
            anonymous: peak(|run| run.anonymous),
            resident: peak(|run| run.resident),
            mergekit: (!other.is_empty()).then(|| median(other)),
        }
    }

    fn met(&self, aim: f64) -> bool {
        self.rate / self.copy_rate >= aim && self.anonymous / MIB <= ANONYMOUS_MIB
    }
}

/// A Markdown table with what it was measured on above it.
pub(super) fn table(all: &[Measured], cold: bool) -> String {
    let mut lines = vec![
        format!(
            "{}; medians of {} rounds; {} page cache",
            machine(),
            all.first().map_or(0, |m| m.rounds.len()),
            if cold { "cold" } else { "warm" }
        ),
        "rates: bytes read and written per second; memory: the highest of the rounds".to_owned(),
        String::new(),
        "| operator | inputs | s | best s | GB/s | cp GB/s | of cp | of cp+sync | anonymous MiB | resident MiB | aim | met \
         | mergekit s | times faster |"
            .to_owned(),
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|--:|--:|".to_owned(),
    ];
    for measured in all {
        let (f, case) = (Figures::of(measured), measured.case);
        let mergekit = f.mergekit.map_or("– | –".to_owned(), |s| format!("{s:.1} | {:.1}", s / f.median));
        lines.push(format!(
            "| {} | {} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} | {:.0} | {:.0} | {} | {} | {mergekit} |",
            case.name,
            case.checkpoints(),
            f.median,
            f.best,
            f.rate / 1e9,
            f.copy_rate / 1e9,
            f.rate / f.copy_rate,
            f.rate / f.sync_rate,
            f.anonymous / MIB,
            f.resident / MIB,
            case.aim,
            if f.met(case.aim) { "yes" } else { "no" },
        ));
    }
    lines.push(String::new());
    lines.push(format!("aim: that share of cp's rate, with at most {ANONYMOUS_MIB} MiB of anonymous memory\n"));
    lines.join("\n")
}

/// The same figures, with every round.
pub(super) fn json(all: &[Measured], cold: bool) -> Value {
    let operators: Vec<Value> = all.iter().map(operator).collect();
    json!({ "machine": machine(), "cold": cold, "operators": operators })
}

fn operator(measured: &Measured) -> Value {
    let (f, case) = (Figures::of(measured), measured.case);
    let seconds = |of: fn(&super::merge::Round) -> f64| -> Vec<f64> { measured.rounds.iter().map(of).collect() };
    let other = measured.rounds.iter().filter_map(|r| r.mergekit);
    json!({
        "operator": case.name,
        "config": case.config(),
        "checkpoints_read": case.checkpoints(),
        "checkpoint_bytes": measured.checkpoint,
        "output_bytes": measured.output,
        "seconds": {"median": f.median, "best": f.best, "rounds": seconds(|r| r.glue.seconds)},
        "bytes_per_second": f.rate,
        "cp": {
            "bytes_per_second": f.copy_rate,
            "best_bytes_per_second": f.copy_best,
            "with_sync_bytes_per_second": f.sync_rate,
            "rounds": seconds(|r| r.copy),
            "with_sync_rounds": seconds(|r| r.copy_and_sync),
        },
        "share_of_cp": f.rate / f.copy_rate,
        "share_of_cp_with_sync": f.rate / f.sync_rate,
        "peak_anonymous_bytes": f.anonymous,
        "peak_resident_bytes": f.resident,
        "aim": {"share_of_cp": case.aim, "anonymous_bytes": ANONYMOUS_MIB * MIB, "met": f.met(case.aim)},
        "mergekit": f.mergekit.map(|s| json!({
            "seconds": s,
            "times_faster": s / f.median,
            "peak_anonymous_bytes": other.map(|r| r.anonymous).max(),
        })),
    })
}

/// The processor and the number of threads it runs.
pub(crate) fn machine() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let threads = thread::available_parallelism().map_or(1, usize::from);
    format!("{}, {threads} threads", name.map_or("unknown processor", |(_, name)| name.trim()))
}

#[cfg(test)]
mod tests {
    //! Rounds with round numbers.
    use super::*;
    use crate::bench::cases::CASES;
    use crate::bench::measure::Run;
    use crate::bench::merge::Round;

    fn measured(seconds: &[f64], anonymous: u64, mergekit: Option<f64>) -> Measured {
        let run = |seconds| Run { seconds, anonymous, resident: 1 << 30 };
        let round = |&s: &f64| Round { copy: 1.0, copy_and_sync: 4.0, glue: run(s), mergekit: mergekit.map(run) };
        // Linear reads three checkpoints of 1 GB and writes one.
        let rounds = seconds.iter().map(round).collect();
        Measured { case: &CASES[0], checkpoint: 1_000_000_000, output: 1_000_000_000, rounds }
    }

    #[test]
    fn rates_count_bytes_read_and_written() {
        let found = json(&[measured(&[9.0, 2.0, 1.0], 0, Some(20.0))], false);
        let linear = &found["operators"][0];
        assert_eq!(linear["seconds"]["median"], 2.0);
        assert_eq!(linear["seconds"]["best"], 1.0);
        assert_eq!(linear["bytes_per_second"], 2e9);
        assert_eq!(linear["share_of_cp"], 1.0);
        assert_eq!(linear["share_of_cp_with_sync"], 4.0);
        assert_eq!(linear["mergekit"]["times_faster"], 10.0);
    }

    #[test]
    fn an_aim_is_for_time_and_memory() {
        let check = |seconds: f64, mib: u64, expected: bool| {
            let found = json(&[measured(&[seconds], mib << 20, None)], false);
            assert_eq!(found["operators"][0]["aim"]["met"], expected, "{seconds} s, {mib} MiB");
        };
        // The share aimed at, of the 2 GB/s of a copy, is 4 GB in this time.
        let (limit, memory) = (2.0 / CASES[0].aim, ANONYMOUS_MIB as u64);
        check(limit - 0.01, memory, true);
        check(limit + 0.01, memory, false);
        check(limit - 0.01, memory + 1, false);
    }

    #[test]
    fn every_row_has_every_column() {
        let text = table(&[measured(&[1.0], 0, None), measured(&[1.0], 0, Some(3.0))], false);
        let rows: Vec<&str> = text.lines().filter(|line| line.starts_with('|')).collect();
        assert_eq!(rows.len(), 4);
        assert!(rows.iter().all(|row| row.matches('|').count() == 15), "{text}");
        assert!(rows[3].contains("| 3.0 | 3.0 |"), "{text}");
    }
}
