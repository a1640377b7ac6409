//! What does each operator make of the same models? A gallery.
//!
//! Nothing here names an operator that is tried: what `glue ops --json` declares says how each is run, so that a new
//! one is in the next gallery by itself.

use std::fmt::Write;
use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::Value;

use super::{Lab, USEFUL, figure, text};

/// What the models were fine-tuned from.
const BASE: &str = "base-a";
/// Candidates of each search: a few generations of ten.
const EVALUATIONS: usize = 60;
/// Values of the one parameter that is tried where no search is possible, the ends of its range left out.
const GRID: usize = 9;
/// What an operator wraps that wraps another.
const WRAPPED: &str = "task_arithmetic";
/// The parameter that says how much of a model is taken; each model has its own. Others have one value for all.
const WEIGHT: &str = "weight";

/// How an operator is tried.
#[derive(Debug, PartialEq)]
enum Way {
    /// Its numbers are searched, with so many of the models.
    Search(usize),
    /// It has no number to search: once, with so many of the models.
    Once(usize),
    /// It merges one model into a base: the best two models, with values of its first number, if it has one.
    Pair(Option<(String, f64, f64)>),
    /// Not at all.
    Skip(String),
}

/// What came of one.
#[derive(Debug)]
struct Found {
    models: String,
    evaluations: String,
    proxy: Value,
    test: f64,
    seconds: f64,
    recipe: String,
}

/// Every operator with a small search of its numbers, or as it is by default where it has none.
pub(super) fn run(lab: &Lab) -> Result<String> {
    let document = lab.glue(&["ops"])?;
    let operators = document["operators"].as_array().context("no operators")?;
    let ranked = ranked(lab)?;
    let (mut rows, mut left_out) = (Vec::new(), Vec::new());
    for operator in operators {
        let name = operator["name"].as_str().context("an operator without a name")?;
        let inner = operators.iter().find(|other| !operator["wraps"].is_null() && other["name"] == WRAPPED);
        let tried = match way(operator, inner) {
            Way::Search(n) => searched(lab, operator, &best(&ranked, n))?,
            Way::Once(n) => once(lab, operator, &best(&ranked, n))?,
            Way::Pair(grid) => pair(lab, name, &ranked, grid.as_ref())?,
            Way::Skip(why) => Err(why),
        };
        match tried {
            Ok(found) => rows.push((name.to_owned(), found)),
            Err(why) => left_out.push((name, why)),
        }
    }
    let mut section = format!(
        "## Operators\n\nEvery operator that `glue ops` lists, on the four useful fine-tunes of one base. Numbers with a usual range are \
         searched by {EVALUATIONS} evaluations of `cma_es` in generations of ten: a weight for each model, other numbers the same for all \
         models; whole numbers, flags and choices are as they are by default. An operator that merges one model into a base gets \
         the best two, {} into {}, and {GRID} values of its first number. What is best on the proxy is tested; seconds are \
         those of everything but the test, and, where an operator works with statistics, of `glue calibrate` on the train split.\n\n",
        ranked[1], ranked[0]
    );
    section.push_str(&table(rows));
    if !left_out.is_empty() {
        section.push_str("\nNot run:\n\n");
        left_out.iter().for_each(|(name, why)| section.push_str(&format!("- `{name}`: {why}\n")));
    }
    Ok(section)
}

/// The best on the test split first.
fn table(mut rows: Vec<(String, Found)>) -> String {
    rows.sort_by(|(_, a), (_, b)| b.test.total_cmp(&a.test));
    let mut text =
        String::from("| operator | models | evaluations | proxy | test | s | found |\n|---|---|--:|--:|--:|--:|---|\n");
    for (name, Found { models, evaluations, proxy, test, seconds, recipe }) in rows {
        let proxy = figure(&proxy);
        let _ =
            writeln!(text, "| `{name}` | {models} | {evaluations} | {proxy} | {test:.4} | {seconds:.1} | {recipe} |");
    }
    text
}

/// The models, the best on the proxy first.
fn ranked(lab: &Lab) -> Result<Vec<&'static str>> {
    let scores = USEFUL.iter().map(|name| Ok((*name, lab.scores(&lab.zoo.join(name), "proxy")?.average)));
    let mut scores = scores.collect::<Result<Vec<_>>>()?;
    scores.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    Ok(scores.into_iter().map(|(name, _)| name).collect())
}

/// The best `n`, in the order of the zoo.
fn best(ranked: &[&'static str], n: usize) -> Vec<&'static str> {
    USEFUL.into_iter().filter(|name| ranked[..n.min(ranked.len())].contains(name)).collect()
}

/// How an operator is tried, by what it declares; `inner` is what it wraps, if it wraps another.
fn way(operator: &Value, inner: Option<&Value>) -> Way {
    // A wrapper takes as many models as what it wraps.
    let rule = &inner.unwrap_or(operator)["models"];
    let (min, max) = (rule["min"].as_u64().unwrap_or(1), rule["max"].as_u64().unwrap_or(u64::MAX));
    let numbers = numbers(operator, inner);
    match (min, max) {
        (_, 1) if operator["base"] == "unused" => {
            Way::Skip("it takes one model and no base, so that nothing is merged".into())
        }
        (_, 1) => {
            let own = numbers.into_iter().next();
            Way::Pair(own.map(|(spec, low, high)| (spec["name"].as_str().unwrap_or_default().into(), low, high)))
        }
        (min, _) if min > USEFUL.len() as u64 => {
            Way::Skip(format!("it needs {min} models, and there are {}", USEFUL.len()))
        }
        (_, max) => {
            let n = max.min(USEFUL.len() as u64) as usize;
            if numbers.is_empty() { Way::Once(n) } else { Way::Search(n) }
        }
    }
}

/// The numbers that have a usual range, with its ends.
fn numbers<'a>(operator: &'a Value, inner: Option<&'a Value>) -> Vec<(&'a Value, f64, f64)> {
    let specs = |of: &'a Value| of["parameters"].as_array().into_iter().flatten();
    let all = specs(operator).chain(inner.into_iter().flat_map(specs));
    let usual = |spec: &'a Value| Some((spec, spec["usual"][0].as_f64()?, spec["usual"][1].as_f64()?));
    all.filter_map(usual).filter(|(_, low, high)| low < high).collect()
}

/// The method of a search: what differs from what `glue search` does by itself.
fn method(operator: &Value) -> String {
    let mut choices: Vec<String> = Vec::new();
    if let Some(key) = operator["wraps"].as_str() {
        choices.push(format!("{key}: {WRAPPED}"));
    }
    for spec in operator["parameters"].as_array().into_iter().flatten() {
        let Some(name) = spec["name"].as_str() else { continue };
        if spec["kind"] == "integer" && !spec["default"].is_null() {
            choices.push(format!("{name}: {}", spec["default"]));
        } else if spec["per_model"] == true
            && name != WEIGHT
            && numbers(operator, None).iter().any(|(own, ..)| *own == spec)
        {
            choices.push(format!("{name}: {{per: all}}"));
        }
    }
    let name = operator["name"].as_str().unwrap_or_default();
    if choices.is_empty() { name.to_owned() } else { format!("{{{name}: {{{}}}}}", choices.join(", ")) }
}

fn searched(lab: &Lab, operator: &Value, models: &[&str]) -> Result<Result<Found, String>> {
    let name = operator["name"].as_str().unwrap_or_default();
    let start = Instant::now();
    let statistics = match measured(lab, operator, models)? {
        Ok(Measured { of_models, of_base }) => {
            let own: Vec<String> = of_models.iter().map(|(model, path)| format!("{model}: {path}")).collect();
            let base = of_base.map(|path| format!("  base_statistics: {path}\n")).unwrap_or_default();
            if own.is_empty() { base } else { format!("  statistics: {{{}}}\n", own.join(", ")) + &base }
        }
        Err(why) => return Ok(Err(why)),
    };
    let config = format!(
        "models: [{}]\nbase: {BASE}\ntasks: [tasks]\nfilter: false\nspace:\n  methods: [{}]\n{statistics}strategies: \
         [{{evolutionary: {{evaluations: {EVALUATIONS}, population: 10}}}}]\n",
        models.join(", "),
        method(operator)
    );
    let (path, out) =
        (lab.scratch.path().join(format!("op-{name}.yml")), lab.scratch.path().join(format!("op-{name}")));
    fs::write(&path, config)?;
    let document = match lab.try_glue(&["search", text(&path)?, "--out", text(&out)?])? {
        Ok(document) => document,
        Err(why) => return Ok(Err(why)),
    };
    let row = &document["strategies"][0];
    Ok(Ok(Found {
        models: models.len().to_string(),
        evaluations: row["evaluations"].to_string(),
        proxy: row["proxy"].clone(),
        seconds: start.elapsed().as_secs_f64(),
        test: lab.test(&out.join("best"))?,
        recipe: row["what"].as_str().unwrap_or_default().to_owned(),
    }))
}

/// An operator without a number to search, on these models.
fn once(lab: &Lab, operator: &Value, models: &[&str]) -> Result<Result<Found, String>> {
    let name = operator["name"].as_str().unwrap_or_default();
    let start = Instant::now();
    let statistics = match measured(lab, operator, models)? {
        Ok(statistics) => statistics,
        Err(why) => return Ok(Err(why)),
    };
    let base = statistics.of_base.map(|path| format!("base_statistics: {path}\n")).unwrap_or_default();
    let entry = |model: &&str| {
        let own = statistics.of_models.iter().find(|(other, _)| other == model);
        let own = own.map(|(_, path)| format!("    statistics: {path}\n")).unwrap_or_default();
        format!("  - model: {model}\n{own}")
    };
    let entries: String = models.iter().map(entry).collect();
    let recipe = format!("merge_method: {name}\nbase_model: {BASE}\n{base}models:\n{entries}");
    let (out, proxy) = match merged(lab, &format!("op-{name}"), &recipe)? {
        Ok(merged) => merged,
        Err(why) => return Ok(Err(why)),
    };
    Ok(Ok(Found {
        models: models.len().to_string(),
        evaluations: "1".into(),
        proxy: proxy.into(),
        seconds: start.elapsed().as_secs_f64(),
        test: lab.test(&out)?,
        recipe: "as it is by default".into(),
    }))
}

/// The second best model merged into the best.
fn pair(lab: &Lab, name: &str, ranked: &[&str], grid: Option<&(String, f64, f64)>) -> Result<Result<Found, String>> {
    let values: Vec<Option<(&str, f64)>> = match grid {
        None => vec![None],
        Some((key, low, high)) => {
            (1..=GRID).map(|i| Some((key.as_str(), low + (high - low) * i as f64 / (GRID + 1) as f64))).collect()
        }
    };
    let start = Instant::now();
    let mut best: Option<(PathBuf, f64, String)> = None;
    for (number, value) in values.iter().enumerate() {
        let parameters = value.map_or(String::new(), |(key, value)| format!("parameters: {{{key}: {value}}}\n"));
        let recipe = format!(
            "merge_method: {name}\nbase_model: {}\nmodels: [{{model: {}}}]\n{parameters}",
            ranked[0], ranked[1]
        );
        let (out, proxy) = match merged(lab, &format!("op-{name}-{number}"), &recipe)? {
            Ok(merged) => merged,
            Err(why) => return Ok(Err(why)),
        };
        if best.as_ref().is_none_or(|(_, score, _)| proxy > *score) {
            let words = value.map_or("as it is by default".into(), |(key, value)| format!("{key} {value:.4}"));
            best = Some((out, proxy, words));
        }
    }
    let (out, proxy, recipe) = best.context("nothing was tried")?;
    Ok(Ok(Found {
        models: format!("{} into {}", ranked[1], ranked[0]),
        evaluations: values.len().to_string(),
        proxy: proxy.into(),
        seconds: start.elapsed().as_secs_f64(),
        test: lab.test(&out)?,
        recipe,
    }))
}

/// Where the statistics are that an operator works with, as words of YAML.
#[derive(Debug, Default)]
struct Measured {
    of_models: Vec<(String, String)>,
    of_base: Option<String>,
}

/// Measures the statistic that an operator works with, if it does; or why it cannot be.
fn measured(lab: &Lab, operator: &Value, models: &[&str]) -> Result<Result<Measured, String>> {
    let mut all = Measured::default();
    let Some(statistic) = operator["statistic"]["name"].as_str() else { return Ok(Ok(all)) };
    let name = operator["name"].as_str().unwrap_or_default();
    let of_base = operator["statistic"]["of"] == "base";
    for model in if of_base { &[BASE] } else { models } {
        let out = lab.scratch.path().join(format!("statistic-{name}-{model}"));
        let args = ["calibrate", model, "--tasks", "tasks", "--what", statistic, "--out", text(&out)?];
        if let Err(why) = lab.try_glue(&args)? {
            return Ok(Err(why));
        }
        let path = serde_json::to_string(text(&out)?)?;
        if of_base {
            all.of_base = Some(path);
        } else {
            all.of_models.push(((*model).to_owned(), path));
        }
    }
    Ok(Ok(all))
}

/// What a recipe makes, and its score on the proxy; or why it is refused.
fn merged(lab: &Lab, name: &str, recipe: &str) -> Result<Result<(PathBuf, f64), String>> {
    Ok(match lab.merge(name, recipe)? {
        Ok(out) => {
            let proxy = lab.scores(&out, "proxy")?.average;
            Ok((out, proxy))
        }
        Err(why) => Err(why),
    })
}

#[cfg(test)]
mod tests {
    //! How operators are tried, by what they declare.
    use super::*;
    use serde_json::json;

    fn operator(base: &str, models: [Option<u64>; 2], parameters: Value) -> Value {
        json!({
            "name": "op", "base": base, "wraps": null, "models": {"min": models[0], "max": models[1]},
            "parameters": parameters,
        })
    }

    fn number(name: &str, per_model: bool, usual: [f64; 2]) -> Value {
        json!({"name": name, "kind": "number", "per_model": per_model, "default": null, "usual": usual})
    }

    #[test]
    fn what_is_declared_says_how_it_is_tried() {
        let check = |base, models, parameters, expected: Way| {
            assert_eq!(way(&operator(base, models, parameters), None), expected);
        };
        let weight = || json!([number("weight", true, [0.0, 1.0])]);
        let fixed = || json!([number("tol", false, [1e-5, 1e-5])]);
        check("required", [Some(1), None], weight(), Way::Search(4));
        check("optional", [Some(2), Some(2)], weight(), Way::Search(2));
        check("unused", [Some(1), None], fixed(), Way::Once(4));
        check("required", [Some(1), Some(1)], fixed(), Way::Pair(None));
        let t = json!([number("t", false, [0.0, 0.5])]);
        check("required", [Some(1), Some(1)], t, Way::Pair(Some(("t".into(), 0.0, 0.5))));
        assert!(matches!(way(&operator("unused", [Some(1), Some(1)], weight()), None), Way::Skip(_)));
        assert!(
            matches!(way(&operator("required", [Some(5), None], weight()), None), Way::Skip(why) if why.contains('5'))
        );
    }

    #[test]
    fn wrappers_are_tried_around_an_operator_with_weights() {
        let inner = operator("required", [Some(1), None], json!([number("weight", true, [0.0, 1.0])]));
        let mut outer = operator("required", [Some(1), Some(1)], json!([]));
        outer["wraps"] = "operator".into();
        assert_eq!(way(&outer, Some(&inner)), Way::Search(4));
        assert_eq!(method(&outer), "{op: {operator: task_arithmetic}}");
    }

    #[test]
    fn only_weights_differ_between_models() {
        let parameters = json!([
            number("weight", true, [0.0, 1.0]),
            number("density", true, [0.1, 1.0]),
            number("lambda", false, [0.1, 1.5]),
            {"name": "k", "kind": "integer", "per_model": false, "default": 2},
            {"name": "normalize", "kind": "flag", "per_model": false, "default": true},
        ]);
        assert_eq!(method(&operator("required", [Some(1), None], parameters)), "{op: {density: {per: all}, k: 2}}");
        assert_eq!(method(&operator("required", [Some(1), None], json!([]))), "op");
    }
}
