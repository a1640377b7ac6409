//! The parts of a task file: generation, filters, metrics.

use super::functions::{Function, Programs};
use crate::corpus::Corpus;
use crate::error::{FilePosition, TaskError};
use crate::filters::{Extract, Filter, Pipeline};
use crate::metrics::{Aggregation, Comparison, Metric, MetricSpec};
use crate::model::Sampling;
use crate::python::regex;
use crate::task::fields::{ANSWERS, Fields, NEW_TOKENS, TOP_K};
use crate::task::{Generating, Kind};
use fancy_regex::Regex;
use glue_lm::jinja;
use serde_json::{Map, Value};
use std::path::Path;
use std::sync::Arc;

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

/// Keys that limit the length of an answer.
const LENGTHS: &[&str] = &["max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens"];

/// Keys that say how answers are generated.
const GENERATION: &[&str] = &["until", "do_sample", "temperature", "top_k", "top_p", "min_p", "repetition_penalty"];

/// `generation_kwargs`.
pub(super) fn generating(fields: &Fields<'_>, delimiter: &str, repeats: usize) -> Result<Generating, TaskError> {
    const KEY: &str = "generation_kwargs";
    let default = Generating { until: vec![delimiter.to_string()], repeats, ..Generating::default() };
    let Some(value) = fields.get(KEY) else { return Ok(default) };
    generated_as(&below(fields, KEY, value)?, default)
}

/// The settings of a task with other `generation_kwargs` in the place of, or beside, those that it has.
pub(in crate::task) fn regenerating(
    own: &Generating,
    mut kwargs: Map<String, Value>,
    changes: &Map<String, Value>,
) -> Result<Generating, TaskError> {
    kwargs.retain(|key, _| GENERATION.contains(&key.as_str()) || LENGTHS.contains(&key.as_str()));
    if changes.keys().any(|key| LENGTHS.contains(&key.as_str())) {
        kwargs.retain(|key, _| !LENGTHS.contains(&key.as_str()));
    }
    kwargs.extend(changes.clone());
    let fields = Fields { place: FilePosition::file(Path::new("gen_kwargs")), map: &kwargs, sources: &[] };
    let default = Generating { until: own.until.clone(), repeats: own.repeats, ..Generating::default() };
    generated_as(&fields, default)
}

fn generated_as(kwargs: &Fields<'_>, default: Generating) -> Result<Generating, TaskError> {
    /// Accepted where they change nothing.
    const NEUTRAL: &[&str] = &["num_beams", "max_length"];
    /// What transformers draws among, unless a task says otherwise.
    const DRAWN_AMONG: usize = 50;
    kwargs.only(&[GENERATION, LENGTHS, NEUTRAL])?;
    for key in NEUTRAL {
        let Some(value) = kwargs.get(key) else { continue };
        let (neutral, reason) = match *key {
            "num_beams" => (1.0, "answers are made one token after another, without beams"),
            _ => {
                (f64::NAN, "the length of prompt and answer together is not limited; `max_gen_toks` limits the answer")
            }
        };
        if value.as_f64() != Some(neutral) {
            let (place, key) = (kwargs.place_of(key), (*key).to_string());
            return Err(TaskError::Unsupported { place, key, reason: reason.into() });
        }
    }
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
    let within = |key: &str, expected: &str, fits: fn(f64) -> bool| match kwargs.real(key)? {
        Some(number) if !fits(number) => Err(kwargs.wrong(key, expected, &Value::from(number))),
        given => Ok(given),
    };
    let sampling = Sampling {
        temperature,
        // 0 stands for no limit.
        top_k: kwargs.number("top_k", TOP_K)?.or((temperature > 0.0).then_some(DRAWN_AMONG)).filter(|&k| k > 0),
        top_p: within("top_p", "above 0 and at most 1", |p| p > 0.0 && p <= 1.0)?,
        min_p: within("min_p", "from 0 to 1", |p| (0.0..=1.0).contains(&p))?,
        repetition_penalty: within("repetition_penalty", "above 0", |p| p > 0.0 && p.is_finite())?.unwrap_or(1.0),
        seed: 0,
    };
    Ok(Generating { until, max_new_tokens, sampling, ..default })
}

/// `filter_list`.
pub(in crate::task) fn pipelines(
    fields: &Fields<'_>,
    value: &Value,
    programs: &mut Programs,
) -> Result<Vec<Pipeline>, TaskError> {
    const KEY: &str = "filter_list";
    let mut pipelines: Vec<Pipeline> = Vec::new();
    for value in list(fields, KEY, value)? {
        let entry = below(fields, KEY, value)?;
        entry.only(&[&["name", "filter"]])?;
        let steps = entry.required("filter")?;
        let filters = list(&entry, "filter", steps)?
            .iter()
            .map(|step| filter(&entry, step, programs))
            .collect::<Result<_, _>>()?;
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
    "regex_pos",
    "format_span",
    "custom",
];

fn filter(entry: &Fields<'_>, value: &Value, programs: &mut Programs) -> Result<Filter, TaskError> {
    let step = below(entry, "filter", value)?;
    // A class of the task with its options, or a function of all answers.
    let function = step.required("function")?;
    let own = |names: &[&str]| {
        step.map
            .iter()
            .filter(|(name, _)| !names.contains(&name.as_str()))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect()
    };
    if let Some(class) = Function::of(&step, "function", function, programs)? {
        return Ok(Filter::Function(class, own(&["function"])));
    }
    if function == "custom" {
        step.only(&[&["function", "filter_fn"]])?;
        let function = Function::of(&step, "filter_fn", step.required("filter_fn")?, programs)?;
        let function = function
            .ok_or_else(|| step.wrong("filter_fn", "a function, as `!function utils.pick`", &step.map["filter_fn"]))?;
        return Ok(Filter::Function(function, Vec::new()));
    }
    let none: &[&[&str]] = &[&["function"]];
    let name = step.text("function")?;
    let simple = match name {
        "take_first" => Some(Filter::TakeFirst),
        "majority_vote" => Some(Filter::MajorityVote),
        "remove_whitespace" => Some(Filter::RemoveWhitespace),
        "lowercase" => Some(Filter::Lowercase),
        "uppercase" => Some(Filter::Uppercase),
        "format_span" => Some(Filter::Spans),
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
        "regex_pos" => {
            step.only(&[&["function", "regex_pattern", "group_select", "fallback"]])?;
            Ok(Filter::Tags(step.texts("fallback")?.unwrap_or_else(|| vec!["invalid".into()])))
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
        Kind::MultipleChoice => &[
            "acc",
            "acc_norm",
            "acc_bytes",
            "acc_mutual_info",
            "exact_match",
            "f1",
            "mcc",
            "brier_score",
            "likelihood",
        ],
        Kind::LogLikelihood => &["perplexity", "acc"],
        Kind::LogLikelihoodRolling => &["word_perplexity", "byte_perplexity", "bits_per_byte"],
        Kind::GenerateUntil | Kind::Code => &["exact_match", "bleu", "chrf", "chrf++", "ter", "pass_at_k", "code_eval"],
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

/// `metric_list`. Tasks that generate become tasks of code by a metric that runs what is generated. Where a function
/// scores items (`named`), metrics are names of what it gives.
pub(super) fn metrics(
    fields: &Fields<'_>,
    kind: Kind,
    named: bool,
    programs: &mut Programs,
) -> Result<(Kind, Vec<MetricSpec>), TaskError> {
    const KEY: &str = "metric_list";
    let nothing = Map::new();
    let Some(value) = fields.get(KEY) else {
        let entry = Fields { place: fields.place.clone(), map: &nothing, sources: &[] };
        let mut specs = Vec::new();
        for name in default_metrics(kind) {
            specs.extend(if named {
                vec![result(&entry, name, programs)?]
            } else {
                metric(&entry, name, kind, programs)?
            });
        }
        return Ok((kind, specs));
    };
    let mut specs: Vec<MetricSpec> = Vec::new();
    for value in list(fields, KEY, value)? {
        let entry = below(fields, KEY, value)?;
        let given = entry.required("metric")?;
        if let Some(function) = Function::of(&entry, "metric", given, programs)? {
            specs.extend(by_function(&entry, function, kind, named, programs)?);
            continue;
        }
        let name = entry.text("metric")?;
        if named {
            specs.push(result(&entry, name, programs)?);
            continue;
        }
        let for_function = match (kind, name) {
            (Kind::MultipleChoice, "likelihood") => Some(Metric::Likelihoods),
            (Kind::GenerateUntil, "acc" | "f1" | "mcc") => Some(Metric::Pair),
            _ => None,
        };
        if let Some(metric) = for_function {
            specs.push(aggregated(&entry, name, metric, programs)?);
            continue;
        }
        if !known_metrics(kind).contains(&name) {
            let expected = format!("one of {}", known_metrics(kind).join(", "));
            return Err(entry.wrong("metric", &expected, &Value::from(name)));
        }
        specs.extend(metric(&entry, name, kind, programs)?);
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

/// A metric that a function of the task computes from all items: from the log-likelihoods of their choices, or from
/// answers and targets.
fn aggregated(
    entry: &Fields<'_>,
    name: &str,
    metric: Metric,
    programs: &mut Programs,
) -> Result<MetricSpec, TaskError> {
    let aggregation = entry.get("aggregation").unwrap_or(&Value::Null);
    let function = Function::of(entry, "aggregation", aggregation, programs)?
        .ok_or_else(|| entry.wrong("aggregation", "a function, as `!function utils.score`", aggregation))?;
    entry.only(&[COMMON, COMPARISON, WITHOUT_EFFECT])?;
    let mut spec = MetricSpec::new(name, metric, Aggregation::Mean);
    spec.corpus = Some(Corpus::Function(function));
    spec.better = Some(entry.flag("higher_is_better")?.unwrap_or(true));
    Ok(spec)
}

/// Options that the harness reads and hands to nothing where choices or likelihoods are scored.
const WITHOUT_EFFECT: &[&str] = &["average", "labels", "pos_label", "zero_division", "kwargs", "high_is_better"];

/// Keys of `exact_match`.
const COMPARISON: &[&str] =
    &["regexes_to_ignore", "ignore_case", "ignore_punctuation", "ignore_numbers", "multi_label"];

/// Keys of an entry that any metric has.
const COMMON: &[&str] = &["metric", "aggregation", "higher_is_better", "hf_evaluate", "weight_by_size"];

/// A metric by the name under which the function that scores items gives it.
fn result(entry: &Fields<'_>, name: &str, programs: &mut Programs) -> Result<MetricSpec, TaskError> {
    let aggregation = match name {
        "perplexity" => Aggregation::Perplexity,
        "word_perplexity" | "byte_perplexity" => Aggregation::WeightedPerplexity,
        "bits_per_byte" => Aggregation::BitsPerByte,
        _ => Aggregation::Mean,
    };
    let mut spec = MetricSpec::new(name, Metric::Named(name.into()), aggregation);
    spec.corpus = match (name, entry.get("aggregation")) {
        ("f1", None) => Some(Corpus::F1),
        ("mcc", None) => Some(Corpus::Mcc),
        _ => None,
    };
    aggregate(entry, &mut spec, programs)?;
    Ok(spec)
}

/// A metric that is a function of the task. One that asks `code_eval` runs the answers.
fn by_function(
    entry: &Fields<'_>,
    function: Arc<Function>,
    kind: Kind,
    named: bool,
    programs: &mut Programs,
) -> Result<Vec<MetricSpec>, TaskError> {
    let name = function.attribute().to_string();
    if named {
        return Ok(vec![result(entry, &name, programs)?]);
    }
    if kind == Kind::GenerateUntil && function.runs_code() && name.starts_with("pass_at_") {
        // It is run here, and nothing of it is evaluated.
        programs.functions.pop();
        let ks = entry.numbers("k", ANSWERS)?.unwrap_or_else(|| vec![1]);
        let own = |k: usize| if name == "pass_at_k" { format!("pass@{k}") } else { name.clone() };
        return Ok(ks.iter().map(|&k| MetricSpec::new(&own(k), Metric::PassAt(k), Aggregation::Mean)).collect());
    }
    let options = entry.map.iter().filter(|(key, _)| !COMMON.contains(&key.as_str()));
    let options = options.map(|(key, value)| (key.clone(), value.clone())).collect();
    let mut spec = MetricSpec::new(&name, Metric::Function(function, options), Aggregation::Mean);
    aggregate(entry, &mut spec, programs)?;
    Ok(vec![spec])
}

/// `aggregation` and `higher_is_better` of an entry.
fn aggregate(entry: &Fields<'_>, spec: &mut MetricSpec, programs: &mut Programs) -> Result<(), TaskError> {
    spec.better = entry.flag("higher_is_better")?;
    let Some(value) = entry.get("aggregation") else { return Ok(()) };
    if let Some(function) = Function::of(entry, "aggregation", value, programs)? {
        (spec.aggregation, spec.corpus) = (Aggregation::Mean, Some(Corpus::Function(function)));
        return Ok(());
    }
    let name = entry.text("aggregation")?;
    if name == "brier_score" && matches!(spec.metric, Metric::Brier) {
        return Ok(());
    }
    if let Some((_, corpus)) = Corpus::ALL.iter().find(|(known, _)| *known == name) {
        let fits = matches!(spec.metric, Metric::Pair | Metric::Named(_) | Metric::Function(..));
        if fits {
            (spec.aggregation, spec.corpus) = (Aggregation::Mean, Some(corpus.clone()));
            return Ok(());
        }
    }
    // What a function gives may be a pair or not, which is seen then.
    let open = matches!(spec.metric, Metric::Named(_));
    let fits = |other: Aggregation| {
        !matches!(spec.metric, Metric::Pair | Metric::Likelihoods)
            && (open || other.is_weighted() == spec.metric.is_weighted())
    };
    let known = || Aggregation::ALL.iter().filter(|(_, other)| fits(*other));
    match known().find(|(known, _)| *known == name) {
        Some(&(_, aggregation)) => (spec.aggregation, spec.corpus) = (aggregation, None),
        None => {
            let mut names: Vec<&str> = known().map(|(name, _)| *name).collect();
            if open || matches!(spec.metric, Metric::Pair) {
                names.extend(Corpus::ALL.iter().map(|(name, _)| *name));
            }
            let expected = format!("one of {}", names.join(", "));
            return Err(entry.wrong("aggregation", &expected, &Value::from(name)));
        }
    }
    Ok(())
}

fn metric(entry: &Fields<'_>, name: &str, kind: Kind, programs: &mut Programs) -> Result<Vec<MetricSpec>, TaskError> {
    let mut corpus = None;
    let (metric, aggregation, own): (_, _, &[&str]) = match name {
        "acc" => (Metric::Acc, Aggregation::Mean, &[]),
        "acc_norm" => (Metric::AccNorm, Aggregation::Mean, &[]),
        "acc_bytes" => (Metric::AccBytes, Aggregation::Mean, &[]),
        "acc_mutual_info" => (Metric::AccMutualInfo, Aggregation::Mean, &[]),
        "perplexity" => (Metric::LogLikelihood, Aggregation::Perplexity, &[]),
        "word_perplexity" => (Metric::PerWord, Aggregation::WeightedPerplexity, &[]),
        "byte_perplexity" => (Metric::PerByte, Aggregation::WeightedPerplexity, &[]),
        "bits_per_byte" => (Metric::PerByte, Aggregation::BitsPerByte, &[]),
        "brier_score" => (Metric::Brier, Aggregation::Mean, &[]),
        "exact_match" if kind == Kind::GenerateUntil => {
            (Metric::ExactMatch(comparison(entry)?), Aggregation::Mean, COMPARISON)
        }
        "exact_match" => (Metric::ExactMatch(Comparison::default()), Aggregation::Mean, &[]),
        "pass_at_k" | "code_eval" => {
            // Only these run programs.
            entry.only(&[COMMON, &["k", "num_workers", "timeout"]])?;
            let ks = entry.numbers("k", ANSWERS)?.unwrap_or_else(|| vec![1]);
            let spec = |k| MetricSpec::new(&format!("pass@{k}"), Metric::PassAt(k), Aggregation::Mean);
            return Ok(ks.into_iter().map(spec).collect());
        }
        // The caller has looked the name up.
        other => {
            let other = if other == "mcc" { "matthews_corrcoef" } else { other };
            corpus = Corpus::ALL.iter().find(|(known, _)| *known == other).map(|(_, corpus)| corpus.clone());
            (Metric::Pair, Aggregation::Mean, &[])
        }
    };
    let options: &[&[&str]] = match kind {
        Kind::GenerateUntil | Kind::Code => &[COMMON, own],
        _ => &[COMMON, COMPARISON, WITHOUT_EFFECT],
    };
    entry.only(options)?;
    let mut spec = MetricSpec { corpus, ..MetricSpec::new(name, metric, aggregation) };
    aggregate(entry, &mut spec, programs)?;
    // Whether more is better follows from these.
    let given = matches!(spec.metric, Metric::Pair);
    spec.better = spec.better.filter(|_| given).or_else(|| given.then_some(name != "ter"));
    Ok(vec![spec])
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
