//! What a model directory says of the model's place on a model hub: its identifier and its licence.
//!
//! A model card is the file `README.md`. It may begin with front matter: YAML between two lines of three dashes, which
//! hubs read. Of that, only plain keys at the start of a line matter here.

use crate::config::Config;
use crate::files;
use std::path::Path;

/// File name of a model card.
pub const CARD_FILE: &str = "README.md";

/// Identifier and licence of a model, as far as its directory tells.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct HubFacts {
    /// `ORGANISATION/NAME` on a hub: from the path of a hub cache, or else `_name_or_path` in `config.json`.
    pub id: Option<String>,
    /// `license` of its model card, such as `apache-2.0`.
    pub license: Option<String>,
    /// `license_name` of its model card: what a license called `other` is.
    pub license_name: Option<String>,
}

impl HubFacts {
    /// Of the model at `path` with the configuration `config`. A card that cannot be read says nothing.
    pub fn of(path: &Path, config: &Config) -> HubFacts {
        let named = config.get("_name_or_path").and_then(|name| name.as_str()).filter(|name| is_id(name));
        let id = id_in_cache(path).or_else(|| named.map(String::from));
        let card = files::read_to_string(path.join(CARD_FILE), files::CONFIG_BYTES).unwrap_or_default();
        let value = |key| front_matter(&card).and_then(|text| value_of(text, key)).filter(|value| is_word(value));
        HubFacts { id, license: value("license"), license_name: value("license_name") }
    }
}

/// Whether `text` is an identifier of a model on a hub: `ORGANISATION/NAME`, each part of letters, digits, `-`, `_` and
/// `.`, as hubs check it. A relative path may look the same.
pub fn is_id(text: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty()
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
            && !part.starts_with(['-', '.'])
            && !part.ends_with(['-', '.'])
    };
    let parts = text.split_once('/').is_some_and(|(organisation, name)| part(organisation) && part(name));
    parts && text.len() <= 96 && !text.contains("--") && !text.contains("..") && !text.ends_with(".git")
}

/// The front matter of a model card, without its dashes; `None` if there is none.
pub fn front_matter(card: &str) -> Option<&str> {
    let rest = card.strip_prefix("---")?.strip_prefix(['\n', '\r'])?;
    rest.find("\n---").map(|end| &rest[..end])
}

/// The identifier of a model or an adapter whose path is that of a snapshot in a hub cache,
/// `models--ORGANISATION--NAME/snapshots/REVISION`.
pub fn id_in_cache(path: &Path) -> Option<String> {
    let path = path.canonicalize().ok()?;
    let snapshots = path.parent().filter(|parent| parent.ends_with("snapshots"))?;
    let name = snapshots.parent()?.file_name()?.to_str()?.strip_prefix("models--")?;
    Some(name.replacen("--", "/", 1)).filter(|id| is_id(id))
}

/// The value of a plain key, or the only entry of its list.
fn value_of(front_matter: &str, key: &str) -> Option<String> {
    let mut lines = front_matter.lines();
    let value = lines.find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?.trim();
    let value = if value.is_empty() { lines.next()?.trim().strip_prefix("- ")? } else { value };
    Some(value.trim().trim_matches(['"', '\'', '[', ']']).to_string())
}

/// Whether it is of the form of a licence's name, which needs no quotes in YAML.
fn is_word(value: &str) -> bool {
    !value.is_empty() && value.len() <= 100 && value.chars().all(|c| c.is_ascii_alphanumeric() || "-_.+".contains(c))
}

#[cfg(test)]
mod tests {
    //! Identifiers and cards.
    use super::*;
    use serde_json::json;

    #[test]
    fn identifiers_are_told_from_paths() {
        for id in ["mistralai/Mistral-7B-v0.1", "a/b", "org_1/x.y"] {
            assert!(is_id(id), "{id}");
        }
        for path in
            ["base", "/models/base", "./a/b", "a/b/c", "~/a", "a/", "../a", "a/b..c", "a/-b", "a b/c", "a/b.git"]
        {
            assert!(!is_id(path), "{path}");
        }
    }

    #[test]
    fn a_directory_tells_identifier_and_licence() {
        let root = tempfile::tempdir().unwrap();
        let check = |directory: &str, config: serde_json::Value, card: &str, expected: [Option<&str>; 3]| {
            let path = root.path().join(directory);
            std::fs::create_dir_all(&path).unwrap();
            std::fs::write(path.join(CARD_FILE), card).unwrap();
            let facts = HubFacts::of(&path, &Config::from_value(config).unwrap());
            let found = [facts.id, facts.license, facts.license_name];
            assert_eq!(found, expected.map(|text| text.map(String::from)), "{directory}: {card}");
        };
        check("a", json!({}), "# A model\n", [None, None, None]);
        check("a", json!({}), "---\nlicense: mit\ntags: []\n---\n", [None, Some("mit"), None]);
        check("a", json!({}), "---\r\nlicense:\r\n- \"mit\"\r\n---\r\n", [None, Some("mit"), None]);
        check(
            "a",
            json!({ "_name_or_path": "meta-llama/Llama-3" }),
            "---\nlicense: other\nlicense_name: llama3\n---\n",
            [Some("meta-llama/Llama-3"), Some("other"), Some("llama3")],
        );
        check("a", json!({ "_name_or_path": "/models/mine" }), "license: mit\n", [None, None, None]);
        check("a", json!({}), "---\nlicense: <script>\n---\n", [None, None, None]);
        check(
            "models--org--name/snapshots/12ab",
            json!({ "_name_or_path": "x/y" }),
            "",
            [Some("org/name"), None, None],
        );
    }
}
