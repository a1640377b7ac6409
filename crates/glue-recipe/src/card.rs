//! The model card: `README.md` of the output, with the front matter that model hubs read. Hubs refuse paths in it: only
//! models whose identifier is known are listed there.

use crate::plan::{MergePlan, PlannedModel};
use crate::recipe::{Body, Recipe};
use glue_merge::OperatorDef;
use glue_tensor::hub::{self, CommonLicense};
use glue_text::markdown::{code, fenced, inline};
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
        let commit = model.hub.commit.as_ref().map(|commit| format!(" at commit {}", code(commit))).unwrap_or_default();
        let id = model.hub.id.as_ref().filter(|id| **id != model.name || !commit.is_empty());
        let id = id.map(|id| format!(", {}{commit} on the hub", code(id)));
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
    let ids = plan.models.iter().flat_map(|model| model.hub.id.clone().into_iter().chain(of_adapter(model)));
    text.push_str(&hub::base_models(ids));
    text.push_str("library_name: transformers\n");
    if plan.config.architectures().iter().any(|name| name.ends_with("ForCausalLM")) {
        text.push_str("pipeline_tag: text-generation\n");
    }
    text.push_str(&CommonLicense::of(plan.models.iter().map(|model| &model.hub)).front_matter());
    let _ = write!(text, "tags:\n- merge\n- model-glue\n- {}\n---\n", plan.operator.def().name);
    text
}

/// What a person has to decide: the licences of models that do not have the same; `None` if they have.
pub(crate) fn license_note(plan: &MergePlan) -> Option<String> {
    hub::license_note(plan.models.iter().map(|model| (model.name.as_str(), &model.hub)))
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
