//! At which level, and from which layer on, experts are mixed.
//!
//! The frontier chose how many models are worth their parameters under perfect routing. From these experts a mixture of
//! every form, level and depth, is built, its router is trained on the router items, and it is scored on the validation
//! items; the one rule ([`glue_eval::decision`]) chooses the form. In that form mixtures of the smaller points of the
//! frontier, of all members and of the merged clusters are built as well. The rule then decides between all of them and
//! the best model of the size of one.

use crate::config::ItemUse;
use crate::error::PipelineError;
use crate::run::Context;
use crate::scores::{ModelScores, RoleItems, Scored};
use crate::stage::{Hashes, Stage, check_files, hashes, read_json, write_json};
use crate::stages::compare::Compatible;
use crate::stages::frontier::{ExpertModel, Explored, Point, mixture_complexity, rows};
use glue_eval::decision::{ALPHA, Contender, decide};
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
    /// Mixtures that were built and kept.
    pub(crate) mixtures: Vec<BuiltMixture>,
    /// The one that is the final model; `None` for the best model of the size of one.
    pub(crate) last: Option<usize>,
    /// Every form that was tried, in order.
    pub(crate) steps: Vec<report::MixtureStep>,
    pub(crate) decisions: Vec<report::RuleRow>,
    pub(crate) why: String,
}

/// A mixture in a directory of the stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct BuiltMixture {
    /// Unique in the run.
    pub(crate) name: String,
    /// The point of the frontier.
    pub(crate) point: usize,
    /// Its directory in the stage.
    pub(crate) path: String,
    pub(crate) mixture: report::Mixture,
    pub(crate) router: report::Router,
    /// The config of the mixture, as `glue mix` reads it. Paths of models made by the run start at its directory.
    pub(crate) description: String,
    /// On the validation items.
    pub(crate) scores: ModelScores,
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

/// The directory of a mixture in that of its form.
const MODEL: &str = "mixture";

/// What routers read, until the stage is complete.
const STATES: &str = "states";

/// Experts with the task that each is used for.
struct Members<'a> {
    experts: Vec<&'a ExpertModel>,
    /// For each task, by name, the expert that it should be routed to.
    routing: BTreeMap<String, String>,
    /// The model of the size of one, whose layers stay dense.
    trunk: &'a ExpertModel,
}

impl<'a> Members<'a> {
    fn new(explored: &'a Explored, point: &Point) -> Members<'a> {
        let tasks = explored.models[explored.single].search.iter().flat_map(|scores| &scores.tasks);
        let routing = tasks
            .zip(&point.routing)
            .map(|(task, &expert)| (task.task.clone(), explored.models[expert].name.clone()))
            .collect();
        let experts = point.experts.iter().map(|&expert| &explored.models[expert]).collect();
        Members { experts, routing, trunk: &explored.models[explored.one] }
    }
}

pub(crate) fn mix(
    context: &Context<'_>,
    compatible: &Compatible,
    explored: &Explored,
    prepared: &RoleItems,
    place: &Path,
) -> Result<Decided, PipelineError> {
    let one = &explored.models[explored.one];
    let none = |why: &str| Decided {
        mixtures: Vec::new(),
        last: None,
        steps: Vec::new(),
        decisions: Vec::new(),
        why: why.into(),
    };
    if !context.config.mixture.enabled {
        return Ok(none("mixtures are disabled"));
    }
    let Some(chosen) = explored.chosen else {
        return Ok(none("no number of models is significantly better, even with perfect routing"));
    };
    let seed = context.config.seed;
    let incumbent = Contender {
        complexity: one.complexity(),
        tasks: one.validation.as_ref().map(ModelScores::outcomes).unwrap_or_default(),
    };
    let mut decisions = Vec::new();
    let mut steps = Vec::new();
    let point = &explored.points[chosen];
    let members = Members::new(explored, point);
    let forms = forms(context, compatible, &members);
    let mut trials = Vec::new();
    for (i, form) in forms.iter().enumerate() {
        let what = format!("mixture {} of {}: {}", i + 1, forms.len(), form.words());
        trials.push(trial(context, form, &members, prepared, (&place.join(format!("form-{i}")), &what))?);
        if i > 0 {
            // Only the chosen form is kept; the first is the most likely one.
            discard(&place.join(format!("form-{i}")))?;
        }
    }
    let scored: Vec<usize> = (0..trials.len()).filter(|&i| trials[i].scores.is_some()).collect();
    let contenders: Vec<Contender<'_>> = scored.iter().map(|&i| contender(&trials[i])).collect();
    let ruling = decide(&incumbent, &contenders, &explored.weights(), ALPHA, seed);
    let name = |i: usize| trials[scored[i]].plan.words();
    decisions.extend(rows("form of the mixture", &one.name, &ruling, &name));
    let average = |i: usize| trials[i].scores.as_ref().map_or(f64::NEG_INFINITY, ModelScores::average);
    let best = scored.iter().copied().reduce(|best, i| if average(i) > average(best) { i } else { best });
    let best = ruling.winner.map(|i| scored[i]).or(best);
    steps.extend(trials.iter().enumerate().map(|(i, trial)| report::MixtureStep {
        action: trial.plan.words(),
        score: trial.scores.as_ref().map(ModelScores::score),
        kept: best == Some(i),
        reason: match (&trial.failure, best == Some(i)) {
            (Some(failure), _) => failure.clone(),
            (None, true) => "the simplest form that no other significantly beats, with its trained router".into(),
            (None, false) => "not chosen".into(),
        },
    }));
    let Some(best) = best else {
        discard(&place.join(STATES))?;
        return Ok(Decided { steps, decisions, ..none("no form of mixture could be built") });
    };
    let form = forms[best].clone();
    let mut mixtures = Vec::new();
    for (n, &at) in explored.built(chosen).iter().enumerate() {
        let point = &explored.points[at];
        let members = Members::new(explored, point);
        let form = if fits(context, compatible, &members, &form) { form.clone() } else { MixtureForm::whole() };
        let name = format!("mixture-{}", n + 1);
        let words = explored.words(point);
        let path = place.join(&name);
        if let (true, Some(found)) =
            (at == chosen && !path.exists(), place.join("form-0").exists().then_some(&trials[0]))
            && found.plan == form
        {
            fs::rename(place.join("form-0"), &path).map_err(|e| PipelineError::io(&path, e))?;
            glue_tensor::abort_point("mixture chosen");
            write_json(&path.with_extension("json"), found)?;
        }
        let trial = trial(context, &form, &members, prepared, (&path, &format!("mixture of {words}")))?;
        let Some(scores) = trial.scores else {
            steps.push(report::MixtureStep {
                action: format!("{} of {words}", form.words()),
                score: None,
                kept: false,
                reason: trial.failure.unwrap_or_default(),
            });
            continue;
        };
        check_files(&path.join(MODEL), &trial.files, Stage::Mixture)?;
        mixtures.push(BuiltMixture {
            name: name.clone(),
            point: at,
            path: format!("{name}/{MODEL}"),
            mixture: trial.mixture,
            router: trial.router,
            description: trial.description,
            scores,
        });
    }
    discard(&place.join("form-0"))?;
    discard(&place.join(STATES))?;
    let allowed: Vec<usize> =
        (0..mixtures.len()).filter(|&i| explored.may_be_final(context, &explored.points[mixtures[i].point])).collect();
    let contenders: Vec<Contender<'_>> = allowed
        .iter()
        .map(|&i| Contender {
            complexity: mixture_complexity(mixtures[i].mixture.parameters_total),
            tasks: mixtures[i].scores.outcomes(),
        })
        .collect();
    let ruling = decide(&incumbent, &contenders, &explored.weights(), ALPHA, seed);
    let name = |i: usize| explored.words(&explored.points[mixtures[allowed[i]].point]);
    decisions.extend(rows("one model or a mixture, with its trained router", &one.name, &ruling, &name));
    let last = ruling.winner.map(|i| allowed[i]);
    let why = match last {
        Some(_) => format!("it is significantly better than {} on the validation items", one.name),
        None => format!("no mixture is significantly better than {} with its trained router", one.name),
    };
    Ok(Decided { mixtures, last, steps, decisions, why })
}

fn contender(trial: &FormTrial) -> Contender<'_> {
    Contender {
        complexity: mixture_complexity(trial.mixture.parameters_total),
        tasks: trial.scores.as_ref().map(ModelScores::outcomes).unwrap_or_default(),
    }
}

/// A form that was tried: what is known of it, or a new mixture in the directory. A form that is known but whose
/// directory is gone, though it is needed, is built again.
fn trial(
    context: &Context<'_>,
    form: &MixtureForm,
    members: &Members<'_>,
    prepared: &RoleItems,
    (directory, what): (&Path, &str),
) -> Result<FormTrial, PipelineError> {
    context.progress.begin(what, Unit::Steps, None);
    let note = directory.with_extension("json");
    if let Some(known) = read_json::<FormTrial>(&note, Stage::Mixture)? {
        let needed = directory.file_name().is_some_and(|name| name.to_string_lossy().starts_with("mixture-"));
        if !needed || known.scores.is_none() || directory.exists() {
            return Ok(known);
        }
    }
    // A model card has the name of its directory, which is the same wherever the mixture goes.
    discard(directory)?;
    fs::create_dir_all(directory).map_err(|e| PipelineError::io(directory, e))?;
    let trial = try_form(context, form, members, prepared, &directory.join(MODEL))?;
    write_json(&note, &trial)?;
    Ok(trial)
}

fn discard(directory: &Path) -> Result<(), PipelineError> {
    if directory.exists() {
        fs::remove_dir_all(directory).map_err(|e| PipelineError::io(directory, e))?;
    }
    Ok(())
}

/// The forms that can be built from the members.
fn forms(context: &Context<'_>, compatible: &Compatible, members: &Members<'_>) -> Vec<MixtureForm> {
    let config = &context.config.mixture;
    let first = &members.experts[0].members[0];
    let depths = config.depths(context.layers_of(first));
    let mut forms = Vec::new();
    for &level in &config.levels {
        if level == Level::Model && config.routing == Routing::Sample {
            forms.push(MixtureForm::whole());
        }
        forms.extend(depths.iter().map(|&dense| MixtureForm { level, whole: false, dense }));
    }
    forms.retain(|form| fits(context, compatible, members, form));
    forms
}

impl MixtureForm {
    fn whole() -> MixtureForm {
        MixtureForm { level: Level::Model, whole: true, dense: 0 }
    }
}

/// Whether members can be mixed in a form: whole models of any kind if samples are routed, otherwise models that share
/// an architecture.
fn fits(context: &Context<'_>, compatible: &Compatible, members: &Members<'_>, form: &MixtureForm) -> bool {
    if form.whole {
        return context.config.mixture.routing == Routing::Sample;
    }
    let first = &members.experts[0].members[0];
    let all = members.experts.iter().chain([&members.trunk]);
    members.experts.iter().all(|member| member.kind != report::CandidateKind::Stacked)
        && all.flat_map(|model| model.members.first()).all(|name| compatible.mergeable(first, name))
}

/// The config of a mixture, as `glue mix` reads it. `path` gives the directory of a candidate.
fn description(
    context: &Context<'_>,
    option: &MixtureForm,
    members: &Members<'_>,
    path: &dyn Fn(&ExpertModel) -> String,
) -> String {
    let config = &context.config.mixture;
    // Layers that stay dense come from the best model of the size of one, if it has the right shape. Whole models need
    // one only to read prompts, which a member can do as well.
    let stacked = members.trunk.kind == report::CandidateKind::Stacked;
    let base = if option.whole || stacked { members.experts[0] } else { members.trunk };
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
        members.experts.iter().map(|member| json!({ "source_model": path(member), "name": member.name })).collect();
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
    members: &Members<'_>,
    prepared: &RoleItems,
    directory: &Path,
) -> Result<FormTrial, PipelineError> {
    discard(directory)?;
    let text = description(context, option, members, &|c| context.outside(&c.path, c.made));
    // What is kept does not depend on the directory of the run.
    let described = description(context, option, members, &|c| c.path.clone());
    let names: Vec<&str> = members.experts.iter().map(|member| member.name.as_str()).collect();
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
    request.split = context.config.tasks.split(ItemUse::Router).to_string();
    request.splits = context.config.tasks.own_splits(ItemUse::Router);
    request.limit = context.config.tasks.limit;
    request.settings.seed = context.config.seed;
    // Whole models of all forms have one model that reads prompts.
    request.state = directory.parent().and_then(Path::parent).map(|stage| stage.join(STATES));
    request.given = members.routing.clone();
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
    let purpose = |member: &ExpertModel| {
        let own = members.routing.iter().filter(|(_, name)| **name == member.name);
        let tasks: Vec<String> = own.map(|(task, _)| task.clone()).collect();
        (!tasks.is_empty()).then(|| tasks.join(", "))
    };
    let level = if option.whole { "model (whole models)" } else { level_name(option.level) };
    let mixture = report::Mixture {
        level: level.into(),
        routing: if context.config.mixture.routing == Routing::Sample { "sample" } else { "token" }.into(),
        dense_layers: option.dense,
        layers: context.layers_of(&members.experts[0].members[0]),
        experts_per_token: config.experts_per_token,
        experts: members
            .experts
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
        parameters_experts: members.experts.iter().map(|member| member.parameters).sum(),
        steps: Vec::new(),
        left_out: Vec::new(),
    };
    let router =
        describe_router(&trained, &names, &members.routing, &context.config.tasks.split(ItemUse::Router).to_string());
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

fn describe_router(
    trained: &TrainReport,
    names: &[&str],
    right: &BTreeMap<String, String>,
    split: &str,
) -> report::Router {
    let experts: Vec<String> = names.iter().map(|name| name.to_string()).collect();
    let TrainReport::Supervised { gates, .. } = trained else {
        return report::Router { experts, split: split.into(), ..report::Router::default() };
    };
    // With several gates the last one counts.
    let Some(gate) = gates.last() else {
        return report::Router { experts, split: split.into(), ..report::Router::default() };
    };
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

/// The directory of the final model.
pub(crate) fn decided_path(context: &Context<'_>, explored: &Explored, decided: &Decided, stage: &Path) -> PathBuf {
    match decided.last {
        Some(i) => stage.join(&decided.mixtures[i].path),
        None => {
            let one = &explored.models[explored.one];
            context.outside_path(&one.path, one.made)
        }
    }
}
