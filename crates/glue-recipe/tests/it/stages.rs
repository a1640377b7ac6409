//! Several documents in one text.

use glue_merge::Registry;
use glue_progress::ErrorChain;
use glue_recipe::{Recipe, RecipeError, Stage, check_stages};

fn check(text: &str) -> Result<Vec<Stage>, RecipeError> {
    check_stages(Recipe::parse(text, "m.yml", &Registry::builtin()).unwrap())
}

fn document(name: &str, models: &[&str]) -> String {
    let name = if name.is_empty() { String::new() } else { format!("name: {name}\n") };
    let models: String = models.iter().map(|model| format!("- model: {model}\n")).collect();
    format!("---\n{name}merge_method: linear\nparameters: {{weight: 1}}\nmodels:\n{models}")
}

#[test]
fn stages_know_what_they_need() {
    let text = [document("x", &["a"]), document("y", &["x", "b"]), document("", &["y", "c", "x", "./x"])].concat();
    let stages = check(&text).unwrap();
    let needs: Vec<_> = stages.iter().map(|stage| (stage.name.as_deref(), stage.needs.clone())).collect();
    assert_eq!(needs, [(Some("x"), vec![]), (Some("y"), vec![0]), (None, vec![0, 1])]);
    assert!(stages.iter().map(|stage| stage.is_output).eq([false, false, true]));
    // A document alone may have a name, and a path may be called the same.
    let alone = check(&document("x", &["x"])).unwrap();
    assert_eq!((alone[0].name.as_deref(), alone[0].needs.len()), (None, 0));
}

#[test]
fn stages_may_stand_in_any_order() {
    let check = |documents: &[String], expected: &[(Option<&str>, &[usize], bool)]| {
        let stages = check(&documents.concat()).unwrap();
        let found: Vec<_> =
            stages.iter().map(|stage| (stage.name.as_deref(), stage.needs.as_slice(), stage.is_output)).collect();
        assert_eq!(found, expected);
    };
    check(
        &[document("", &["y"]), document("y", &["x", "b"]), document("x", &["a"])],
        &[(Some("x"), &[], false), (Some("y"), &[0], false), (None, &[1], true)],
    );
    // Those that are ready keep the order of the text; a stage that nothing needs runs all the same.
    check(
        &[document("x", &["b"]), document("", &["z"]), document("y", &["a"]), document("z", &["a"])],
        &[(Some("x"), &[], false), (Some("y"), &[], false), (Some("z"), &[], false), (None, &[2], true)],
    );
    // With names for all, the outputs are those that no other needs.
    check(
        &[document("one", &["x"]), document("two", &["x+adapter"]), document("x", &["a"])],
        &[(Some("x"), &[], false), (Some("one"), &[0], true), (Some("two"), &[0], true)],
    );
}

#[test]
fn stages_that_cannot_run_are_refused() {
    let refuses = |documents: &[String], expected: &str| {
        assert_eq!(check(&documents.concat()).expect_err("a refusal").chain(), expected);
    };
    refuses(
        &[document("x", &["a"]), document("x", &["b"]), document("", &["x"])],
        "m.yml:8:7: stage `x` is already defined at line 2",
    );
    refuses(
        &[document("x", &["y"]), document("z", &["a"]), document("y", &["z", "w"]), document("w", &["x"])],
        "m.yml:2:7: no stage can be the first of those that need each other: `x` needs `y` needs `w` needs `x`",
    );
    // The first that is found leads to them and is none of them.
    refuses(
        &[document("", &["y"]), document("y", &["z"]), document("z", &["y"])],
        "m.yml:7:7: no stage can be the first of those that need each other: `y` needs `z` needs `y`",
    );
    refuses(
        &[document("x", &["x"]), document("", &["x"])],
        "m.yml:2:7: no stage can be the first of those that need each other: `x` needs `x`",
    );
    refuses(
        &[document("", &["a"]), document("x", &["a"]), document("", &["b"])],
        "m.yml:13:1: document 3 of 3 has no `name`, as document 1; one document may have none, which is the output",
    );
    refuses(
        &[document("../x", &["a"]), document("", &["a"])],
        "m.yml:2:7: `name` must be letters, digits, `-`, `_` and `.`, not starting with a dot, found `../x`",
    );
}
