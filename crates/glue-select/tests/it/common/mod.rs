//! The zoo of the repository as the tests take it.
#![allow(dead_code, reason = "each test file uses its own part of this")]

use glue_recipe::PlanOptions;
use glue_select::local::ItemsConfig;
use glue_select::recipe_text::RecipeTemplate;
use std::path::{Path, PathBuf};

pub(crate) fn zoo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/zoo")
}

/// Recipes whose models are those of the zoo.
pub(crate) fn plan_options() -> PlanOptions {
    let mut options = PlanOptions::default();
    options.directory = zoo();
    options
}

/// Recipes on top of the base of most models.
pub(crate) fn template() -> RecipeTemplate {
    RecipeTemplate { base_model: Some("base-a".into()), ..RecipeTemplate::default() }
}

/// The items that a search may look at.
pub(crate) fn proxy_items() -> ItemsConfig {
    ItemsConfig { split: Some("proxy".into()), ..ItemsConfig::default() }
}
