//! Whatever the text, parsing returns.

use glue_merge::Registry;
use glue_recipe::{Recipe, Stages};
use proptest::prelude::*;

fn seeds() -> Vec<String> {
    let mut seeds: Vec<String> = std::fs::read_dir(crate::common::golden().join("cases"))
        .unwrap()
        .map(|case| std::fs::read_to_string(case.unwrap().path().join("config.yml")).unwrap())
        .collect();
    seeds.push(
        "name: one\nmerge_method: lines\nbase_model: &b base\nmodules:\n  default:\n    slices:\n    - sources: [{model: \
         *b, layer_range: [0, 2]}, {model: a+lora, layer_range: [0, 2]}]\nparameters: {operator: ties, alpha: [0, 1]}\n\
         tokenizer: {source: base}\nchat_template: auto\nseed: 18446744073709551615\n---\nmerge_method: \
         passthrough\nmodels: [{model: one}]\n"
            .into(),
    );
    seeds.sort();
    seeds
}

const PIECES: &[&str] = &[
    "---\n",
    "\n",
    ":",
    ": ",
    "- ",
    "[",
    "]",
    "{",
    "}",
    "&a ",
    "*a",
    "!!str ",
    "!!binary ",
    "<<: ",
    "|\n",
    ">-\n",
    "'",
    "\"",
    "#",
    "~",
    "\t",
    "\u{0}",
    "é",
    "\u{feff}",
    "-1",
    "1e999",
    "0x",
    "99999999999999999999",
    "model",
    "true",
    "\r",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn on_mutated_recipes(
        seed in 0..34usize,
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0..8usize, any::<prop::sample::Index>()), 0..6),
    ) {
        let mut text: Vec<char> = seeds()[seed].chars().collect();
        for (at, remove, piece) in edits {
            let at = at.index(text.len() + 1);
            let end = (at + remove).min(text.len());
            text.splice(at..end, PIECES[piece.index(PIECES.len())].chars());
        }
        let text: String = text.into_iter().collect();
        if let Ok(recipes) = Recipe::parse(&text, "r.yml", &Registry::builtin()) {
            let _ = Stages::check(recipes);
        }
    }

    #[test]
    fn on_any_text(text in "\\PC*") {
        let _ = Recipe::parse(&text, "r.yml", &Registry::builtin());
    }
}

#[test]
fn on_deep_and_wide_text() {
    let registry = Registry::builtin();
    for text in ["[".repeat(100_000), "- ".repeat(100_000), "{a: ".repeat(100_000), "a\n".repeat(100_000)] {
        assert!(Recipe::parse(&text, "r.yml", &registry).is_err());
    }
    let aliases: String = (1..30).map(|i| format!("a{i}: &a{i} [*a{0}, *a{0}, *a{0}]\n", i - 1)).collect();
    assert!(Recipe::parse(&format!("a0: &a0 [x]\n{aliases}"), "r.yml", &registry).is_err());
}
