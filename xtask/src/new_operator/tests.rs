//! Names, places, and that what is committed is what the template gives.

use super::*;

fn facts() -> (Repo, Facts) {
    let repo = Repo::find().expect("a repository");
    let facts = Facts::of(&repo).expect("its files");
    (repo, facts)
}

#[test]
fn names_are_snake_case_and_free() {
    let check = |name: &str, says: &str| {
        let found = check_name(name, &["ties".into()], &["glue-merge"]).map_err(|error| error.to_string());
        match says {
            "" => assert_eq!(found, Ok(())),
            _ => assert!(found.as_ref().is_err_and(|found| found.contains(says)), "{name}: {found:?}"),
        }
    };
    for name in ["median", "geometric_median", "iso_c2", "match"] {
        check(name, "");
    }
    for name in
        ["", "Median", "2median", "_median", "median_", "geometric__median", "geometric-median", "médian", "a/b"]
    {
        check(name, "no operator can be called");
    }
    check("ties", "there is an operator `ties` already");
    check("merge", "there is a package glue-merge already");
}

#[test]
fn the_operators_that_there_are_are_known() {
    let (repo, facts) = facts();
    let reference = fs::read_to_string(repo.path("docs/operators.md")).expect("the reference");
    let documented: Vec<&str> = reference.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    assert!(documented.len() > 20, "{documented:?}");
    for name in documented {
        assert!(facts.operators.iter().any(|operator| operator == name), "{name} in {:?}", facts.operators);
    }
    let source = "//! OperatorDef {\n//!     name: \"a\",\nconst B: OperatorDef = OperatorDef {\n    name: \"b\",\n#[cfg(test)]\n\
                  const C: OperatorDef = OperatorDef {\n    name: \"c\",\n";
    assert_eq!(defined(source), ["b"]);
    assert!(facts.profiles.starts_with("[profile.") && facts.target.contains("rustflags"), "{facts:?}");
}

#[test]
fn every_placeholder_has_a_value() {
    let (repo, facts) = facts();
    let elsewhere = tempfile::tempdir().expect("a temporary directory");
    for out in [None, Some(elsewhere.path().join("median"))] {
        let place = Place::new(&repo.root, "some_median", out.as_deref()).expect("a place");
        let files = files(&facts, "some_median", &place).expect("files");
        for (file, text) in &files {
            assert!(!text.contains("{{"), "{file}: {text}");
        }
        assert_eq!(files.iter().any(|(file, _)| *file == "src/main.rs"), out.is_some());
        assert_eq!(files.iter().any(|(file, _)| *file == ".cargo/config.toml"), out.is_some());
        let (_, lib) = files.iter().find(|(file, _)| *file == "src/lib.rs").expect("src/lib.rs");
        assert!(lib.contains("with(&[&glue_some_median::DEF]).operator(\"some_median\", None)"), "{lib}");
    }
}

#[test]
fn a_crate_appears_as_a_whole_or_not_at_all() {
    let (repo, facts) = facts();
    let elsewhere = tempfile::tempdir().expect("a temporary directory");
    let names = || {
        let entries = fs::read_dir(elsewhere.path()).expect("a folder");
        entries.map(|entry| entry.expect("an entry").file_name()).collect::<Vec<_>>()
    };
    let out = elsewhere.path().join("median");
    let place = Place::new(&repo.root, "median", Some(&out)).expect("a place");
    let files = files(&facts, "median", &place).expect("files");
    // Somebody else makes the folder in the meantime.
    fs::create_dir(&out).expect("a folder");
    fs::write(out.join("theirs"), "").expect("a file");
    assert!(write(&place, &files, &facts.edition).is_err());
    assert_eq!(names(), ["median"]);
    let error = Place::new(&repo.root, "median", Some(&out)).expect_err("a folder that exists").to_string();
    assert!(error.contains("exists already"), "{error}");

    fs::remove_dir_all(&out).expect("a folder to remove");
    write(&place, &files, &facts.edition).expect("a crate");
    assert_eq!(names(), ["median"]);
    for (file, _) in &files {
        assert!(out.join(file).is_file(), "{file}");
    }
}

#[test]
fn places_that_will_not_do_are_refused() {
    let (repo, _) = facts();
    let check = |out: &str, says: &str| {
        let error = Place::new(&repo.root, "median", Some(Path::new(out))).expect_err(out).to_string();
        assert!(error.contains(says), "{out}: {error}");
    };
    check(&repo.path("crates/anything").to_string_lossy(), "leave out --out");
    check(&repo.path("no/such/folder").to_string_lossy(), "cannot make a folder in");
    check(&repo.path("tests/external").to_string_lossy(), "exists already");
    check("/", "expected a folder that can be made");
}

/// `tests/external` is what the template gives, with another operator and its settings.
#[test]
fn the_example_is_made_from_the_template() {
    let (repo, facts) = facts();
    let place = Place::new(&repo.root, "median", Some(&repo.path("tests/beside"))).expect("a place");
    for (file, text) in files(&facts, "median", &place).expect("files") {
        if ["Cargo.toml", "src/main.rs"].contains(&file) {
            let committed = fs::read_to_string(repo.path("tests/external").join(file)).expect(file);
            assert_eq!(committed, text, "tests/external/{file} is not what xtask/src/new_operator/template gives");
        }
    }
}

/// The code of the guide is that of the example, which is compiled and tested.
#[test]
fn the_guide_shows_code_that_works() {
    let (repo, _) = facts();
    let read = |file: &str| fs::read_to_string(repo.path(file)).expect(file);
    let guide = read("docs/new-operator.md");
    let code = read("tests/external/src/lib.rs") + &read("tests/external/src/main.rs");
    let blocks: Vec<&str> = guide.split("```rust\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(blocks.len() >= 3, "{} blocks", blocks.len());
    for block in blocks {
        assert!(code.contains(block), "not in tests/external/src:\n{block}");
    }
}
