//! The chat template of the output.

use super::PlanOptions;
use super::models::Models;
use crate::error::RecipeError;
use crate::recipe::Recipe;
use glue_tensor::files;

/// Templates by name, each as its format is published. Those of mergekit have the same names.
const NAMED: &[(&str, &str)] = &[
    ("alpaca", include_str!("chat_templates/alpaca.jinja")),
    ("chatml", include_str!("chat_templates/chatml.jinja")),
    ("exaone", include_str!("chat_templates/exaone.jinja")),
    ("llama3", include_str!("chat_templates/llama3.jinja")),
    ("mistral", include_str!("chat_templates/mistral.jinja")),
];

/// The text of the chat template that the recipe asks for.
pub(super) fn chat_template(
    recipe: &Recipe,
    options: &PlanOptions,
    models: &Models,
) -> Result<Option<String>, RecipeError> {
    let Some(asked) = &recipe.chat_template else { return Ok(None) };
    let text = &asked.value;
    if text == "auto" {
        return most_common(models);
    }
    if let Some((_, template)) = NAMED.iter().find(|(name, _)| name == text) {
        return Ok(Some(template.trim_end().into()));
    }
    if text.contains("{{") || text.contains("{%") {
        return Ok(Some(text.clone()));
    }
    let path = options.directory.join(text);
    if path.exists() || text.contains(['/', '.']) {
        let read = files::read_to_string(&path, files::CONFIG_BYTES);
        return read.map(Some).map_err(|error| RecipeError::ChatTemplate {
            place: recipe.place(asked.at),
            path,
            error,
        });
    }
    let names: Vec<String> = NAMED.iter().map(|(name, _)| format!("`{name}`")).collect();
    Err(RecipeError::WrongValue {
        place: recipe.place(asked.at),
        key: "chat_template".into(),
        expected: format!("`auto`, {}, a path to a template, or a Jinja template", names.join(", ")),
        found: format!("`{text}`"),
    })
}

/// The template of most models; of several, the one that comes first.
fn most_common(models: &Models) -> Result<Option<String>, RecipeError> {
    let mut counts: Vec<(String, usize)> = Vec::new();
    for model in &models.list {
        let Some(template) = model.dir.tokenizer().chat_template()? else { continue };
        match counts.iter_mut().find(|(known, _)| *known == template) {
            Some((_, count)) => *count += 1,
            None => counts.push((template, 1)),
        }
    }
    let most = counts.iter().map(|(_, count)| *count).max();
    Ok(counts.into_iter().find(|(_, count)| Some(*count) == most).map(|(template, _)| template))
}
