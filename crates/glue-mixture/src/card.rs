//! The model card: `README.md` of a mixture, with the front matter that model hubs read.

use crate::plan::MixPlan;
use crate::sites::MixtureFormat;
use crate::spec::{Level, Routing};
use glue_tensor::hub::HubFacts;
use glue_text::markdown::{code, fenced, inline};
use std::collections::BTreeSet;
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
    let _ = write!(text, "\n## Description\n\n{}", fenced("yaml", &config.text));
    let _ = write!(text, "\nSeed {}. Gates: `{}`.\n", config.seed, config.gate_mode);
    if !plan.notes.is_empty() {
        text.push_str("\n## Notes\n\n");
        for note in &plan.notes {
            let _ = writeln!(text, "- {}.", inline(note));
        }
    }
    if plan.format() == MixtureFormat::Native {
        text.push_str(
            "\n## Use\n\n`glue` runs the directory as any model. With transformers:\n\n```python\nfrom transformers import \
             AutoModelForCausalLM\nmodel = AutoModelForCausalLM.from_pretrained(DIRECTORY, trust_remote_code=True)\n```\n",
        );
    }
    text
}

/// Hubs refuse paths: only models whose identifier is known are listed. A licence is copied if all models have it.
fn front_matter(plan: &MixPlan) -> String {
    let facts: Vec<HubFacts> = plan.models().iter().map(|model| HubFacts::of(model.path(), model.config())).collect();
    let mut text = String::from("---\n");
    let ids: BTreeSet<&str> = facts.iter().filter_map(|facts| facts.id.as_deref()).collect();
    if !ids.is_empty() {
        text.push_str("base_model:\n");
        for id in ids {
            // Writing to a string does not fail; identifiers need no quotes in YAML.
            let _ = writeln!(text, "- {id}");
        }
        text.push_str("base_model_relation: merge\n");
    }
    text.push_str("library_name: transformers\npipeline_tag: text-generation\n");
    let licenses: BTreeSet<_> = facts.iter().map(|facts| (&facts.license, &facts.license_name)).collect();
    match licenses.iter().collect::<Vec<_>>()[..] {
        [(None, _)] | [] => {}
        [(Some(license), name)] => {
            let _ = writeln!(text, "license: {license}");
            if let Some(name) = name {
                let _ = writeln!(text, "license_name: {name}");
            }
        }
        _ => text.push_str("license: other\nlicense_name: mixed\n"),
    }
    text.push_str("tags:\n- merge\n- moe\n- model-glue\n---\n");
    text
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
