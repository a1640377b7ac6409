//! Hostile and changing inputs: only regular files are read, up to a limit; large counts allocate nothing; an input
//! that changes while in use is an error that names it; and no link leaks a file from outside a model.

use glue_tests::checkpoint::{self, Tensor};
use glue_tests::run::{Run, binary};
use glue_tests::zoo::{Q_PROJ, Zoo, shipped};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

const LINEAR: &str = "merge_method: linear\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 0.5}\n";

/// Runs `glue` with at most 6 GB of address space for at most 20 seconds.
fn bounded(zoo: &Zoo, args: &[&str]) -> Run {
    let script = "ulimit -v 6000000; exec timeout -k 1 20 \"$0\" \"$@\"";
    let mut command = Command::new("bash");
    command.args(["-c", script]).arg(binary()).args(args).current_dir(zoo.directory()).stdin(Stdio::null());
    let start = Instant::now();
    let run = Run::of(&mut command);
    assert!(start.elapsed() < Duration::from_secs(15), "{args:?} took {:?}: {run:?}", start.elapsed());
    run
}

/// Checks that a command failed with an error that says all of this.
fn fails(run: &Run, name: &str, says: &[&str]) {
    run.refused(name, if run.status == Some(2) { 2 } else { 1 }, says);
}

fn fifo(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().expect("mkfifo").success());
}

/// The small models, and one that runs.
fn with_a_trained_model() -> Zoo {
    let zoo = Zoo::small();
    zoo.copy(&shipped().join("a-code"), "m");
    zoo.copy(&shipped().join("tasks/facts"), "facts");
    zoo
}

const EVAL: [&str; 6] = ["eval", "m", "--tasks", "facts", "--limit", "2"];

#[test]
fn devices_and_pipes_in_models_and_tasks_are_refused_at_once() {
    type Spoil = fn(&Path);
    const ZERO: Spoil = |path| symlink("/dev/zero", path).expect("a link");
    const PIPE: Spoil = fifo;
    for (spoil, found) in [(ZERO, "a character device"), (PIPE, "a named pipe")] {
        let files = ["config.json", "model.safetensors", "generation_config.json"];
        for file in files {
            let zoo = with_a_trained_model();
            for model in ["b", "m"] {
                let _ = fs::remove_file(zoo.path(model).join(file));
                spoil(&zoo.path(model).join(file));
            }
            zoo.write("out.yml", LINEAR);
            for args in [&["merge", "out.yml", "out"][..], &["inspect", "b"], &EVAL, &["similarity", "a", "b"]] {
                if file != "model.safetensors" && args[0] == "similarity" {
                    continue;
                }
                let run = bounded(&zoo, args);
                assert!(matches!(run.status, Some(1 | 2)), "{args:?}: {run:?}");
                assert!(run.err.contains(file), "{args:?}: {}", run.err);
                assert!(run.err.contains(found), "{args:?}: {}", run.err);
            }
        }
        let zoo = with_a_trained_model();
        fs::remove_file(zoo.path("facts/task.json")).expect("a file");
        spoil(&zoo.path("facts/task.json"));
        spoil(&zoo.path("included.yaml"));
        zoo.write("task.yaml", "include: included.yaml\ntask: t\n");
        fails(&bounded(&zoo, &EVAL), "task.json", &["facts: no task here"]);
        let args = ["eval", "m", "--tasks", "task.yaml", "--limit", "2"];
        fails(&bounded(&zoo, &args), "include", &["included.yaml", found]);
    }
}

#[test]
fn a_config_on_the_command_line_may_be_a_pipe() {
    let zoo = Zoo::small();
    zoo.write("linear.yml", LINEAR);
    zoo.glue(&["merge", "linear.yml", "out"]).ok();
    let mut child = zoo
        .command(&["merge", "/dev/stdin", "piped"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("glue starts");
    std::io::Write::write_all(&mut child.stdin.take().expect("a pipe"), LINEAR.as_bytes()).expect("it is read");
    assert!(child.wait().expect("it ends").success());
    assert!(zoo.bytes("piped/model.safetensors") == zoo.bytes("out/model.safetensors"));
    let endless = bounded(&zoo, &["merge", "/dev/zero", "zero"]);
    endless.refused("/dev/zero", 1, &["/dev/zero", "more than the"]);
}

#[test]
fn counts_in_a_config_cost_nothing() {
    let cases: &[(&str, Value)] = &[
        ("num_hidden_layers", json!(1_000_000_000u64)),
        ("num_hidden_layers", json!(u64::MAX)),
        ("num_hidden_layers", json!(9_999)),
        ("head_dim", json!(1_000_000_000u64)),
        ("head_dim", json!(1_000_000_000_000_000_000u64)),
        ("num_attention_heads", json!(1u64 << 62)),
        ("num_key_value_heads", json!(1u64 << 62)),
        ("hidden_size", json!(1u64 << 62)),
        ("intermediate_size", json!(u64::MAX)),
        ("vocab_size", json!(u64::MAX)),
        ("max_position_embeddings", json!(u64::MAX)),
        ("sliding_window", json!(u64::MAX)),
    ];
    for (key, value) in cases {
        let zoo = with_a_trained_model();
        zoo.set("m", key, value.clone());
        let commands: [&[&str]; 4] = [
            &EVAL,
            &["generate", "m", "--prompt", "a", "--max-new-tokens", "2"],
            &["calibrate", "m", "--tasks", "facts", "--limit", "2", "--out", "statistics"],
            &["inspect", "m"],
        ];
        for args in commands {
            let run = bounded(&zoo, args);
            if *value == json!(9_999) && args[0] == "inspect" {
                continue;
            }
            assert!(matches!(run.status, Some(1 | 2)), "{key}: {value}: {args:?}: {run:?}");
            // Where the bound lets it pass, the checkpoint does not.
            let value = value.to_string();
            let names = if value == "9999" { vec!["layers."] } else { vec!["m: `", key, &value, "at most"] };
            assert!(names.iter().all(|name| run.err.contains(name)), "{key}: {value}: {args:?}: {}", run.err);
        }
    }
    let zoo = with_a_trained_model();
    zoo.set("m", "model_type", "mixtral".into());
    zoo.set("m", "num_local_experts", json!(1_000_000_000));
    fails(&bounded(&zoo, &["inspect", "m"]), "experts", &["num_local_experts", "1000000000", "at most 10000"]);
    let zoo = with_a_trained_model();
    zoo.set("m", "mlp_only_layers", (0..100_000).collect::<Vec<u32>>().into());
    let run = bounded(&zoo, &["inspect", "m"]);
    fails(&run, "a list for layers", &["mlp_only_layers"]);
    assert!(run.err.len() < 1000, "{}", run.err.len());
}

#[test]
fn layer_numbers_in_names_cost_nothing() {
    for number in ["999999999", "10000", "18446744073709551615", "99999999999999999999999"] {
        let zoo = Zoo::small();
        zoo.edit("b", |tensors| {
            tensors.insert(format!("model.layers.{number}.mlp.up_proj.weight"), Tensor::f32(&[0], []));
        });
        zoo.write("out.yml", LINEAR);
        let missing = bounded(&zoo, &["merge", "out.yml", "out", "--dry-run"]);
        fails(&missing, number, &[number]);
        for args in [&["inspect", "b"][..], &["similarity", "a", "b"], &["cluster", "a", "b"]] {
            bounded(&zoo, args);
        }
        zoo.edit("a", |tensors| {
            tensors.insert(format!("model.layers.{number}.mlp.up_proj.weight"), Tensor::f32(&[0], []));
        });
        bounded(&zoo, &["merge", "out.yml", "out"]).ok();
    }
}

#[test]
fn names_and_shapes_of_tensors_are_bounded() {
    let zoo = Zoo::small();
    zoo.write("out.yml", LINEAR);
    let long = "x".repeat(5_000_000);
    zoo.edit("b", |tensors| drop(tensors.insert(long, Tensor::f32(&[0], []))));
    for args in [&["merge", "out.yml", "out"][..], &["inspect", "b", "--tensors"]] {
        let run = bounded(&zoo, args);
        fails(&run, "a long name", &["b/model.safetensors", "has 5000000 bytes, more than the 1024 allowed"]);
        assert!(run.err.len() < 1000, "{} bytes", run.err.len());
    }
    let zoo = Zoo::small();
    zoo.edit("b", |tensors| drop(tensors.insert("x".into(), Tensor::f32(&vec![1; 100_000], [1.0]))));
    let run = bounded(&zoo, &["inspect", "b", "--tensors"]);
    fails(&run, "dimensions", &["`x` has 100000 dimensions, more than the 64 allowed"]);
}

const DELLA: &str = "merge_method: della
base_model: base
models: [{model: a}, {model: b}]
parameters: {weight: 0.5, density: 0.5}
";

fn signal(child: &Child, signal: &str) {
    let status = Command::new("kill").args([signal, &child.id().to_string()]).status();
    assert!(status.expect("kill").success(), "{signal}: glue had ended already");
}

/// Starts `glue`, suspends it once `begun` exists, does `change`, and lets it continue to its end. On a busy machine
/// this may come too late: `done` appears at the end and shows it.
fn interfere(zoo: &Zoo, args: &[&str], begun: &str, done: &str, change: &dyn Fn()) -> Output {
    for _ in 0..10 {
        let mut child = zoo.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("glue starts");
        let start = Instant::now();
        while !zoo.path(begun).exists() && child.try_wait().expect("a child").is_none() {
            assert!(start.elapsed() < Duration::from_secs(20), "no work has begun");
            sleep(Duration::from_micros(200));
        }
        if child.try_wait().expect("a child").is_none() {
            signal(&child, "-STOP");
            let in_time = zoo.path(begun).exists() && !zoo.path(done).exists();
            if in_time {
                change();
            }
            signal(&child, "-CONT");
            let output = child.wait_with_output().expect("a child ends");
            if in_time {
                return output;
            }
        }
        fs::remove_dir_all(zoo.path(done)).expect("an output that came too early");
    }
    panic!("glue was always done before it could be stopped");
}

/// Writes one byte in the middle of the weights of `a`, in place.
fn write_into(path: &Path, byte: u8) {
    let file = fs::File::options().write(true).open(path).expect("a model");
    file.write_all_at(&[byte], 20 << 20).expect("a write");
}

#[test]
fn an_input_that_changes_during_a_merge_is_an_error_that_names_it() {
    type Change = fn(&Zoo);
    let changes: [(&str, Change, &str); 6] = [
        ("a/model.safetensors", |zoo| write_into(&zoo.path("a/model.safetensors"), 63), "somebody has written to it"),
        (
            "b/model.safetensors",
            |zoo| {
                let copy = zoo.bytes("b/model.safetensors");
                zoo.write("b/new", copy);
                fs::rename(zoo.path("b/new"), zoo.path("b/model.safetensors")).expect("a rename");
            },
            "another file has taken its place",
        ),
        (
            "base/model.safetensors",
            |zoo| fs::remove_file(zoo.path("base/model.safetensors")).expect("a file"),
            "removed",
        ),
        ("base/tokenizer.json", |zoo| zoo.write("base/tokenizer.json", "{}"), "bytes"),
        ("base/config.json", |zoo| zoo.set("base", "vocab_size", json!(13)), "written"),
        ("b/tokenizer_config.json", |zoo| zoo.write("b/tokenizer_config.json", "{}"), "bytes"),
    ];
    for (file, change, what) in changes {
        let zoo = Zoo::slow(6);
        zoo.write("out.yml", DELLA);
        let args = ["merge", "out.yml", "out", "--threads", "1", "--quiet"];
        let output = interfere(&zoo, &args, ".out.partial/model.safetensors.partial", "out", &|| change(&zoo));
        Run::from(&output).refused(file, 1, &[file, "changed while it was in use", what]);
        let left: Vec<String> =
            zoo.names("").into_iter().filter(|name| name.contains("out") && name != "out.yml").collect();
        assert!(left.is_empty(), "{file}: {left:?}");
    }
}

#[test]
fn an_input_that_is_truncated_is_an_error_in_words() {
    let zoo = Zoo::slow(6);
    zoo.write("out.yml", DELLA);
    let args = ["merge", "out.yml", "out", "--threads", "1", "--quiet"];
    let truncate = || {
        let file = fs::File::options().write(true).open(zoo.path("a/model.safetensors")).expect("a model");
        file.set_len(4096).expect("a shorter file");
    };
    let output = interfere(&zoo, &args, ".out.partial/model.safetensors.partial", "out", &truncate);
    let run = Run::from(&output);
    run.refused("truncated", 1, &["a/model.safetensors", "again"]);
    assert!(!zoo.path("out").exists());
}

#[test]
fn a_stage_is_never_taken_from_inputs_that_changed() {
    let zoo = Zoo::slow(6);
    zoo.write("stages.yml", format!("name: one\n{DELLA}---\nmerge_method: slerp\nbase_model: base\nmodels: [{{model: one}}]\nparameters: {{t: 0.25}}\n"));
    zoo.glue(&["multi", "stages.yml", "clean-out", "--json", "--work-dir", "clean"]).json();
    let original = zoo.bytes("a/model.safetensors");
    let args = ["multi", "stages.yml", "out", "--json", "--work-dir", "work", "--threads", "1"];
    let change = || write_into(&zoo.path("a/model.safetensors"), 63);
    let output = interfere(&zoo, &args, "work/.one.partial/model.safetensors.partial", "work/one", &change);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(!zoo.path("work/one").exists());
    zoo.write("a/model.safetensors", original);
    let report = zoo.glue(&args).json();
    assert_eq!(report["stages"][0]["reused"], json!(false));
    assert!(zoo.bytes("out/model.safetensors") == zoo.bytes("clean-out/model.safetensors"));
}

#[test]
fn a_chat_template_that_changes_makes_another_stage() {
    let zoo = Zoo::small();
    zoo.write("template.jinja", "{{ messages }} one");
    zoo.write("stages.yml", "name: mean\nchat_template: ./template.jinja\nmerge_method: linear\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 0.5}\n---\nmerge_method: passthrough\nmodels: [{model: mean}]\n");
    let reused = |out: &str| {
        let report = zoo.glue(&["multi", "stages.yml", out, "--json", "--work-dir", "work"]).json();
        report["stages"][0]["reused"].as_bool()
    };
    assert_eq!([reused("first"), reused("second")], [Some(false), Some(true)]);
    zoo.write("template.jinja", "{{ messages }} two");
    assert_eq!(reused("third"), Some(false));
}

const SIDE_FILES: &[&str] = &[
    "chat_template.jinja",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "generation_config.json",
    "config.json",
];

/// Replaces `file` by a link to what it holds, or to other JSON, outside of the model.
fn link_out(zoo: &Zoo, model: &str, file: &str) {
    let path = zoo.path(model).join(file);
    let content = fs::read(&path).unwrap_or_else(|_| b"{\"secret\": 1}".to_vec());
    zoo.write("secret", content);
    let _ = fs::remove_file(&path);
    symlink("../secret", path).expect("a link");
}

#[test]
fn side_files_that_are_links_out_of_the_model_are_refused() {
    for file in SIDE_FILES {
        let zoo = Zoo::small();
        link_out(&zoo, "a", file);
        zoo.write("out.yml", LINEAR);
        let says = [*file, "secret", "--follow-links"];
        for extra in [&["--dry-run"][..], &[]] {
            zoo.glue(&[&["merge", "out.yml", "out"], extra].concat()).refused(file, 2, &says);
        }
        assert!(!zoo.path("out").exists());
        zoo.glue(&["merge", "out.yml", "out", "--follow-links"]).ok();
        if *file != "config.json" {
            assert_eq!(zoo.bytes(&format!("out/{file}")), zoo.bytes("secret"), "{file}");
        }
    }
    let zoo = Zoo::small();
    link_out(&zoo, "a", "vocab.json");
    zoo.write("stages.yml", format!("name: one\n{LINEAR}---\nmerge_method: passthrough\nmodels: [{{model: one}}]\n"));
    zoo.glue(&["multi", "stages.yml", "out"]).refused("multi", 2, &["a/vocab.json", "--follow-links"]);
    zoo.glue(&["multi", "stages.yml", "out", "--follow-links", "--quiet", "--json"]).json();
}

#[test]
fn mixtures_and_aligned_models_copy_no_link_out_either() {
    let zoo = Zoo::empty();
    for (name, from) in [("one", "a-code"), ("two", "a-math")] {
        zoo.copy(&shipped().join(from), name);
    }
    link_out(&zoo, "one", "special_tokens_map.json");
    zoo.write("mix.yml", "base_model: one\ngate_mode: random\nexperts: [{source_model: one}, {source_model: two}]\n");
    let says = ["one/special_tokens_map.json", "secret", "--follow-links"];
    zoo.glue(&["mix", "mix.yml", "mixed"]).refused("mix", 2, &says);
    zoo.glue(&["align", "two", "one", "aligned"]).refused("align", 2, &says);
    zoo.glue(&["mix", "mix.yml", "mixed", "--follow-links", "--quiet"]).ok();
    zoo.glue(&["align", "two", "one", "aligned", "--follow-links", "--quiet"]).ok();
}

#[test]
fn links_inside_a_model_and_those_of_a_hub_cache_are_followed() {
    let zoo = Zoo::small();
    zoo.write("a/other.json", "{}");
    symlink("other.json", zoo.path("a/vocab.json")).expect("a link");
    fs::rename(zoo.path("a"), zoo.path("elsewhere")).expect("a rename");
    symlink("elsewhere", zoo.path("a")).expect("a link");

    let repository = zoo.path("models--org--b");
    let (blobs, snapshot) = (repository.join("blobs"), repository.join("snapshots/0123"));
    fs::create_dir_all(&blobs).expect("a directory");
    fs::create_dir_all(&snapshot).expect("a directory");
    for (i, entry) in fs::read_dir(zoo.path("b")).expect("a model").enumerate() {
        let entry = entry.expect("a file");
        fs::rename(entry.path(), blobs.join(i.to_string())).expect("a rename");
        symlink(format!("../../blobs/{i}"), snapshot.join(entry.file_name())).expect("a link");
    }
    for model in ["a", "models--org--b/snapshots/0123"] {
        let config = format!("merge_method: passthrough\nmodels: [{{model: {model}}}]\n");
        zoo.merge(&config, &format!("out-{}", model.len()), &[]).ok();
    }
    // Weights may lie anywhere.
    fs::rename(zoo.path("base/model.safetensors"), zoo.path("weights")).expect("a rename");
    symlink("../weights", zoo.path("base/model.safetensors")).expect("a link");
    zoo.merge("merge_method: passthrough\nmodels: [{model: base}]\n", "out", &[]).ok();
    assert_eq!(checkpoint::read(&zoo.path("out"))[Q_PROJ], checkpoint::read(&zoo.path("base"))[Q_PROJ]);
}
