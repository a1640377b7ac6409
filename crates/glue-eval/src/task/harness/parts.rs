//! The parts of a task file: generation, filters, metrics.

use crate::error::TaskError;
use crate::filters::{Extract, Filter, Pipeline};
use crate::metrics::{Aggregation, Comparison, Metric, MetricSpec};
use crate::model::Sampling;
use crate::python::regex;
use crate::task::fields::{ANSWERS, Fields, NEW_TOKENS, TOP_K};
use crate::task::{Generating, Kind};
use fancy_regex::Regex;
use glue_lm::jinja;
use serde_json::{Map, Value};

/// The fields of a map below the one that `fields` is about.
pub(super) fn below<'a>(fields: &Fields<'a>, key: &str, value: &'a Value) -> Result<Fields<'a>, TaskError> {
    let map = value.as_object().ok_or_else(|| fields.wrong(key, "a map", value))?;
    Ok(Fields { place: fields.place_of(key), map, sources: fields.sources })
}

fn list<'a>(fields: &Fields<'a>, key: &str, value: &'a Value) -> Result<&'a [Value], TaskError> {
    let items = value.as_array().filter(|items| !items.is_empty());
    items.map(Vec::as_slice).ok_or_else(|| fields.wrong(key, "a list that is not empty", value))
}

fn pattern(fields: &Fields<'_>, key: &str, source: &str) -> Result<Regex, TaskError> {
    regex::compile(source)
        .map_err(|message| TaskError::Malformed { place: fields.place_of(key), message: format!("`{key}`: {message}") })
}

/// `generation_kwargs`.
pub(super) fn generating(fields: &Fields<'_>, delimiter: &str, repeats: usize) -> Result<Generating, TaskError> {
    const KEY: &str = "generation_kwargs";
    const LENGTHS: &[&str] = &["max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens"];
    let default =
        Generating { until: vec![delimiter.to_string()], max_new_tokens: 256, sampling: Sampling::GREEDY, repeats };
    let Some(value) = fields.get(KEY) else { return Ok(default) };
    let kwargs = below(fields, KEY, value)?;
    kwargs.only(&[&["until", "do_sample", "temperature", "top_k", "top_p"], LENGTHS])?;
    let until = kwargs.texts("until")?.unwrap_or(default.until);
    let mut max_new_tokens = default.max_new_tokens;
    if let Some(key) = LENGTHS.iter().find(|key| kwargs.get(key).is_some()) {
        max_new_tokens = kwargs.number(key, NEW_TOKENS)?.unwrap_or(max_new_tokens);
    }
    let temperature = kwargs.real("temperature")?.unwrap_or(0.0);
    let temperature = match kwargs.flag("do_sample")? {
        Some(false) => 0.0,
        Some(true) if temperature == 0.0 => {
            return Err(kwargs.wrong("do_sample", "false, or `temperature` above 0", &Value::Bool(true)));
        }
        _ => temperature,
    };
    let top_p = kwargs.real("top_p")?;
    if let Some(p) = top_p.filter(|p| !(*p > 0.0 && *p <= 1.0)) {
        return Err(kwargs.wrong("top_p", "above 0 and at most 1", &Value::from(p)));
    }
    // 0 stands for no limit.
    let top_k = kwargs.number("top_k", TOP_K)?.filter(|&k| k > 0);
    let sampling = Sampling { temperature, top_k, top_p, seed: 0 };
    Ok(Generating { until, max_new_tokens, sampling, repeats })
}

/// `filter_list`.
pub(in crate::task) fn pipelines(fields: &Fields<'_>, value: &Value) -> Result<Vec<Pipeline>, TaskError> {
    const KEY: &str = "filter_list";
    let mut pipelines: Vec<Pipeline> = Vec::new();
    for value in list(fields, KEY, value)? {
        let entry = below(fields, KEY, value)?;
        entry.only(&[&["name", "filter"]])?;
        let steps = entry.required("filter")?;
        let filters =
            list(&entry, "filter", steps)?.iter().map(|step| filter(&entry, step)).collect::<Result<_, _>>()?;
        let name = entry.text("name")?.to_string();
        if pipelines.iter().any(|other| other.name == name) {
            let message = format!("two entries of `{KEY}` are named `{name}`");
            return Err(TaskError::Malformed { place: entry.place, message });
        }
        pipelines.push(Pipeline { name, filters });
    }
    Ok(pipelines)
}

const FILTERS: &[&str] = &[
    "take_first",
    "take_first_k",
    "majority_vote",
    "remove_whitespace",
    "lowercase",
    "uppercase",
    "map",
    "regex",
    "multi_choice_regex",
];

fn filter(entry: &Fields<'_>, value: &Value) -> Result<Filter, TaskError> {
    let step = below(entry, "filter", value)?;
    let none: &[&[&str]] = &[&["function"]];
    let name = step.text("function")?;
    let simple = match name {
        "take_first" => Some(Filter::TakeFirst),
        "majority_vote" => Some(Filter::MajorityVote),
        "remove_whitespace" => Some(Filter::RemoveWhitespace),
        "lowercase" => Some(Filter::Lowercase),
        "uppercase" => Some(Filter::Uppercase),
        _ => None,
    };
    if let Some(filter) = simple {
        step.only(none)?;
        return Ok(filter);
    }
    match name {
        "take_first_k" => {
            step.only(&[&["function", "k"]])?;
            step.required("k")?;
            Ok(Filter::TakeFirstK(step.number("k", ANSWERS)?.unwrap_or(1)))
        }
        "map" => {
            step.only(&[&["function", "mapping_dict", "default_value"]])?;
            let empty = Map::new();
            let table = match step.get("mapping_dict") {
                None => &empty,
                Some(value) => value.as_object().ok_or_else(|| step.wrong("mapping_dict", "a map", value))?,
            };
            let table = table.iter().map(|(from, to)| (from.clone(), jinja::str(to))).collect();
            let otherwise = step.map.get("default_value").map_or_else(|| "None".into(), jinja::str);
            Ok(Filter::Map { table, otherwise })
        }
        "regex" => {
            step.only(&[&["function", "regex_pattern", "group_select", "fallback"]])?;
            Ok(Filter::Regex(extract(&step)?))
        }
        "multi_choice_regex" => {
            const OWN: &[&str] = &["ignore_case", "ignore_punctuation", "regexes_to_ignore"];
            step.only(&[&["function", "regex_pattern", "group_select", "fallback"], OWN])?;
            let ignore = step.texts("regexes_to_ignore")?.unwrap_or_default();
            Ok(Filter::MultiChoiceRegex {
                extract: extract(&step)?,
                ignore_case: step.flag("ignore_case")?.unwrap_or(false),
                ignore_punctuation: step.flag("ignore_punctuation")?.unwrap_or(false),
                ignore: ignore
                    .iter()
                    .map(|source| pattern(&step, "regexes_to_ignore", source))
                    .collect::<Result<_, _>>()?,
            })
        }
        other => {
            let expected = format!("one of {}", FILTERS.join(", "));
            Err(step.wrong("function", &expected, &Value::from(other)))
        }
    }
}

fn extract(step: &Fields<'_>) -> Result<Extract, TaskError> {
    let source = step.optional_text("regex_pattern")?.unwrap_or(r"#### (\-?[0-9\.\,]+)");
    let select = match step.get("group_select") {
        None => 0,
        Some(value) => value.as_i64().ok_or_else(|| step.wrong("group_select", "a whole number", value))?,
    };
    let fallback = step.optional_text("fallback")?.unwrap_or("[invalid]").into();
    Ok(Extract { pattern: pattern(step, "regex_pattern", source)?, select, fallback })
}

/// The names of metrics that a kind of task has.
fn known_metrics(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::MultipleChoice => &["acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match"],
        Kind::LogLikelihood => &["perplexity", "acc"],
        Kind::LogLikelihoodRolling => &["word_perplexity", "byte_perplexity", "bits_per_byte"],
        Kind::GenerateUntil | Kind::Code => &["exact_match", "pass_at_k", "code_eval"],
    }
}

fn default_metrics(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::MultipleChoice => &["acc", "acc_norm"],
        Kind::LogLikelihood => &["perplexity", "acc"],
        Kind::LogLikelihoodRolling => &["word_perplexity", "byte_perplexity", "bits_per_byte"],
        Kind::GenerateUntil | Kind::Code => &["exact_match"],
    }
}

/// `metric_list`. Tasks that generate become tasks of code by a metric that runs what is generated.
pub(super) fn metrics(fields: &Fields<'_>, kind: Kind) -> Result<(Kind, Vec<MetricSpec>), TaskError> {
    const KEY: &str = "metric_list";
    let nothing = Map::new();
    let Some(value) = fields.get(KEY) else {
        let of = |name: &&str| metric(&Fields { place: fields.place.clone(), map: &nothing, sources: &[] }, name, kind);
        let specs = default_metrics(kind).iter().map(of).collect::<Result<Vec<_>, _>>()?;
        return Ok((kind, specs.into_iter().flatten().collect()));
    };
    let mut specs: Vec<MetricSpec> = Vec::new();
    for value in list(fields, KEY, value)? {
        let entry = below(fields, KEY, value)?;
        let name = entry.text("metric")?;
        if !known_metrics(kind).contains(&name) {
            let expected = format!("one of {}", known_metrics(kind).join(", "));
            return Err(entry.wrong("metric", &expected, &Value::from(name)));
        }
        specs.extend(metric(&entry, name, kind)?);
    }
    let run = specs.iter().filter(|spec| matches!(spec.metric, Metric::PassAt(_))).count();
    if run == 0 {
        return Ok((kind, specs));
    }
    if run < specs.len() {
        let message = "a metric that runs answers stands beside one that compares them".into();
        return Err(TaskError::Malformed { place: fields.place_of(KEY), message });
    }
    if fields.flag("unsafe_code")? != Some(true) {
        return Err(TaskError::MissingField { place: fields.place.clone(), field: "unsafe_code".into() });
    }
    Ok((Kind::Code, specs))
}

fn metric(entry: &Fields<'_>, name: &str, kind: Kind) -> Result<Vec<MetricSpec>, TaskError> {
    const COMMON: &[&str] = &["metric", "aggregation", "higher_is_better", "hf_evaluate"];
    const COMPARISON: &[&str] = &["regexes_to_ignore", "ignore_case", "ignore_punctuation", "ignore_numbers"];
    let (metric, aggregation, own): (_, _, &[&str]) = match name {
        "acc" => (Metric::Acc, Aggregation::Mean, &[]),
        "acc_norm" => (Metric::AccNorm, Aggregation::Mean, &[]),
        "acc_bytes" => (Metric::AccBytes, Aggregation::Mean, &[]),
        "acc_mutual_info" => (Metric::AccMutualInfo, Aggregation::Mean, &[]),
        "perplexity" => (Metric::LogLikelihood, Aggregation::Perplexity, &[]),
        "word_perplexity" => (Metric::PerWord, Aggregation::WeightedPerplexity, &[]),
        "byte_perplexity" => (Metric::PerByte, Aggregation::WeightedPerplexity, &[]),
        "bits_per_byte" => (Metric::PerByte, Aggregation::BitsPerByte, &[]),
        "exact_match" if kind == Kind::GenerateUntil => {
            (Metric::ExactMatch(comparison(entry)?), Aggregation::Mean, COMPARISON)
        }
        "exact_match" => (Metric::ExactMatch(Comparison::default()), Aggregation::Mean, &[]),
        // The caller has looked the name up; what is left are the two that run programs.
        _ => {
            entry.only(&[COMMON, &["k", "num_workers", "timeout"]])?;
            let ks = entry.numbers("k", ANSWERS)?.unwrap_or_else(|| vec![1]);
            let spec =
                |k| MetricSpec { name: format!("pass@{k}"), metric: Metric::PassAt(k), aggregation: Aggregation::Mean };
            return Ok(ks.into_iter().map(spec).collect());
        }
    };
    entry.only(&[COMMON, own])?;
    let aggregation = match entry.optional_text("aggregation")? {
        None => aggregation,
        Some(name) => {
            let fits = |other: Aggregation| other.is_weighted() == metric.is_weighted();
            let known = || Aggregation::ALL.iter().filter(|(_, other)| fits(*other));
            match known().find(|(known, _)| *known == name) {
                Some(&(_, aggregation)) => aggregation,
                None => {
                    let known: Vec<&str> = known().map(|(name, _)| *name).collect();
                    let expected = format!("one of {}", known.join(", "));
                    return Err(entry.wrong("aggregation", &expected, &Value::from(name)));
                }
            }
        }
    };
    Ok(vec![MetricSpec { name: name.into(), metric, aggregation }])
}

fn comparison(entry: &Fields<'_>) -> Result<Comparison, TaskError> {
    let ignore = entry.texts("regexes_to_ignore")?.unwrap_or_default();
    Ok(Comparison {
        ignore: ignore.iter().map(|source| pattern(entry, "regexes_to_ignore", source)).collect::<Result<_, _>>()?,
        ignore_case: entry.flag("ignore_case")?.unwrap_or(false),
        ignore_punctuation: entry.flag("ignore_punctuation")?.unwrap_or(false),
        ignore_numbers: entry.flag("ignore_numbers")?.unwrap_or(false),
    })
}
