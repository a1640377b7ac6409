//! `glue eval --server` against a stand-in that answers from nothing but a rule.

use glue_tests::server::{FakeServer, Fault, Kind, continued, likeliest, logprob, text};
use glue_tests::{Run, Zoo, shipped};
use serde_json::{Value, json};
use std::net::TcpListener;

const NOTE: &str = "llama.cpp gives no log-probabilities of prompts";

/// A model without weights, and a task of each kind.
fn zoo() -> Zoo {
    let zoo = Zoo::empty();
    for name in ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"] {
        let from = std::fs::read(shipped().join("a-math").join(name)).expect("a file of the zoo");
        zoo.write(&format!("model/{name}"), from);
    }
    let tasks: [(&str, Value, [Value; 2]); 3] = [
        (
            "choices",
            json!({ "kind": "multiple_choice" }),
            [
                json!({ "context": "Q: What is 3 + 4? A:", "choices": ["seven", "seventy"], "gold": 0 }),
                json!({ "context": "Q: What is 2 + 4? A:", "choices": ["six", "8", "nine"], "gold": 1 }),
            ],
        ),
        (
            "answers",
            json!({ "kind": "generate", "metric": "exact_match", "max_gen_toks": 8 }),
            [json!({ "context": "Q: 3 + 4 A:", "target": "7" }), json!({ "context": "Q: 2 + 4 A:", "target": "6" })],
        ),
        (
            "texts",
            json!({ "kind": "perplexity" }),
            [json!({ "text": "The job of doquo is 17." }), json!({ "text": "naïve café" })],
        ),
    ];
    for (name, mut task, items) in tasks {
        task["name"] = name.into();
        zoo.write(&format!("tasks/{name}/task.json"), task.to_string());
        zoo.write(&format!("tasks/{name}/test.jsonl"), items.map(|item| item.to_string() + "\n").concat());
    }
    zoo
}

fn eval(zoo: &Zoo, server: &str, args: &[&str]) -> Run {
    zoo.glue(&[&["eval", "model", "--tasks", "tasks", "--server", server], args].concat())
}

fn body(request: &glue_tests::hub::Request) -> Value {
    serde_json::from_slice(&request.body).unwrap_or_default()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().expect("ids").iter().map(|id| id.as_u64().expect("an id") as u32).collect()
}

#[test]
fn every_dialect_gives_the_scores_of_the_rule() {
    let zoo = zoo();
    let mut reports = Vec::new();
    for (kind, name) in
        [(Kind::Vllm, "vllm"), (Kind::Sglang, "sglang"), (Kind::LlamaCpp, "llama-cpp"), (Kind::OpenAi, "openai")]
    {
        let server = FakeServer::start(kind).expect("a port");
        let run = eval(&zoo, &format!("{}/v1", server.url()), &["--json", "--samples", "samples.jsonl", "--quiet"]);
        let report = run.json();
        assert_eq!(report["server"], json!({ "url": server.url(), "dialect": name, "model": "rule" }));
        assert_eq!(report["model"], "model");
        let samples: Vec<Value> = String::from_utf8(zoo.bytes("samples.jsonl"))
            .expect("UTF-8")
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect();
        if kind == Kind::Vllm {
            check_samples(&samples, &server);
        }
        reports.push((report, samples));
    }
    let close = |a: &Value, b: &Value| match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => (a - b).abs() <= 1e-9 * a.abs(),
        _ => a == b,
    };
    let (first, samples) = &reports[0];
    for (report, others) in &reports[1..] {
        for (task, scores) in first["tasks"].as_object().expect("tasks") {
            for (name, value) in scores.as_object().expect("scores") {
                assert!(close(value, &report["tasks"][task][name]), "{task} {name}: {first} {report}");
            }
        }
        for (a, b) in samples.iter().zip(others) {
            assert_eq!((&a["answers"], &a["greedy"]), (&b["answers"], &b["greedy"]));
        }
    }
}

/// Every answer in the samples follows from the ids that vLLM was sent.
fn check_samples(samples: &[Value], server: &FakeServer) {
    let requests: Vec<Value> = server.take_requests().iter().map(body).collect();
    let (scored, generated): (Vec<_>, Vec<_>) =
        requests.iter().filter(|body| body["prompt"].is_array()).partition(|body| body["prompt_logprobs"].is_number());
    assert_eq!((scored.len(), generated.len()), (5 + 2, 2));
    let score = |ids: &[u32], start: usize| (start..ids.len()).map(|at| logprob(&ids[..at], ids[at])).sum::<f64>();
    let scored: Vec<Vec<u32>> = scored.iter().map(|body| ids(&body["prompt"])).collect();
    let found = |samples: &[Value], name: &str| -> Vec<Value> {
        samples.iter().flat_map(|sample| sample[name].as_array().cloned().unwrap_or_default()).collect()
    };
    // Requests come in any order, and where a continuation begins is not said: any place may be it.
    for value in found(samples, "loglikelihoods") {
        let value = value.as_f64().expect("a number");
        let fits = |ids: &Vec<u32>| (1..ids.len()).any(|start| (score(ids, start) - value).abs() < 1e-9);
        assert!(scored.iter().any(fits), "{value} does not follow from what was sent");
    }
    let texts: Vec<String> = generated.iter().map(|body| text(&continued(&ids(&body["prompt"]), 8))).collect();
    let answers = found(samples, "answers");
    assert_eq!(answers.len(), 2);
    for answer in answers {
        assert!(texts.iter().any(|text| Some(text.as_str()) == answer.as_str()), "{answer} in {texts:?}");
    }
    assert_ne!(likeliest(&[1]), likeliest(&[1, 2]));
}

#[test]
fn the_slow_way_of_llama_cpp_is_noted() {
    let server = FakeServer::start(Kind::LlamaCpp).expect("a port");
    eval(&zoo(), &server.url(), &["--task", "choices"]).ok_with_note(NOTE);
}

#[test]
fn what_cannot_be_is_refused() {
    let zoo = zoo();
    let server = FakeServer::start(Kind::Vllm).expect("a port");
    let url = server.url();
    eval(&zoo, &url, &["--cache", "cache"]).refused("cache", 2, &["--cache", "--server"]);
    zoo.glue(&["eval", "model", "model", "--tasks", "tasks", "--server", &url]).refused(
        "two models",
        2,
        &["--server takes one model, but 2 are given"],
    );
    eval(&zoo, "localhost:8000", &[]).refused("address", 2, &["`localhost:8000` is no address of a server"]);
    zoo.glue(&["eval", "nowhere", "--tasks", "tasks", "--server", &url]).refused(
        "directory",
        1,
        &["nowhere: expected a directory with config.json"],
    );
    server.behave(|behaviour| behaviour.max_length = Some(128));
    eval(&zoo, &url, &[]).refused("length", 2, &["the maximum length is 128 there and 256", "--server-max-length 128"]);
    eval(&zoo, &url, &["--server-max-length", "128", "--task", "answers"]).ok();
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let closed = format!("http://{}", listener.local_addr().expect("an address"));
    drop(listener);
    eval(&zoo, &closed, &[]).refused("closed", 1, &[&closed, "is the server running"]);
}

#[test]
fn a_token_is_sent_and_not_shown() {
    let zoo = zoo();
    zoo.write("token", "top-secret\n");
    let server = FakeServer::start(Kind::Vllm).expect("a port");
    server.behave(|behaviour| behaviour.token = Some("top-secret".into()));
    let url = server.url();
    let ask = |args: &[&str], variable: &str| {
        let args = [&["eval", "model", "--tasks", "tasks", "--task", "answers", "--server", &url], args].concat();
        Run::of(zoo.command(&args).env("OPENAI_API_KEY", variable))
    };
    ask(&["--server-token-file", "token"], "").ok();
    ask(&[], "top-secret").ok();
    let run = ask(&[], "");
    run.refused("no token", 1, &["status 401: who are you?", "--server-token-file"]);
    server.behave(|behaviour| behaviour.fault = Some(Fault::Status(400)));
    let run = ask(&["--server-token-file", "token"], "");
    run.refused("refused", 1, &["answered with status 400: no"]);
    assert!(!run.err.contains("secret"), "{}", run.err);
}

#[test]
fn a_broken_server_ends_the_evaluation() {
    let zoo = zoo();
    let server = FakeServer::start(Kind::Sglang).expect("a port");
    for (fault, args, says) in [
        (Fault::Nan, &["--task", "choices"][..], "not a number"),
        (Fault::Short, &["--task", "texts"], "entries in meta_info.input_token_logprobs"),
        (Fault::Moved("http://localhost:1/".into()), &["--task", "answers"], "redirects to http://localhost:1/"),
        (Fault::Hang, &["--task", "answers", "--server-timeout", "0.3"], "did not answer within 0.3 s"),
    ] {
        server.behave(|behaviour| behaviour.fault = Some(fault.clone()));
        eval(&zoo, &server.url(), args).refused(says, 1, &[says, &server.url()]);
    }
    server.behave(|behaviour| {
        behaviour.fault = None;
        behaviour.busy = 1;
    });
    eval(&zoo, &server.url(), &["--task", "answers"]).ok();
}
