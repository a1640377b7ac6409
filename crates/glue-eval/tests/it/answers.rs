//! What an evaluation says about prompts and answers instead of the tasks.

use crate::support::python;
use glue_eval::{
    ChatMessage, EvalOptions, GenerateRequest, Generation, LanguageModel, LogLikelihood, LogLikelihoodRequest,
    ModelError, Report, Task, evaluate, load_tasks,
};
use glue_progress::{ErrorChain, NoProgress};
use serde_json::{Map, Value, json};
use std::fs;
use std::sync::Mutex;

/// Gives one answer, and keeps what it was asked.
#[derive(Default)]
struct Recorder {
    answer: &'static str,
    asked: Mutex<Vec<Value>>,
}

impl LanguageModel for Recorder {
    fn name(&self) -> String {
        "recorder".into()
    }

    fn loglikelihoods(
        &self,
        requests: &[LogLikelihoodRequest<'_>],
        _: &(dyn Fn(usize) + Sync),
    ) -> Result<Vec<LogLikelihood>, ModelError> {
        let mut asked = self.asked.lock().unwrap();
        asked.extend(requests.iter().map(|request| json!({"context": request.context})));
        let score = |i| LogLikelihood { logprob: -1.0 - i as f64, greedy: i == 0, n_tokens: 1, truncated: 0 };
        Ok((0..requests.len()).map(score).collect())
    }

    fn rolling(&self, _: &[&str], _: &(dyn Fn(usize) + Sync)) -> Result<Vec<LogLikelihood>, ModelError> {
        Err(ModelError::new("no texts are scored here"))
    }

    fn generate(
        &self,
        requests: &[GenerateRequest<'_>],
        _: &(dyn Fn(usize) + Sync),
    ) -> Result<Vec<Vec<Generation>>, ModelError> {
        let mut asked = self.asked.lock().unwrap();
        for request in requests {
            let sampling = request.sampling;
            asked.push(json!({
                "context": request.context, "until": request.until, "max": request.max_new_tokens,
                "temperature": sampling.temperature, "top_k": sampling.top_k, "top_p": sampling.top_p,
                "min_p": sampling.min_p, "penalty": sampling.repetition_penalty,
            }));
        }
        let answer = Generation { text: self.answer.into(), n_tokens: 1, truncated: 0 };
        Ok(requests.iter().map(|request| vec![answer.clone(); request.n]).collect())
    }

    fn chat(&self, messages: &[ChatMessage]) -> Result<String, ModelError> {
        Ok(messages.iter().map(|message| format!("<{}>{}", message.role, message.content)).collect())
    }
}

fn map(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

/// The task of a YAML file beside two items, `q: 3+4`, `a: 7` and `q: 1+1`, `a: 2`.
fn task(folder: &tempfile::TempDir, more: &str) -> Vec<Task> {
    let items = "{\"q\": \"3+4\", \"a\": \"7\"}\n{\"q\": \"1+1\", \"a\": \"2\"}\n";
    fs::write(folder.path().join("items.jsonl"), items).unwrap();
    let text = format!(
        "task: sums\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: items.jsonl, dev: items.jsonl}}}}\n\
         test_split: test\nfewshot_split: dev\nfewshot_config: {{sampler: first_n}}\ndescription: Sums.\n\
         doc_to_text: \"{{{{q}}}}=\"\ndoc_to_target: a\ntarget_delimiter: ''\n{more}"
    );
    fs::write(folder.path().join("sums.yaml"), text).unwrap();
    load_tasks(&[folder.path().join("sums.yaml")]).unwrap()
}

const GENERATES: &str = "output_type: generate_until\ngeneration_kwargs: {until: [\"\\n\"], max_gen_toks: 5}\n";

fn run(answer: &'static str, tasks: &[Task], options: &EvalOptions) -> (Result<Report, String>, Vec<Value>) {
    let model = Recorder { answer, ..Recorder::default() };
    let report = evaluate(&model, tasks, options, &NoProgress).map_err(|error| error.chain());
    (report, model.asked.into_inner().unwrap())
}

#[test]
fn generation_settings_of_an_evaluation_replace_those_of_tasks() {
    let folder = tempfile::tempdir().unwrap();
    let tasks = task(&folder, GENERATES);
    let asked = |kwargs: Value| {
        let (report, asked) = run("7", &tasks, &EvalOptions { gen_kwargs: map(kwargs), ..EvalOptions::default() });
        report.map(|_| asked[0].clone())
    };
    let greedy = json!({
        "context": "Sums.3+4=", "until": ["\n"], "max": 5, "temperature": 0.0, "top_k": null, "top_p": null, "min_p": null,
        "penalty": 1.0,
    });
    assert_eq!(asked(json!({})).unwrap(), greedy);
    let found =
        asked(json!({"max_new_tokens": 9, "temperature": 0.5, "min_p": 0.1, "repetition_penalty": 1.2})).unwrap();
    let expected = json!({
        "context": "Sums.3+4=", "until": ["\n"], "max": 9, "temperature": 0.5, "top_k": 50, "top_p": null, "min_p": 0.1,
        "penalty": 1.2,
    });
    assert_eq!(found, expected);
    assert_eq!(asked(json!({"until": "x", "top_k": 0, "temperature": 1})).unwrap()["top_k"], Value::Null);
    for (kwargs, expected) in [
        (
            json!({"num_beams": 2}),
            "gen_kwargs: `num_beams` is not supported: answers are made one token after another, \
                                   without beams",
        ),
        (json!({"min_p": 2}), "gen_kwargs: `min_p` should be from 0 to 1, but is 2.0"),
        (json!({"temprature": 2}), "gen_kwargs: unknown key `temprature`"),
    ] {
        let error = asked(kwargs).unwrap_err();
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn generation_settings_of_native_tasks_are_replaced_too() {
    let folder = tempfile::tempdir().unwrap();
    let own = "{\"kind\": \"generate_until\", \"name\": \"own\", \"max_gen_toks\": 9, \"temperature\": 0.3, \"until\": [\";\"]}";
    fs::write(folder.path().join("task.json"), own).unwrap();
    fs::write(folder.path().join("test.jsonl"), "{\"context\": \"3+4=\", \"target\": \"7\"}\n").unwrap();
    let tasks = load_tasks(&[folder.path()]).unwrap();
    let options = EvalOptions { gen_kwargs: map(json!({"top_p": 0.5})), ..EvalOptions::default() };
    let (report, asked) = run("7", &tasks, &options);
    report.unwrap();
    let found: Vec<&Value> =
        ["max", "temperature", "top_k", "top_p", "until"].iter().map(|key| &asked[0][*key]).collect();
    assert_eq!(found, [&json!(9), &json!(0.3), &Value::Null, &json!(0.5), &json!([";"])]);
}

#[test]
fn reasoning_is_no_part_of_an_answer() {
    let folder = tempfile::tempdir().unwrap();
    let tasks = task(&folder, GENERATES);
    let text = "3 and\n4</think> so </think>\n 7\nand more";
    let of = |end: Option<&str>| {
        let options = EvalOptions { think_end_token: end.map(String::from), ..EvalOptions::default() };
        let (report, asked) = run(text, &tasks, &options);
        (report.unwrap().tasks[0].metrics[0].value, asked[0]["until"].clone())
    };
    // Stop strings within the reasoning end nothing.
    assert_eq!(of(Some("</think>")), (0.5, json!([])));
    assert_eq!(of(None), (0.0, json!(["\n"])));
}

#[test]
fn an_instruction_and_examples_in_prompts() {
    let folder = tempfile::tempdir().unwrap();
    let tasks = task(&folder, GENERATES);
    let context = |options: EvalOptions| {
        let options = EvalOptions { system_instruction: Some("Be brief.".into()), limit: Some(1), ..options };
        let (report, asked) = run("7", &tasks, &options);
        report.unwrap();
        asked[0]["context"].as_str().unwrap().to_string()
    };
    let one = EvalOptions { num_fewshot: Some(1), ..EvalOptions::default() };
    assert_eq!(context(one.clone()), "Be brief.\n\nSums.3+4=7\n\n3+4=");
    let chat = EvalOptions { apply_chat_template: true, ..one };
    assert_eq!(context(chat.clone()), "<system>Be brief.\n\nSums.<user>3+4=<assistant>7<user>3+4=");
    let joined = EvalOptions { fewshot_as_multiturn: false, ..chat };
    assert_eq!(context(joined), "<system>Be brief.\n\nSums.<user>3+4=7\n\n3+4=");
}

#[test]
fn options_of_metrics_that_the_harness_ignores_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let choices = "output_type: multiple_choice\ndoc_to_choice: [\"7\", \"2\"]\n";
    let metrics = "metric_list:\n  - metric: acc\n    ignore_case: true\n    aggregation: nanmean\n  - metric: f1\n    average: macro\n";
    let (report, _) = run("", &task(&folder, &format!("{choices}{metrics}")), &EvalOptions::default());
    assert_eq!(report.unwrap().tasks[0].metrics[0].value, 0.5);
    let path = folder.path().join("sums.yaml");
    let text = fs::read_to_string(&path).unwrap().replace("average", "avrage");
    fs::write(&path, text).unwrap();
    assert!(load_tasks(&[path]).unwrap_err().chain().contains("unknown key `avrage`"));
}

#[test]
fn log_likelihoods_of_all_choices_reach_a_function() {
    let folder = tempfile::tempdir().unwrap();
    let program = "def margin(items):\n    return sum(lls[gold] - max(l for i, l in enumerate(lls) if i != gold) \
                   for gold, lls in items) / len(items)\n";
    fs::write(folder.path().join("own.py"), program).unwrap();
    let choices = "output_type: multiple_choice\ndoc_to_choice: [\"7\", \"2\"]\nmetric_list:\n  - metric: likelihood\n";
    let by = |aggregation: &str| format!("{choices}    aggregation: {aggregation}\n");
    let (report, _) = run("", &task(&folder, &by("!function own.margin")), &EvalOptions::default());
    // -1 and -2 with the first right, -3 and -4 with the second.
    assert_eq!(report.unwrap().tasks[0].metrics[0].value, 0.0);
    let path = folder.path().join("sums.yaml");
    let text = fs::read_to_string(&path).unwrap().replace("!function own.margin", "mean");
    fs::write(&path, text).unwrap();
    let error = load_tasks(&[path]).unwrap_err().chain();
    assert!(error.contains("`aggregation` should be a function"), "{error}");
}

#[test]
fn tables_without_a_header_have_their_names_from_the_task() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("items.csv"), "3+4,7\n1+1,2\n").unwrap();
    let text = "task: sums\ndataset_path: csv\ndataset_kwargs: {data_files: {test: items.csv}, column_names: [q, a], header: null}\n\
                test_split: test\noutput_type: generate_until\ndoc_to_text: q\ndoc_to_target: a\n";
    let path = folder.path().join("sums.yaml");
    fs::write(&path, text).unwrap();
    let (report, asked) = run("7", &load_tasks(&[&path]).unwrap(), &EvalOptions::default());
    assert_eq!((report.unwrap().tasks[0].metrics[0].value, asked.len()), (0.5, 2));
    fs::write(&path, text.replace("column_names: [q, a], ", "")).unwrap();
    assert!(load_tasks(&[&path]).unwrap_err().chain().contains("`column_names`"));
}

#[test]
fn metrics_that_load_code_eval_run_the_answers() {
    if !python() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    // As in the harness: the file tries the metric out when it is loaded.
    let program = "import evaluate as hf_evaluate\n\ntry:\n    compute_ = hf_evaluate.load(\"code_eval\")\n\
                   \u{20}   results = compute_.compute(references=[\"\"], predictions=[[\"\"]], k=[1])\n\
                   except Exception as e:\n    raise e\n\n\ndef pass_at_k(references, predictions, k=None):\n    global compute_\n\
                   \u{20}   return compute_.compute(references=references, predictions=predictions, k=k)[0]\n\n\n\
                   def whole(resps, docs):\n    return [[doc[\"q\"] + r for r in resp] for resp, doc in zip(resps, docs)]\n";
    fs::write(folder.path().join("code.py"), program).unwrap();
    let items = "{\"q\": \"def f(x):\\n\", \"t\": \"assert f(1) == 2\"}\n{\"q\": \"def f(x):\\n\", \"t\": \"assert f(1) == 3\"}\n";
    fs::write(folder.path().join("items.jsonl"), items).unwrap();
    let text = "task: code\nunsafe_code: true\ndataset_path: json\ndataset_kwargs: {data_files: {test: items.jsonl}}\ntest_split: test\n\
                output_type: generate_until\ndoc_to_text: q\ndoc_to_target: t\n\
                metric_list:\n  - metric: !function code.pass_at_k\n    aggregation: mean\n    k: [1]\n\
                filter_list:\n  - name: create_test\n    filter:\n      - function: custom\n        filter_fn: !function code.whole\n";
    fs::write(folder.path().join("code.yaml"), text).unwrap();
    let tasks = load_tasks(&[folder.path().join("code.yaml")]).unwrap();
    let options = EvalOptions { allow_code_execution: true, ..EvalOptions::default() };
    let (report, _) = run("    return x + 1\n", &tasks, &options);
    let report = report.unwrap();
    assert_eq!((report.tasks[0].metrics[0].name.as_str(), report.tasks[0].metrics[0].value), ("pass@1", 0.5));
}
