//! Commands that write no model (`inspect`, `ops`, `completions`, help), and how output reaches its reader.

use glue_tests::Zoo;
use glue_tests::run::{Run, binary};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::Command;

#[test]
fn a_model_is_the_same_in_every_form() {
    let zoo = Zoo::small();
    zoo.add_sharded("shards", &zoo.read("a"), 3);
    fs::create_dir(zoo.path("bare")).expect("a temporary directory");
    fs::copy(zoo.path("a/model.safetensors"), zoo.path("bare/model.safetensors")).expect("a file of the zoo");
    let inspect = |path: &str| zoo.glue(&["inspect", path, "--json", "--tensors"]).json();
    let about = |report: &Value| {
        let tensors = report["tensors"].as_array().expect("tensors").iter();
        let tensors: Vec<_> =
            tensors.map(|t| json!([t["name"], t["dtype"], t["shape"], t["role"], t["layer"]])).collect();
        json!([
            report["parameters"],
            report["dtypes"],
            report["layers"],
            report["vocab_size"],
            report["bytes"],
            tensors
        ])
    };
    let whole = inspect("a");
    assert_eq!((&whole["parameters"]["total"], &whole["layers"]), (&json!(204), &json!(2)));
    assert_eq!((&whole["model_type"], &whole["tokenizer"]["vocabulary"]), (&json!("llama"), &json!(12)));
    assert_eq!(whole["chat_template"], true);
    for (path, model, files) in [
        ("a/", true, 1),
        ("shards", true, 3),
        ("shards/model.safetensors.index.json", false, 3),
        ("a/model.safetensors", false, 1),
        ("bare", false, 1),
    ] {
        let report = inspect(path);
        assert_eq!(about(&report), about(&whole), "{path}");
        assert_eq!(report["model_type"].is_string(), model, "{path}");
        assert_eq!(report["files"].as_array().map(Vec::len), Some(files), "{path}");
    }
    let text = zoo.glue(&["inspect", "shards", "--tensors"]).ok().out;
    assert!(text.contains("LlamaForCausalLM") && text.contains("model.norm.weight"), "{text}");
}

#[test]
fn a_merged_model_is_inspected_like_any_other() {
    let zoo = Zoo::small();
    zoo.merge("merge_method: linear\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 1}\n", "out", &[]).ok();
    let (a, out) = (zoo.glue(&["inspect", "a", "--json"]).json(), zoo.glue(&["inspect", "out", "--json"]).json());
    for key in ["parameters", "dtypes", "layers", "vocab_size", "tokenizer", "notes", "n_tensors", "bytes"] {
        assert_eq!(a[key], out[key], "{key}");
    }
}

#[test]
fn every_operator_is_listed_and_described() {
    let zoo = Zoo::empty();
    let list = zoo.glue(&["ops", "--json"]).json();
    let operators = list["operators"].as_array().expect("operators");
    assert!(operators.len() >= 20, "{} operators", operators.len());
    for operator in operators {
        let name = operator["name"].as_str().expect("a name");
        assert_eq!(zoo.glue(&["ops", name, "--json"]).json(), *operator);
        assert!(zoo.glue(&["ops", name]).ok().out.contains(name));
    }
}

#[test]
fn every_shell_gets_completions() {
    let zoo = Zoo::empty();
    for shell in ["bash", "zsh", "fish"] {
        let script = zoo.glue(&["completions", shell]).ok().out;
        assert!(script.contains("merge") && script.contains("max-shard-size"), "{shell}: {script}");
    }
    // A shell that is here reads its own without complaint.
    let script = zoo.glue(&["completions", "bash"]).ok().out;
    zoo.write("glue.bash", script);
    let mut bash = Command::new("bash");
    let read = Run::of(bash.args(["-c", "source ./glue.bash && complete -p glue"]).current_dir(zoo.directory()));
    assert!(read.ok().out.contains("glue"));
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let zoo = Zoo::small();
    zoo.write("out.yml", "merge_method: linear\nmodels: [{model: a}]\nparameters: {weight: 1}\n");
    for args in [&["ops"][..], &["inspect", "a", "--json"], &["--help"], &["merge", "out.yml", "out"]] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let run = Run::of(zoo.command(args).stdout(writer));
        assert_eq!((run.status, run.err.as_str()), (Some(0), ""), "{args:?}");
    }
    assert_eq!(zoo.read("out").len(), 9);
}

#[test]
fn output_that_cannot_be_written_is_a_failure() {
    if !Path::new("/dev/full").exists() {
        println!("skipped: this system has no device that is always full");
        return;
    }
    let zoo = Zoo::empty();
    let mut shell = Command::new("sh");
    let run = Run::of(shell.args(["-c", "exec \"$0\" ops > /dev/full"]).arg(binary()).current_dir(zoo.directory()));
    run.refused("a full device", 1, &["cannot write to standard output"]);
}

#[test]
fn nothing_is_drawn_and_nothing_coloured_where_no_terminal_is() {
    let zoo = Zoo::small();
    let run = zoo.merge("merge_method: linear\nmodels: [{model: a}]\nparameters: {weight: 1}\n", "out", &[]).ok();
    assert!(run.out.starts_with("out: 9 tensors") && !run.out.contains('\x1b'), "{}", run.out);
}
