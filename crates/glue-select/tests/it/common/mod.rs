//! The zoo of the repository as the tests take it.

use glue_recipe::PlanOptions;
use glue_select::local::ItemsConfig;
use glue_select::recipe_text::Frame;
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
pub(crate) fn frame() -> Frame {
    Frame { base_model: Some("base-a".into()), ..Frame::default() }
}

/// The items that a search may look at.
pub(crate) fn proxy_items() -> ItemsConfig {
    ItemsConfig { split: Some("proxy".into()), ..ItemsConfig::default() }
}
