//! Checks every kernel on the GPU of this machine against the CPU, measures it against the bandwidth of the device, and
//! prints one table.

use glue_cuda::check::{FLOATS, Threads, bandwidth, cases, check, measure, name};
use glue_cuda::{Backend, Cuda, Engine, EngineOptions};
use serde_json::{Value, json};
use std::process::ExitCode;

const USAGE: &str = "gpu-check [--json] [--device N] [--large ELEMENTS] [--threads N] [--quick]

Runs every kernel at 1, 31, 4097 and 100 million elements (--large) in every type, at odd addresses too, against the
CPU; then measures each, operands on the device, against copying device memory. --quick leaves out the large sizes.
--threads: of the CPU, for the reference; all unless given. Exit status 1 when a result is not what was promised.";

struct Options {
    json: bool,
    device: u32,
    large: usize,
    threads: usize,
    quick: bool,
}

fn options() -> Result<Options, String> {
    let all = std::thread::available_parallelism().map_or(1, usize::from);
    let mut options = Options { json: false, device: 0, large: 100_000_000, threads: all, quick: false };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut number = || {
            let text = words.next().ok_or(format!("{word} needs a number"))?;
            text.parse::<usize>().map_err(|_| format!("{word} needs a number, not `{text}`"))
        };
        match word.as_str() {
            "--json" => options.json = true,
            "--quick" => options.quick = true,
            "--device" => options.device = u32::try_from(number()?).map_err(|e| e.to_string())?,
            "--large" => options.large = number()?.max(1),
            "--threads" => options.threads = number()?.max(1),
            _ => return Err(USAGE.into()),
        }
    }
    Ok(options)
}

fn main() -> ExitCode {
    let options = match options() {
        Ok(options) => options,
        Err(text) => {
            eprintln!("{text}");
            return ExitCode::from(2);
        }
    };
    match run(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}

/// Whether every result is what was promised.
fn run(options: &Options) -> Result<bool, Box<dyn std::error::Error + Send + Sync>> {
    let cuda = Cuda::new(options.device)?;
    let device = cuda.describe();
    let threads = Threads(options.threads);
    let mut engine = Engine::new(cuda, EngineOptions::default().with_memory(usize::MAX).keeping(usize::MAX));
    let copy_bytes = options.large * 4;
    let copy = bandwidth(&engine, copy_bytes.min(engine.backend().free() / 4))?;
    if !options.json {
        println!("{device}\ncopies of device memory: {:.0} GB/s read and written\n", copy / 1e9);
        println!("| case | type | checks | differ | worst, ulp | mask | ms | GB/s | of copy | |");
        println!("|---|---|---|---|---|---|---|---|---|---|");
    }
    let (mut good, mut rows) = (true, Vec::new());
    for case in cases() {
        for float in FLOATS {
            let mut sizes = vec![(1, [0, 0]), (31, [0, 0]), (4097, [0, 0]), (4097, [3, 3]), (4097, [3, 4])];
            if !options.quick {
                sizes.extend([(options.large, [0, 0]), (options.large / 10 + 1, [1, 1])]);
            }
            let (mut differ, mut worst, mut masks, mut wrong) = (0, 0.0_f64, 0, Vec::new());
            for (len, shift) in &sizes {
                match check(&mut engine, case, [float, float], *len, *shift, threads) {
                    Ok(checked) => {
                        differ += checked.differ;
                        worst = worst.max(checked.worst);
                        masks += checked.masks;
                        if !checked.passes(case, float) {
                            wrong.push(format!("{len} elements moved by {shift:?}: {checked:?}"));
                        }
                    }
                    Err(e) => wrong.push(format!("{len} elements moved by {shift:?}: {e}")),
                }
            }
            let measured =
                if options.quick { None } else { Some(measure(&engine, case, float, options.large, threads)) };
            let (ms, speed, note) = match measured {
                Some(Ok(m)) => (m.seconds * 1e3, m.bandwidth(), String::new()),
                Some(Err(e)) => (f64::NAN, f64::NAN, e.to_string()),
                None => (f64::NAN, f64::NAN, String::new()),
            };
            let passed = wrong.is_empty() && note.is_empty();
            good &= passed;
            if options.json {
                let time = |x: f64| if x.is_finite() { json!(x) } else { Value::Null };
                rows.push(json!({
                    "case": case.name, "type": name(float), "passed": passed, "checks": sizes.len(), "differ": differ,
                    "worst_ulp": worst, "masks": masks, "ms": time(ms), "bytes_per_second": time(speed),
                    "of_copy": time(speed / copy), "wrong": wrong, "note": note,
                }));
            } else {
                let verdict = if passed { "ok" } else { "WRONG" };
                println!(
                    "| {} | {} | {} | {differ} | {worst:.2} | {masks} | {ms:.3} | {:.0} | {:.0} % | {verdict} |",
                    case.name,
                    name(float),
                    sizes.len(),
                    speed / 1e9,
                    100.0 * speed / copy
                );
                wrong.iter().chain((!note.is_empty()).then_some(&note)).for_each(|line| println!("  {line}"));
            }
        }
    }
    if options.json {
        let all = json!({
            "device": device, "copy_bytes_per_second": copy, "elements": options.large, "passed": good, "cases": rows,
        });
        println!("{all}");
    } else {
        println!("\n{}", if good { "every result is what was promised" } else { "some results are WRONG" });
    }
    Ok(good)
}
