//! Texts of licences and notices beside a model, which whoever passes the model on has to pass on too.
//!
//! An output that is made from several models gets those that all of them have, byte for byte. What terms another
//! combination has is for a person to decide.

use crate::side_files::{Links, SideFileError, read_to_copy};
use std::path::{Path, PathBuf};

/// Names of such files, without an ending, in upper case.
const STEMS: &[&str] = &["LICENSE", "LICENCE", "COPYING", "NOTICE", "COPYRIGHT", "USE_POLICY"];
/// Their endings.
const ENDINGS: &[&str] = &["", ".txt", ".md"];

/// The texts for an output that is made from several models.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct LegalFiles {
    /// Those that all models have, by name and content.
    pub common: Vec<(String, Vec<u8>)>,
    /// What is left out, in sentences without a full stop.
    pub notes: Vec<String>,
}

/// A file's name and its content.
type NamedText = (String, Vec<u8>);

impl LegalFiles {
    /// Of an output that is made from `models`, each with its name and its directory. Reads all their texts.
    ///
    /// # Errors
    /// [`SideFileError`] for a file that cannot be read, or that `links` do not allow.
    pub fn of<'a>(
        models: impl IntoIterator<Item = (&'a str, &'a Path)>,
        links: Links,
    ) -> Result<LegalFiles, SideFileError> {
        let mut read: Vec<(&str, Vec<NamedText>)> = Vec::new();
        for (model, directory) in models {
            let content = |path: PathBuf| {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                Ok((name, read_to_copy(directory, &path, links)?))
            };
            read.push((model, legal_files(directory).into_iter().map(content).collect::<Result<_, SideFileError>>()?));
        }
        let mut names: Vec<&String> = read.iter().flat_map(|(_, files)| files.iter().map(|(name, _)| name)).collect();
        names.sort();
        names.dedup();
        let mut found = LegalFiles::default();
        for name in names {
            let of = |files: &'_ [NamedText]| files.iter().position(|(other, _)| other == name);
            let has = read.iter().find_map(|(model, files)| Some((*model, &files[of(files)?].1)));
            let Some((first, content)) = has else { continue };
            let lacks = read.iter().find(|(_, files)| of(files).is_none());
            let differs = read.iter().find(|(_, files)| of(files).is_some_and(|at| files[at].1 != *content));
            match (lacks, differs) {
                (None, None) => found.common.push((name.clone(), content.clone())),
                (Some((model, _)), _) => {
                    found.notes.push(format!("{name} of `{first}` is left out: `{model}` has no such file"));
                }
                (None, Some((model, _))) => {
                    found.notes.push(format!("{name} is left out: those of `{first}` and `{model}` differ"));
                }
            }
        }
        Ok(found)
    }
}

/// The texts of licences and notices in `directory`, sorted by name; none in a directory that cannot be listed.
pub fn legal_files(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let is_legal = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let of_stem = |stem: &&str| {
            let rest =
                name.get(..stem.len()).filter(|start| start.eq_ignore_ascii_case(stem)).map(|_| &name[stem.len()..]);
            rest.is_some_and(|rest| ENDINGS.iter().any(|ending| rest.eq_ignore_ascii_case(ending)))
        };
        STEMS.iter().any(of_stem) && path.is_file()
    };
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(is_legal).collect();
    files.sort();
    files
}

#[cfg(test)]
mod tests {
    //! Which files, and when they are common.
    use super::*;
    use std::fs;

    #[test]
    fn names_of_licences_and_notices() {
        let root = tempfile::tempdir().unwrap();
        let legal = ["LICENSE", "License.txt", "LICENCE.md", "NOTICE", "USE_POLICY.md", "copying"];
        for name in legal.into_iter().chain(["LICENSES", "license.json", "README.md", "NOTICES.txt"]) {
            fs::write(root.path().join(name), name).unwrap();
        }
        fs::create_dir(root.path().join("COPYRIGHT")).unwrap();
        let found: Vec<PathBuf> = legal_files(root.path());
        let mut expected: Vec<PathBuf> = legal.iter().map(|name| root.path().join(name)).collect();
        expected.sort();
        assert_eq!(found, expected);
        assert!(legal_files(&root.path().join("nowhere")).is_empty());
    }

    #[test]
    fn what_all_models_have_is_common_and_all_else_is_said() {
        let root = tempfile::tempdir().unwrap();
        let place = |file: &str, text: &str| {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        for (file, text) in [
            ("a/LICENSE", "terms"),
            ("b/LICENSE", "terms"),
            ("a/NOTICE", "by A"),
            ("b/NOTICE", "by B"),
            ("b/USE_POLICY.md", "do no harm"),
        ] {
            place(file, text);
        }
        let (a, b) = (root.path().join("a"), root.path().join("b"));
        let found = LegalFiles::of([("a", a.as_path()), ("b", b.as_path())], Links::Inside).unwrap();
        assert_eq!(found.common, [("LICENSE".to_string(), b"terms".to_vec())]);
        let expected = [
            "NOTICE is left out: those of `a` and `b` differ",
            "USE_POLICY.md of `b` is left out: `a` has no such file",
        ];
        assert_eq!(found.notes, expected);
        let alone = LegalFiles::of([("b", b.as_path())], Links::Inside).unwrap();
        assert_eq!((alone.common.len(), alone.notes.len()), (3, 0));
    }
}
