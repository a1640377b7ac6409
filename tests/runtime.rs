//! `glue logits` and `glue generate`: numbers and text from a model.

use glue_tests::Zoo;
use glue_tests::checkpoint::{self, Tensor, Tensors};
use glue_tests::run::{command, glue};
use glue_tests::shipped;
use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;

fn architectures() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/archs");
    let mut paths: Vec<PathBuf> =
        fs::read_dir(folder).expect("models").map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    assert_eq!(paths.len(), 11);
    paths
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

#[test]
fn logits_of_every_architecture_agree_with_transformers() {
    let zoo = Zoo::empty();
    for model in architectures() {
        let reference = model.join("reference.safetensors");
        let args =
            ["logits", &shown(&model), "--ids", &shown(&reference), "--out", "out.safetensors", "--hidden", "--json"];
        let report = zoo.glue(&args).json();
        assert_eq!((&report["batch"], &report["length"], &report["vocabulary"]), (&json!(2), &json!(24), &json!(99)));
        let (found, expected) = (checkpoint::read(&zoo.path("out.safetensors")), checkpoint::read(&reference));
        assert_eq!(found["logits"].shape, [2, 24, 99]);
        let worst = found["logits"]
            .values()
            .iter()
            .zip(expected["logits"].values())
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f64::max);
        // The tolerance of the reference files: two runtimes that sum in different orders in f32.
        assert!(worst < 2e-4, "{}: {worst}", model.display());
        for state in 0..5 {
            assert_eq!(found[&format!("hidden.{state}")].shape, [2, 24, 32], "{}", model.display());
        }
    }
}

#[test]
fn padding_on_either_side_changes_no_logits() {
    let zoo = Zoo::empty();
    let model = &architectures()[0];
    let ids = checkpoint::read(&model.join("reference.safetensors"))["input_ids"].values();
    let write = |name: &str, rows: &[Vec<i64>], mask: Option<&[Vec<i64>]>| {
        let tensor = |rows: &[Vec<i64>]| Tensor::i64(&[rows.len(), rows[0].len()], rows.concat());
        let mut tensors = Tensors::new();
        tensors.insert("input_ids".into(), tensor(rows));
        if let Some(mask) = mask {
            tensors.insert("attention_mask".into(), tensor(mask));
        }
        zoo.write(name, checkpoint::encode(&tensors));
    };
    let run = |name: &str| {
        zoo.glue(&["logits", &shown(model), "--ids", name, "--out", "out.safetensors"]).ok();
        checkpoint::read(&zoo.path("out.safetensors"))["logits"].values()
    };
    let ids: Vec<i64> = ids.iter().map(|&id| id as i64).collect();
    let (long, short) = (ids[..10].to_vec(), ids[24..30].to_vec());
    write("long", std::slice::from_ref(&long), None);
    write("short", std::slice::from_ref(&short), None);
    let padded = |left: usize| {
        let around = |value: i64, text: Vec<i64>| [vec![value; left], text, vec![value; 4 - left]].concat();
        write("padded", &[long.clone(), around(-100, short.clone())], Some(&[vec![1; 10], around(0, vec![1; 6])]));
        run("padded")
    };
    let (alone_long, alone_short) = (run("long"), run("short"));
    let width = 99;
    for left in [0, 2, 4] {
        let together = padded(left);
        let close = |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5);
        assert!(close(&together[..10 * width], &alone_long), "{left}");
        assert!(close(&together[(10 + left) * width..(16 + left) * width], &alone_short), "{left}");
        assert!(together[10 * width..(10 + left) * width].iter().all(|&logit| logit == 0.0));
        assert!(together[(16 + left) * width..].iter().all(|&logit| logit == 0.0));
    }
}

#[test]
fn token_files_that_make_no_sense_are_refused() {
    let zoo = Zoo::empty();
    let model = shown(&architectures()[0]);
    let write = |name: &str, tensors: &[(&str, Tensor)]| {
        let tensors: Tensors = tensors.iter().map(|(name, tensor)| ((*name).to_owned(), tensor.clone())).collect();
        zoo.write(name, checkpoint::encode(&tensors));
    };
    write("other", &[("tokens", Tensor::i64(&[1, 2], [1, 2]))]);
    write("flat", &[("input_ids", Tensor::i64(&[2], [1, 2]))]);
    write("floats", &[("input_ids", Tensor::f32(&[1, 2], [1.0, 2.0]))]);
    write("negative", &[("input_ids", Tensor::i64(&[1, 2], [1, -2]))]);
    write("beyond", &[("input_ids", Tensor::i64(&[1, 2], [1, 99]))]);
    write("mask", &[("input_ids", Tensor::i64(&[1, 2], [1, 2])), ("attention_mask", Tensor::i64(&[2], [1, 1]))]);
    write(
        "gap",
        &[("input_ids", Tensor::i64(&[1, 3], [1, 2, 3])), ("attention_mask", Tensor::i64(&[1, 3], [1, 0, 1]))],
    );
    zoo.write("text", "not safetensors");
    for (file, says) in [
        ("other", &["input_ids", "tokens"][..]),
        ("flat", &["[2]", "[batch, length]"]),
        ("floats", &["F32", "I64"]),
        ("negative", &["-2", "[0, 1]"]),
        ("beyond", &["99"]),
        ("mask", &["attention_mask"]),
        ("gap", &["gap"]),
        ("text", &["text"]),
        ("nowhere", &["nowhere"]),
    ] {
        zoo.glue(&["logits", &model, "--ids", file, "--out", "out.safetensors"]).refused(file, 2, says);
        assert!(!zoo.path("out.safetensors").exists(), "{file}");
    }
}

const QUESTION: &str = "leo has 15 shells and gets 15 more. How many? A:";

fn generate(args: &[&str]) -> Value {
    glue(&shipped(), ["generate", "a-math", "--json"].iter().chain(args)).json()
}

fn texts(document: &Value) -> Vec<String> {
    let prompts = document["prompts"].as_array().expect("prompts").iter();
    let answers = prompts.flat_map(|prompt| prompt["answers"].as_array().expect("answers"));
    answers.map(|answer| answer["text"].as_str().expect("a text").to_owned()).collect()
}

#[test]
fn a_model_answers() {
    let document = generate(&["--prompt", QUESTION, "--stop", r"\n"]);
    let answer = &document["prompts"][0]["answers"][0];
    assert_eq!((answer["text"].as_str().map(str::trim), &answer["finish"]), (Some("30"), &json!("stop")));

    // One prompt is shown as it is generated; from standard input, or several, it is the same.
    let streamed = glue(&shipped(), ["generate", "a-math", "--prompt", QUESTION, "--stop", r"\n"]).ok().out;
    assert_eq!(streamed, format!("{}\n", texts(&document)[0]));
    let mut piped = command(&shipped(), ["generate", "a-math", "--stop", r"\n"]);
    let mut child = piped.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("glue starts");
    child.stdin.take().expect("a pipe").write_all(format!("{QUESTION}\n").as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(String::from_utf8(output.stdout).expect("text"), streamed);
    let both =
        generate(&["--prompt", "eva has 23 shells and loses 10. How many? A:", "--prompt", QUESTION, "--stop", r"\n"]);
    assert_eq!(texts(&both)[1], texts(&document)[0]);
}

#[test]
fn prompts_come_from_a_file() {
    let zoo = Zoo::empty();
    zoo.write("prompts", format!("{QUESTION}\n\n\"x = [4,1,9,5];\\u0020print(min(x)) ->\"\n"));
    let model = shown(&shipped().join("a-math"));
    let run = |file: &str| zoo.glue(&["generate", &model, "--prompts", file, "--max-new-tokens", "4", "--json"]);
    let document = run("prompts").json();
    assert_eq!(document["prompts"][1]["prompt"], "x = [4,1,9,5]; print(min(x)) ->");
    assert_eq!(texts(&document).len(), 2);
    zoo.write("broken", "fine\n\"not closed\n");
    run("broken").refused("broken", 2, &["broken, line 2"]);
    run("nowhere").refused("nowhere", 2, &["nowhere"]);
}

#[test]
fn chance_follows_the_seed() {
    let draw = |seed: &str, threads: &str| {
        texts(&generate(&[
            "--prompt",
            "x = [",
            "--prompt",
            QUESTION,
            "--samples",
            "4",
            "--temperature",
            "1.5",
            "--top-k",
            "40",
            "--max-new-tokens",
            "12",
            "--seed",
            seed,
            "--threads",
            threads,
        ]))
    };
    let first = draw("1", "1");
    assert_eq!(first.len(), 8);
    assert_eq!(draw("1", "3"), first);
    assert_ne!(draw("2", "1"), first);
    assert!(first[..4].iter().any(|text| *text != first[0]), "samples of a prompt differ: {first:?}");
}

#[test]
fn chats_go_through_the_template() {
    let zoo = Zoo::empty();
    zoo.copy(&shipped().join("a-math"), "model");
    let run = |args: &[&str]| {
        let fixed = [
            "generate",
            "model",
            "--prompt",
            "leo has 15 shells and gets 15 more. How many?",
            "--stop",
            r"\n",
            "--json",
            "--chat",
        ];
        zoo.glue(&[&fixed[..], args].concat())
    };
    run(&[]).refused("no template", 2, &["chat template", "--chat"]);
    let mut tokenizer = zoo.json("model/tokenizer_config.json");
    tokenizer["chat_template"] = json!(
        "{{ bos_token }}{% for m in messages %}{{ m['content'] }}{% if not loop.last %} {% endif %}{% endfor %} A:"
    );
    zoo.write("model/tokenizer_config.json", tokenizer.to_string());
    let document = run(&[]).json();
    assert_eq!(texts(&document)[0].trim(), "30");
    // BOS is in the template, and not put before it once more.
    assert_eq!(
        document["prompts"][0]["answers"][0]["prompt_tokens"],
        generate(&["--prompt", QUESTION])["prompts"][0]["answers"][0]["prompt_tokens"]
    );
    let more = run(&["--system", "eva is tall."]).json();
    assert!(
        more["prompts"][0]["answers"][0]["prompt_tokens"].as_u64()
            > document["prompts"][0]["answers"][0]["prompt_tokens"].as_u64()
    );
}

#[test]
fn options_out_of_range_are_refused() {
    let zoo = Zoo::empty();
    let model = shown(&shipped().join("a-math"));
    let long = "tom is taller than eva. ".repeat(100);
    let check = |args: &[&str], says: &[&str]| {
        let args = [&["generate", &model][..], args].concat();
        zoo.glue(&args).refused(&format!("{args:.60?}"), 2, says);
    };
    check(&["--prompt", "a", "--temperature", "-1"], &["temperature"]);
    check(&["--prompt", "a", "--top-p", "1.5"], &["top_p", "1.5"]);
    check(&["--prompt", "a", "--max-new-tokens", "0"], &["max-new-tokens"]);
    check(&["--prompt", &long, "--json"], &["256", "--truncate"]);
    check(&["--prompt", "a", "--system", "b"], &["--chat"]);
    zoo.glue(&["generate", "nowhere", "--prompt", "a"]).refused("nowhere", 2, &["nowhere"]);
    let cut =
        zoo.glue(&["generate", &model, "--prompt", &long, "--truncate", "--max-new-tokens", "3", "--json"]).json();
    let answer = &cut["prompts"][0]["answers"][0];
    assert_eq!(answer["prompt_tokens"].as_u64(), Some(253));
    assert!(answer["truncated"].as_u64() > Some(0));
}
