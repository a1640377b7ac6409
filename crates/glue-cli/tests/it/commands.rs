//! Commands from their arguments to their output and exit status, without a process.

use glue_cli::{Registries, Streams};
use glue_search::OptimiserDef;
use glue_select::course::Halt;
use glue_select::session::Session;
use glue_select::strategy::{Strategy, StrategyDef};
use serde_json::{Value, json};
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

/// Exit status, standard output, standard error.
fn glue(args: &[&str]) -> (ExitCode, String, String) {
    glue_with(&Registries::default(), args)
}

fn glue_with(registries: &Registries, args: &[&str]) -> (ExitCode, String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let streams =
        Streams { out: Box::new(&mut out), err: Box::new(&mut err), out_is_terminal: false, err_is_terminal: false };
    let args = ["glue"].iter().chain(args);
    let status = glue_cli::run_from(args, registries, streams);
    (status, text(out), text(err))
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).expect("output is UTF-8")
}

/// What a command prints that succeeds.
fn output(args: &[&str]) -> String {
    let (status, out, err) = glue(args);
    assert_eq!(status, ExitCode::SUCCESS, "{args:?}: {err}");
    out
}

fn json_of(args: &[&str]) -> Value {
    serde_json::from_str(&output(args)).expect("one JSON document")
}

/// The status of a failure, which must print nothing but an error.
fn check_failure(args: &[&str], status: u8, says: &[&str]) {
    let (found, out, err) = glue(args);
    assert_eq!(found, ExitCode::from(status), "{args:?}: {err}");
    assert_eq!(out, "", "{args:?}");
    assert!(err.starts_with("error: "), "{args:?}: {err}");
    for words in says {
        assert!(err.contains(words), "{args:?} does not say {words:?}: {err}");
    }
}

/// Writes a safetensors file of F32 zeros.
fn write_checkpoint(path: &Path, tensors: &[(&str, &[usize])]) {
    let mut header = serde_json::Map::new();
    let mut end = 0;
    for (name, shape) in tensors {
        let begin = end;
        end += 4 * shape.iter().product::<usize>();
        let entry = json!({ "dtype": "F32", "shape": shape, "data_offsets": [begin, end] });
        header.insert(name.to_string(), entry);
    }
    let header = Value::Object(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.resize(file.len() + end, 0);
    std::fs::write(path, file).expect("a temporary file");
}

fn write_model(directory: &Path) {
    write_checkpoint(
        &directory.join("model.safetensors"),
        &[
            ("model.embed_tokens.weight", &[12, 4]),
            ("model.layers.0.self_attn.q_proj.weight", &[4, 4]),
            ("model.layers.0.mlp.up_proj.weight", &[8, 4]),
            ("model.layers.1.self_attn.q_proj.weight", &[4, 4]),
            ("model.layers.1.mlp.up_proj.weight", &[8, 4]),
            ("model.norm.weight", &[4]),
        ],
    );
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_hidden_layers": 3, "hidden_size": 4,
        "vocab_size": 12, "tie_word_embeddings": true, "rope_theta": 500000.0,
    });
    std::fs::write(directory.join("config.json"), config.to_string()).expect("a temporary file");
    let tokenizer = json!({ "model": { "type": "BPE", "vocab": { "a": 0, "b": 1 } }, "added_tokens": [] });
    std::fs::write(directory.join("tokenizer.json"), tokenizer.to_string()).expect("a temporary file");
}

#[test]
fn wrong_usage_is_two() {
    check_failure(&["ops", "--nonsense"], 2, &["--nonsense"]);
    check_failure(&["ops", "tise"], 2, &["did you mean `ties`?", "hint: "]);
    check_failure(&["ops", "--color", "purple"], 2, &["auto, always, never"]);
    check_failure(&["ops", "--threads", "0"], 2, &["--threads"]);
    check_failure(&["ops", "--cuda"], 2, &["hint: leave out --cuda"]);
    check_failure(&["inspect", "no-such-model"], 2, &["no-such-model: no such directory"]);
    check_failure(&["conjure"], 2, &["conjure"]);
}

#[test]
fn a_broken_file_is_one() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("model.safetensors");
    std::fs::write(&file, b"no checkpoint").expect("a temporary file");
    check_failure(&["inspect", &file.to_string_lossy()], 1, &["model.safetensors", "header"]);
}

#[test]
fn help_is_output_and_without_colours_when_not_on_a_terminal() {
    for command in [&["--help"][..], &["ops", "--help"], &["help", "inspect"], &["--version"]] {
        let text = output(command);
        assert!(!text.is_empty() && !text.contains('\x1b'), "{text}");
    }
    assert!(output(&["ops", "--color", "always"]).contains("\x1b[1m"));
    let (status, out, err) = glue(&[]);
    assert_eq!((status, out.as_str()), (ExitCode::from(2), ""));
    assert!(err.contains("Usage: glue"), "{err}");
}

#[test]
fn output_that_nobody_reads_is_no_failure() {
    struct Closed(io::ErrorKind);
    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let status = |kind| {
        let streams = Streams {
            out: Box::new(Closed(kind)),
            err: Box::new(Closed(kind)),
            out_is_terminal: false,
            err_is_terminal: false,
        };
        glue_cli::run_from(["glue", "ops"], &Registries::default(), streams)
    };
    assert_eq!(status(io::ErrorKind::BrokenPipe), ExitCode::SUCCESS);
    assert_eq!(status(io::ErrorKind::StorageFull), ExitCode::FAILURE);
}

#[test]
fn operators_are_listed_and_described() {
    let list = json_of(&["ops", "--json"]);
    let names: Vec<&str> =
        list["operators"].as_array().into_iter().flatten().filter_map(|o| o["name"].as_str()).collect();
    let expected: Vec<&str> = Registries::default().operators.iter().map(|def| def.name).collect();
    assert_eq!(names, expected);

    let slerp = json_of(&["ops", "slerp", "--json"]);
    assert_eq!(slerp["base"], "required");
    assert_eq!(slerp["models"], json!({ "min": 1, "max": 1 }));
    assert_eq!(
        slerp["parameters"],
        json!([{
            "name": "t", "doc": "Position between the base (0) and the other model (1).", "per_model": false,
            "required": true, "default": null, "allowed": "a finite number", "kind": "number", "min": null,
            "min_excluded": false, "max": null, "usual": [0.0, 1.0],
        }])
    );
    let text = output(&["ops", "slerp"]);
    assert!(text.contains("formula") && text.contains("merge_method: slerp\n"), "{text}");
}

#[test]
fn operators_of_ones_own_are_there() {
    use glue_merge::{BaseRule, InputRule, Operand, OperatorDef, Plan};
    const OWN: OperatorDef = OperatorDef {
        name: "base_only",
        summary: "Forgets every fine-tune.",
        formula: "θ0",
        reference: "none",
        inputs: InputRule::at_least(1),
        base: BaseRule::Required,
        plan: |_, _| Ok(Plan::Copy(Operand::Base)),
        ..OperatorDef::DEFAULT
    };
    let mut out = Vec::new();
    let streams =
        Streams { out: Box::new(&mut out), err: Box::new(io::sink()), out_is_terminal: false, err_is_terminal: false };
    let registries = Registries::default().with(&[&OWN]);
    let status = glue_cli::run_from(["glue", "ops", "base_only"], &registries, streams);
    assert_eq!(status, ExitCode::SUCCESS);
    assert!(text(out).contains("Forgets every fine-tune."));
}

/// Merges the first two models half and half, and is content.
struct Halves;

impl Strategy for Halves {
    fn run(&self, session: &mut Session<'_, '_>) -> Result<(), Halt> {
        let proposal = session.linear(vec![(0, 0.5), (1, 0.5)]);
        let scored = session.score(std::slice::from_ref(&proposal), None);
        scored.tried.first().into_iter().for_each(|&i| session.accept(i, &proposal, "why not"));
        scored.halt.map_or(Ok(()), Err)
    }

    fn evaluations(&self, _: usize) -> u64 {
        1
    }
}

#[test]
fn strategies_and_optimisers_of_ones_own_search() {
    const HALVES: StrategyDef = StrategyDef {
        name: "halves",
        summary: "Merges two models half and half.",
        reference: "none",
        params: &[],
        build: |_, _| Ok(Box::new(Halves)),
    };
    const GUESSES: OptimiserDef = OptimiserDef { name: "guesses", ..glue_search::RANDOM };
    let directory = tempfile::tempdir().expect("a temporary directory");
    let zoo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/zoo");
    let (config, out) = (directory.path().join("search.yml"), directory.path().join("out"));
    let text = format!(
        "models: [{0}/a-chat, {0}/a-math]\nbase: {0}/base-a\ntasks: [{0}/tasks]\nlimit: 5\nfilter: false\nstrategies:\n  \
         - halves\n  - evolutionary: {{optimiser: guesses, evaluations: 3}}\n",
        zoo.display()
    );
    std::fs::write(&config, text).expect("a config");
    let args = ["search", &config.to_string_lossy(), "--out", &out.to_string_lossy(), "--json"];
    check_failure(&args, 2, &["halves", "average, coefficient"]);
    let registries = Registries::default().with_strategies(&[&HALVES]).with_optimisers(&[&GUESSES]);
    let (status, printed, err) = glue_with(&registries, &args);
    assert_eq!(status, ExitCode::SUCCESS, "{err}");
    let printed: Value = serde_json::from_str(&printed).expect("one JSON document");
    let rows = printed["strategies"].as_array().expect("strategies");
    let halves = rows.iter().find(|row| row["name"] == "halves").expect("the strategy");
    assert!(halves["recipe"].as_str().is_some_and(|recipe| recipe.matches("weight: 0.5").count() == 2), "{halves}");
    assert!(rows.iter().any(|row| row["name"] == "evolutionary" && row["evaluations"] == 3), "{rows:?}");
}

#[test]
fn a_model_is_described() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    write_model(directory.path());
    let path = directory.path().to_string_lossy();
    let report = json_of(&["inspect", &path, "--json", "--tensors"]);
    for (key, expected) in [
        ("model_type", json!("llama")),
        ("architectures", json!(["LlamaForCausalLM"])),
        ("layers", json!(2)),
        ("hidden_size", json!(4)),
        ("heads", json!(null)),
        ("vocab_size", json!(12)),
        ("tied_head", json!(true)),
        ("chat_template", json!(false)),
        ("bytes", json!(4 * 148)),
        ("n_tensors", json!(6)),
        ("parameters", json!({ "total": 148, "by_role": { "attention": 32, "embedding": 48, "mlp": 64, "norm": 4 } })),
        ("tokenizer", json!({ "kind": "BPE", "vocabulary": 2, "files": ["tokenizer.json"] })),
        ("notes", json!(["config.json says 3 layers, the tensors have 2"])),
    ] {
        assert_eq!(report[key], expected, "{key}");
    }
    let last = &report["tensors"][4];
    assert_eq!((&last["name"], &last["layer"]), (&json!("model.layers.1.self_attn.q_proj.weight"), &json!(1)));

    let text = output(&["inspect", &path]);
    assert!(text.contains("LlamaForCausalLM (llama)") && text.contains("θ 500000"), "{text}");
    assert!(!text.contains("q_proj"), "{text}");
}

#[test]
fn weights_alone_are_described_too() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    write_model(directory.path());
    let file = directory.path().join("model.safetensors");
    let of_file = json_of(&["inspect", &file.to_string_lossy(), "--json"]);
    std::fs::remove_file(directory.path().join("config.json")).expect("it was written");
    let of_directory = json_of(&["inspect", &directory.path().to_string_lossy(), "--json"]);
    for report in [&of_file, &of_directory] {
        assert_eq!(report["model_type"], json!(null));
        assert_eq!(report["layers"], json!(2));
        assert_eq!(report["parameters"]["total"], json!(148));
        assert_eq!(report.get("tensors"), None);
    }
    assert_eq!(of_directory["tokenizer"]["kind"], json!("BPE"));
}

#[test]
fn every_shell_gets_completions() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(output(&["completions", shell]).contains("inspect"), "{shell}");
    }
}

#[test]
fn references_are_generated() {
    let text = output(&["help-markdown"]);
    for heading in ["## Global options", "## glue merge", "## glue multi", "## glue inspect", "## glue ops"] {
        assert!(text.contains(&format!("\n{heading}\n")), "{heading}");
    }
    assert!(!text.contains("help-markdown") && !text.contains("random-seed"), "hidden is hidden");
    assert!(output(&["ops", "--markdown"]).contains("\n## ties\n"));
}

/// Two models and a config of two documents that merges them; the text of each document.
fn write_stages(directory: &Path) -> [String; 2] {
    for name in ["a", "b"] {
        let model = directory.join(name);
        std::fs::create_dir(&model).expect("a temporary directory");
        write_model(&model);
        // The layer count in the other tests' model is wrong on purpose.
        let config = std::fs::read_to_string(model.join("config.json")).expect("it was written");
        let config = config.replace("\"num_hidden_layers\":3", "\"num_hidden_layers\":2");
        std::fs::write(model.join("config.json"), config).expect("a temporary file");
    }
    let path = |name: &str| directory.join(name).display().to_string();
    [
        format!(
            "name: first\nmerge_method: slerp\nbase_model: {}\nmodels:\n- model: {}\nparameters:\n  t: 0.5\n",
            path("a"),
            path("b")
        ),
        "merge_method: passthrough\nmodels:\n- model: first\n".to_string(),
    ]
}

#[test]
fn a_dry_run_tells_what_a_merge_would_do() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let [first, _] = write_stages(directory.path());
    let at = |name: &str| directory.path().join(name).display().to_string();
    std::fs::write(at("config.yml"), &first).expect("a temporary file");
    let args = ["merge", &at("config.yml"), &at("out"), "--dry-run", "--seed", "7", "--max-shard-size", "300"];
    let plan = json_of(&[&args[..], &["--json", "--threads", "3"]].concat());
    for (key, expected) in [
        ("dry_run", json!(true)),
        ("output", json!(at("out"))),
        ("operator", json!("slerp")),
        ("wraps", json!(null)),
        ("seed", json!(7)),
        ("tensors", json!(6)),
        ("parameters", json!(148)),
        ("dtypes", json!({ "F32": 6 })),
        ("bytes_read", json!(2 * 4 * 148)),
        ("bytes_written", json!(4 * 148)),
        ("threads", json!(3)),
        ("copied", json!([])),
        ("dropped", json!([])),
    ] {
        assert_eq!(plan[key], expected, "{key}");
    }
    assert_eq!(plan["models"][0]["role"], "base");
    assert_eq!(plan["models"][1]["role"], "input");
    assert_eq!(plan["disk"]["needed"], json!(4 * 148));
    assert_eq!(plan["files"].as_array().map(Vec::len), Some(3));
    assert!(plan["memory"].as_u64() > Some(0) && plan["seconds"].as_f64() > Some(0.0));

    let text = output(&args);
    for words in ["not written: dry run", "slerp", "148", "592 B needed"] {
        assert!(text.contains(words), "{words}: {text}");
    }
    assert!(!directory.path().join("out").exists());
    let half = output(&["merge", &at("config.yml"), &at("out"), "--dry-run", "--dtype", "bfloat16"]);
    assert!(half.contains("BF16") && half.contains("296 B needed"), "{half}");
}

#[test]
fn a_dry_run_of_stages_says_what_is_known_later() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let at = |name: &str| directory.path().join(name).display().to_string();
    let stages = write_stages(directory.path()).join("---\n");
    std::fs::write(at("stages.yml"), stages).expect("a temporary file");
    let report = json_of(&["multi", &at("stages.yml"), &at("out"), "--dry-run", "--json"]);
    assert_eq!(report["output"], json!(at("out")));
    assert_eq!(report["stages"][0]["stage"], "first");
    assert_eq!(report["stages"][0]["output"], json!(at("out.stages/first")));
    assert_eq!(report["stages"][1], json!({ "stage": null, "dry_run": true, "after": ["first"] }));
    check_failure(&["merge", &at("stages.yml"), &at("out")], 2, &["holds 2 documents", "hint: glue multi"]);
}

#[test]
fn a_config_that_is_refused_is_two_and_says_where() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let [first, _] = write_stages(directory.path());
    let at = |name: &str| directory.path().join(name).display().to_string();
    let check = |text: &str, status: u8, says: &[&str]| {
        std::fs::write(at("config.yml"), text).expect("a temporary file");
        check_failure(&["merge", &at("config.yml"), &at("out"), "--dry-run"], status, says);
    };
    check(&first.replace("slerp", "slurp"), 2, &["config.yml:2:", "did you mean `slerp`?"]);
    check(&first.replace("t: 0.5", "tt: 0.5"), 2, &["config.yml:7:3", "`tt`"]);
    check(&first.replace("/b\n", "/missing\n"), 2, &["missing", "no such directory", "hint: "]);
    check("merge_method: [", 2, &["config.yml:1:", "YAML"]);
    std::fs::write(directory.path().join("b/model.safetensors"), b"broken").expect("a temporary file");
    check(&first, 1, &["model.safetensors"]);
    check_failure(&["merge", "no-such-config.yml", &at("out")], 2, &["no-such-config.yml"]);
    for (option, value) in [("--max-shard-size", "5B"), ("--dtype", "int8"), ("--seed", "x"), ("--threads", "many")] {
        check_failure(&["merge", &at("config.yml"), &at("out"), option, value], 2, &[option]);
    }
}
