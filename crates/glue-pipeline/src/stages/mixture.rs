//! Which candidates are mixed, at which level and from which layer on.
//!
//! Members are chosen greedily by known scores: each time the candidate that raises the score under perfect routing
//! (the oracle of the members: for each task the best of them) most, as long as that is more than one paired standard
//! error and the limit on parameters holds. Then a mixture of every form, level and depth, is built from these members,
//! its router is trained on the router items, and it is scored on the proxy items.

use crate::error::PipelineError;
use crate::run::Context;
use crate::scores::{ModelScores, Scored, gain, gain_words};
use crate::stage::{Hashes, Stage, check_files, hashes, read_json, write_json};
use crate::stages::candidates::ExpertCandidate;
use crate::stages::compare::Compatible;
use glue_mixture::{Level, MixConfig, MixPlan, RouterKind, Routing};
use glue_progress::{ErrorChain, Unit};
use glue_report as report;
use glue_router::mixture::{TrainReport, TrainRequest, Trainer};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The decision about the final model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Decided {
    /// The mixture, unless none was better than the best candidate.
    pub(crate) mixture: Option<report::Mixture>,
    pub(crate) router: Option<report::Router>,
    /// The best candidate alone.
    pub(crate) best: String,
    /// Scores of the chosen model.
    pub(crate) scores: ModelScores,
    /// The directory of the chosen model: `mixture` of the stage, or that of the candidate.
    pub(crate) path: String,
    pub(crate) made: bool,
    pub(crate) why: String,
    /// The config of the mixture, as `glue mix` reads it. Paths of models made by the run start at its directory.
    pub(crate) description: Option<String>,
}

/// A form of mixture that was tried.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct FormTrial {
    plan: MixtureForm,
    scores: Option<ModelScores>,
    failure: Option<String>,
    mixture: report::Mixture,
    router: report::Router,
    description: String,
    /// Of its files; empty without a model.
    files: Hashes,
}

/// A form of mixture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct MixtureForm {
    level: Level,
    whole: bool,
    dense: usize,
}

impl MixtureForm {
    fn words(&self) -> String {
        match (self.whole, self.level) {
            (true, _) => "whole models".into(),
            (false, Level::Model) => format!("level model from layer {} on", self.dense),
            (false, Level::Block) => format!("level block from layer {} on", self.dense),
            (false, Level::Ffn) => format!("level ffn from layer {} on", self.dense),
        }
    }
}

/// The scores under perfect routing: for each task, those of the best member.
fn oracle(members: &[&ExpertCandidate]) -> ModelScores {
    let first = &members[0].scores;
    let best = |t: usize| {
        let of = |candidate: &&ExpertCandidate| candidate.scores.tasks[t].clone();
        let mut tasks = members.iter().map(of);
        let start = tasks.next().unwrap_or_else(|| first.tasks[t].clone());
        tasks.fold(start, |best, task| if task.value > best.value { task } else { best })
    };
    ModelScores { name: "oracle".into(), tasks: (0..first.tasks.len()).map(best).collect() }
}

/// Chooses members greedily.
fn choose<'c>(
    candidates: &'c [ExpertCandidate],
    max: usize,
    limit: Option<f64>,
) -> (Vec<&'c ExpertCandidate>, Vec<report::MixtureStep>, Vec<report::LeftOut>) {
    let mut open: Vec<&ExpertCandidate> = candidates.iter().filter(|c| c.kept).collect();
    let mut steps = Vec::new();
    let best = |open: &[&'c ExpertCandidate]| {
        // Among equals the first wins: merges are listed ahead of the models they are made of.
        open.iter().copied().fold(None::<&ExpertCandidate>, |best, c| {
            best.filter(|best| best.scores.average() >= c.scores.average()).or(Some(c))
        })
    };
    let Some(first) = best(&open) else { return (Vec::new(), steps, Vec::new()) };
    let mut chosen = vec![first];
    open.retain(|c| c.name != first.name);
    steps.push(report::MixtureStep {
        action: format!("begin with {}", first.name),
        score: Some(first.scores.score()),
        kept: true,
        reason: "the best candidate alone".into(),
    });
    let mut reasons: BTreeMap<&str, String> = BTreeMap::new();
    while chosen.len() < max && !open.is_empty() {
        let now = oracle(&chosen);
        let with = |c: &'c ExpertCandidate| {
            let mut more = chosen.clone();
            more.push(c);
            let oracle = oracle(&more);
            let (gained, error) = gain(&oracle, &now);
            (gained, error, oracle)
        };
        let parameters: u64 = chosen.iter().map(|c| c.parameters).sum();
        let fits = |c: &ExpertCandidate| limit.is_none_or(|limit| (parameters + c.parameters) as f64 <= limit);
        for c in open.iter().filter(|c| !fits(c)) {
            reasons.insert(&c.name, "it would exceed the limit on parameters".into());
        }
        let next = open
            .iter()
            .copied()
            .filter(|c| fits(c))
            .map(|c| (c, with(c)))
            .fold(None::<(&ExpertCandidate, (f64, f64, ModelScores))>, |best, new| {
                best.filter(|best| best.1.0 >= new.1.0).or(Some(new))
            });
        let Some((candidate, (gained, error, oracle))) = next else { break };
        let kept = gained > error;
        steps.push(report::MixtureStep {
            action: format!("add {}", candidate.name),
            score: Some(oracle.score()),
            kept,
            reason: format!("{} with perfect routing", gain_words(gained, error)),
        });
        if !kept {
            break;
        }
        chosen.push(candidate);
        open.retain(|c| c.name != candidate.name);
    }
    // The first member may no longer be the best at any task.
    while chosen.len() > 2 {
        let now = oracle(&chosen).average();
        let without = |i: usize| {
            let rest: Vec<&ExpertCandidate> =
                chosen.iter().enumerate().filter(|(j, _)| *j != i).map(|(_, c)| *c).collect();
            oracle(&rest)
        };
        let Some((i, rest)) = (0..chosen.len()).map(|i| (i, without(i))).find(|(_, rest)| rest.average() >= now) else {
            break;
        };
        let dropped = chosen.remove(i);
        steps.push(report::MixtureStep {
            action: format!("remove {}", dropped.name),
            score: Some(rest.score()),
            kept: true,
            reason: "no task gets worse without it, with perfect routing".into(),
        });
        reasons.insert(&dropped.name, "another member is at least as good at each task".into());
    }
    let now = oracle(&chosen);
    for c in &open {
        let mut more = chosen.clone();
        more.push(*c);
        let (gained, error) = gain(&oracle(&more), &now);
        reasons.entry(&c.name).or_insert_with(|| {
            format!("no significant gain even with perfect routing ({})", gain_words(gained, error))
        });
    }
    let left_out = candidates.iter().filter(|c| !chosen.iter().any(|member| member.name == c.name)).map(|c| {
        let reason = if c.kept { reasons.get(c.name.as_str()).cloned().unwrap_or_default() } else { c.reason.clone() };
        report::LeftOut { name: c.name.clone(), reason }
    });
    let left_out = left_out.collect();
    (chosen, steps, left_out)
}

pub(crate) fn mix(
    context: &Context<'_>,
    compatible: &Compatible,
    candidates: &[ExpertCandidate],
    prepared: &glue_eval::Prepared,
    place: &Path,
) -> Result<Decided, PipelineError> {
    let config = &context.config.mixture;
    let (members, steps, left_out) = choose(candidates, config.experts, context.config.limits.parameters);
    // Merges come first: the first among equals is the one made of most models.
    let best = candidates.iter().filter(|c| c.kept).fold(None::<&ExpertCandidate>, |best, c| {
        best.filter(|best| best.scores.average() >= c.scores.average()).or(Some(c))
    });
    let Some(best) = best else {
        return Err(PipelineError::Unsuitable("no candidate remains: every model was found harmful".into()));
    };
    let alone = |why: String| Decided {
        mixture: None,
        router: None,
        best: best.name.clone(),
        scores: best.scores.clone(),
        path: best.path.clone(),
        made: best.made,
        why,
        description: None,
    };
    if !config.enabled {
        return Ok(alone("mixtures are disabled".into()));
    }
    if members.len() < 2 {
        return Ok(alone("no second candidate helps, even with perfect routing".into()));
    }
    let mut trials = Vec::new();
    let options = options(context, compatible, &members, best);
    let mut best_so_far: Option<(usize, f64)> = None;
    for (i, option) in options.iter().enumerate() {
        let what = format!("mixture {} of {}: {}", i + 1, options.len(), option.words());
        context.progress.begin(&what, Unit::Steps, None);
        let note = place.join(format!("option-{i}.json"));
        let directory = place.join(format!("option-{i}"));
        let mut known: Option<FormTrial> = read_json(&note, Stage::Mixture)?;
        if let Some(found) = &known
            && found.scores.as_ref().is_some_and(|s| best_so_far.is_none_or(|(_, best)| s.average() > best))
            && !directory.exists()
        {
            // Its files were removed for a better form, whose note is gone.
            known = None;
        }
        let result = match known {
            Some(known) => known,
            None => {
                let result = try_form(context, option, &members, best, prepared, &directory)?;
                write_json(&note, &result)?;
                result
            }
        };
        if let Some(scores) = &result.scores {
            if best_so_far.is_none_or(|(_, best)| scores.average() > best) {
                if let Some((old, _)) = best_so_far {
                    discard(&place.join(format!("option-{old}")))?;
                }
                best_so_far = Some((i, scores.average()));
            } else {
                discard(&directory)?;
            }
        }
        trials.push(result);
    }
    let mut steps = steps;
    for (i, result) in trials.iter().enumerate() {
        let chosen = best_so_far.is_some_and(|(best, _)| best == i);
        steps.push(report::MixtureStep {
            action: result.plan.words(),
            score: result.scores.as_ref().map(ModelScores::score),
            kept: chosen,
            reason: match (&result.failure, chosen) {
                (Some(failure), _) => failure.clone(),
                (None, true) => "the best on the proxy items, with its trained router".into(),
                (None, false) => "not the best on the proxy items, with its trained router".into(),
            },
        });
    }
    let Some((i, _)) = best_so_far else {
        return Ok(alone("no form of mixture could be built from the members".into()));
    };
    let winner = trials.swap_remove(i);
    let scores = winner.scores.clone().unwrap_or_else(|| best.scores.clone());
    let (more, error) = gain(&scores, &best.scores);
    let directory = place.join(format!("option-{i}"));
    check_files(&directory, &winner.files, Stage::Mixture)?;
    if more <= error {
        discard(&directory)?;
        let why = format!("no mixture was better than `{}` alone: {}", best.name, gain_words(more, error));
        return Ok(alone(why));
    }
    let path = place.join("mixture");
    // Left by a run that was killed before the stage was complete.
    discard(&path)?;
    fs::rename(&directory, &path).map_err(|e| PipelineError::io(&path, e))?;
    glue_tensor::abort_point("mixture chosen");
    Ok(Decided {
        mixture: Some(report::Mixture { steps, left_out, ..winner.mixture }),
        router: Some(winner.router),
        best: best.name.clone(),
        scores: ModelScores { name: "mixture".into(), ..scores },
        path: "mixture".into(),
        made: true,
        why: format!("better than `{}`, the best candidate alone: {}", best.name, gain_words(more, error)),
        description: Some(winner.description),
    })
}

fn discard(directory: &Path) -> Result<(), PipelineError> {
    if directory.exists() {
        fs::remove_dir_all(directory).map_err(|e| PipelineError::io(directory, e))?;
    }
    Ok(())
}

/// The forms that can be built from the members.
fn options(
    context: &Context<'_>,
    compatible: &Compatible,
    members: &[&ExpertCandidate],
    best: &ExpertCandidate,
) -> Vec<MixtureForm> {
    let config = &context.config.mixture;
    let of = |c: &ExpertCandidate| c.members[0].clone();
    let mergeable = members.iter().all(|m| m.kind != report::CandidateKind::Stacked)
        && members.iter().chain([&best]).all(|m| compatible.mergeable(&of(members[0]), &of(m)));
    let layers = context.layers_of(&of(members[0]));
    let depths = config.depths(layers);
    let mut options = Vec::new();
    for &level in &config.levels {
        if level == Level::Model && config.routing == Routing::Sample {
            options.push(MixtureForm { level, whole: true, dense: 0 });
        }
        if mergeable {
            options.extend(depths.iter().map(|&dense| MixtureForm { level, whole: false, dense }));
        }
    }
    options
}

/// The config of a mixture, as `glue mix` reads it. `path` gives the directory of a candidate.
fn description(
    context: &Context<'_>,
    option: &MixtureForm,
    members: &[&ExpertCandidate],
    best: &ExpertCandidate,
    path: &dyn Fn(&ExpertCandidate) -> String,
) -> String {
    let config = &context.config.mixture;
    // The trunk comes from the best candidate, if it has the right shape. Whole models need one only to read prompts,
    // which a member can do as well.
    let base = if option.whole || best.kind == report::CandidateKind::Stacked { members[0] } else { best };
    let level = match option.level {
        Level::Model => "model",
        Level::Block => "block",
        Level::Ffn => "ffn",
    };
    let router = match config.router {
        RouterKind::Linear => json!("linear"),
        RouterKind::Mlp { hidden_size } => json!({ "kind": "mlp", "hidden_size": hidden_size }),
    };
    let experts: Vec<Value> =
        members.iter().map(|member| json!({ "source_model": path(member), "name": member.name })).collect();
    let mut all = json!({
        "base_model": path(base),
        "gate_mode": "random",
        "level": level,
        "routing": config.routing,
        "router": router,
        "experts_per_token": 1,
        "seed": context.config.seed,
        "experts": experts,
    });
    if config.routing == Routing::Sample {
        all["pool"] = json!(config.pool);
    }
    if option.whole {
        all["whole"] = json!(true);
    } else {
        all["dense_layers"] = json!(option.dense);
    }
    if let Some(dtype) = &context.config.dtype {
        all["dtype"] = json!(dtype);
    }
    // JSON is YAML.
    format!("{all:#}\n")
}

fn try_form(
    context: &Context<'_>,
    option: &MixtureForm,
    members: &[&ExpertCandidate],
    best: &ExpertCandidate,
    prepared: &glue_eval::Prepared,
    directory: &Path,
) -> Result<FormTrial, PipelineError> {
    discard(directory)?;
    let text = description(context, option, members, best, &|c| context.outside(&c.path, c.made));
    // What is kept does not depend on the directory of the run.
    let described = description(context, option, members, best, &|c| c.path.clone());
    let names: Vec<&str> = members.iter().map(|member| member.name.as_str()).collect();
    let failed =
        |error: Box<dyn std::error::Error + Send + Sync>| PipelineError::Mixture { experts: names.join(", "), error };
    let mut config = MixConfig::parse(&text, "mixture.yml").map_err(|e| failed(e.into()))?;
    config.links = context.links;
    let plan = match MixPlan::new(&config) {
        Ok(plan) => plan,
        // If the members do not fit at this level, other forms may still work.
        Err(error) => {
            let why = error.chain().replace(&format!("{}/", context.out.display()), "");
            return Ok(impossible(option, described, why));
        }
    };
    let estimate = plan.estimate(rayon::current_num_threads());
    let gates = plan.random_gates();
    glue_mixture::run(
        &plan,
        &gates,
        directory,
        &glue_mixture::RunOptions::default(),
        &context.labelled(&option.words()),
    )
    .map_err(|e| context.stopped_or(failed(e.into())))?;
    let mut request = TrainRequest::new(directory);
    request.split = context.config.tasks.router.clone();
    request.limit = context.config.tasks.limit;
    request.settings.seed = context.config.seed;
    request.given = assigned(members);
    let trainer = Trainer::open(request, &context.tasks).map_err(|e| failed(e.into()))?;
    let trained = trainer.run(&context.labelled(&option.words())).map_err(|e| context.stopped_or(failed(e.into())))?;
    let model = context.open_any(directory).map_err(failed)?;
    let scored = ModelScores::of(&option.words(), &*model, prepared, &context.labelled(&option.words()))
        .map_err(|e| context.stopped_or(e))?;
    let scores = match scored {
        Scored::Scores(scores) => scores,
        Scored::Unscored { reason, .. } => {
            discard(directory)?;
            return Ok(impossible(option, described, format!("it could not be scored: {reason}")));
        }
    };
    let purpose = |member: &ExpertCandidate| {
        let tasks: Vec<String> =
            assigned(members).into_iter().filter(|(_, name)| *name == member.name).map(|(task, _)| task).collect();
        (!tasks.is_empty()).then(|| tasks.join(", "))
    };
    let level = if option.whole { "model (whole models)" } else { level_name(option.level) };
    let mixture = report::Mixture {
        level: level.into(),
        routing: if context.config.mixture.routing == Routing::Sample { "sample" } else { "token" }.into(),
        dense_layers: option.dense,
        layers: context.layers_of(&members[0].members[0]),
        experts_per_token: config.experts_per_token,
        experts: members
            .iter()
            .map(|member| report::Expert {
                name: member.name.clone(),
                source: member.name.clone(),
                parameters: Some(member.parameters),
                purpose: purpose(member),
            })
            .collect(),
        parameters_total: estimate.parameters,
        parameters_active: estimate.active_parameters,
        parameters_experts: members.iter().map(|member| member.parameters).sum(),
        steps: Vec::new(),
        left_out: Vec::new(),
    };
    let router = describe_router(&trained, &names, members, &context.config.tasks.router);
    Ok(FormTrial {
        plan: option.clone(),
        scores: Some(scores),
        failure: None,
        mixture,
        router,
        description: described,
        files: hashes(directory)?,
    })
}

fn level_name(level: Level) -> &'static str {
    match level {
        Level::Model => "model",
        Level::Block => "block",
        Level::Ffn => "ffn",
    }
}

fn impossible(option: &MixtureForm, description: String, failure: String) -> FormTrial {
    FormTrial {
        plan: option.clone(),
        scores: None,
        failure: Some(failure),
        mixture: report::Mixture::default(),
        router: report::Router::default(),
        description,
        files: Hashes::new(),
    }
}

/// The member that each task should be routed to: the best on its proxy items, the first among equals.
fn assigned(members: &[&ExpertCandidate]) -> BTreeMap<String, String> {
    let tasks = &members[0].scores.tasks;
    let best = |t: usize| {
        members.iter().copied().fold(members[0], |best, member| {
            if member.scores.tasks[t].value > best.scores.tasks[t].value { member } else { best }
        })
    };
    tasks.iter().enumerate().map(|(t, task)| (task.task.clone(), best(t).name.clone())).collect()
}

fn describe_router(trained: &TrainReport, names: &[&str], members: &[&ExpertCandidate], split: &str) -> report::Router {
    let experts: Vec<String> = names.iter().map(|name| name.to_string()).collect();
    let TrainReport::Supervised { gates, .. } = trained else {
        return report::Router { experts, split: split.into(), ..report::Router::default() };
    };
    // With several gates the last one counts.
    let Some(gate) = gates.last() else {
        return report::Router { experts, split: split.into(), ..report::Router::default() };
    };
    let right = assigned(members);
    let of = |task: &str| right.get(task).and_then(|name| names.iter().position(|n| n == name));
    let n: f64 = gate.tasks.rows.iter().flat_map(|(_, row)| row).sum();
    let p = gate.validation_accuracy;
    report::Router {
        method: "supervised: cross-entropy of the expert that is best at an item's task".into(),
        split: format!("{split} (items held out from training)"),
        accuracy: Some(report::Score {
            value: p,
            stderr: Some((p * (1.0 - p) / n.max(1.0)).sqrt()),
            n: Some(n as usize),
        }),
        confusion: Some(report::Confusion {
            skills: gate.tasks.rows.iter().map(|(task, _)| task.clone()).collect(),
            experts: gate.tasks.experts.clone(),
            counts: gate.tasks.rows.iter().map(|(_, row)| row.iter().map(|x| x.round() as u64).collect()).collect(),
            right: gate.tasks.rows.iter().map(|(task, _)| of(task)).collect(),
        }),
        load: gate
            .tasks
            .rows
            .iter()
            .zip(gate.tasks.shares())
            .map(|((task, _), shares)| report::Load { task: task.clone(), shares })
            .collect(),
        experts,
    }
}

/// The directory of the chosen model.
pub(crate) fn decided_path(context: &Context<'_>, decided: &Decided, stage: &Path) -> PathBuf {
    match (&decided.mixture, decided.made) {
        (Some(_), _) => stage.join(&decided.path),
        (None, made) => context.outside_path(&decided.path, made),
    }
}
