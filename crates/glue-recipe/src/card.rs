//! The model card: `README.md` of the output, with the front matter that model hubs read. Hubs refuse paths in it: only
//! models whose identifier is known are listed there.

use crate::plan::{MergePlan, PlannedModel};
use crate::recipe::{Body, Recipe};
use glue_merge::OperatorDef;
use glue_tensor::hub;
use glue_text::markdown::{code, fenced, inline};
use std::collections::BTreeSet;
use std::fmt::Write;

/// File name of the model card.
pub const FILE: &str = "README.md";

/// The model card of the output of `plan`, which is called `title`.
pub fn card(plan: &MergePlan, title: &str) -> String {
    let mut card = front_matter(plan);
    let operator = plan.operator.def();
    // Writing to a string does not fail.
    let _ = write!(
        card,
        "# {}\n\nA merge of checkpoints made with Model-GLUE {}.\n",
        inline(title),
        env!("CARGO_PKG_VERSION")
    );
    let _ = write!(card, "\n## Method\n\n{}", method(operator));
    if let Some(inner) = plan.operator.inner() {
        let _ = write!(card, "\nAround:\n\n{}", method(inner));
    }
    card.push_str("\n## Models\n\n");
    for (i, model) in plan.models.iter().enumerate() {
        let is_base = plan.recipe.base.is_some() && i == plan.config_from;
        let base = if is_base { " (base)" } else { "" };
        let statistics =
            model.statistics.as_ref().map(|statistics| format!(", with the statistics {}", code(&statistics.name)));
        let id = model.hub.id.as_ref().filter(|id| **id != model.name).map(|id| format!(", {} on the hub", code(id)));
        let _ =
            writeln!(card, "- {}{base}{}{}", code(&model.name), id.unwrap_or_default(), statistics.unwrap_or_default());
    }
    let _ = write!(card, "\n## Recipe\n\n{}", fenced("yaml", &plan.recipe.text));
    let _ = write!(card, "\nSeed {}. {}\n", plan.seed, layers(&plan.recipe));
    if !plan.dropped.is_empty() || !plan.notes.is_empty() {
        card.push_str("\n## Notes\n\n");
        for (tensor, why) in &plan.dropped {
            let _ = writeln!(card, "- {} was left out: {}.", code(tensor), inline(why));
        }
        for note in &plan.notes {
            let _ = writeln!(card, "- {}.", inline(note));
        }
    }
    let _ = write!(card, "\n## Citation\n\n{}: {}.\n", operator.name, operator.reference);
    if let Some(inner) = plan.operator.inner() {
        let _ = write!(card, "\n{}: {}.\n", inner.name, inner.reference);
    }
    card
}

fn front_matter(plan: &MergePlan) -> String {
    let mut text = String::from("---\n");
    // A model and its adapter are two models of a hub, and each is listed once.
    let of_adapter = |model: &PlannedModel| hub::id_in_cache(model.adapter.as_ref()?.dir.path());
    let mut ids: Vec<String> =
        plan.models.iter().flat_map(|model| model.hub.id.clone().into_iter().chain(of_adapter(model))).collect();
    let mut seen = BTreeSet::new();
    ids.retain(|id| seen.insert(id.clone()));
    if !ids.is_empty() {
        text.push_str("base_model:\n");
        for id in ids {
            // Identifiers need no quotes in YAML.
            let _ = writeln!(text, "- {id}");
        }
        text.push_str("base_model_relation: merge\n");
    }
    text.push_str("library_name: transformers\n");
    if plan.config.architectures().iter().any(|name| name.ends_with("ForCausalLM")) {
        text.push_str("pipeline_tag: text-generation\n");
    }
    text.push_str(&license(plan).front_matter());
    let _ = write!(text, "tags:\n- merge\n- model-glue\n- {}\n---\n", plan.operator.def().name);
    text
}

/// The licence of a merge.
#[derive(Debug, Clone, PartialEq, Eq)]
enum License<'a> {
    /// No model says one.
    Unknown,
    /// All models have this one; what it is, if it is called `other`.
    Same(&'a str, Option<&'a str>),
    /// The models have different ones, or some say none.
    Mixed,
}

impl License<'_> {
    fn front_matter(&self) -> String {
        match self {
            License::Unknown => String::new(),
            License::Same(license, None) => format!("license: {license}\n"),
            License::Same(license, Some(name)) => format!("license: {license}\nlicense_name: {name}\n"),
            License::Mixed => "license: other\nlicense_name: mixed\n".into(),
        }
    }
}

fn license(plan: &MergePlan) -> License<'_> {
    let mut licenses =
        plan.models.iter().map(|model| (model.hub.license.as_deref(), model.hub.license_name.as_deref()));
    let first = licenses.next().unwrap_or_default();
    if licenses.all(|other| other == first) {
        return first.0.map_or(License::Unknown, |license| License::Same(license, first.1));
    }
    License::Mixed
}

/// What a person has to decide: the licences of models that do not have the same; `None` if they have.
pub(crate) fn license_note(plan: &MergePlan) -> Option<String> {
    if license(plan) != License::Mixed {
        return None;
    }
    let of = |model: &PlannedModel| {
        let hub = &model.hub;
        let license = hub.license_name.as_deref().or(hub.license.as_deref()).unwrap_or("not given");
        format!("{license} for `{}`", model.name)
    };
    let list: Vec<String> = plan.models.iter().map(of).collect();
    Some(format!("licenses differ ({}); the card says `other`: decide which one the output may have", list.join(", ")))
}

fn method(operator: &OperatorDef) -> String {
    format!("`{}`: {}\n\n    {}\n", operator.name, operator.summary, operator.formula)
}

fn layers(recipe: &Recipe) -> String {
    let slices: usize =
        recipe.parts.iter().map(|part| if let Body::Slices(slices) = &part.body { slices.len() } else { 0 }).sum();
    match slices {
        0 => "All layers of all models.".into(),
        1 => "Layers from 1 slice.".into(),
        n => format!("Layers stacked from {n} slices."),
    }
}
