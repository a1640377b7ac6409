//! What a config names by its name on the hub, and does not have here.

use crate::app::Global;
use crate::commands::recipes;
use crate::commands::tasks::with_members;
use crate::failure::Failure;
use glue_eval::{Status, TaskSources};
use glue_tensor::files;
use glue_tensor::hub::{HubCache, HubName, RepositoryKind};
use glue_yaml::{At, Node, Tree, documents};
use std::path::Path;

/// Keys of configs under which models and adapters stand, in lists and mappings too.
const MODEL_KEYS: &[&str] = &[
    "model",
    "models",
    "base_model",
    "base",
    "adapter",
    "adapters",
    "experts",
    "source",
    "source_model",
    "tokenizer_source",
    "path",
];

/// Models, adapters and datasets that `config` names: those of a merge, a search, a mixture or a run.
pub(super) fn missing(config: &Path, global: &Global) -> Result<Vec<(RepositoryKind, String)>, Failure> {
    let text = files::read_to_string(config, files::CONFIG_BYTES).map_err(Failure::refused);
    let text = text.map_err(|failure| failure.context(config.display().to_string()))?;
    let nodes = documents(&text, &config.display().to_string()).map_err(Failure::refused)?;
    let directory = config.parent().unwrap_or(Path::new(""));
    let mut names = Vec::new();
    nodes.iter().for_each(|node| models(node, false, &mut names));
    let here = |path: &str| directory.join(path).exists() || Path::new(path).exists();
    let cache = HubCache::from_env();
    let wanted = |name: &&str| {
        let in_cache = |name| cache.as_ref().is_some_and(|cache| cache.find(name).is_some());
        HubName::parse(name).is_some_and(|parsed| !here(name) && !in_cache(parsed))
    };
    let mut found: Vec<(RepositoryKind, String)> = names
        .iter()
        .flat_map(|name| name.split('+'))
        .filter(wanted)
        .map(|name| (RepositoryKind::Model, name.to_string()))
        .collect();
    for node in &nodes {
        if let Tree::Map(map) = &node.value {
            let names = of_tasks(map, directory, global)?;
            found.extend(names.into_iter().map(|name| (RepositoryKind::Dataset, name)));
        }
    }
    Ok(found)
}

/// Texts that stand for models.
fn models<'a>(node: &'a Node, within: bool, found: &mut Vec<&'a str>) {
    match &node.value {
        Tree::Text(text) if within => found.push(text),
        Tree::List(list) => list.iter().for_each(|node| models(node, within, found)),
        Tree::Map(map) => {
            for (key, node) in map.iter().filter(|(key, _)| key.value != "tasks") {
                // What is below a model may be anything, such as its parameters.
                models(node, MODEL_KEYS.contains(&key.value.as_str()), found);
            }
        }
        _ => {}
    }
}

/// The datasets that the tasks of a config lack, of those that it names. `top` holds its keys; those of a run are one
/// level lower.
fn of_tasks(top: &[(At<String>, Node)], directory: &Path, global: &Global) -> Result<Vec<String>, Failure> {
    let own =
        |map: &[(At<String>, Node)], key: &str| map.iter().find(|(name, _)| name.value == key).map(|row| row.1.clone());
    let Some(tasks) = own(top, "tasks") else { return Ok(Vec::new()) };
    let get = |key: &str| match (&tasks.value, key) {
        (Tree::Map(map), _) => own(map, key),
        (_, "path") => Some(tasks.clone()),
        _ => own(top, key),
    };
    let all = |key: &str| {
        let mut found = Vec::new();
        if let Some(node) = get(key) {
            texts(&node, &mut found);
        }
        found
    };
    let names: Vec<String> = all("path").into_iter().filter(|name| !directory.join(name).exists()).collect();
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let paths = |key: &str| all(key).into_iter().map(|path| directory.join(path)).collect();
    let sources = TaskSources { include_path: paths("include_path"), data: paths("data") };
    let pool = recipes::pool(global)?;
    let catalog = pool.install(|| sources.catalog()).map_err(Failure::refused)?;
    let mut tasks = Vec::new();
    for name in &names {
        tasks.extend(with_members(&catalog, name)?);
    }
    let repository = |status: Status| match status {
        Status::MissingData { repository, .. } if HubName::parse(&repository).is_some() => Some(repository),
        _ => None,
    };
    Ok(pool.install(|| catalog.statuses(&tasks)).into_iter().filter_map(repository).collect())
}

fn texts(node: &Node, found: &mut Vec<String>) {
    match &node.value {
        Tree::Text(text) => found.push(text.clone()),
        Tree::List(list) => list.iter().for_each(|node| texts(node, found)),
        _ => {}
    }
}
