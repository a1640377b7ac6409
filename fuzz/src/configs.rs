//! Configs in YAML: of merges, mixtures, searches and zoos.

use super::says_why;
use glue_merge::Registry;
use glue_mixture::MixConfig;
use glue_pipeline::ZooConfig;
use glue_recipe::{Recipe, check_stages};
use glue_select::config::SearchConfig;
use glue_select::strategy::StrategyRegistry;
use std::sync::LazyLock;

const ORIGIN: &str = "fuzz.yml";

static OPERATORS: LazyLock<Registry> = LazyLock::new(Registry::builtin);

/// The config of a merge: refused with its place, or recipes whose own text gives them again.
pub fn recipe(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let recipes = match Recipe::parse(text, ORIGIN, &OPERATORS) {
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
        let again = Recipe::parse(&recipe.text, "again.yml", &OPERATORS)
            .unwrap_or_else(|error| panic!("{error}\n--- of\n{}", recipe.text));
        let [again] = again.as_slice() else { panic!("{} recipes in the text of one", again.len()) };
        assert_eq!(essence(recipe), essence(again));
    }
    if let Err(error) = check_stages(recipes) {
        says_why(&error);
    }
}

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

/// The config of a mixture: refused with its place, or counts that fit each other; its text gives it again.
pub fn mix_config(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    match MixConfig::parse(text, ORIGIN) {
        Ok(config) => {
            assert!((1..=config.experts.len()).contains(&config.experts_per_token));
            assert!(config.experts.iter().all(|expert| !expert.name.is_empty() && expert.noise_scale >= 0.0));
            if let Some(layers) = &config.mixed_layers {
                assert!(layers.is_sorted() && layers.iter().all(|&layer| layer >= config.dense_layers));
            }
            assert_eq!(MixConfig::parse(&config.text, ORIGIN).expect("the text it was read from"), config);
        }
        Err(error) => assert!(error.to_string().starts_with(ORIGIN), "{error}"),
    }
}

/// The config of a search: refused by the file's name, or read back from what journals hold of it.
pub fn search_config(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    match SearchConfig::parse(text, ORIGIN, &StrategyRegistry::builtin()) {
        Ok(config) => {
            let written = serde_json::to_string(&config).expect("a config is written");
            let again: SearchConfig = serde_json::from_str(&written).unwrap_or_else(|e| panic!("{e}\n{written}"));
            assert_eq!(again, config);
            let _ = (config.space(), config.without_limits());
        }
        Err(error) => assert!(error.to_string().starts_with(ORIGIN), "{error}"),
    }
}

/// The config of a run: refused by the file's name, or a config that can be written, with a name for each model.
pub fn zoo_config(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    match ZooConfig::parse(text, ORIGIN, &StrategyRegistry::builtin()) {
        Ok(config) => {
            // What is written of it is part of what stages depend on.
            let written = serde_json::to_string(&config).expect("a config is written");
            let again = ZooConfig::parse(text, ORIGIN, &StrategyRegistry::builtin()).expect("the same text");
            assert_eq!(serde_json::to_string(&again).ok(), Some(written));
            assert!(config.models.iter().all(|model| !model.name().is_empty()));
        }
        Err(error) => assert!(error.to_string().starts_with(ORIGIN), "{error}"),
    }
}
