//! Recipes of several documents. Each is a stage that may use the outputs of others, which may stand before or after
//! it.

use crate::error::RecipeError;
use crate::recipe::{Recipe, TokenizerSource};
use std::collections::BTreeMap;

/// A recipe among others.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Stage {
    /// The recipe.
    pub recipe: Recipe,
    /// Its name; `None` for the one document that has none, or is alone.
    pub name: Option<String>,
    /// Whether it is what the user wants: the document without a name; where all have names, each that no other uses.
    pub is_output: bool,
    /// Stages whose output it uses, by position, in ascending order; all of them come before it.
    pub needs: Vec<usize>,
}

/// Checks the documents of one text and finds which stage needs which. A model that has the name of a stage is the
/// output of that stage; any other model is a path. A single document may have a name.
///
/// The stages are returned in the order to run them: that of the text, but for those that others need.
///
/// # Errors
/// Two stages have one name; stages need each other, or one itself; more than one of several documents has no name.
pub fn check_stages(recipes: Vec<Recipe>) -> Result<Vec<Stage>, RecipeError> {
    let mut names: BTreeMap<String, (usize, u64)> = BTreeMap::new();
    let mut errors = Vec::new();
    let mut unnamed = None;
    let count = recipes.len();
    for (i, recipe) in recipes.iter().enumerate() {
        let Some(name) = &recipe.name else {
            if let Some(first) = unnamed.replace(i) {
                let found = format!("document {} of {count} has no `name`, as document {}", i + 1, first + 1);
                errors.push(RecipeError::StageOutput { place: recipe.place(recipe.at), found });
            }
            continue;
        };
        if let Some((_, first_line)) = names.insert(name.value.clone(), (i, name.at.line)) {
            let (place, name) = (recipe.place(name.at), name.value.clone());
            errors.push(RecipeError::StageTwice { place, name, first_line });
            continue;
        }
        errors.extend(check_name(recipe, &name.value, name.at).err());
    }
    let needs: Vec<Vec<usize>> = match count {
        // What a document alone calls by its own name is a path.
        1 => vec![Vec::new()],
        _ => recipes.iter().map(|recipe| needs(recipe, &names)).collect(),
    };
    let order = match order(&needs) {
        Ok(order) => order,
        Err(cycle) => {
            let name = |i: &usize| recipes[*i].name.as_ref().map_or_else(String::new, |name| name.value.clone());
            let at = recipes[cycle[0]].name.as_ref().map_or(recipes[cycle[0]].at, |name| name.at);
            let stages = cycle.iter().map(name).collect();
            errors.push(RecipeError::StageCycle { place: recipes[cycle[0]].place(at), stages });
            Vec::new()
        }
    };
    if let Some(error) = RecipeError::all(errors) {
        return Err(error);
    }
    let used: Vec<bool> = (0..count).map(|i| needs.iter().any(|needs| needs.contains(&i))).collect();
    let position: BTreeMap<usize, usize> = order.iter().enumerate().map(|(position, i)| (*i, position)).collect();
    let mut recipes: Vec<Option<Recipe>> = recipes.into_iter().map(Some).collect();
    let stages = order.iter().filter_map(|&i| {
        let recipe = recipes[i].take()?;
        let name = recipe.name.as_ref().filter(|_| count > 1).map(|name| name.value.clone());
        let is_output = name.is_none() || (unnamed.is_none() && !used[i]);
        let mut needs: Vec<usize> = needs[i].iter().map(|need| position[need]).collect();
        needs.sort_unstable();
        Some(Stage { recipe, name, is_output, needs })
    });
    Ok(stages.collect())
}

/// The stages that `recipe` uses, by their numbers among all documents, ascending.
fn needs(recipe: &Recipe, names: &BTreeMap<String, (usize, u64)>) -> Vec<usize> {
    let tokenizer = recipe.tokenizer.as_ref().and_then(|source| match &source.value {
        TokenizerSource::Model(name) => Some(name),
        _ => None,
    });
    let used = recipe.models().map(|name| &name.value).chain(tokenizer);
    // A stage may be named with an adapter behind it.
    let stage = |name: &String| names.get(name).or_else(|| names.get(name.split_once('+')?.0));
    let mut needs: Vec<usize> = used.filter_map(stage).map(|(i, _)| *i).collect();
    needs.sort_unstable();
    needs.dedup();
    needs
}

/// The order in which each comes after what it needs, and else as early as the text has it; or some that need each
/// other, the first of them at the end again.
fn order(needs: &[Vec<usize>]) -> Result<Vec<usize>, Vec<usize>> {
    let mut order: Vec<usize> = Vec::with_capacity(needs.len());
    while order.len() < needs.len() {
        let open = |i: &usize| !order.contains(i);
        let ready = |i: &usize| open(i) && !needs[*i].iter().any(open);
        if let Some(next) = (0..needs.len()).find(ready) {
            order.push(next);
            continue;
        }
        // Each that is left needs another that is left: following them comes to one for the second time.
        let mut path: Vec<usize> = (0..needs.len()).filter(open).take(1).collect();
        while let Some(next) = path.last().and_then(|last| needs[*last].iter().copied().find(open)) {
            let seen = path.iter().position(|i| *i == next);
            path.push(next);
            if let Some(start) = seen {
                path.drain(..start);
                break;
            }
        }
        return Err(path);
    }
    Ok(order)
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
