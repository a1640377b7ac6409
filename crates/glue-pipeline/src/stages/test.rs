//! The one look at the test items, after everything is decided.

use crate::config::ItemUse;
use crate::error::PipelineError;
use crate::run::Context;
use crate::scores::{Baseline, ModelScores, RoleItems, Scored, gain};
use crate::stage::write_json;
use crate::stages::frontier::{ExpertModel, Explored, merge};
use crate::stages::mixture::{Decided, decided_path};
use crate::stages::select::{Selected, template};
use glue_eval::Sample;
use glue_report::{self as report, Role};
use glue_select::recipe_text::weighted;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Proof that everything is decided: only a finished mixture stage gives one, and the test items can be read only with
/// one.
#[derive(Debug)]
pub(crate) struct TestSetToken<'a> {
    explored: &'a Explored,
    decided: &'a Decided,
    stage: &'a Path,
}

impl<'a> TestSetToken<'a> {
    /// For the decision in the directory of the finished stage.
    pub(crate) fn new(explored: &'a Explored, decided: &'a Decided, stage: &'a Path) -> TestSetToken<'a> {
        TestSetToken { explored, decided, stage }
    }

    /// Reads the test items; nothing else in this crate does.
    pub(crate) fn items(&self, context: &Context<'_>) -> Result<RoleItems, PipelineError> {
        context.items(ItemUse::Test)
    }
}

/// The scores on the test items.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Tested {
    pub(crate) test: report::Test,
    /// Items of each task.
    pub(crate) items: Vec<(String, usize)>,
    /// Models that could not be scored on these items, and why.
    pub(crate) unscored: Vec<(String, String)>,
    /// The gain of every row over the best single model, with its paired standard error.
    pub(crate) gains: BTreeMap<String, (f64, f64)>,
    /// Items that the final model answers otherwise than the best single model.
    pub(crate) flips: Vec<report::Flips>,
}

/// The name of the final model in tables.
pub(crate) const FINAL_ROW: &str = "final";

/// Where the stage keeps how fast models answered: it differs between equal runs, so that no result has it.
pub(crate) const THROUGHPUT: &str = "throughput.json";

/// The rows under way.
struct Rows<'a> {
    context: &'a Context<'a>,
    prepared: &'a RoleItems,
    scored: Vec<(Role, ModelScores)>,
    unscored: Vec<(String, String)>,
    throughput: Vec<report::Throughput>,
}

impl Rows<'_> {
    /// Scores the model in `path`; its records, if it has scores.
    fn enter(&mut self, role: Role, name: &str, path: &Path) -> Result<Option<Vec<Sample>>, PipelineError> {
        let begun = Instant::now();
        let (scored, samples) = self.context.score_with_samples(name, path, self.prepared)?;
        Ok(match scored {
            Scored::Scores(scores) => {
                let items: usize = scores.tasks.iter().map(|task| task.items.len()).sum();
                let items_per_second = items as f64 / begun.elapsed().as_secs_f64().max(1e-9);
                self.throughput.push(report::Throughput { name: name.into(), items_per_second });
                self.scored.push((role, scores));
                Some(samples)
            }
            Scored::Unscored { name, reason } => {
                self.unscored.push((name, reason));
                None
            }
        })
    }

    fn last(&self) -> Option<&ModelScores> {
        self.scored.last().map(|(_, scores)| scores)
    }
}

pub(crate) fn test(
    context: &Context<'_>,
    token: &TestSetToken<'_>,
    prepared: &RoleItems,
    baselines: &[Baseline],
    selected: &[Selected],
    place: &Path,
) -> Result<Tested, PipelineError> {
    let TestSetToken { explored, decided, stage } = token;
    let (scored, unscored, throughput) = (Vec::new(), Vec::new(), Vec::new());
    let mut rows = Rows { context, prepared, scored, unscored, throughput };
    // Models that could not be scored on the proxy items are not tried again.
    let mut best: Option<(ModelScores, Vec<Sample>)> = None;
    for (model, _) in context.zoo.models.iter().zip(baselines).filter(|(_, single)| single.scores().is_some()) {
        let role = if model.base { Role::Base } else { Role::Single };
        let samples = rows.enter(role, &model.name, &model.path)?;
        if let (Some(samples), Some(scores)) = (samples, rows.last())
            && best.as_ref().is_none_or(|(best, _)| scores.average() > best.average())
        {
            best = Some((scores.clone(), samples));
        }
    }
    for (name, recipe) in references(context, baselines, selected) {
        let path = place.join("reference");
        remove(&path)?;
        merge(context, &name, &recipe, &path)?;
        rows.enter(Role::Reference, &name, &path)?;
        remove(&path)?;
    }
    let outside = |model: &ExpertModel| context.outside_path(&model.path, model.made);
    if let Some(model) = explored.merge.map(|merge| &explored.models[merge]) {
        rows.enter(Role::Merged, &model.name, &outside(model))?;
    }
    for (i, mixture) in decided.mixtures.iter().enumerate().filter(|(i, _)| Some(*i) != decided.last) {
        debug_assert!(Some(i) != decided.last, "the final model has a row of its own");
        rows.enter(Role::Mixture, &mixture.name, &stage.join(&mixture.path))?;
    }
    let path = decided_path(context, explored, decided, stage);
    let samples = rows.enter(Role::Final, FINAL_ROW, &path)?;
    let (Some(samples), Some(last)) = (samples, rows.last().cloned()) else {
        let why = rows.unscored.pop().map(|(_, why)| why).unwrap_or_default();
        return Err(PipelineError::Run { model: FINAL_ROW.into(), error: why.into() });
    };
    write_json(&place.join(THROUGHPUT), &rows.throughput)?;
    let gain_stderr = best.as_ref().map(|(best, _)| gain(&last, best).1);
    let gains = rows.scored.iter().filter_map(|(_, scores)| {
        let (best, _) = best.as_ref()?;
        Some((scores.name.clone(), gain(scores, best)))
    });
    let gains = gains.collect();
    let flips = best.as_ref().map(|(best, before)| flips((best, before), (&last, &samples))).unwrap_or_default();
    let items = last.tasks.iter().map(|task| (task.task.clone(), task.items.len())).collect();
    let over_bases = rows.scored.iter().filter(|(role, _)| *role == Role::Base);
    let over_bases = over_bases.map(|(_, base)| over(&last, base)).collect();
    let (unscored, scored) = (rows.unscored, rows.scored);
    let rows = scored
        .into_iter()
        .map(|(role, scores)| report::TestRow { name: scores.name.clone(), role, scores: scores.scores() })
        .collect();
    let split = context.config.tasks.split(ItemUse::Test).to_string();
    let test = report::Test { split, rows, gain_stderr, over_bases };
    Ok(Tested { test, items, unscored, gains, flips })
}

/// The gain of a model over a base, task by task.
fn over(last: &ModelScores, base: &ModelScores) -> report::ScoreRow {
    let task = |(new, old): (&crate::scores::TaskItems, &crate::scores::TaskItems)| {
        let one = |task: &crate::scores::TaskItems| ModelScores { name: String::new(), tasks: vec![task.clone()] };
        let (value, stderr) = gain(&one(new), &one(old));
        let score = report::Score { value, stderr: Some(stderr), n: Some(new.items.len()) };
        report::TaskScore { task: new.task.clone(), score }
    };
    report::ScoreRow { name: base.name.clone(), scores: last.tasks.iter().zip(&base.tasks).map(task).collect() }
}

/// Merges that anybody would try first: the uniform average of each searched cluster, and that of its two best members.
fn references(context: &Context<'_>, baselines: &[Baseline], selected: &[Selected]) -> Vec<(String, String)> {
    let template = template(context, None);
    let search = |name: &String| {
        let at = context.zoo.models.iter().position(|model| model.name == *name)?;
        baselines.get(at)?.scores().map(ModelScores::average)
    };
    let mut all = Vec::new();
    for of in selected {
        let average = |names: &[String]| {
            let share = 1.0 / names.len() as f64;
            let weights: Vec<(String, f64)> =
                names.iter().map(|name| (context.path_of(name).display().to_string(), share)).collect();
            weighted(&template, "linear", &weights, &[]).recipe
        };
        let cluster = &of.selection.cluster;
        // A model that computes NaN makes every average NaN.
        let mut ranked: Vec<(f64, &String)> =
            of.members.iter().filter_map(|name| Some((search(name)?, name))).collect();
        ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
        let ranked: Vec<String> = ranked.into_iter().map(|(_, name)| name.clone()).collect();
        if ranked.len() > 1 {
            all.push((format!("uniform average (cluster {cluster})"), average(&ranked)));
        }
        if ranked.len() > 2 {
            all.push((format!("average of the two best (cluster {cluster})"), average(&ranked[..2])));
        }
    }
    all
}

fn remove(path: &PathBuf) -> Result<(), PipelineError> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(PipelineError::io(path, error)),
        _ => Ok(()),
    }
}

/// Examples of a task in the report.
const EXAMPLES: usize = 4;

/// Items that are right with one model and wrong with another.
fn flips((before, old): (&ModelScores, &[Sample]), (after, new): (&ModelScores, &[Sample])) -> Vec<report::Flips> {
    let mut all = Vec::new();
    for (a, b) in before.tasks.iter().zip(&after.tasks) {
        let record = |samples: &[Sample], item: usize| -> Value {
            let found = samples.iter().filter(|sample| sample.task == a.task).nth(item);
            found.and_then(|sample| serde_json::from_str(&sample.json).ok()).unwrap_or_default()
        };
        let changed = |gained: bool| -> Vec<usize> {
            let flipped = |(i, (old, new)): (usize, (&f64, &f64))| ((new > old) == gained && new != old).then_some(i);
            a.items.iter().zip(&b.items).enumerate().filter_map(flipped).collect()
        };
        let (gained, lost) = (changed(true), changed(false));
        let flip = |(&item, gained): (&usize, bool)| {
            let (one, two) = (record(old, item), record(new, item));
            report::Flip {
                item,
                prompt: end(&prompt(&one)),
                expected: end(&expected(&one)),
                before: end(&answer(&one)),
                after: end(&answer(&two)),
                gained,
            }
        };
        let some = |items: &[usize], gained: bool| -> Vec<report::Flip> {
            items.iter().take(EXAMPLES / 2).map(|item| flip((item, gained))).collect()
        };
        let examples = [some(&gained, true), some(&lost, false)].concat();
        all.push(report::Flips { task: a.task.clone(), gained: gained.len(), lost: lost.len(), examples });
    }
    all
}

/// The end of a text: what a reader needs to see of a prompt.
fn end(text: &str) -> String {
    const LENGTH: usize = 240;
    let length = text.chars().count();
    match length > LENGTH {
        true => format!("…{}", text.chars().skip(length - LENGTH).collect::<String>()),
        false => text.to_string(),
    }
}

fn words(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn prompt(record: &Value) -> String {
    let first = record.get("prompts").and_then(|all| all.get(0));
    record.get("prompt").or(first).or(record.get("text")).map(words).unwrap_or_default()
}

/// The right answer of the record of an item.
fn expected(record: &Value) -> String {
    let target = record.get("target");
    let first = target.and_then(|target| target.get(0)).or(target);
    match (record.get("choices"), first.and_then(Value::as_u64)) {
        (Some(choices), Some(gold)) => choices.get(gold as usize).map(words).unwrap_or_default(),
        _ => first.map(words).unwrap_or_default(),
    }
}

/// The answer in the record of an item.
fn answer(record: &Value) -> String {
    match (record.get("choices"), record.get("prediction").and_then(Value::as_u64)) {
        (Some(choices), Some(chosen)) => choices.get(chosen as usize).map(words).unwrap_or_default(),
        _ => record.get("answers").and_then(|all| all.get(0)).map(words).unwrap_or_default(),
    }
}
