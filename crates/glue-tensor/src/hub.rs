//! What a model directory says of the model's place on a model hub: its identifier and its licence; what an output that
//! is made from several models may say of its own; and where models are that are named by their place ([`locate`]).
//!
//! A model card is the file `README.md`. It may begin with front matter: YAML between two lines of three dashes, which
//! hubs read. Of that, only plain keys at the start of a line matter here.

mod cache;
mod legal_files;

pub(crate) use cache::download_hint;
pub use cache::{HubCache, HubName, RepositoryKind, locate, locate_below};
pub use legal_files::{LegalFiles, legal_files};

use crate::config::Config;
use crate::files;
use std::collections::BTreeSet;
use std::path::Path;

/// File name of a model card.
pub const CARD_FILE: &str = "README.md";

/// Identifier and licence of a model, as far as its directory tells.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct HubFacts {
    /// `ORGANISATION/NAME` on a hub: from the path of a hub cache, or else `_name_or_path` in `config.json`.
    pub id: Option<String>,
    /// The commit, where the directory is a snapshot in a hub cache.
    pub commit: Option<String>,
    /// `license` of its model card, such as `apache-2.0`.
    pub license: Option<String>,
    /// `license_name` of its model card: what a license called `other` is.
    pub license_name: Option<String>,
}

impl HubFacts {
    /// Of the model at `path` with the configuration `config`. A card that cannot be read says nothing.
    pub fn of(path: &Path, config: &Config) -> HubFacts {
        let named = config.get("_name_or_path").and_then(|name| name.as_str()).filter(|name| is_id(name));
        let (id, commit) = match place_in_cache(path) {
            Some((id, commit)) => (Some(id), Some(commit)),
            None => (named.map(String::from), None),
        };
        let card = files::read_to_string(path.join(CARD_FILE), files::CONFIG_BYTES).unwrap_or_default();
        let value = |key| front_matter(&card).and_then(|text| value_of(text, key)).filter(|value| is_word(value));
        HubFacts { id, commit, license: value("license"), license_name: value("license_name") }
    }
}

/// The licence of an output that is made from several models, as its card has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommonLicense<'a> {
    /// No model says one.
    Unknown,
    /// All models have this one.
    Same {
        /// `license`.
        license: &'a str,
        /// `license_name`: what it is, if it is called `other`.
        name: Option<&'a str>,
    },
    /// The models have different ones, or some say none.
    Mixed,
}

impl<'a> CommonLicense<'a> {
    /// Of an output that is made from `models`.
    pub fn of(models: impl IntoIterator<Item = &'a HubFacts>) -> CommonLicense<'a> {
        let mut licenses = models.into_iter().map(|facts| (facts.license.as_deref(), facts.license_name.as_deref()));
        let first = licenses.next().unwrap_or_default();
        match first {
            _ if licenses.any(|other| other != first) => CommonLicense::Mixed,
            (Some(license), name) => CommonLicense::Same { license, name },
            (None, _) => CommonLicense::Unknown,
        }
    }

    /// Its lines in the front matter of a card. Names of licences need no quotes in YAML.
    pub fn front_matter(&self) -> String {
        match self {
            CommonLicense::Unknown => String::new(),
            CommonLicense::Same { license, name: None } => format!("license: {license}\n"),
            CommonLicense::Same { license, name: Some(name) } => {
                format!("license: {license}\nlicense_name: {name}\n")
            }
            CommonLicense::Mixed => "license: other\nlicense_name: mixed\n".into(),
        }
    }
}

/// What a person has to decide: the licences of `models`, each with its name, that do not have the same; `None` if they
/// have.
pub fn license_note<'a>(models: impl IntoIterator<Item = (&'a str, &'a HubFacts)> + Clone) -> Option<String> {
    if CommonLicense::of(models.clone().into_iter().map(|(_, facts)| facts)) != CommonLicense::Mixed {
        return None;
    }
    let of = |(name, facts): (&str, &HubFacts)| {
        let license = facts.license_name.as_deref().or(facts.license.as_deref()).unwrap_or("not given");
        format!("{license} for `{name}`")
    };
    let list: Vec<String> = models.into_iter().map(of).collect();
    Some(format!("licenses differ ({}); the card says `other`: decide which one the output may have", list.join(", ")))
}

/// The lines in the front matter of a card that list what the output is made from, each identifier once; empty without
/// any. Hubs refuse paths there.
pub fn base_models(ids: impl IntoIterator<Item = String>) -> String {
    let mut seen = BTreeSet::new();
    let ids: Vec<String> = ids.into_iter().filter(|id| seen.insert(id.clone())).collect();
    if ids.is_empty() {
        return String::new();
    }
    // Identifiers need no quotes in YAML.
    let list: String = ids.iter().map(|id| format!("- {id}\n")).collect();
    format!("base_model:\n{list}base_model_relation: merge\n")
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
    place_in_cache(path).map(|(id, _)| id)
}

/// Identifier and commit of a snapshot.
fn place_in_cache(path: &Path) -> Option<(String, String)> {
    let path = path.canonicalize().ok()?;
    let snapshots = path.parent().filter(|parent| parent.ends_with("snapshots"))?;
    let name = snapshots.parent()?.file_name()?.to_str()?.strip_prefix("models--")?;
    let commit = path.file_name()?.to_str()?.to_string();
    Some((name.replacen("--", "/", 1), commit)).filter(|(id, _)| is_id(id))
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
    fn the_license_of_an_output_is_one_that_all_models_have() {
        let facts = |license: Option<&str>, name: Option<&str>| HubFacts {
            id: None,
            commit: None,
            license: license.map(String::from),
            license_name: name.map(String::from),
        };
        let check = |models: &[HubFacts], expected: &str, note: Option<&str>| {
            assert_eq!(CommonLicense::of(models).front_matter(), expected, "{models:?}");
            let found = license_note(["a", "b", "c"].into_iter().zip(models));
            assert_eq!(found.is_some(), note.is_some(), "{found:?}");
            assert!(found.zip(note).is_none_or(|(found, note)| found.contains(note)), "{note:?}");
        };
        let (mit, none, llama) = (facts(Some("mit"), None), facts(None, None), facts(Some("other"), Some("llama3")));
        check(&[], "", None);
        check(&[none.clone(), none.clone()], "", None);
        check(&[mit.clone(), mit.clone()], "license: mit\n", None);
        check(&[llama.clone(), llama.clone()], "license: other\nlicense_name: llama3\n", None);
        check(&[mit.clone(), none], "license: other\nlicense_name: mixed\n", Some("mit for `a`, not given for `b`"));
        check(&[llama, mit], "license: other\nlicense_name: mixed\n", Some("llama3 for `a`, mit for `b`"));
    }

    #[test]
    fn base_models_are_listed_once() {
        assert_eq!(base_models([]), "");
        let ids = ["b/x", "a/y", "b/x"].map(String::from);
        assert_eq!(base_models(ids), "base_model:\n- b/x\n- a/y\nbase_model_relation: merge\n");
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
        let snapshot = root.path().join("models--org--name/snapshots/12ab");
        assert_eq!(HubFacts::of(&snapshot, &Config::from_value(json!({})).unwrap()).commit.as_deref(), Some("12ab"));
    }
}
