//! NaN is reported, damaged state is refused, and names from others are printed as text.

use glue_tests::checkpoint::Tensor;
use glue_tests::run::Run;
use glue_tests::{Zoo, shipped};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

const NAN: [u8; 2] = 0x7e00_u16.to_le_bytes();
const INFINITY: [u8; 2] = 0x7c00_u16.to_le_bytes();
const NORM: &str = "model.norm.weight";

/// A zoo with some of the trained models, tasks to choose and to write, and one of whole texts.
fn trained(models: &[&str]) -> Zoo {
    let zoo = Zoo::empty();
    for model in models {
        zoo.copy(&shipped().join(model), model);
    }
    for task in ["facts", "arith"] {
        zoo.copy(&shipped().join("tasks").join(task), &format!("tasks/{task}"));
    }
    zoo.write("texts/task.json", r#"{"name": "texts", "kind": "perplexity"}"#);
    for split in ["proxy", "train", "test"] {
        let items: String = ["the job of doquo is nurse .", "the city of kador is oslo ."]
            .map(|text| format!("{}\n", json!({ "text": text })))
            .concat();
        zoo.write(&format!("texts/{split}.jsonl"), items.repeat(3));
    }
    zoo
}

/// Makes the first element of a tensor of half floats something else.
fn spoil(zoo: &Zoo, model: &str, tensor: &str, element: [u8; 2]) {
    zoo.edit(model, |tensors| {
        let tensor = tensors.get_mut(tensor).expect("a tensor");
        assert_eq!(tensor.dtype, "F16");
        tensor.data[..2].copy_from_slice(&element);
    });
}

/// Checks an error that is not of the user's making: its status is 1, and standard output is empty.
fn failed(run: &Run, says: &[&str]) {
    run.refused("a model that computes no number", 1, says);
}

#[test]
fn a_model_that_computes_nan_is_named_by_eval() {
    for (element, name) in [(NAN, "NaN"), (INFINITY, "infinity")] {
        let zoo = trained(&["a-math"]);
        spoil(&zoo, "a-math", NORM, element);
        for (task, path, line) in [
            ("facts", "tasks/facts", "test.jsonl:1"),
            ("texts", "texts", "test.jsonl:1"),
            ("arith", "tasks/arith", "test.jsonl:"),
        ] {
            let run = zoo.glue(&["eval", "a-math", "--tasks", path, "--limit", "3"]);
            failed(
                &run,
                &["model `a-math`", &format!("task `{task}`"), line, "its weights or activations are not finite"],
            );
            assert!(run.err.contains("NaN") || name == "infinity", "{}", run.err);
        }
        // Nothing of it is kept.
        failed(
            &zoo.glue(&["eval", "a-math", "--tasks", "tasks/facts", "--limit", "3", "--cache", "cache"]),
            &["a-math"],
        );
        assert!(zoo.listing("cache").is_empty());
        let run = zoo.glue(&["generate", "a-math", "--prompt", "Q: What", "--max-new-tokens", "2"]);
        assert_eq!(run.status, Some(1), "{run:?}");
        assert!(run.err.contains("a-math") && run.err.contains("no token can be chosen"), "{}", run.err);
    }
}

const SEARCH: &str = "models: [a-chat, a-math, a-code]\ntasks: [tasks]\nlimit: 6\nstrategies: [average]\n";

#[test]
fn a_search_leaves_a_model_that_computes_nan_out_and_names_it() {
    let zoo = trained(&["a-chat", "a-math", "a-code"]);
    spoil(&zoo, "a-code", NORM, NAN);
    for (name, filter) in [("with", true), ("without", false)] {
        zoo.write("search.yml", format!("{SEARCH}filter: {filter}\n"));
        let found = zoo.glue(&["search", "search.yml", "--out", name, "--json"]).json();
        let verdicts = found["filter"].as_array().expect("verdicts");
        let verdict = verdicts.iter().find(|verdict| verdict["model"] == "a-code").expect("a verdict on a-code");
        assert_eq!(verdict["harmful"], true);
        let reason = verdict["reason"].as_str().expect("a reason");
        assert!(reason.contains("could not be scored") && reason.contains("NaN"), "{reason}");
        for strategy in found["strategies"].as_array().expect("strategies") {
            assert!(!strategy["recipe"].as_str().expect("a recipe").contains("a-code"), "{strategy}");
        }
        let report = String::from_utf8(zoo.bytes(&format!("{name}/report.md"))).expect("text");
        assert!(report.contains("- a-code: it could not be scored: left out"), "{report}");
    }
}

const RUN: &str = "models: [a-chat, a-math, a-code]
base: [base-a]
tasks: {path: [tasks/facts, texts], limit: 6, weights: {facts: 1, texts: 1}}
select: {strategies: [average], budget: {evaluations: 30}}
mixture: {enabled: false}
stack: false
seed: 3
";

fn run(zoo: &Zoo, args: &[&str]) -> Run {
    zoo.glue(&[&["run", "zoo.yml", "--out", "out", "--quiet"], args].concat())
}

#[test]
fn a_run_goes_on_without_a_model_that_computes_nan_and_can_be_resumed() {
    for broken in ["a-code", "base-a"] {
        let zoo = trained(&["a-chat", "a-math", "a-code", "base-a"]);
        zoo.write("zoo.yml", RUN);
        spoil(&zoo, broken, NORM, NAN);
        run(&zoo, &["--until", "baselines"]).ok();
        let baselines = String::from_utf8(zoo.bytes("out/stages/04-baselines/result.json")).expect("text");
        assert!(baselines.contains("NaN") && !baselines.contains("\"value\": null"), "{baselines}");
        run(&zoo, &["--resume"]).ok();
        let report = zoo.json("out/report.json");
        let words = report["data"]["warnings"].to_string();
        assert!(words.contains(&format!("Model {broken} could not be scored and is left out")), "{words}");
        let candidates = report["data"]["candidates"].as_array().expect("candidates");
        let left = candidates.iter().find(|candidate| candidate["name"] == broken).expect("a candidate");
        assert_eq!((&left["kept"], &left["score"]), (&json!(false), &Value::Null));
        assert!(report["final"]["average"].is_number());
        let text = String::from_utf8(zoo.bytes("out/report.md")).expect("text");
        assert!(text.contains("could not be scored"), "{text}");
        let before = zoo.bytes("out/report.json");
        run(&zoo, &["--resume"]).ok();
        assert!(zoo.bytes("out/report.json") == before);
    }
    // Without another model the run cannot continue.
    let zoo = trained(&["a-math"]);
    zoo.write("zoo.yml", "models: [a-math]\ntasks: {path: [texts], limit: 6}\n");
    spoil(&zoo, "a-math", NORM, NAN);
    failed(&run(&zoo, &[]), &["no model of the zoo could be scored", "`a-math`", "NaN"]);
}

#[test]
fn limits_that_are_none_are_refused_by_place_and_key() {
    let zoo = trained(&["a-math", "a-chat"]);
    let check = |command: &[&str], file: &str, text: &str, says: &[&str]| {
        zoo.write(file, text);
        zoo.glue(command).refused(text, 2, says);
        zoo.glue(&[command, &["--dry-run"]].concat()).refused(text, 2, says);
        assert!(!zoo.path("out").exists() && !zoo.path("out.journal.jsonl").exists(), "{text}");
    };
    let of_run = |rest: &str, says: &[&str]| {
        check(&["run", "zoo.yml", "--out", "out"], "zoo.yml", &format!("models: [a-math, a-chat]\n{rest}"), says);
    };
    of_run("tasks: {path: texts, limit: 0}\n", &["zoo.yml:2:22: `tasks.limit`", "expected a positive whole number"]);
    of_run("tasks: {path: texts, limit: -1}\n", &["zoo.yml:2:22: `tasks.limit`", "expected a positive whole number"]);
    of_run("tasks: 3\n", &["zoo.yml:2:", "`tasks`", "a path, a list of paths"]);
    let rest = "tasks: texts\nselect: {budget: {seconds: -1}}\n";
    of_run(rest, &["zoo.yml:3:19: `select.budget.seconds`", "expected a positive number"]);
    of_run("tasks: texts\nlimits: {seconds: 0}\n", &["zoo.yml:3:10: `limits.seconds`", "expected a positive number"]);
    let rest = "tasks: texts\ncluster: {threshold: 5}\n";
    of_run(rest, &["zoo.yml:3:22: `cluster.threshold`", "expected a similarity from -1 to 1, found 5"]);
    of_run(
        "tasks: texts\ncluster: {metric: cosin}\n",
        &["zoo.yml:3:19: `cluster.metric`", "cosine_per_column", "`cosin`"],
    );
    let of_search = |rest: &str, says: &[&str]| {
        let text = format!("models: [a-math, a-chat]\ntasks: [texts]\n{rest}");
        check(&["search", "search.yml", "--out", "out"], "search.yml", &text, says);
    };
    of_search("limit: 0\n", &["search.yml:3:", ": `limit`: ", "expected a positive whole number"]);
    of_search("limit: -1\n", &["search.yml:3:", ": `limit`: ", "expected a positive whole number"]);
    of_search("budget: {seconds: -1}\n", &["search.yml:3:10: `budget.seconds`", "expected a positive number"]);
    for limit in ["--limit=0", "--limit=-1"] {
        zoo.glue(&["eval", "a-math", "--tasks", "texts", limit]).refused(limit, 2, &["--limit"]);
    }
}

#[test]
fn a_changed_journal_is_refused_and_a_link_is_not_followed() {
    let zoo = trained(&["a-chat", "a-math", "a-code"]);
    zoo.write("search.yml", SEARCH);
    zoo.glue(&["search", "search.yml", "--out", "whole"]).ok();
    let expected = zoo.bytes("whole/search.json");
    let journal = zoo.bytes("whole/journal.jsonl");
    let lines: Vec<&[u8]> = journal.split_inclusive(|&byte| byte == b'\n').collect();
    let resume = |text: &[u8]| {
        zoo.write("out.journal.jsonl", text);
        zoo.glue(&["search", "search.yml", "--out", "out", "--resume"])
    };
    // A score that was made better than it is: the digits of the first average.
    let text = String::from_utf8(journal.clone()).expect("text");
    let better = text.replacen("\"average\":0.", "\"average\":1.", 1);
    assert_ne!(better, text);
    resume(better.as_bytes()).refused(
        "a better score",
        1,
        &["out.journal.jsonl:2", "checksum does not match", "remove it"],
    );
    let last = lines.last().map_or(0, |line| journal.len() - line.len());
    for at in (0..last - 1).step_by(last / 12 + 1) {
        let mut changed = journal.clone();
        changed[at] ^= 1;
        resume(&changed).refused(&format!("byte {at}"), 1, &["out.journal.jsonl:", "remove it to start over"]);
    }
    let swapped: Vec<u8> = [0, 2, 1].into_iter().chain(3..lines.len()).flat_map(|i| lines[i].to_vec()).collect();
    resume(&swapped).refused("swapped lines", 1, &["out.journal.jsonl:2"]);
    let removed: Vec<u8> = (0..lines.len()).filter(|&i| i != 2).flat_map(|i| lines[i].to_vec()).collect();
    resume(&removed).refused("a removed line", 1, &["out.journal.jsonl:3"]);
    // Damage at the very end is what a crash leaves.
    let mut torn = journal.clone();
    torn[last + 50] ^= 1;
    resume(&torn).ok();
    assert!(zoo.bytes("out/search.json") == expected);
    fs::remove_dir_all(zoo.path("out")).expect("a result to remove");

    zoo.write("precious", &journal);
    symlink("precious", zoo.path("out.journal.jsonl")).expect("a link");
    let refused = zoo.glue(&["search", "search.yml", "--out", "out", "--resume"]);
    refused.refused("a link", 1, &["out.journal.jsonl", "expected a regular file, found a symbolic link"]);
    assert!(zoo.bytes("precious") == journal);
}

#[test]
fn a_changed_cache_is_never_believed_and_the_report_says_so() {
    let zoo = trained(&["a-math"]);
    let eval = || {
        let args = ["eval", "a-math", "--tasks", "tasks/facts", "--limit", "20", "--cache", "cache", "--json"];
        let mut report = zoo.glue(&args).json();
        let notes = report["tasks"]["facts"].as_object_mut().expect("a task").remove("notes");
        (report["tasks"].clone(), notes.unwrap_or_default().to_string())
    };
    let (expected, notes) = eval();
    assert_eq!(notes, "null");
    let name = zoo.names("cache").pop().expect("an entry");
    let file = format!("cache/{name}");
    let whole = zoo.bytes(&file);
    for at in (0..whole.len()).step_by(whole.len() / 8 + 1).chain([whole.len() - 1]) {
        let mut changed = whole.clone();
        changed[at] ^= 4;
        zoo.write(&file, &changed);
        let (found, notes) = eval();
        assert_eq!(found, expected, "byte {at}");
        assert!(notes.contains(&name) && notes.contains("scored again"), "byte {at}: {notes}");
        assert!(zoo.bytes(&file) == whole, "the entry is sound again");
    }
    assert_eq!(eval(), (expected, "null".into()));
}

#[test]
fn a_changed_file_of_a_stage_is_refused() {
    let zoo = trained(&["a-chat", "a-math", "a-code", "base-a"]);
    zoo.write("zoo.yml", RUN);
    run(&zoo, &[]).ok();
    let expected = zoo.bytes("out/report.json");
    let files: Vec<String> = zoo.names("out/stages").into_iter().filter(|name| !name.ends_with('/')).collect();
    assert!(files.iter().any(|name| name.ends_with("best/model.safetensors")), "{files:?}");
    let mut done: Vec<(&str, &str)> = Vec::new();
    for name in &files {
        // One of each kind.
        let kind = (name.split('/').next().unwrap_or_default(), name.rsplit(['/', '.']).next().unwrap_or_default());
        let own = ["manifest.json", "result.json", "cost.json"].iter().any(|own| name.ends_with(own));
        if done.contains(&kind) && !(own && name.starts_with("04")) {
            continue;
        }
        done.push(kind);
        let (file, stage) = (format!("out/stages/{name}"), name[3..].split('/').next().expect("a stage"));
        let whole = zoo.bytes(&file);
        let mut changed = whole.clone();
        let at = changed.len() / 2;
        changed[at] ^= 1;
        zoo.write(&file, &changed);
        let refused = run(&zoo, &["--resume"]);
        refused.refused(name, 1, &[name, "not what the run wrote", &format!("--from {stage}")]);
        zoo.write(&file, &whole);
    }
    fs::remove_file(zoo.path("out/stages/04-baselines/model-1.json")).expect("a file to remove");
    run(&zoo, &["--resume"]).refused("a missing file", 1, &["model-1.json", "it is missing", "--from baselines"]);
    run(&zoo, &["--from", "baselines"]).ok();
    assert!(zoo.bytes("out/report.json") == expected);

    // A note of an interrupted stage.
    fs::remove_dir_all(zoo.path("out")).expect("a run to remove");
    run(&zoo, &["--until", "clusters"]).ok();
    fs::create_dir_all(zoo.path("out/stages/04-baselines.work")).expect("a directory");
    zoo.write("out/stages/04-baselines.work/key.json", "{}");
    run(&zoo, &["--resume"]).refused("a note", 1, &["key.json", "not what the run wrote", "--from baselines"]);

    // A lock that leads elsewhere.
    fs::remove_file(zoo.path("out/.lock")).expect("a lock");
    zoo.write("precious", "text");
    symlink("../precious", zoo.path("out/.lock")).expect("a link");
    run(&zoo, &["--resume"]).refused("a link", 2, &["found `.lock`, which is a symbolic link"]);
    assert_eq!(zoo.bytes("precious"), b"text");
}

/// Checks that nothing in what was printed is obeyed by a terminal.
fn harmless(run: &Run) {
    for text in [&run.out, &run.err] {
        let hidden =
            |c: char| c != '\n' && (c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'));
        assert!(!text.contains(hidden), "{text:?}");
    }
}

const WILD: &str = "\u{1b}[2J\u{1b}]0;owned\u{7}\r\u{9b}31m\u{202e}";

#[test]
fn names_are_printed_without_control_characters_and_make_no_lines() {
    let zoo = Zoo::small();
    let name = format!("model.{WILD}\nerror: nothing is wrong");
    zoo.edit("b", |tensors| {
        let tensor = tensors.remove("model.norm.weight").expect("a tensor");
        tensors.insert(name.clone(), tensor);
    });
    let recipe = "merge_method: linear\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 0.5}\n";
    let refused = zoo.merge(recipe, "out", &[]);
    assert_eq!(refused.status, Some(2), "{refused:?}");
    harmless(&refused);
    for args in
        [&["inspect", "b", "--tensors"][..], &["inspect", "b"], &["eval", "b", "--tasks", "."], &["inspect", "a", "b"]]
    {
        let run = zoo.glue(args);
        harmless(&run);
        assert!(
            !run.out.lines().chain(run.err.lines()).any(|line| line.starts_with("error: nothing")),
            "{args:?}: {run:?}"
        );
    }
    assert!(zoo.glue(&["inspect", "b", "--tensors"]).out.contains("model.\\u{1b}[2J"));

    // With colours, too, only the program's own come out.
    let coloured = zoo.glue(&["inspect", "b", "--tensors", "--color", "always"]);
    assert!(coloured.out.contains("\u{1b}[1m") && !coloured.out.contains("\u{1b}[2J"), "{:?}", coloured.out);

    let zoo = trained(&["a-math", "a-chat"]);
    let task = json!({ "name": format!("facts{WILD}\nb"), "kind": "multiple_choice" });
    zoo.write("tasks/facts/task.json", task.to_string());
    let run = zoo.glue(&["eval", "a-math", "--tasks", "tasks/facts", "--limit", "2"]);
    assert_eq!(run.status, Some(0), "{run:?}");
    harmless(&run);
    assert!(run.out.contains("facts\\u{1b}[2J") && run.out.contains("\\nb"), "{}", run.out);

    // The message of a chat template.
    let mut config = zoo.json("a-math/tokenizer_config.json");
    config["chat_template"] = json!(format!("{{{{ raise_exception('{WILD}') }}}}"));
    zoo.write("a-math/tokenizer_config.json", config.to_string());
    let run = zoo.glue(&["generate", "a-math", "--chat", "--prompt", "x"]);
    assert!(run.status != Some(0) && run.err.contains("\\u{1b}[2J"), "{run:?}");
    harmless(&run);
}

#[test]
fn a_model_directory_with_a_line_break_is_one_line_of_the_summary() {
    let zoo = trained(&["a-math", "a-chat"]);
    let name = "a\u{1b}[2J\u{7}\r\u{202e}\nzzz";
    fs::rename(zoo.path("a-math"), zoo.path(name)).expect("a model");
    let config = json!({ "models": [name, "a-chat"], "tasks": { "path": "texts" }, "mixture": { "enabled": false }, "stack": false,
        "select": { "strategies": ["average"] } });
    zoo.write("zoo.yml", config.to_string());
    let plain = run(&zoo, &[]).ok();
    harmless(&plain);
    assert!(!plain.out.lines().any(|line| line.starts_with("zzz")), "{}", plain.out);
    assert!(plain.out.contains("\\u{1b}[2J"), "{}", plain.out);
}

#[test]
fn a_very_long_name_does_not_flood_the_terminal() {
    let zoo = Zoo::small();
    let name = "x".repeat(1 << 20);
    zoo.edit("b", |tensors| {
        tensors.insert(name.clone(), Tensor::f32(&[1], [1.0]));
    });
    let recipe = "merge_method: linear\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 0.5}\n";
    let refused = zoo.merge(recipe, "out", &[]);
    assert_eq!(refused.status, Some(1), "{}", refused.err.len());
    assert!(refused.err.len() < 10_000, "{} bytes", refused.err.len());
}

#[test]
fn names_in_cards_and_reports_are_text() {
    let wild = "m<img src=x onerror=alert(1)>`|\n# x";
    let zoo = Zoo::empty();
    zoo.copy(&shipped().join("a-math"), wild);
    zoo.copy(&shipped().join("a-chat"), "a-chat");
    zoo.copy(&shipped().join("tasks/facts"), "tasks/facts");
    let task = json!({ "name": "facts|<b>", "kind": "multiple_choice" });
    zoo.write("tasks/facts/task.json", task.to_string());
    let text = |name: &str| String::from_utf8(zoo.bytes(name)).expect("text");
    // Outside of code, no markup; a name neither begins nor ends a line.
    let checked = |card: &str| {
        assert!(!card.lines().any(|line| line.starts_with("# x")), "{card}");
        for line in card.lines().filter(|line| line.contains("<img") && !line.starts_with('-')) {
            assert!(line.contains("\\<img"), "{line}");
        }
    };
    let model = json!(wild);
    let recipe =
        format!("merge_method: linear\nmodels: [{{model: {model}}}, {{model: a-chat}}]\nparameters: {{weight: 0.5}}\n");
    zoo.merge(&recipe, "merged", &[]).ok();
    let card = text("merged/README.md");
    assert!(card.contains("- ``m<img src=x onerror=alert(1)>`| # x``\n"), "{card}");
    checked(card.split("## Recipe").next().expect("a card").split("---\n").nth(2).expect("behind the front matter"));

    let mix = json!({ "base_model": "a-chat", "gate_mode": "random", "level": "ffn",
        "experts": [{ "source_model": wild, "name": "<b>x" }, { "source_model": "a-chat", "name": "y" }] });
    zoo.write("mix.yml", mix.to_string());
    zoo.glue(&["mix", "mix.yml", "mixed"]).ok();
    let card = text("mixed/README.md");
    assert!(card.contains("- \\<b\\>x: ``m<img src=x onerror=alert(1)>`| # x``\n"), "{card}");

    let search = json!({ "models": [wild, "a-chat"], "tasks": ["tasks"], "limit": 5, "strategies": ["average"] });
    zoo.write("search.yml", search.to_string());
    zoo.glue(&["search", "search.yml", "--out", "found"]).ok();
    let report = text("found/report.md");
    checked(&report);
    assert!(report.contains("facts\\|\\<b\\>"), "{report}");
    for table in report.split("\n\n").filter(|block| block.starts_with('|')) {
        let cells = |line: &str| line.replace("\\|", "").matches('|').count();
        let widths: Vec<usize> = table.lines().map(cells).collect();
        assert!(widths.windows(2).all(|pair| pair[0] == pair[1]), "{table}");
    }
}

#[test]
fn notes_of_a_run_do_not_say_where_it_was_written() {
    let models = ["a-chat", "a-code", "a-math", "a-reason"];
    let zoo = trained(&[&models[..], &["base-a"]].concat());
    zoo.copy(&shipped().join("tasks"), "tasks");
    // The merge is better than each model, so that mixtures start from it.
    let strategy = json!({ "evolutionary": { "evaluations": 12, "population": 6 } });
    let config = json!({ "models": models, "base": ["base-a"], "tasks": { "path": "tasks", "limit": 24 }, "stack": false,
        "select": { "strategies": [strategy], "filter": false }, "mixture": { "levels": ["model"], "dense": [0.5] } });
    zoo.write("zoo.yml", config.to_string());
    let out = zoo.path("secret-place").display().to_string();
    zoo.glue(&["run", "zoo.yml", "--out", &out, "--quiet"]).ok();
    let (mut notes, mut made) = (0, 0);
    for name in zoo.names("secret-place/stages").iter().filter(|name| name.ends_with(".json")) {
        let file = name.rsplit('/').next().expect("a name");
        if name.matches('/').count() == 1 {
            let text = String::from_utf8(zoo.bytes(&format!("secret-place/stages/{name}"))).expect("text");
            assert!(!text.contains("secret-place"), "{name}: {text}");
            let mixture = file.starts_with("form-") || file.starts_with("mixture-");
            notes += usize::from(mixture);
            made += usize::from(mixture && text.contains("stages/06-frontier/merge-"));
        }
    }
    assert!(notes > 0 && made > 0, "no mixture of a merge was tried: {:?}", zoo.names("secret-place/stages"));
}

/// Whether a process has ended; one that nobody has waited for yet has.
fn has_ended(pid: &str) -> bool {
    match fs::read_to_string(Path::new("/proc").join(pid).join("stat")) {
        Ok(stat) => stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with(['Z', 'X'])),
        Err(_) => true,
    }
}

#[test]
fn what_an_evaluator_left_in_a_session_of_its_own_is_ended() {
    if Command::new("setsid").arg("true").status().is_err() {
        return;
    }
    let zoo = trained(&["a-math"]);
    // A grandchild in another session; one whose parent is gone, too; then nothing more, or an answer.
    let start = "setsid sh -c 'echo $$ > one; exec sleep 300' > /dev/null 2>&1 &\n\
                 (setsid sh -c 'echo $$ > two; sleep 300 & exec sleep 300' > /dev/null 2>&1 &)\n\
                 while [ ! -s one ] || [ ! -s two ]; do sleep 0.05; done\n";
    let answer = "echo '{\"tasks\": {\"a\": {\"acc\": 1, \"n\": 1}}}'\n";
    for (rest, status) in [("sleep 300\n", 1), (answer, 0)] {
        zoo.write("evaluate.sh", format!("{start}{rest}"));
        let args = ["eval", "a-math", "--tasks", "a", "--evaluator", "sh evaluate.sh", "--evaluator-timeout", "3"];
        let run = zoo.glue(&args);
        assert_eq!(run.status, Some(status), "{run:?}");
        for name in ["one", "two"] {
            let pid = String::from_utf8(zoo.bytes(name)).expect("a number");
            let begun = Instant::now();
            while !has_ended(pid.trim()) {
                assert!(begun.elapsed() < Duration::from_secs(2), "{name} is still there, status {status}");
                sleep(Duration::from_millis(20));
            }
            fs::remove_file(zoo.path(name)).expect("a file");
        }
    }
}
