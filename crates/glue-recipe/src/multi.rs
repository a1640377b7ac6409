//! Recipes of several documents. Each is a stage that may use the outputs of earlier stages; the last is the output.

use crate::error::RecipeError;
use crate::recipe::{Recipe, TokenizerSource};
use std::collections::BTreeMap;

/// A recipe among others.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Stage {
    /// The recipe.
    pub recipe: Recipe,
    /// Its name; `None` for the output.
    pub name: Option<String>,
    /// Stages whose output it uses, by position, in ascending order.
    pub needs: Vec<usize>,
}

/// Checks the documents of one text and finds which stage needs which. A model that has the name of a stage is the
/// output of that stage; any other model is a path. A single document may have a name.
///
/// # Errors
/// Two stages have one name; a stage uses a later one or itself; a document other than the last has no name, or the
/// last of several has one.
pub fn check_stages(recipes: Vec<Recipe>) -> Result<Vec<Stage>, RecipeError> {
    let mut names: BTreeMap<String, (usize, u64)> = BTreeMap::new();
    let mut errors = Vec::new();
    let count = recipes.len();
    for (i, recipe) in recipes.iter().enumerate() {
        let output = i + 1 == count;
        match &recipe.name {
            Some(name) => {
                if let Some((_, first_line)) = names.insert(name.value.clone(), (i, name.at.line)) {
                    let (place, name) = (recipe.place(name.at), name.value.clone());
                    errors.push(RecipeError::StageTwice { place, name, first_line });
                    continue;
                }
                errors.extend(check_name(recipe, &name.value, name.at).err());
                if output && count > 1 {
                    let found = format!("the last document is called `{}`", name.value);
                    errors.push(RecipeError::StageOutput { place: recipe.place(name.at), found });
                }
            }
            None if !output => {
                let found = format!("document {} of {count} has no `name`", i + 1);
                errors.push(RecipeError::StageOutput { place: recipe.place(recipe.at), found });
            }
            None => {}
        }
    }
    let mut stages = Vec::new();
    for (i, recipe) in recipes.into_iter().enumerate() {
        let tokenizer = recipe.tokenizer.as_ref().and_then(|source| match &source.value {
            TokenizerSource::Model(name) => Some((name.clone(), source.at)),
            _ => None,
        });
        let used = recipe.models().map(|name| (name.value.clone(), name.at)).chain(tokenizer);
        let mut needs = Vec::new();
        for (name, at) in used {
            // A stage may be named with an adapter behind it.
            match names.get(&name).or_else(|| names.get(name.split_once('+')?.0)) {
                Some((j, _)) if *j < i => needs.push(*j),
                Some((_, defined_line)) if count > 1 => {
                    let (place, defined_line) = (recipe.place(at), *defined_line);
                    errors.push(RecipeError::StageOrder { place, name, defined_line });
                }
                _ => {}
            }
        }
        needs.sort_unstable();
        needs.dedup();
        let name = recipe.name.as_ref().filter(|_| count > 1).map(|name| name.value.clone());
        stages.push(Stage { name, needs, recipe });
    }
    RecipeError::all(errors).map_or(Ok(stages), Err)
}

/// A name becomes that of a directory.
fn check_name(recipe: &Recipe, name: &str, at: glue_yaml::Position) -> Result<(), RecipeError> {
    let plain = |c: char| c.is_alphanumeric() || "-_.".contains(c);
    if name.chars().all(plain) && !name.starts_with('.') {
        return Ok(());
    }
    Err(RecipeError::WrongValue {
        place: recipe.place(at),
        key: "name".into(),
        expected: "letters, digits, `-`, `_` and `.`, not starting with a dot".into(),
        found: format!("`{}`", name.escape_debug()),
    })
}
