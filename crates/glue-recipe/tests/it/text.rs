//! What parsing refuses, with its exact message: one row for each.

use glue_merge::Registry;
use glue_progress::ErrorChain;
use glue_recipe::recipe::TokenizerSource;
use glue_recipe::{ParamValue, Recipe, RecipeError};

#[track_caller]
fn refuses(text: &str, expected: &str) -> RecipeError {
    let error = Recipe::parse(text, "r.yml", &Registry::builtin()).expect_err("a refusal");
    assert_eq!(error.chain(), expected, "for:\n{text}");
    assert!(error.is_usage(), "{error}");
    error
}

/// Several refusals, in the order of the text.
#[track_caller]
fn refuses_all(text: &str, expected: &[&str]) {
    match Recipe::parse(text, "r.yml", &Registry::builtin()).expect_err("a refusal") {
        RecipeError::Several { errors } => {
            let found: Vec<String> = errors.iter().map(|error| error.chain()).collect();
            assert_eq!(found, expected, "for:\n{text}");
        }
        error => panic!("one error, {}, for:\n{text}", error.chain()),
    }
}

/// A recipe that is sound, and what it says without effect.
#[track_caller]
fn warns(text: &str, expected: &[&str]) {
    let recipes =
        Recipe::parse(text, "r.yml", &Registry::builtin()).unwrap_or_else(|e| panic!("{}\n{text}", e.chain()));
    let found: Vec<String> = recipes.iter().flat_map(|recipe| &recipe.warnings).map(ToString::to_string).collect();
    assert_eq!(found, expected, "for:\n{text}");
}

/// A recipe that is sound but for `parameters`, which stand at `b`.
fn ties(parameters: &str) -> String {
    format!(
        "merge_method: ties\nbase_model: base\nmodels:\n- model: a\n  parameters: {{weight: 1}}\n- model: b\n  \
         parameters: {parameters}\n"
    )
}

const LIST: &str = "models:\n- model: a\n- model: b\n";

#[test]
fn text_that_is_not_a_recipe() {
    refuses("", "r.yml: no recipe in it");
    refuses("# nothing\n---\n", "r.yml: no recipe in it");
    refuses(
        "just text",
        "r.yml:1:1: a recipe must be a mapping with name, merge_method, base_model, base_statistics, models, slices, \
         modules, parameters, dtype, out_dtype, tokenizer_source, tokenizer, chat_template, seed, on_missing, on_vocabulary, on_nonfinite, align_experts, found `just text`",
    );
    refuses("merge_method: linear\nmodels: [a", "r.yml:2:9: not valid YAML: unclosed bracket '['");
    refuses("merge_method: linear\nmerge_method: ties\n", "r.yml:2:1: not valid YAML: key `merge_method` comes twice");
    refuses("a: &x [*x]\n", "r.yml:1:8: not valid YAML: an anchor that refers to itself");
    refuses(
        "merge_method: linear\nseed: .nan\nmodels: [{model: a}]",
        "r.yml:2:7: not valid YAML: `.nan` is not a finite number",
    );
}

#[test]
fn keys() {
    refuses(
        &format!("merge_methd: linear\n{LIST}"),
        "r.yml:1:1: a recipe has no key `merge_methd`; did you mean `merge_method`?",
    );
    refuses(
        "merge_method: passthrough\nmodels:\n- model: a\n  wait: 1\n",
        "r.yml:4:3: an entry of `models` has no key `wait`; it has model, base_model, statistics, parameters",
    );
    refuses_all(
        "merge_method: linear\nslices:\n- sources: [{model: a, layers: [0, 1]}]\n",
        &[
            "r.yml:3:13: a source needs layer_range",
            "r.yml:3:24: a source has no key `layers`; it has model, layer_range, base_model, statistics, parameters",
        ],
    );
    refuses(LIST, "r.yml:1:1: a recipe needs merge_method");
    refuses("merge_method: linear\n", "r.yml:1:1: a recipe needs `models`, `slices` or `modules`");
    refuses(
        "merge_method: linear\nmodels: [{parameters: {weight: 1}}]\n",
        "r.yml:2:10: an entry of `models` needs model",
    );
    refuses("merge_method: linear\nslices: [{sources: [{model: a}]}]\n", "r.yml:2:21: a source needs layer_range");
    refuses(
        &format!("merge_method: linear\nslices: [{{sources: [{{model: a, layer_range: [0, 1]}}]}}]\n{LIST}"),
        "r.yml:2:9: a recipe has both `models` and `slices`; it takes one of them",
    );
    refuses(
        &format!("merge_method: linear\nmodules: {{default: {{models: [{{model: a}}]}}}}\n{LIST}"),
        "r.yml:2:10: a recipe has both `models` and `modules`; it takes one of them",
    );
}

#[test]
fn values() {
    let with = |line: &str| format!("merge_method: passthrough\nmodels: [{{model: a}}]\n{line}\n");
    refuses(
        "merge_method: linear\nmodels: a\n",
        "r.yml:2:9: `models` must be a list with at least one entry, found `a`",
    );
    refuses(
        "merge_method: linear\nmodels: []\n",
        "r.yml:2:9: `models` must be a list with at least one entry, found an empty list",
    );
    refuses(
        "merge_method: linear\nmodels:\n- model: 7\n",
        "r.yml:3:10: `model` must be the path of a model (in quotes if it looks like a number), found 7",
    );
    refuses(
        &with("dtype: int8"),
        "r.yml:3:8: `dtype` must be a floating-point type (`float64`, `float32`, `float16`, `bfloat16`, \
         `float8_e4m3fn`, `float8_e5m2`), found `int8`",
    );
    refuses(&with("seed: -1"), "r.yml:3:7: `seed` must be a whole number of at most 64 bits, found -1");
    refuses(&with("seed: 1.5"), "r.yml:3:7: `seed` must be a whole number of at most 64 bits, found 1.5");
    refuses(&with("on_missing: warn"), "r.yml:3:13: `on_missing` must be `error`, `base`, `skip`, found `warn`");
    refuses(
        &with("on_missing: base"),
        "r.yml:3:13: `on_missing` must be `error` or `skip` in a recipe without `base_model`, found `base`",
    );
    refuses(&with("on_nonfinite: 0"), "r.yml:3:15: `on_nonfinite` must be `error`, `zero`, found 0");
    refuses(&with("name: true"), "r.yml:3:7: `name` must be text (put it in quotes), found true");
    refuses(&with("parameters: 3"), "r.yml:3:13: `parameters` must be a mapping from parameters to values, found 3");
    refuses(
        &with("tokenizer_source: base\ntokenizer: {source: base}"),
        "r.yml:4:12: a recipe has both `tokenizer_source` and `tokenizer`; it takes one of them",
    );
    refuses(
        &with("tokenizer: {source: base, pad_to_multiple_of: 8}"),
        "r.yml:3:47: changing the vocabulary (`pad_to_multiple_of`) is not available yet",
    );
}

#[test]
fn layers() {
    let range = |range: &str| {
        format!("merge_method: passthrough\nslices:\n- sources:\n  - model: a\n    layer_range: {range}\n")
    };
    let two = "two whole numbers: the first layer and one beyond the last";
    refuses(&range("[0, 2, 3]"), &format!("r.yml:5:18: `layer_range` must be {two}, found [0, 2, 3]"));
    refuses(&range("[-1, 2]"), &format!("r.yml:5:18: `layer_range` must be {two}, found [-1, 2]"));
    refuses(&range("4"), &format!("r.yml:5:18: `layer_range` must be {two}, found 4"));
    refuses(
        &range("[2, 2]"),
        "r.yml:5:18: `layer_range` must be a first layer and a greater number, one beyond the last layer, found [2, 2]",
    );
    refuses(
        "merge_method: slerp\nbase_model: a\nparameters: {t: 0.5}\nslices:\n- sources:\n  - {model: a, layer_range: \
         [0, 2]}\n  - {model: b, layer_range: [0, 3]}\n",
        "r.yml:7:29: the sources of a slice must have equally many layers, but `a` has 2 and `b` has 3",
    );
}

#[test]
fn operators_and_their_operands() {
    refuses(&format!("merge_method: tise\n{LIST}"), "r.yml:1:15: no operator is called `tise`; did you mean `ties`?");
    refuses(&format!("merge_method: quantum\n{LIST}"), "r.yml:1:15: no operator is called `quantum`");
    let error = refuses(&format!("merge_method: ties\n{LIST}"), "r.yml:1:15: ties needs a base model, none is given");
    assert_eq!(error.hint().as_deref(), Some("name it with `base_model: PATH` at the top of the recipe"));
    refuses(
        "merge_method: slerp\nbase_model: a\nparameters: {t: 0.5}\nmodels:\n- model: a\n",
        "r.yml:5:3: slerp merges exactly 1 model besides the base, found 0",
    );
    refuses(
        "merge_method: nuslerp\nmodels:\n- {model: a, parameters: {weight: 1}}\n",
        "r.yml:3:3: nuslerp merges exactly 2 models, found 1",
    );
    refuses(
        "merge_method: model_stock\nbase_model: base\nslices:\n- sources: [{model: a, layer_range: [0, 1]}]\n",
        "r.yml:4:3: model_stock merges 2 or more models besides the base, found 1",
    );
    refuses(&format!("merge_method: lines\nbase_model: c\n{LIST}"), "r.yml:1:15: lines needs the parameter `operator`");
    refuses(
        &format!("merge_method: lines\nbase_model: c\nparameters: {{operator: linear}}\n{LIST}"),
        "r.yml:3:24: lines: `operator` must be an operator that needs a base and wraps no other, found `linear`",
    );
    refuses(
        &format!("merge_method: lines\nbase_model: c\nparameters: {{operator: tise}}\n{LIST}"),
        "r.yml:3:24: no operator is called `tise`; did you mean `ties`?",
    );
}

#[test]
fn parameters() {
    refuses(&ties("{weigth: 1}"), "r.yml:7:16: ties has no parameter `weigth`; did you mean `weight`?");
    refuses(
        &ties("{temperature: 1}"),
        "r.yml:7:16: ties has no parameter `temperature`; it has weight, density, lambda, normalize, rescale",
    );
    refuses(
        &ties("{weight: 1, density: 0}"),
        "r.yml:7:36: ties: `density` must be a number above 0 and at most 1, found 0",
    );
    refuses(
        &ties("{weight: 1, density: 1.5}"),
        "r.yml:7:36: ties: `density` must be a number above 0 and at most 1, found 1.5",
    );
    refuses(
        &ties("{weight: 1, density: [0.5, 1.5]}"),
        "r.yml:7:42: ties: `density` must be a number above 0 and at most 1, found 1.5",
    );
    refuses(&ties("{weight: heavy}"), "r.yml:7:24: ties: `weight` must be a finite number, found `heavy`");
    refuses(
        &ties("{weight: [{filter: mlp, value: [1, true]}]}"),
        "r.yml:7:50: ties: `weight` must be a finite number, found true",
    );
    refuses(
        &ties("{weight: [1, {filter: mlp, value: 2}]}"),
        "r.yml:7:25: a value with a filter must be a mapping with filter, value, found 1",
    );
    refuses(&ties("{weight: [{filter: mlp}]}"), "r.yml:7:25: a value with a filter needs value");
    refuses(
        &ties("{weight: [{fitler: mlp, value: 1}]}"),
        "r.yml:7:26: a value with a filter has no key `fitler`; did you mean `filter`?",
    );
    refuses(
        &ties("{weight: []}"),
        "r.yml:7:24: `weight` must be a value, a list of values over the layers, or a list of filters and values, found an empty \
         list",
    );
    refuses(
        "merge_method: slerp\nbase_model: a\nmodels:\n- {model: b, parameters: {t: 0.5}}\n",
        "r.yml:4:27: slerp: `t` holds for the whole merge and cannot differ between models",
    );
    refuses(
        "merge_method: karcher\nmodels: [{model: a}]\nparameters: {max_iter: 1.5}\n",
        "r.yml:3:24: karcher: `max_iter` must be a whole number of at least 1, found 1.5",
    );
    refuses(
        "merge_method: linear\nmodels: [{model: a}]\nparameters: {normalize: [true, 0.5]}\n",
        "r.yml:3:32: linear: `normalize` must be true or false, found 0.5",
    );
}

#[test]
fn all_errors_are_told_at_once() {
    refuses_all(
        "merge_methd: ties\nbase_model: 7\nmodels:\n- model: a\n  parameters: {wieght: 1}\n- {}\nparameters: {density: 2}\ndtype: \
         int8\n---\nmerge_method: slerp\nbase_model: a\nparameters: {t: 2}\nmodels: [{model: b, parameters: {t: 1}}]\n",
        &[
            "r.yml:1:1: a recipe has no key `merge_methd`; did you mean `merge_method`?",
            "r.yml:2:13: `base_model` must be the path of a model (in quotes if it looks like a number), found 7",
            "r.yml:5:16: `parameters` has no key `wieght`; did you mean `weight`?",
            "r.yml:6:3: an entry of `models` needs model",
            "r.yml:8:8: `dtype` must be a floating-point type (`float64`, `float32`, `float16`, `bfloat16`, \
             `float8_e4m3fn`, `float8_e5m2`), found `int8`",
            "r.yml:13:34: slerp: `t` holds for the whole merge and cannot differ between models",
        ],
    );
    refuses_all(
        "merge_method: ties\nmodels:\n- model: a\n  parameters: {wieght: 1}\nparameters: {density: 2}\nsede: 1\n",
        &[
            "r.yml:1:15: ties needs a base model, none is given",
            "r.yml:4:16: ties has no parameter `wieght`; did you mean `weight`?",
            "r.yml:5:23: ties: `density` must be a number above 0 and at most 1, found 2",
            "r.yml:6:1: a recipe has no key `sede`; did you mean `seed`?",
        ],
    );
}

#[test]
fn what_has_no_effect_is_a_warning() {
    warns(
        "merge_method: slerp\nbase_model: a\nmodels:\n- {model: a, parameters: {weight: 1}}\n- {model: b, parameters: {weight: \
         2}}\nparameters: {t: 0.5, normalize: true, int8_mask: true}\n",
        &[
            "r.yml:4:27: `weight` has no effect: slerp has no such parameter; it has `t`",
            "r.yml:5:27: `weight` has no effect: slerp has no such parameter; it has `t`",
            "r.yml:6:22: `normalize` has no effect: slerp has no such parameter; it has `t`",
            "r.yml:6:39: `int8_mask` has no effect: masks are never stored, so their type does not matter",
        ],
    );
    warns(
        &ties("{weight: 1, normalize: false, dtype: float16}"),
        &[
            "r.yml:7:27: `normalize` has no effect: for ties it holds for the whole merge, not for a model",
            "r.yml:7:45: `dtype` has no effect: it is no parameter; it belongs at the top of the recipe",
        ],
    );
    warns(
        "merge_method: arcee_fusion\nbase_model: a\nselect_topk: 0.1\nmodels:\n- {model: {model: {path: b, revision: x}}, \
         revision: main, parameters: {weight: 1}}\n",
        &[
            "r.yml:3:1: `select_topk` has no effect: it is a parameter, which belongs under `parameters`",
            "r.yml:5:29: `revision` has no effect: the directory is read as it is, and nothing is downloaded",
            "r.yml:5:44: `revision` has no effect: the directory is read as it is, and nothing is downloaded",
            "r.yml:5:73: `weight` has no effect: arcee_fusion has no such parameter; it has none",
        ],
    );
    warns(&ties("{weight: 1, density: 0.5}"), &[]);
}

#[test]
fn what_mergekit_takes_is_taken() {
    let parse = |text: &str| Recipe::parse(text, "r.yml", &Registry::builtin());
    assert!(parse(&ties("{weight: 1, density: 0.5, int8_mask: true}")).is_ok());
    assert!(
        parse("merge_method: linear\nparameters: {int8_mask: true}\nmodels: [{model: a, parameters: {weight: 1}}]")
            .is_ok()
    );
    let parse =
        |text: &str| Recipe::parse(text, "r.yml", &Registry::builtin()).unwrap_or_else(|e| panic!("{e}\n{text}"));
    // A model in full, a single filter, and a tokenizer as a mapping.
    let recipe = parse(
        "merge_method: linear\nmodels:\n- model: {model: {path: a}}\n  parameters:\n    weight: {filter: mlp, value: \
         [0, 1]}\n- model: {model: b}\n  parameters: {weight: 1}\nparameters: {weight: 2}\ntokenizer: {source: union}\n\
         dtype: float16\nout_dtype: bfloat16\nbase_model:\n",
    );
    assert_eq!(recipe[0].models().map(|name| name.value.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    // Without a source, the tokenizer is that of all models.
    let recipe = parse("merge_method: passthrough\nmodels: [{model: a}]\ntokenizer: {}\n");
    assert_eq!(recipe[0].tokenizer.as_ref().map(|source| &source.value), Some(&TokenizerSource::Union));
    // Numbers in quotes, as YAML 1.1 needs them for `1e-5`, and lists of flags and words.
    let recipe = parse(
        "merge_method: dare_linear\nbase_model: a\nmodels: [{model: b}]\nparameters: {weight: '0.5', density: ['1e-1', 1], \
         normalize: [true, false], rescale: [l1, inverse]}\n",
    );
    let value = |key: &str| recipe[0].settings.get(key).map(|value| value.value.clone());
    assert_eq!(value("weight"), Some(ParamValue::Scalar(0.5.into())));
    assert_eq!(value("density"), Some(ParamValue::Gradient(vec![0.1, 1.0])));
    assert_eq!(value("normalize"), Some(ParamValue::Steps(vec![true.into(), false.into()])));
    assert_eq!(value("rescale"), Some(ParamValue::Steps(vec!["l1".into(), "inverse".into()])));
    // Words of YAML 1.1 are flags only where flags belong.
    let recipe =
        parse("merge_method: linear\nparameters: {weight: 1, normalize: off}\nmodels: [{model: y}, {model: on}]\n");
    assert_eq!(recipe[0].models().map(|name| name.value.as_str()).collect::<Vec<_>>(), ["y", "on"]);
    // Documents, comments and a directive.
    let text = "%YAML 1.2\n---\n# first\nname: one\nmerge_method: passthrough\nmodels: [{model: a}]\n--- # second\n\
                merge_method: passthrough\nmodels: [{model: one}]\n";
    let recipes = parse(text);
    let texts: Vec<&str> = recipes.iter().map(|recipe| recipe.text.as_str()).collect();
    assert_eq!(
        texts,
        [
            "# first\nname: one\nmerge_method: passthrough\nmodels: [{model: a}]\n",
            "merge_method: passthrough\nmodels: [{model: one}]\n"
        ]
    );
    for recipe in &recipes {
        assert_eq!(parse(&recipe.text).len(), 1);
    }
}

/// A recipe's own text gives the same recipe whatever its lines end with; a carriage return before a line feed was once
/// lost on the way.
#[test]
fn lines_may_end_in_any_way() {
    let parse = |text: &str| Recipe::parse(text, "r.yml", &Registry::builtin()).expect("a sound recipe");
    for end in ["\n", "\r\n", "\r", "\r\r\r\n"] {
        let text =
            ["merge_method: linear", "models:", "- model: a", "", "    b", "  parameters: {weight: 1}", ""].join(end);
        let recipe = parse(&text).remove(0);
        let again = parse(&recipe.text).remove(0);
        let names = |recipe: &Recipe| recipe.models().map(|name| name.value.clone()).collect::<Vec<_>>();
        assert_eq!(names(&recipe), names(&again), "{end:?}");
        assert_eq!(recipe.text, again.text, "{end:?}");
    }
}
