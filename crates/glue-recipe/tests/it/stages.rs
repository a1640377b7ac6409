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
    // A document alone may have a name, and a path may be called the same.
    let alone = check(&document("x", &["x"])).unwrap();
    assert_eq!((alone[0].name.as_deref(), alone[0].needs.len()), (None, 0));
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
        &[document("x", &["y"]), document("y", &["a"]), document("", &["x"])],
        "m.yml:6:10: `y` is the stage at line 8; a stage can use the output of earlier stages only",
    );
    refuses(
        &[document("x", &["x"]), document("", &["x"])],
        "m.yml:6:10: `x` is the stage at line 2; a stage can use the output of earlier stages only",
    );
    let rule = "the last document is the output and has no `name`, all others have one";
    refuses(
        &[document("", &["a"]), document("", &["b"])],
        &format!("m.yml:2:1: document 1 of 2 has no `name`; {rule}"),
    );
    refuses(
        &[document("x", &["a"]), document("y", &["x"])],
        &format!("m.yml:8:7: the last document is called `y`; {rule}"),
    );
    refuses(
        &[document("../x", &["a"]), document("", &["a"])],
        "m.yml:2:7: `name` must be letters, digits, `-`, `_` and `.`, not starting with a dot, found `../x`",
    );
}
