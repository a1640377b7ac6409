//! Which files of a repository are fetched.

use crate::error::HubError;
use crate::listing::RemoteFile;
use glob::Pattern;
use glue_tensor::hub::RepositoryKind;

/// Which files of a repository are fetched.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    include: Vec<Pattern>,
    exclude: Vec<Pattern>,
}

/// Endings of a model's files: weights, configuration, tokenizer and templates, card and licence.
const MODEL_ENDINGS: &[&str] = &["safetensors", "json", "txt", "model", "tiktoken", "jinja", "md"];
/// Directories of a model, beside which others hold the same weights in other forms.
const MODEL_DIRECTORIES: &[&str] = &["additional_chat_templates", "1_Pooling"];
/// Endings of data.
const DATA_ENDINGS: &[&str] = &["parquet", "jsonl", "json", "csv", "tsv", "txt", "gz", "zst", "zip", "md", "yaml"];

impl Selection {
    /// Files whose path matches one of `include` and none of `exclude`. In a pattern, `*` stands for any characters,
    /// slashes among them. Without `include`, what this program reads: of a model its safetensors files, configuration,
    /// tokenizer and card; of a dataset its tables. Default: neither.
    ///
    /// # Errors
    /// [`HubError::Pattern`].
    pub fn new<S: AsRef<str>>(include: &[S], exclude: &[S]) -> Result<Selection, HubError> {
        let all = |patterns: &[S]| {
            let pattern = |text: &S| {
                let text = text.as_ref();
                Pattern::new(text).map_err(|error| HubError::Pattern { pattern: text.to_string(), error })
            };
            patterns.iter().map(pattern).collect::<Result<Vec<_>, _>>()
        };
        Ok(Selection { include: all(include)?, exclude: all(exclude)? })
    }

    /// The selected ones of a repository's files.
    ///
    /// # Errors
    /// What is missing, in words: no file, or no weights that this program reads.
    pub(crate) fn of(&self, kind: RepositoryKind, files: &[RemoteFile]) -> Result<Vec<RemoteFile>, String> {
        let not_excluded = |file: &&RemoteFile| !self.exclude.iter().any(|pattern| pattern.matches(&file.path));
        let wanted: Vec<RemoteFile> = if !self.include.is_empty() {
            let included = |file: &&RemoteFile| self.include.iter().any(|pattern| pattern.matches(&file.path));
            files.iter().filter(included).filter(not_excluded).cloned().collect()
        } else {
            let split = files.iter().any(|file| is_weights_of_transformers(&file.path));
            let usual = |file: &&RemoteFile| match kind {
                RepositoryKind::Model => is_of_model(&file.path, split),
                RepositoryKind::Dataset => DATA_ENDINGS.contains(&ending(&file.path)),
            };
            files.iter().filter(usual).filter(not_excluded).cloned().collect()
        };
        if wanted.is_empty() {
            return Err("no file that is wanted".into());
        }
        let has = |end: &str| files.iter().find(|file| ending(&file.path) == end);
        if self.include.is_empty() && kind == RepositoryKind::Model && has("safetensors").is_none() {
            return Err(match has("gguf").or(has("bin")).or(has("pth")) {
                Some(other) => {
                    format!("no safetensors file, but {}, which is fetched if it is asked for by --include", other.path)
                }
                None => "no safetensors file".into(),
            });
        }
        Ok(wanted)
    }

    /// Whether any file with tables is among these.
    pub(crate) fn has_tables(files: &[RemoteFile]) -> bool {
        files.iter().any(|file| !matches!(ending(&file.path), "md" | "yaml" | "txt" | "py" | "gitattributes"))
    }
}

fn ending(path: &str) -> &str {
    let name = path.rsplit('/').next().unwrap_or(path);
    name.rsplit_once('.').map_or("", |(_, ending)| ending)
}

fn is_weights_of_transformers(path: &str) -> bool {
    !path.contains('/') && path.starts_with("model") && path.ends_with(".safetensors")
}

/// Whether a file belongs to a model in the form of transformers. Some repositories hold the weights a second time, as
/// their makers trained them: `consolidated.safetensors`.
fn is_of_model(path: &str, split: bool) -> bool {
    let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
    if !(directory.is_empty() || MODEL_DIRECTORIES.contains(&directory)) || (split && name.starts_with("consolidated"))
    {
        return false;
    }
    let legal = ["LICENSE", "LICENCE", "NOTICE", "COPYING", "COPYRIGHT", "USE_POLICY"];
    MODEL_ENDINGS.contains(&ending(name)) || legal.iter().any(|stem| name.to_ascii_uppercase().starts_with(stem))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listing::FileHash;

    fn files(paths: &[&str]) -> Vec<RemoteFile> {
        let hash = FileHash::parse(&"0".repeat(40)).unwrap();
        paths.iter().map(|path| RemoteFile { path: path.to_string(), size: 1, hash: hash.clone() }).collect()
    }

    fn paths(files: &[RemoteFile]) -> Vec<&str> {
        files.iter().map(|file| file.path.as_str()).collect()
    }

    const MODEL: &[&str] = &[
        ".gitattributes",
        "LICENSE",
        "README.md",
        "additional_chat_templates/tool.jinja",
        "config.json",
        "consolidated.safetensors",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
        "modeling.py",
        "onnx/config.json",
        "onnx/model.onnx",
        "original/consolidated.00.pth",
        "pytorch_model.bin",
        "tokenizer.json",
        "tokenizer.model",
    ];

    #[test]
    fn of_a_model_what_is_read_is_fetched() {
        let found = Selection::default().of(RepositoryKind::Model, &files(MODEL)).unwrap();
        let expected = [
            "LICENSE",
            "README.md",
            "additional_chat_templates/tool.jinja",
            "config.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "tokenizer.json",
            "tokenizer.model",
        ];
        assert_eq!(paths(&found), expected);
        let alone = files(&["config.json", "consolidated.safetensors"]);
        assert_eq!(Selection::default().of(RepositoryKind::Model, &alone).unwrap(), alone);
    }

    #[test]
    fn patterns_decide_where_they_are_given() {
        let of = |include: &[&str], exclude: &[&str]| {
            Selection::new(include, exclude).unwrap().of(RepositoryKind::Model, &files(MODEL))
        };
        assert_eq!(paths(&of(&["*.bin", "onnx*"], &["*.onnx"]).unwrap()), ["onnx/config.json", "pytorch_model.bin"]);
        let without = of(&[], &["*.safetensors", "*.md"]).unwrap();
        assert_eq!(without.len(), 6);
        assert_eq!(of(&["*.gguf"], &[]).unwrap_err(), "no file that is wanted");
        assert!(matches!(Selection::new(&["***"], &[]), Err(HubError::Pattern { .. })));
    }

    #[test]
    fn a_model_without_safetensors_says_what_it_has() {
        let of = |paths: &[&str]| Selection::default().of(RepositoryKind::Model, &files(paths)).unwrap_err();
        assert!(of(&["config.json", "pytorch_model.bin"]).contains("but pytorch_model.bin"));
        assert!(of(&["README.md", "model-Q8_0.gguf"]).contains("but model-Q8_0.gguf"));
        assert_eq!(of(&["README.md"]), "no safetensors file");
    }

    #[test]
    fn of_a_dataset_its_tables_are_fetched() {
        let all = files(&["README.md", "data/test.parquet", "load.py", "main/train.jsonl.gz", "a.csv"]);
        let found = Selection::default().of(RepositoryKind::Dataset, &all).unwrap();
        assert_eq!(paths(&found), ["README.md", "data/test.parquet", "main/train.jsonl.gz", "a.csv"]);
        assert!(Selection::has_tables(&all) && !Selection::has_tables(&files(&["README.md", "load.py"])));
    }
}
