#![no_main]
//! Recipes: any text is refused with a place in it or gives recipes, and a recipe's own text gives that recipe again.

use glue_merge::Registry;
use glue_recipe::{Recipe, Stages};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static REGISTRY: LazyLock<Registry> = LazyLock::new(Registry::builtin);

fuzz_target!(|text: &str| {
    let recipes = match Recipe::parse(text, "fuzz.yml", &REGISTRY) {
        Ok(recipes) => recipes,
        Err(error) => {
            assert!(error.to_string().starts_with("fuzz.yml:"), "{error}");
            assert!(error.hint().is_none_or(|hint| !hint.is_empty()));
            return;
        }
    };
    assert!(!recipes.is_empty());
    for recipe in &recipes {
        // Outputs carry this text, so that they can be made again from it.
        let again = Recipe::parse(&recipe.text, "again.yml", &REGISTRY)
            .unwrap_or_else(|error| panic!("{error}\n--- of\n{}", recipe.text));
        let [again] = again.as_slice() else { panic!("{} recipes in the text of one", again.len()) };
        assert_eq!(essence(recipe), essence(again));
    }
    if let Err(error) = Stages::check(recipes) {
        assert!(!error.to_string().is_empty());
    }
});

/// A recipe without the places where things stand.
fn essence(recipe: &Recipe) -> String {
    let operator = &recipe.operator.value;
    let models: Vec<&str> = recipe.models().map(|model| model.value.as_str()).collect();
    let name = recipe.name.as_ref().map(|name| &name.value);
    let (tokenizer, template) = (recipe.tokenizer.as_ref(), recipe.chat_template.as_ref());
    format!(
        "{:?}",
        (
            (name, operator.def().name, operator.inner().map(|inner| inner.name), models, recipe.parts.len()),
            (recipe.seed, recipe.dtype, recipe.out_dtype, recipe.on_missing, recipe.on_nonfinite),
            (tokenizer.map(|source| &source.value), template.map(|template| &template.value)),
        )
    )
}
