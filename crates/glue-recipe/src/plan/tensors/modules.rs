//! Which tensors a module covers.
//!
//! A module is called by what the names of its tensors start with, or as mergekit's tables of architectures call it,
//! whatever the tensors are called there.

use crate::recipe::Recipe;

/// A name of mergekit's tables, and what the names of such tensors start with in the architectures that have them.
/// Where a module has a name that another's starts with, as `visual.merger` has, the longer one wins.
const KNOWN: &[(&str, &[&str])] = &[
    ("text_decoder", &["language_model", "model.language_model", "lm_head"]),
    ("vision_tower", &["visual", "model.visual", "vision_model", "model.vision_model"]),
    ("vision_model", &["vision_tower", "model.vision_tower"]),
    (
        "multi_modal_projector",
        &["visual.merger", "model.visual.merger", "model.visual.deepstack_merger_list", "mm_projector"],
    ),
];

/// Where the text decoder of a model that does not set it apart has its tensors.
const PLAIN_DECODER: &[&str] = &["model", "lm_head"];

/// Of each part of a recipe, what the names of its tensors start with, before a dot; none for the part that covers all
/// others.
pub(super) struct Modules(Vec<Vec<String>>);

impl Modules {
    /// The modules of `recipe`, whose models have tensors called `names`.
    pub(super) fn new(recipe: &Recipe, names: &[&str]) -> Modules {
        Modules(recipe.parts.iter().map(|part| prefixes(part.module.as_deref(), names)).collect())
    }

    /// The part that covers the tensor `name`.
    pub(super) fn of(&self, name: &str) -> Option<usize> {
        let longest =
            |prefixes: &Vec<String>| prefixes.iter().filter(|prefix| is_in(name, prefix)).map(String::len).max();
        let found = self.0.iter().enumerate().filter_map(|(part, prefixes)| Some((longest(prefixes)?, part)));
        // Of parts called by the same prefix in two ways, the first.
        let best = found.max_by_key(|(length, part)| (*length, std::cmp::Reverse(*part)));
        best.map(|(_, part)| part).or_else(|| self.0.iter().position(Vec::is_empty))
    }
}

fn is_in(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('.'))
}

fn prefixes(module: Option<&str>, names: &[&str]) -> Vec<String> {
    let Some(module) = module else { return Vec::new() };
    let present = |prefix: &str| names.iter().any(|name| is_in(name, prefix));
    let known = KNOWN.iter().find(|(name, _)| *name == module).map_or(&[][..], |(_, prefixes)| prefixes);
    let own = [module.to_string(), format!("model.{module}")];
    let found: Vec<String> = own.into_iter().filter(|prefix| present(prefix)).collect();
    if !found.is_empty() {
        return found;
    }
    let mut found: Vec<&str> = known.iter().copied().filter(|prefix| present(prefix)).collect();
    if module == "text_decoder" && found.iter().all(|prefix| *prefix == "lm_head") {
        found = PLAIN_DECODER.iter().copied().filter(|prefix| present(prefix)).collect();
    }
    // One that covers nothing keeps its name, for the error.
    if found.is_empty() { vec![module.into()] } else { found.into_iter().map(String::from).collect() }
}

#[cfg(test)]
mod tests {
    //! The names of mergekit's tables, in the checkpoints that have them.
    use super::*;

    #[test]
    fn modules_of_mergekits_tables_are_found() {
        let check = |names: &[&str], module: &str, expected: &[&str]| {
            assert_eq!(prefixes(Some(module), names), expected, "{module} of {names:?}");
        };
        let gemma3 = ["language_model.model.norm.weight", "vision_tower.x", "multi_modal_projector.x"];
        check(&gemma3, "text_decoder", &["language_model"]);
        check(&gemma3, "vision_tower", &["vision_tower"]);
        check(&gemma3, "multi_modal_projector", &["multi_modal_projector"]);
        let later = ["model.language_model.norm.weight", "model.vision_tower.x", "lm_head.weight"];
        check(&later, "text_decoder", &["model.language_model", "lm_head"]);
        check(&later, "vision_tower", &["model.vision_tower"]);
        let llama4 = ["language_model.model.norm.weight", "vision_model.x"];
        check(&llama4, "vision_tower", &["vision_model"]);
        check(&llama4, "vision_model", &["vision_model"]);
        let qwen2 = ["model.norm.weight", "lm_head.weight", "visual.blocks.0.x", "visual.merger.x"];
        check(&qwen2, "text_decoder", &["model", "lm_head"]);
        check(&qwen2, "vision_tower", &["visual"]);
        check(&qwen2, "multi_modal_projector", &["visual.merger"]);
        check(&qwen2, "visual", &["visual"]);
        let whisper = ["model.encoder.x", "model.decoder.x"];
        check(&whisper, "encoder", &["model.encoder"]);
        check(&whisper, "elsewhere", &["elsewhere"]);
    }
}
