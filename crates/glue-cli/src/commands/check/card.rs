//! The metadata of the model card, as hubs check it.

use super::{Findings, Who};
use glue_tensor::files;
use glue_tensor::hub::{self, CARD_FILE};
use glue_yaml::{Node, Tree, documents};
use std::path::Path;

const HUB: &[Who] = &[Who::Hub];

pub(super) fn check(path: &Path, findings: &mut Findings) {
    let card = match files::read_to_string(path.join(CARD_FILE), files::CONFIG_BYTES) {
        Ok(card) => card,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return findings.warning(HUB, CARD_FILE, "missing: no licence, no base models, no description");
        }
        Err(error) => return findings.error(HUB, CARD_FILE, error.to_string()),
    };
    let Some(front) = hub::front_matter(&card) else {
        return findings.warning(HUB, CARD_FILE, "no metadata: it does not begin with YAML between lines of `---`");
    };
    let nodes = match documents(front, CARD_FILE) {
        Ok(nodes) => nodes,
        Err(error) => return findings.error(HUB, CARD_FILE, format!("metadata: {error}")),
    };
    let Some(Tree::Map(map)) = nodes.first().map(|node| &node.value) else {
        return findings.error(HUB, CARD_FILE, "the metadata is no mapping");
    };
    let get = |key: &str| map.iter().find(|(name, _)| name.value == key).map(|(_, node)| node);
    match get("license") {
        None => findings.warning(HUB, CARD_FILE, "no `license`"),
        Some(license) => {
            let other = texts(license).contains(&"other");
            if other && get("license_name").is_none() {
                findings.warning(HUB, CARD_FILE, "`license: other` without `license_name`");
            }
            if get("license_name").is_some_and(|name| texts(name).contains(&"mixed")) {
                let why = "`license_name: mixed`: the models have different licences, and a person must choose";
                findings.warning(HUB, CARD_FILE, why);
            }
        }
    }
    for (key, what) in [("base_model", "model"), ("datasets", "dataset")] {
        for name in get(key).map(texts).unwrap_or_default() {
            // Some of the oldest have no organisation.
            if !hub::is_id(name) && (name.contains('/') || !hub::is_id(&format!("organisation/{name}"))) {
                let why = format!("`{key}` is `{name}`, which is no identifier of a {what} (ORGANISATION/NAME)");
                findings.error(HUB, CARD_FILE, why);
            }
        }
    }
    if get("base_model").is_none() {
        findings.warning(HUB, CARD_FILE, "no `base_model`: the model is not listed among those made from its models");
    }
}

/// A text, or the texts of a list.
fn texts(node: &Node) -> Vec<&str> {
    match &node.value {
        Tree::Text(text) => vec![text],
        Tree::List(list) => list.iter().flat_map(texts).collect(),
        _ => Vec::new(),
    }
}
