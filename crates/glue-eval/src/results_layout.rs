//! Results in the layout of lm-evaluation-harness: `results_DATE.json` and `samples_TASK_DATE.jsonl`, which people's
//! notebooks read.
//!
//! Keys that describe Python's environment (`transformers_version`, `pretty_env_info`, …) and hashes of texts
//! (`doc_hash`, `task_hashes`, …) are left out: nothing here has their values.

use crate::groups::{GroupReport, group_scores};
use crate::report::{Report, Sample, TaskReport};
use crate::task::{Task, TaskGroup};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// What is known of a run besides its scores.
#[derive(Debug, Clone, Default)]
pub struct RunDetails {
    /// The directory of the model.
    pub model_path: String,
    /// The limit of items: a number, or a fraction below 1.
    pub limit: Option<f64>,
    /// What the choice of examples depends on.
    pub seed: u64,
    /// Whether prompts were put into the chat template.
    pub chat_template: bool,
    /// Whether examples were turns of their own.
    pub fewshot_as_multiturn: bool,
    /// What the model was told before everything else.
    pub system_instruction: Option<String>,
    /// What was changed of the tasks' generation settings.
    pub gen_kwargs: Map<String, Value>,
    /// When it began, in seconds since 1970.
    pub start: f64,
    /// How long it took, in seconds.
    pub seconds: f64,
}

/// The document `results_DATE.json`.
pub fn results(report: &Report, tasks: &[Task], groups: &[TaskGroup], details: &RunDetails) -> Value {
    let scores = group_scores(groups, tasks, report);
    let find = |name: &str| tasks.iter().find(|task| task.name() == name);
    let mut results = Map::new();
    let mut configs = BTreeMap::new();
    let mut versions = BTreeMap::new();
    let mut shots = BTreeMap::new();
    let mut better = BTreeMap::new();
    let mut counts = Map::new();
    for scored in &report.tasks {
        let Some(task) = find(&scored.name) else { continue };
        results.insert(scored.name.clone(), of_task(scored, task));
        let mut config = task.config().clone();
        config.insert("task".into(), json!(scored.name));
        config.insert("num_fewshot".into(), json!(scored.num_fewshot));
        configs.insert(scored.name.clone(), Value::Object(config));
        versions.insert(scored.name.clone(), task.version().cloned().unwrap_or(Value::Null));
        shots.insert(scored.name.clone(), json!(scored.num_fewshot));
        let keys = task.metric_keys().into_iter().zip(&scored.metrics);
        let higher: Map<String, Value> =
            keys.map(|((metric, _), found)| (metric.to_string(), json!(found.higher_is_better))).collect();
        better.insert(scored.name.clone(), Value::Object(higher));
        // How many there are without a limit is not read again.
        let original = if details.limit.is_none() { json!(scored.n) } else { Value::Null };
        counts.insert(scored.name.clone(), json!({"original": original, "effective": scored.n}));
    }
    let mut of_groups = Map::new();
    for group in groups {
        let members: Vec<&str> = group.members().iter().map(|member| member.name()).collect();
        let mut of = Map::new();
        of.insert("name".into(), json!(group.name()));
        of.insert("alias".into(), json!(group.alias()));
        if let Some(scores) = scores.iter().find(|scores| scores.name == group.name()) {
            add_group(&mut of, scores);
            of_groups.insert(group.name().into(), Value::Object(of.clone()));
            let higher: Map<String, Value> =
                scores.metrics.iter().map(|metric| (metric.metric.clone(), json!(metric.higher_is_better))).collect();
            better.insert(group.name().into(), Value::Object(higher));
        }
        results.insert(group.name().into(), Value::Object(of));
        versions.insert(group.name().into(), json!(group.version().unwrap_or("N/A")));
        let below: Vec<&Value> = members.iter().filter_map(|name| shots.get(*name)).collect();
        if let [first, rest @ ..] = below.as_slice()
            && rest.iter().all(|other| other == first)
        {
            let shot = (*first).clone();
            shots.insert(group.name().into(), shot);
        }
    }
    let mut document = json!({
        "results": results,
        "group_subtasks": groups
            .iter()
            .map(|group| {
                let members: Vec<&str> = group.members().iter().map(|member| member.name()).collect();
                (group.name().to_string(), json!(members))
            })
            .collect::<Map<String, Value>>(),
        "configs": configs,
        "versions": versions,
        "n-shot": shots,
        "higher_is_better": better,
        "n-samples": counts,
        "config": {
            "model": "glue",
            "model_args": {"pretrained": details.model_path},
            "batch_size": null,
            "device": null,
            "use_cache": null,
            "limit": details.limit,
            "bootstrap_iters": 0,
            "gen_kwargs": details.gen_kwargs,
            "random_seed": details.seed,
            "numpy_seed": details.seed,
            "torch_seed": details.seed,
            "fewshot_seed": details.seed,
        },
        "date": details.start,
        "model_source": "glue",
        "model_name": report.model,
        "model_name_sanitized": sanitized(&report.model),
        "system_instruction": details.system_instruction,
        "fewshot_as_multiturn": details.chat_template && details.fewshot_as_multiturn,
        "apply_chat_template": details.chat_template,
        "start_time": details.start,
        "end_time": details.start + details.seconds,
        "total_evaluation_time_seconds": details.seconds.to_string(),
    });
    if !of_groups.is_empty() {
        document["groups"] = Value::Object(of_groups);
    }
    document
}

fn of_task(scored: &TaskReport, task: &Task) -> Value {
    let mut map = Map::new();
    map.insert("name".into(), json!(scored.name));
    map.insert("alias".into(), json!(task.alias()));
    map.insert("sample_len".into(), json!(scored.n));
    for ((metric, filter), found) in task.metric_keys().into_iter().zip(&scored.metrics) {
        map.insert(format!("{metric},{filter}"), json!(found.value));
        map.insert(format!("{metric}_stderr,{filter}"), stderr(found.stderr));
    }
    Value::Object(map)
}

fn add_group(map: &mut Map<String, Value>, scores: &GroupReport) {
    map.insert("sample_len".into(), json!(scores.n));
    let mut counts = Map::new();
    for metric in &scores.metrics {
        map.insert(format!("{},{}", metric.metric, metric.filter), json!(metric.value));
        map.insert(format!("{}_stderr,{}", metric.metric, metric.filter), stderr(metric.stderr));
        counts.insert(format!("{},{}", metric.metric, metric.filter), json!(metric.n));
    }
    map.insert("sample_count".into(), Value::Object(counts));
}

fn stderr(stderr: Option<f64>) -> Value {
    stderr.map_or(json!("N/A"), |stderr| json!(stderr))
}

/// A name of a model as a name of a directory, as the harness writes it: two underscores for what no such name has.
pub fn sanitized(name: &str) -> String {
    const SPECIAL: &[char] = &['"', '<', '>', ':', '/', '|', '\\', '?', '*', '[', ']'];
    let mut clean = String::new();
    let mut was_special = false;
    for c in name.chars() {
        let special = SPECIAL.contains(&c) || c.is_control();
        match special {
            true if was_special => {}
            true => clean.push_str("__"),
            false => clean.push(c),
        }
        was_special = special;
    }
    if clean.chars().all(|c| c == '.') { "model".into() } else { clean }
}

/// The lines of `samples_TASK_DATE.jsonl`: one for each item and filter.
///
/// # Errors
/// [`serde_json::Error`] for a record that is no JSON.
pub fn samples(task: &Task, samples: &[Sample]) -> Result<Vec<String>, serde_json::Error> {
    let mut filters: Vec<&str> = task.metric_keys().into_iter().map(|(_, filter)| filter).collect();
    filters.dedup();
    let several = filters.len() > 1;
    let mut lines = Vec::new();
    for filter in filters {
        for sample in samples.iter().filter(|sample| sample.task == task.name()) {
            let record: Value = serde_json::from_str(&sample.json)?;
            lines.push(line(&record, sample.index, filter, several).to_string());
        }
    }
    Ok(lines)
}

fn line(record: &Value, index: usize, filter: &str, several: bool) -> Value {
    let list = |key: &str| record.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
    let (logprobs, greedy) = (list("loglikelihoods"), list("greedy"));
    let continuations = list("continuations");
    let mut arguments = Map::new();
    let mut responses = Vec::new();
    let mut filtered = Vec::new();
    if record.get("answers").is_some() {
        arguments.insert("gen_args_0".into(), json!({"arg_0": record["prompt"]}));
        responses.push(json!(list("answers")));
        let left = record["filtered"].get(filter).and_then(Value::as_array).cloned().unwrap_or_default();
        filtered.push(match left.as_slice() {
            [one] => one.clone(),
            several => json!(several),
        });
    } else {
        let prompts = list("prompts");
        let prompt = |i: usize| prompts.get(i).or(record.get("prompt")).cloned().unwrap_or_else(|| json!(""));
        for (i, logprob) in logprobs.iter().enumerate() {
            let argument = match record.get("text") {
                Some(text) => json!({"arg_0": text}),
                None => {
                    let own = continuations.get(i).or(continuations.first()).or(record.get("target"));
                    json!({"arg_0": prompt(i), "arg_1": own})
                }
            };
            arguments.insert(format!("gen_args_{i}"), argument);
            let greedy = match greedy.get(i).and_then(Value::as_bool) {
                Some(true) => "True",
                Some(false) => "False",
                None => "None",
            };
            let response = json!([logprob.to_string(), greedy]);
            responses.push(json!([response]));
            filtered.push(response);
        }
    }
    let target = match record.get("target").or(record.get("tests")) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(items)) if items.len() == 1 => glue_lm::jinja::str(&items[0]),
        Some(other) => glue_lm::jinja::str(other),
        None => String::new(),
    };
    let mut line = Map::new();
    line.insert("doc_id".into(), json!(index));
    line.insert("doc".into(), record.get("doc").cloned().unwrap_or_else(|| json!({})));
    line.insert("target".into(), json!(target));
    line.insert("arguments".into(), Value::Object(arguments));
    line.insert("resps".into(), json!(responses));
    line.insert("filtered_resps".into(), json!(filtered));
    line.insert("filter".into(), json!(filter));
    let suffix = format!(",{filter}");
    let scores = record.get("scores").and_then(Value::as_object);
    let own = scores.into_iter().flatten().filter_map(|(name, value)| match several {
        true => Some((name.strip_suffix(&suffix)?.to_string(), value)),
        false => Some((name.clone(), value)),
    });
    let own: Vec<(String, &Value)> = own.collect();
    line.insert("metrics".into(), json!(own.iter().map(|(name, _)| name).collect::<Vec<_>>()));
    for (name, value) in own {
        line.insert(name, value.clone());
    }
    Value::Object(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_directories() {
        assert_eq!(sanitized("org/name"), "org__name");
        assert_eq!(sanitized("../a:*b_c"), "..__a__b_c");
        assert_eq!((sanitized(".."), sanitized("")), ("model".into(), "model".into()));
    }

    #[test]
    fn records_of_choices_and_of_answers() {
        let record = json!({"prompt": "q", "continuations": [" a", " b"], "choices": ["a", "b"], "target": [1],
            "loglikelihoods": [-1.5, -2.0], "greedy": [true, false], "doc": {"x": 1}, "scores": {"acc": 0.0}});
        let expected = json!({"doc_id": 3, "doc": {"x": 1}, "target": "1", "arguments": {
            "gen_args_0": {"arg_0": "q", "arg_1": " a"}, "gen_args_1": {"arg_0": "q", "arg_1": " b"}},
            "resps": [[["-1.5", "True"]], [["-2.0", "False"]]], "filtered_resps": [["-1.5", "True"], ["-2.0", "False"]],
            "filter": "none", "metrics": ["acc"], "acc": 0.0});
        assert_eq!(line(&record, 3, "none", false), expected);
        let record = json!({"prompt": "q", "answers": [" 5."], "filtered": {"strict": ["5"], "loose": ["5."]},
            "target": ["5"], "scores": {"exact_match,strict": 1.0, "exact_match,loose": 0.0}});
        let found = line(&record, 0, "strict", true);
        assert_eq!((&found["filtered_resps"], &found["exact_match"]), (&json!(["5"]), &json!(1.0)));
        assert_eq!((&found["resps"], &found["metrics"]), (&json!([[" 5."]]), &json!(["exact_match"])));
    }
}
