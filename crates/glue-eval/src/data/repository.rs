//! Data repositories as on the Hugging Face hub: which files are the splits of a configuration.
//!
//! The rules are those of the `datasets` library: what the front matter of `README.md` says, else the names of files
//! and directories. The first rule below that finds a file decides.
//!
//! | rule | a file of the split `train` |
//! |---|---|
//! | shards | `data/train-00000-of-00001.parquet`: any name can stand for `train` |
//! | a directory of that name | `train/0.parquet`, `main/training/a.jsonl` |
//! | a file of that name | `train.jsonl`, `arc_train_1.csv` |
//! | anything else | all files are the split `train` |
//!
//! Names of the second and third rule are `train` and `training`; `validation`, `valid`, `dev` and `val`; `test`,
//! `testing`, `eval` and `evaluation`.

use super::Format;
use glue_tensor::files;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The files of each split, in the order in which they are read.
pub(crate) type SplitFiles = Vec<(String, Vec<(PathBuf, Format)>)>;

/// What is wanted of a repository.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Wanted<'a> {
    /// The configuration; `None` for the one that is the default.
    pub(crate) config: Option<&'a str>,
    /// A directory in it that holds the data.
    pub(crate) data_dir: Option<&'a str>,
    /// Patterns of files: a text, a list, or a map with one of these for each split.
    pub(crate) data_files: Option<&'a Value>,
}

/// Deeper and larger than any repository.
const MAX_DEPTH: usize = 16;
const MAX_FILES: usize = 200_000;

/// Names of files that hold no data.
const NO_DATA: &[&str] =
    &["README.md", "config.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json", "dummy_data.zip"];

/// Words that stand for a split in the names of files and directories.
const WORDS: &[(&str, &[&str])] = &[
    ("train", &["train", "training"]),
    ("validation", &["validation", "valid", "dev", "val"]),
    ("test", &["test", "testing", "eval", "evaluation"]),
];

/// The splits of a repository that lies in a directory.
///
/// # Errors
/// What is missing in it, for a person.
pub(crate) fn splits(directory: &Path, wanted: Wanted<'_>) -> Result<SplitFiles, String> {
    if let Some(patterns) = wanted.data_files {
        let base = below(directory, wanted.data_dir)?;
        return by_patterns(&Listing::of(&base)?, patterns);
    }
    if let (None, Some(_)) = (wanted.config, wanted.data_dir) {
        return by_names(&Listing::of(&below(directory, wanted.data_dir)?)?);
    }
    let configs = configs(directory)?;
    let Some(config) = choose(&configs, wanted.config)? else {
        // A repository without a description may be that of a script, which has a directory for each configuration.
        let base = match wanted.config.filter(|name| *name != "default") {
            None => below(directory, wanted.data_dir)?,
            Some(name) => match directory.join(name) {
                found if is_plain(name) && found.is_dir() => below(&found, wanted.data_dir)?,
                _ => return Err(unknown_config(&configs, name)),
            },
        };
        return by_names(&Listing::of(&base)?);
    };
    let base = below(directory, wanted.data_dir.or(config.data_dir.as_deref()))?;
    let listing = Listing::of(&base)?;
    match &config.data_files {
        Some(patterns) if wanted.data_dir.is_none() => by_patterns(&listing, patterns),
        _ => by_names(&listing),
    }
}

fn is_plain(name: &str) -> bool {
    !name.is_empty() && !name.contains(['/', '\\']) && name != ".."
}

fn below(directory: &Path, part: Option<&str>) -> Result<PathBuf, String> {
    let Some(part) = part else { return Ok(directory.to_path_buf()) };
    let found = directory.join(part);
    if found.is_dir() { Ok(found) } else { Err(format!("it has no directory `{part}`")) }
}

/// A configuration of the front matter of `README.md`.
struct Config {
    name: String,
    data_files: Option<Value>,
    data_dir: Option<String>,
    is_default: bool,
}

fn configs(directory: &Path) -> Result<Vec<Config>, String> {
    let path = directory.join("README.md");
    if !path.is_file() {
        return Ok(Vec::new());
    }
    let text = files::read_to_string(&path, files::CONFIG_BYTES).map_err(|error| format!("README.md: {error}"))?;
    let Some(rest) = text.strip_prefix('\u{feff}').unwrap_or(&text).strip_prefix("---") else { return Ok(Vec::new()) };
    let Some((front, _)) = rest.split_once("\n---") else { return Ok(Vec::new()) };
    let options = serde_saphyr::options! { with_snippet: false };
    let front: Value = serde_saphyr::from_str_with_options(front, options)
        .map_err(|error| format!("README.md: invalid YAML: {}", error.render()))?;
    let Some(list) = front.get("configs").and_then(Value::as_array) else { return Ok(Vec::new()) };
    let text = |entry: &Value, key: &str| entry.get(key).and_then(Value::as_str).map(String::from);
    let config = |entry: &Value| Config {
        // A number is a name too.
        name: match entry.get("config_name") {
            Some(Value::String(name)) => name.clone(),
            Some(Value::Number(number)) => number.to_string(),
            _ => "default".into(),
        },
        data_files: entry.get("data_files").filter(|files| !files.is_null()).cloned(),
        data_dir: text(entry, "data_dir"),
        is_default: entry.get("default").and_then(Value::as_bool) == Some(true),
    };
    Ok(list.iter().map(config).collect())
}

/// The configuration of a name; `None` where the files alone decide.
fn choose<'a>(configs: &'a [Config], name: Option<&str>) -> Result<Option<&'a Config>, String> {
    if let Some(name) = name {
        return Ok(configs.iter().find(|config| config.name == name));
    }
    let default = configs.iter().find(|config| config.is_default || config.name == "default");
    match (default, configs) {
        (Some(config), _) | (None, [config]) => Ok(Some(config)),
        (None, []) => Ok(None),
        (None, several) => Err(format!("it has several configurations, and none is named: {}", named(several))),
    }
}

fn unknown_config(configs: &[Config], name: &str) -> String {
    match configs {
        [] => format!("it has no configuration `{name}`: neither README.md nor a directory has that name"),
        known => format!("it has no configuration `{name}`; it has {}", named(known)),
    }
}

fn named(configs: &[Config]) -> String {
    const MAX_SHOWN: usize = 20;
    let mut names: Vec<&str> = configs.iter().take(MAX_SHOWN).map(|config| config.name.as_str()).collect();
    if configs.len() > MAX_SHOWN {
        names.push("…");
    }
    names.join(", ")
}

/// The files below a directory by their paths in it, in order.
struct Listing {
    base: PathBuf,
    /// With `/` between directories.
    paths: Vec<String>,
}

impl Listing {
    fn of(base: &Path) -> Result<Listing, String> {
        let mut paths = Vec::new();
        walk(base, "", 0, &mut paths).map_err(|error| format!("{}: {error}", base.display()))?;
        if paths.len() >= MAX_FILES {
            return Err(format!("it has more than {MAX_FILES} files"));
        }
        paths.sort();
        Ok(Listing { base: base.to_path_buf(), paths })
    }

    /// The splits with their files, of the format that most of them have.
    fn finish(&self, splits: Vec<(String, Vec<&String>)>) -> Result<SplitFiles, String> {
        let mut counts: BTreeMap<u8, (usize, Format)> = BTreeMap::new();
        for format in splits.iter().flat_map(|(_, paths)| paths.iter()).filter_map(|path| format_of(path)) {
            counts.entry(format as u8).or_insert((0, format)).0 += 1;
        }
        // The first of those with the same count.
        let most = counts.values().rev().max_by_key(|(count, _)| *count).map(|(_, format)| *format);
        let Some(most) = most else {
            let mut found: Vec<&str> =
                self.paths.iter().filter_map(|path| Path::new(path).extension()?.to_str()).collect();
            found.sort_unstable();
            found.dedup();
            found.truncate(10);
            let found = if found.is_empty() { String::new() } else { format!(" (but .{})", found.join(", .")) };
            return Err(format!("it has no Parquet, JSON Lines, JSON, CSV, TSV or text file{found}"));
        };
        let mut found = SplitFiles::new();
        for (split, paths) in splits {
            let files: Vec<_> = paths
                .into_iter()
                .filter_map(|path| Some((self.base.join(path), format_of(path)?)))
                .filter(|(_, format)| *format == most)
                .collect();
            if !files.is_empty() {
                found.push((split, files));
            }
        }
        Ok(found)
    }
}

fn walk(directory: &Path, prefix: &str, depth: usize, paths: &mut Vec<String>) -> std::io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        if name.starts_with('.') || name.starts_with("__") || NO_DATA.contains(&name.as_str()) {
            continue;
        }
        let path = format!("{prefix}{name}");
        // The files of the hub's cache are links.
        let Ok(metadata) = fs::metadata(entry.path()) else { continue };
        if metadata.is_dir() && depth < MAX_DEPTH {
            walk(&entry.path(), &format!("{path}/"), depth + 1, paths)?;
        } else if metadata.is_file() {
            paths.push(path);
        }
        if paths.len() >= MAX_FILES {
            break;
        }
    }
    Ok(())
}

/// The format that a name promises.
pub(crate) fn format_of(path: &str) -> Option<Format> {
    let (_, extension) = path.rsplit_once('.')?;
    Some(match extension.to_ascii_lowercase().as_str() {
        "parquet" => Format::Parquet,
        "json" | "jsonl" | "ndjson" => Format::Json,
        "csv" => Format::Csv,
        "tsv" => Format::Tsv,
        "txt" => Format::Text,
        _ => return None,
    })
}

fn by_patterns(listing: &Listing, value: &Value) -> Result<SplitFiles, String> {
    let wrong = || "its data_files are neither a pattern, a list of patterns, nor patterns for each split".to_string();
    let mut splits: Vec<(String, Vec<String>)> = Vec::new();
    match value {
        Value::Object(map) => {
            for (split, value) in map {
                splits.push((split.clone(), crate::task::texts(value).ok_or_else(wrong)?));
            }
        }
        Value::Array(items) if items.iter().all(Value::is_object) => {
            for item in items {
                let split = item.get("split").and_then(Value::as_str).unwrap_or("train").to_string();
                splits.push((split, item.get("path").and_then(crate::task::texts).ok_or_else(wrong)?));
            }
        }
        other => splits.push(("train".into(), crate::task::texts(other).ok_or_else(wrong)?)),
    }
    let mut found = Vec::new();
    let mut missing = None;
    for (split, patterns) in &splits {
        let mut paths = Vec::new();
        for pattern in patterns {
            let before = paths.len();
            paths.extend(matching(listing, pattern)?);
            if paths.len() == before {
                missing.get_or_insert((split, pattern));
            }
        }
        found.push((split.clone(), paths));
    }
    // A download of some splits only has only their files.
    match missing {
        Some((split, pattern)) if found.iter().all(|(_, paths)| paths.is_empty()) => {
            Err(format!("it has no file `{pattern}` for the split `{split}`"))
        }
        _ => listing.finish(found),
    }
}

/// The files of a pattern: `*` within a directory, `**` through several, `?` and `[…]` as in a shell.
fn matching<'a>(listing: &'a Listing, pattern: &str) -> Result<Vec<&'a String>, String> {
    let pattern = pattern.trim_start_matches("./");
    if !pattern.contains(['*', '?', '[']) {
        return Ok(listing.paths.iter().filter(|path| *path == pattern).collect());
    }
    // Two stars that are not a whole component mean one.
    let component = |part: &str| if part == "**" { part.to_string() } else { part.replace("**", "*") };
    let mut clean: Vec<String> = pattern.split('/').map(component).collect();
    if clean.last().is_some_and(|last| last == "**") {
        clean.push("*".into());
    }
    let compiled = glob::Pattern::new(&clean.join("/")).map_err(|error| format!("`{pattern}`: {error}"))?;
    let options = glob::MatchOptions { require_literal_separator: true, ..glob::MatchOptions::new() };
    Ok(listing.paths.iter().filter(|path| compiled.matches_with(path, options)).collect())
}

fn by_names(listing: &Listing) -> Result<SplitFiles, String> {
    let data: Vec<&String> = listing.paths.iter().filter(|path| format_of(path).is_some()).collect();
    let mut shards: Vec<(String, Vec<&String>)> = Vec::new();
    for path in &data {
        if let Some(split) = shard_of(path) {
            match shards.iter_mut().find(|(known, _)| *known == split) {
                Some((_, paths)) => paths.push(path),
                None => shards.push((split.into(), vec![path])),
            }
        }
    }
    if !shards.is_empty() {
        return listing.finish(shards);
    }
    for has in [directory_has as fn(&str, &str) -> bool, file_has] {
        let of = |(split, words): &(&str, &[&str])| {
            let paths: Vec<&String> =
                data.iter().copied().filter(|path| words.iter().any(|word| has(path, word))).collect();
            (!paths.is_empty()).then(|| ((*split).to_string(), paths))
        };
        let found: Vec<_> = WORDS.iter().filter_map(of).collect();
        if !found.is_empty() {
            return listing.finish(found);
        }
    }
    listing.finish(vec![("train".into(), data)])
}

/// The split of `data/SPLIT-00000-of-00001.parquet`.
fn shard_of(path: &str) -> Option<&str> {
    let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
    if !directory.is_empty() && directory != "data" {
        return None;
    }
    let (stem, _) = name.split_once('.')?;
    let (rest, count) = stem.rsplit_once("-of-")?;
    let (split, number) = rest.rsplit_once('-')?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (digits(count) && number.len() == 5 && digits(number) && !split.is_empty()).then_some(split)
}

fn is_separator(c: char) -> bool {
    matches!(c, '-' | '.' | '_' | ' ') || c.is_ascii_digit()
}

/// Whether a word stands alone in a name, between separators.
fn stands_in(name: &str, word: &str) -> bool {
    name.match_indices(word).any(|(at, _)| {
        let before = name[..at].chars().next_back().is_none_or(is_separator);
        before && name[at + word.len()..].chars().next().is_none_or(is_separator)
    })
}

fn directory_has(path: &str, word: &str) -> bool {
    path.rsplit_once('/').is_some_and(|(directories, _)| directories.split('/').any(|name| stands_in(name, word)))
}

fn file_has(path: &str, word: &str) -> bool {
    stands_in(path.rsplit('/').next().unwrap_or(path), word)
}

#[cfg(test)]
mod tests {
    //! Layouts of repositories, and the splits that `datasets` 4 finds in them.
    use super::*;
    use serde_json::json;

    /// The splits of a repository with these files, each with its paths.
    fn found(files: &[&str], readme: &str, wanted: Wanted<'_>) -> Result<Vec<(String, Vec<String>)>, String> {
        let directory = tempfile::tempdir().unwrap();
        for file in files {
            let path = directory.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "{}").unwrap();
        }
        if !readme.is_empty() {
            fs::write(directory.path().join("README.md"), readme).unwrap();
        }
        let relative = |path: &Path| path.strip_prefix(directory.path()).unwrap().to_str().unwrap().to_string();
        let splits = splits(directory.path(), wanted)?;
        let paths = |(split, files): (String, Vec<(PathBuf, Format)>)| {
            (split, files.iter().map(|(path, _)| relative(path)).collect())
        };
        Ok(splits.into_iter().map(paths).collect())
    }

    fn check(files: &[&str], readme: &str, wanted: Wanted<'_>, expected: &[(&str, &[&str])]) {
        let found = found(files, readme, wanted).unwrap();
        let expected: Vec<(String, Vec<String>)> = expected
            .iter()
            .map(|(split, paths)| ((*split).to_string(), paths.iter().map(|path| (*path).to_string()).collect()))
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn names_alone_tell_the_splits() {
        let any = Wanted::default();
        check(
            &["data/dev-00000-of-00001.parquet", "data/x-00000-of-00002.parquet", "data/x-00001-of-00002.parquet"],
            "",
            any,
            &[
                ("dev", &["data/dev-00000-of-00001.parquet"]),
                ("x", &["data/x-00000-of-00002.parquet", "data/x-00001-of-00002.parquet"]),
            ],
        );
        check(
            &["dev/a.jsonl", "test/a.jsonl", "training/b.jsonl"],
            "",
            any,
            &[("train", &["training/b.jsonl"]), ("validation", &["dev/a.jsonl"]), ("test", &["test/a.jsonl"])],
        );
        check(
            &["arc_train_1.csv", "latest.csv", "arc-eval.csv"],
            "",
            any,
            &[("train", &["arc_train_1.csv"]), ("test", &["arc-eval.csv"])],
        );
        check(&["a.json", ".hidden.json", "dataset_info.json", "x.bin"], "", any, &[("train", &["a.json"])]);
    }

    #[test]
    fn the_front_matter_tells_configurations() {
        let readme = "---\nlicense: mit\nconfigs:\n- config_name: main\n  data_files:\n  - split: train\n    path: main/train-*\n  \
                      - split: test\n    path: [main/test-*]\n- config_name: socratic\n  data_dir: other\n---\ntext\n";
        let files = &["main/train-00000-of-00001.parquet", "main/test-00000-of-00001.parquet", "other/test.jsonl"];
        let config = |config| Wanted { config: Some(config), ..Wanted::default() };
        check(
            files,
            readme,
            config("main"),
            &[("train", &["main/train-00000-of-00001.parquet"]), ("test", &["main/test-00000-of-00001.parquet"])],
        );
        check(files, readme, config("socratic"), &[("test", &["other/test.jsonl"])]);
        let error = found(files, readme, Wanted::default()).unwrap_err();
        assert_eq!(error, "it has several configurations, and none is named: main, socratic");
        let error = found(files, readme, config("x")).unwrap_err();
        assert_eq!(error, "it has no configuration `x`; it has main, socratic");
        let one = "---\nconfigs:\n- config_name: only\n  data_files: \"**/test*\"\n---\n";
        check(files, one, Wanted::default(), &[("train", &["main/test-00000-of-00001.parquet"])]);
    }

    #[test]
    fn a_converted_repository_has_a_directory_for_each_configuration() {
        let files = &["abstract/test/0000.parquet", "abstract/validation/0000.parquet", "virology/test/0000.parquet"];
        let config = Wanted { config: Some("abstract"), ..Wanted::default() };
        check(
            files,
            "",
            config,
            &[("validation", &["abstract/validation/0000.parquet"]), ("test", &["abstract/test/0000.parquet"])],
        );
        let error = found(files, "", Wanted { config: Some("../x"), ..Wanted::default() }).unwrap_err();
        assert!(error.starts_with("it has no configuration `../x`"), "{error}");
    }

    #[test]
    fn patterns_of_the_task_come_first() {
        let files = &["en/a.json", "en/b.json", "de/a.json"];
        let patterns = json!({"train": "en/*.json", "test": ["de/a.json"]});
        let wanted = Wanted { data_files: Some(&patterns), ..Wanted::default() };
        check(files, "", wanted, &[("train", &["en/a.json", "en/b.json"]), ("test", &["de/a.json"])]);
        let wanted = Wanted { data_dir: Some("en"), ..Wanted::default() };
        check(files, "", wanted, &[("train", &["en/a.json", "en/b.json"])]);
        let wanted = Wanted { data_dir: Some("fr"), ..Wanted::default() };
        assert_eq!(found(files, "", wanted).unwrap_err(), "it has no directory `fr`");
    }

    #[test]
    fn what_is_no_data_is_named() {
        let error = found(&["mmlu.py", "data.zip"], "", Wanted::default()).unwrap_err();
        assert_eq!(error, "it has no Parquet, JSON Lines, JSON, CSV, TSV or text file (but .py, .zip)");
        let error = found(&[], "---\nconfigs:\n- {a\n---\n", Wanted::default()).unwrap_err();
        assert!(error.starts_with("README.md: invalid YAML"), "{error}");
    }
}
