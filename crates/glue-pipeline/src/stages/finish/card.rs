//! What the final model says of itself: its model card, and a manifest where it has none.

use super::FINAL;
use crate::error::PipelineError;
use crate::zoo::ZooModel;
use glue_report::FinalKind;
use glue_tensor::Staging;
use glue_tensor::hub::{CARD_FILE, CommonLicense, HubFacts, base_models, front_matter};
use glue_text::markdown::{code, inline};
use glue_text::words;
use serde_json::{Value, json};
use std::fs;
use std::io::ErrorKind;

/// File name of the manifest, as of merges and mixtures.
const MANIFEST: &str = "glue.json";

/// A model that a run hands over.
pub(super) struct Named<'a> {
    /// Name of the run.
    pub(super) run: &'a str,
    /// Its directory in that of the run.
    pub(super) directory: &'static str,
    /// What it is.
    pub(super) kind: FinalKind,
    /// The models of the zoo that each expert is made of.
    pub(super) made_of: &'a [Vec<String>],
    /// Why it was chosen, without a full stop.
    pub(super) why: &'a str,
    /// The model of the zoo that it is, with the hash of its files.
    pub(super) unchanged: Option<(&'a ZooModel, &'a Value)>,
}

impl Named<'_> {
    /// What it is, in a sentence without a full stop.
    fn what(&self) -> String {
        let expert = |models: &Vec<String>| match models.as_slice() {
            [one] => code(one),
            several => {
                format!("the merge of {}", words::list(&several.iter().map(|name| code(name)).collect::<Vec<_>>()))
            }
        };
        let experts: Vec<String> = self.made_of.iter().map(expert).collect();
        match self.kind {
            FinalKind::Single => format!("{}, unchanged", experts.join(", ")),
            FinalKind::Merged => experts.join(", "),
            FinalKind::Mixture => format!("a mixture of {} models: {}", experts.len(), words::list(&experts)),
        }
    }

    /// The card: that of the merge or mixture under this model's name, or for a model of the zoo its own, after a note.
    fn card(&self, own: Option<&str>) -> String {
        let version = env!("CARGO_PKG_VERSION");
        let what = self.what();
        let role = if self.directory == FINAL { "The final model" } else { "The best merge" };
        let statement = format!(
            "{role} of the run {} of Model-GLUE {version} is {what}{}.\n",
            code(self.run),
            if self.why.is_empty() { String::new() } else { format!("; {}", inline(self.why)) }
        );
        let title = format!("# {}: {}\n", inline(self.run), inline(self.directory));
        let Some((model, _)) = self.unchanged else {
            let (front, body) = split(own.unwrap_or_default());
            // The card of a merge or mixture begins with the name of its directory, which was a stage's.
            let body = body.trim_start();
            let rest = body.strip_prefix("# ").and_then(|body| body.split_once('\n')).map_or(body, |(_, rest)| rest);
            return format!("{front}{title}\n{statement}{rest}");
        };
        match own {
            Some(own) => {
                let (front, body) = split(own);
                format!("{front}> {statement}\n{}", body.trim_start())
            }
            None => {
                let facts = HubFacts::of(&model.path, model.dir.config());
                let list = base_models(facts.id.clone()).replace("base_model_relation: merge\n", "");
                let license = CommonLicense::of([&facts]).front_matter();
                format!("---\n{list}library_name: transformers\n{license}---\n{title}\n{statement}")
            }
        }
    }

    /// Writes the card and the manifest into a directory that holds a copy of the model.
    pub(super) fn write(&self, staging: &Staging) -> Result<(), PipelineError> {
        let path = staging.path().join(CARD_FILE);
        let own = match fs::read_to_string(&path) {
            Ok(own) => Some(own),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidData) => None,
            Err(error) => return Err(PipelineError::io(&path, error)),
        };
        // A link to the stage's file, which stays as it is.
        if path.exists() {
            fs::remove_file(&path).map_err(|error| PipelineError::io(&path, error))?;
        }
        staging.write_file(CARD_FILE, self.card(own.as_deref()).as_bytes())?;
        if let Some((model, hash)) = self.unchanged
            && !staging.path().join(MANIFEST).exists()
        {
            let facts = HubFacts::of(&model.path, model.dir.config());
            let mut copied = json!({ "model": model.name, "path": model.path, "xxh3_128": hash });
            if let (Some(id), Some(commit)) = (facts.id, facts.commit) {
                copied["hub"] = json!({ "id": id, "commit": commit });
            }
            let manifest = json!({
                "format": 1, "tool": "model-glue", "version": env!("CARGO_PKG_VERSION"), "copy_of": copied,
            });
            staging.write_file(MANIFEST, format!("{manifest:#}\n").as_bytes())?;
        }
        Ok(())
    }
}

/// The front matter of a card with its dashes, and the rest.
fn split(card: &str) -> (&str, &str) {
    let Some(front) = front_matter(card) else { return ("", card) };
    let end = card.find(front).unwrap_or(0) + front.len();
    let after = card[end..].trim_start_matches('\n');
    let line = after.find('\n').map_or(after.len(), |at| at + 1);
    card.split_at(card.len() - after.len() + line)
}

#[cfg(test)]
mod tests {
    use super::super::MERGED;
    use super::*;

    #[test]
    fn front_matter_is_split_off_with_its_dashes() {
        assert_eq!(split("---\na: b\n---\n# Title\n"), ("---\na: b\n---\n", "# Title\n"));
        assert_eq!(split("---\na: b\n---"), ("---\na: b\n---", ""));
        assert_eq!(split("# Title\n"), ("", "# Title\n"));
    }

    #[test]
    fn a_card_names_what_it_is_and_keeps_what_it_said() {
        let named = |kind, made_of| Named { run: "zoo", directory: MERGED, kind, made_of, why: "", unchanged: None };
        let merge = [vec!["a".to_string(), "b".to_string()]];
        let card = named(FinalKind::Merged, &merge).card(Some("---\ntags: [x]\n---\n# option-0\n\nA merge.\n"));
        assert!(card.starts_with("---\ntags: [x]\n---\n# zoo: merged\n\nThe best merge of the run `zoo`"), "{card}");
        assert!(card.contains("is the merge of `a` and `b`.\n\nA merge.\n") && !card.contains("option-0"), "{card}");
        let mixture = [vec!["a".to_string()], vec!["b".to_string(), "c".to_string()]];
        let named = Named { directory: FINAL, why: "it is better", ..named(FinalKind::Mixture, &mixture) };
        let card = named.card(None);
        let says = "is a mixture of 2 models: `a` and the merge of `b` and `c`; it is better.\n";
        assert!(card.starts_with("# zoo: final\n\nThe final model") && card.contains(says), "{card}");
    }
}
