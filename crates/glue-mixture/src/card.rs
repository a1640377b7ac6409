//! The model card: `README.md` of a mixture, with the front matter that model hubs read.

use crate::plan::MixPlan;
use crate::sites::MixtureFormat;
use crate::spec::{Level, Routing};
use glue_tensor::hub::{self, CommonLicense, HubFacts};
use glue_text::markdown::{code, fenced, inline};
use std::fmt::Write;

/// File name of the model card.
pub const FILE: &str = "README.md";

/// The model card of the mixture of `plan`, which is called `title`.
pub(crate) fn card(plan: &MixPlan, title: &str) -> String {
    let config = &plan.config;
    let mut text = front_matter(plan);
    let version = env!("CARGO_PKG_VERSION");
    let _ =
        write!(text, "# {}\n\nA mixture of experts made with Model-GLUE {version}.\n\n{}\n", inline(title), what(plan));
    let _ = write!(text, "\n## Experts\n\n");
    for expert in config.experts.iter().chain(&config.shared_experts) {
        let _ = writeln!(text, "- {}: {}", inline(&expert.name), code(&expert.model.display().to_string()));
    }
    let base = code(&config.base_model.display().to_string());
    let _ = match config.whole {
        true => write!(text, "\n{base} reads the prompts.\n"),
        false => write!(text, "\nBase: {base}.\n"),
    };
    let _ = write!(text, "\n## Description\n\n{}", fenced(language(&config.text), &config.text));
    let _ = write!(text, "\nSeed {}.\n\n{GATES}`{}`.\n", config.seed, config.gate_mode);
    if !plan.notes.is_empty() {
        text.push_str("\n## Notes\n\n");
        for note in &plan.notes {
            let _ = writeln!(text, "- {}.", inline(note));
        }
    }
    text.push_str("\n## Use\n\n");
    text.push_str(plan.format().opened_by());
    if plan.format() == MixtureFormat::Native {
        text.push_str(
            "\n\n```python\nfrom transformers import AutoModelForCausalLM\nmodel = \
             AutoModelForCausalLM.from_pretrained(DIRECTORY, trust_remote_code=True)\n```",
        );
    }
    text.push('\n');
    text
}

/// The card of a mixture whose gates were replaced by trained ones; `None` if it says nothing of gates.
pub(crate) fn with_trained_gates(card: &str) -> Option<String> {
    let start = card.find(&format!("\n{GATES}"))? + 1;
    let end = start + card[start..].find('\n').unwrap_or(card.len() - start);
    Some(format!("{}{TRAINED}{}", &card[..start], &card[end..])).filter(|new| new != card)
}

/// What the line about gates begins with, and what it is when they were trained.
const GATES: &str = "Gates: ";
const TRAINED: &str = "Gates: trained.";

/// What a description is written in: JSON is YAML too, but nobody writes it so.
fn language(text: &str) -> &'static str {
    if text.trim_start().starts_with('{') { "json" } else { "yaml" }
}

fn front_matter(plan: &MixPlan) -> String {
    let facts = facts(plan);
    let mut text = String::from("---\n");
    text.push_str(&hub::base_models(facts.iter().filter_map(|facts| facts.id.clone())));
    text.push_str("library_name: transformers\npipeline_tag: text-generation\n");
    text.push_str(&CommonLicense::of(&facts).front_matter());
    text.push_str("tags:\n- merge\n- moe\n- model-glue\n---\n");
    text
}

fn facts(plan: &MixPlan) -> Vec<HubFacts> {
    plan.models().iter().map(|model| HubFacts::of(model.path(), model.config())).collect()
}

/// What a person has to decide: the licences of models that do not have the same; `None` if they have.
pub(crate) fn license_note(plan: &MixPlan) -> Option<String> {
    let names: Vec<String> =
        plan.models().iter().map(|model| plan.config.as_written(model.path()).display().to_string()).collect();
    hub::license_note(names.iter().map(String::as_str).zip(&facts(plan)))
}

fn what(plan: &MixPlan) -> String {
    let config = &plan.config;
    let experts = config.experts.len();
    let used = config.experts_per_token;
    if config.whole {
        return format!("{experts} whole models; each prompt goes to one of them.");
    }
    let level = match config.level {
        Level::Ffn => "the MLPs",
        Level::Block => "the decoder layers",
        Level::Model => "all layers together",
    };
    let unit = if config.routing == Routing::Token { "token" } else { "sample" };
    let layers = plan.sites.layers.len();
    format!("{experts} experts for {level} of {layers} of {} layers, {used} of them for each {unit}.", plan.n_layers)
}
