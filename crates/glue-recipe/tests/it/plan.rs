//! What a plan says of each tensor: operands, parameters, names, configuration.

use crate::common::{Model, Zoo, golden};
use glue_merge::{Params, Registry};
use glue_recipe::{Action, MergePlan, PlanOptions, Recipe, TensorPlan, plan};
use glue_tensor::Dtype;
use serde_json::json;

fn tensor<'a>(plan: &'a MergePlan, name: &str) -> &'a TensorPlan {
    plan.tensors.iter().find(|tensor| tensor.name == name).unwrap_or_else(|| panic!("no {name} in the plan"))
}

fn params<'a>(plan: &'a MergePlan, name: &str) -> &'a Params {
    match &tensor(plan, name).action {
        Action::Merge { params, .. } => params,
        Action::Copy(_) => panic!("{name} is copied"),
    }
}

/// The operands of a tensor: `model:tensor`, the base in parentheses.
fn operands(plan: &MergePlan, name: &str) -> Vec<String> {
    let tensor = tensor(plan, name);
    let written = |r: &glue_recipe::TensorRef| format!("{}:{}", plan.models[r.model].name, r.name);
    let base = tensor.base().map(|base| format!("({})", written(base)));
    base.into_iter().chain(tensor.inputs().iter().map(written)).collect()
}

fn layer(n: usize, suffix: &str) -> String {
    format!("model.layers.{n}.{suffix}.weight")
}

#[test]
fn gradients_and_filters_agree_with_hand_computed_values() {
    let zoo = Zoo::new([("a", Model::llama(5)), ("b", Model::llama(5))]);
    let plan = zoo
        .plan(
            "merge_method: linear\nmodels:\n- model: a\n  parameters:\n    weight:\n    - {filter: self_attn, value: [0, 1]}\n    \
             - {filter: mlp, value: [1, 0.2, 0.4]}\n- model: b\n  parameters: {weight: [{filter: layers.3., value: 7}]}\n\
             parameters:\n  weight: [{filter: norm, value: [10, 20]}, {value: 5}]\n",
        )
        .unwrap();
    let check = |name: &str, expected: [f64; 2]| {
        let found = params(&plan, name).input_numbers("weight");
        let near = found.iter().zip(expected).all(|(x, y)| (x - y).abs() < 1e-12);
        assert!(near, "{name}: {found:?}, expected {expected:?}");
    };
    // Layers 0 to 4 stand at 0, 1/4, 1/2, 3/4 and 1.
    check(&layer(1, "self_attn.q_proj"), [0.25, 5.0]);
    check(&layer(3, "self_attn.q_proj"), [0.75, 7.0]);
    check(&layer(1, "mlp.down_proj"), [0.6, 5.0]);
    check(&layer(2, "mlp.down_proj"), [0.2, 5.0]);
    check(&layer(4, "mlp.down_proj"), [0.4, 5.0]);
    // No filter of the model matches: the top level decides, and `layernorm` holds `norm`.
    check(&layer(1, "input_layernorm"), [12.5, 12.5]);
    check(&layer(3, "input_layernorm"), [17.5, 7.0]);
    // Before the layers at 0, after them at 1.
    check("model.embed_tokens.weight", [5.0, 5.0]);
    check("model.norm.weight", [20.0, 20.0]);
    check("lm_head.weight", [5.0, 5.0]);
}

#[test]
fn the_closest_value_wins() {
    let zoo = Zoo::new([("a", Model::llama(2)), ("b", Model::llama(2))]);
    let plan = zoo
        .plan(
            "merge_method: linear\nslices:\n- sources:\n  - {model: a, layer_range: [0, 1], parameters: {weight: 1}}\n  - \
             {model: b, layer_range: [0, 1]}\n  parameters: {weight: 2, normalize: false}\n- sources:\n  - {model: a, \
             layer_range: [0, 2]}\n  - {model: b, layer_range: [0, 2], parameters: {weight: [3, 4]}}\n\
             parameters: {weight: 5}\n",
        )
        .unwrap();
    let check = |name: &str, weights: [f64; 2], normalize: bool| {
        let params = params(&plan, name);
        assert_eq!(params.input_numbers("weight"), weights, "{name}");
        assert_eq!(params.flag("normalize"), normalize, "{name}");
    };
    check(&layer(0, "mlp.down_proj"), [1.0, 2.0], false);
    // Gradients run over their slice.
    check(&layer(1, "mlp.down_proj"), [5.0, 3.0], true);
    check(&layer(2, "mlp.down_proj"), [5.0, 4.0], true);
    check("model.embed_tokens.weight", [1.0, 2.0], false);
    check("lm_head.weight", [5.0, 4.0], true);
}

#[test]
fn filters_see_the_name_in_the_input_and_in_the_output() {
    let zoo = Zoo::new([("a", Model::llama(2)), ("b", Model::llama(2))]);
    let slices = |parameters: &str| {
        format!(
            "slices:\n- sources: [{{model: a, layer_range: [0, 2]}}, {{model: b, layer_range: [0, 2]}}]\n- sources: \
             [{{model: a, layer_range: [0, 1]}}, {{model: b, layer_range: [1, 2]}}]\nparameters: {parameters}\n"
        )
    };
    let cases = "[{filter: layers.0., value: 1}, {filter: layers.1., value: 2}, {value: 3}]";
    // As mergekit does: layer 2 of the output is layer 0 of `a` and layer 1 of `b`.
    let plan = zoo.plan(&format!("merge_method: linear\n{}", slices(&format!("{{weight: {cases}}}")))).unwrap();
    assert_eq!(params(&plan, &layer(2, "mlp.down_proj")).input_numbers("weight"), [1.0, 2.0]);
    let plan =
        zoo.plan(&format!("merge_method: slerp\nbase_model: a\n{}", slices(&format!("{{t: {cases}}}")))).unwrap();
    assert_eq!(params(&plan, &layer(2, "mlp.down_proj")).number("t"), 3.0);
}

#[test]
fn a_base_is_told_from_the_inputs_however_it_is_written() {
    let zoo = Zoo::new([("a", Model::llama(1)), ("b", Model::llama(1))]);
    let listed = |method: &str| {
        format!(
            "merge_method: {method}\nbase_model: ./a\nmodels:\n- {{model: a, parameters: {{weight: 1}}}}\n- model: b\nparameters: {{weight: 1}}\n"
        )
    };
    let name = &layer(0, "mlp.down_proj");
    let plan = zoo.plan(&listed("task_arithmetic")).unwrap();
    assert_eq!(operands(&plan, name), [format!("(./a:{name})"), format!("b:{name}")]);
    assert_eq!(plan.notes, ["`a` is the base; its `weight` is not used"]);
    // An operator that has no use for a base takes it as an input.
    let plan = zoo.plan(&listed("linear")).unwrap();
    assert_eq!(operands(&plan, name), [format!("./a:{name}"), format!("b:{name}")]);
    // A base that is not listed gives the configuration alone.
    let plan = zoo.plan("merge_method: passthrough\nbase_model: a\nmodels: [{model: b}]\n").unwrap();
    assert_eq!(operands(&plan, name), [format!("b:{name}")]);
    assert_eq!((plan.config_from, plan.models.len()), (0, 2));
}

#[test]
fn slices_stack() {
    let types = json!(["full", "sliding", "full"]);
    let zoo = Zoo::new([
        ("a", Model::llama(3).with_config("layer_types", types)),
        ("b", Model::llama(4)),
        ("c", Model::llama(3)),
    ]);
    let plan = zoo
        .plan(
            "merge_method: passthrough\nslices:\n- sources: [{model: a, layer_range: [0, 2]}]\n- sources: [{model: b, \
             layer_range: [2, 4]}]\n- sources: [{model: a, layer_range: [1, 2]}]\n",
        )
        .unwrap();
    let check = |output: usize, expected: &str| {
        let name = layer(output, "self_attn.q_proj");
        assert_eq!(operands(&plan, &name), [expected.to_string()]);
        assert_eq!(tensor(&plan, &name).layer, Some((output, 5)));
    };
    check(0, "a:model.layers.0.self_attn.q_proj.weight");
    check(1, "a:model.layers.1.self_attn.q_proj.weight");
    check(2, "b:model.layers.2.self_attn.q_proj.weight");
    check(3, "b:model.layers.3.self_attn.q_proj.weight");
    check(4, "a:model.layers.1.self_attn.q_proj.weight");
    assert_eq!(operands(&plan, "lm_head.weight"), ["a:lm_head.weight"]);
    assert_eq!(plan.config.num_layers(), Some(5));
    assert_eq!(plan.config.get("layer_types"), Some(&json!(["full", "sliding", "full", "full", "sliding"])));
    let order: Vec<&str> = plan.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    assert_eq!(order[..2], ["model.embed_tokens.weight", "model.layers.0.input_layernorm.weight"]);
    assert_eq!(order[order.len() - 2..], ["lm_head.weight", "model.norm.weight"]);

    // The head of the last slice's model; a base that is not among the sources, at the first source's layers.
    let plan = zoo
        .plan(
            "merge_method: task_arithmetic\nbase_model: c\nparameters: {weight: 1}\nslices:\n- sources: [{model: a, \
             layer_range: [0, 1]}]\n- sources: [{model: b, layer_range: [1, 2]}, {model: a, layer_range: [0, 1]}]\n",
        )
        .unwrap();
    assert_eq!(
        operands(&plan, &layer(1, "mlp.down_proj")),
        [
            "(c:model.layers.1.mlp.down_proj.weight)",
            "b:model.layers.1.mlp.down_proj.weight",
            "a:model.layers.0.mlp.down_proj.weight"
        ]
    );
    assert_eq!(operands(&plan, "lm_head.weight"), ["(c:lm_head.weight)", "b:lm_head.weight", "a:lm_head.weight"]);
}

#[test]
fn layers_that_do_not_fit_are_refused() {
    let zoo = Zoo::new([("a", Model::llama(2)), ("b", Model::llama(3))]);
    let error = zoo.refuses(
        "merge_method: linear\nparameters: {weight: 1}\nmodels:\n- model: a\n- model: b\n",
        "recipe.yml:5:10: `b` has 3 layers, but `a` has 2; `models` merges layer by layer",
    );
    assert!(error.hint().unwrap().contains("layer_range"));
    zoo.refuses(
        "merge_method: passthrough\nslices:\n- sources: [{model: a, layer_range: [1, 3]}]\n",
        "recipe.yml:3:37: `layer_range` is [1, 3], but model `a` has 2 layers",
    );
    zoo.refuses(
        "merge_method: task_arithmetic\nparameters: {weight: 1}\nbase_model: a\nslices:\n- sources: [{model: b, layer_range: [1, 3]}]\n",
        "recipe.yml:5:3: `layer_range` is [1, 3], but model `a` has 2 layers",
    );
}

#[test]
fn models_that_cannot_be_opened_are_refused() {
    let zoo = Zoo::new([
        ("a", Model::llama(1)),
        ("q", Model::llama(1).with_config("quantization_config", json!({ "quant_method": "gptq" }))),
    ]);
    let passthrough = |model: &str| format!("merge_method: passthrough\nmodels:\n- model: {model}\n");
    let error = zoo.refuses(&passthrough("nowhere"), "recipe.yml:3:10: ZOO/nowhere: no such directory");
    assert!(error.is_usage());
    let error = zoo.refuses(
        &passthrough("a+adapter"),
        "recipe.yml:3:10: ZOO/adapter: no such directory; an adapter is a directory with adapter_config.json and \
         adapter_model.safetensors",
    );
    assert!(error.is_usage() && error.hint().is_some());
    zoo.refuses(&passthrough("nowhere+a"), "recipe.yml:3:10: ZOO/nowhere: no such directory");
    zoo.refuses(
        &passthrough("{model: {path: a}, lora: {path: q}}"),
        "recipe.yml:3:25: ZOO/q: no adapter_config.json in the directory, so it holds no adapter",
    );
    zoo.refuses(
        &passthrough("q"),
        "recipe.yml:3:10: model `q` is quantised (gptq); its numbers mean nothing without their scales",
    );
    zoo.refuses(
        "merge_method: linear\nparameters: {weight: 1}\nmodels:\n- model: a\n- model: ./a\n",
        "recipe.yml:5:10: `./a` is listed twice",
    );
    zoo.refuses(
        "merge_method: slerp\nbase_model: a\nparameters: {t: 0.5}\nmodels: [{model: ./a}]\n",
        "recipe.yml:4:9: slerp merges exactly 1 model besides the base, found 0",
    );
}

#[test]
fn parameters_an_operator_refuses_at_some_tensor_are_refused() {
    let zoo = Zoo::new([("a", Model::llama(1)), ("b", Model::llama(1)), ("deep", Model::llama(3))]);
    let linear = |a: &str, b: &str| {
        format!(
            "merge_method: linear\nmodels:\n- {{model: a, parameters: {{weight: {a}}}}}\n- {{model: b, parameters: {{weight: {b}}}}}\n"
        )
    };
    let error = zoo.refuses(
        &linear("1", "[{filter: mlp, value: 1}]"),
        "recipe.yml:1:15: tensor `model.embed_tokens.weight`: linear needs `weight` for every model; it is missing for `b`",
    );
    assert!(error.is_usage() && error.hint().is_some());
    zoo.refuses(
        &linear("1", "-1"),
        "recipe.yml:1:15: tensor `model.embed_tokens.weight`: linear: `weight` must be such that the weights do not \
         add up to 0, which normalize divides by, found [1.0, -1.0]",
    );
    zoo.refuses(
        "merge_method: slerp\nbase_model: a\nmodels: [{model: b}]\n",
        "recipe.yml:1:15: tensor `model.embed_tokens.weight`: slerp needs the parameter `t`",
    );
    zoo.refuses(
        "merge_method: karcher\nmodels: [{model: deep}]\nparameters: {max_iter: [1, 2]}\n",
        "recipe.yml:1:15: tensor `model.layers.1.input_layernorm.weight`: karcher: `max_iter` must be a whole number \
         of at least 1, found 1.5",
    );
}

#[test]
fn tensors_that_do_not_fit_are_refused() {
    let extra = "model.layers.1.mlp.up_proj.weight";
    let zoo = Zoo::new([
        ("a", Model::llama(2)),
        ("wide", Model::llama(2).with(&layer(1, "mlp.down_proj"), Dtype::F32, &[4, 16])),
        ("vocab", Model::llama(2).with("model.embed_tokens.weight", Dtype::F32, &[12, 4])),
        ("less", Model::llama(2).without(&layer(1, "mlp.down_proj"))),
        ("more", Model::llama(2).with(extra, Dtype::F32, &[8, 4])),
        ("int", Model::llama(2).with("model.norm.weight", Dtype::I32, &[4])),
    ]);
    let with = |other: &str| {
        format!("merge_method: linear\nparameters: {{weight: 1}}\nmodels: [{{model: a}}, {{model: {other}}}]\n")
    };
    let error = zoo
        .refuses(&with("wide"), "tensor `model.layers.1.mlp.down_proj.weight` is [4, 8] in `a`, but [4, 16] in `wide`");
    assert!(error.hint().unwrap().contains("different architectures or widths"));
    let error =
        zoo.refuses(&with("vocab"), "tensor `model.embed_tokens.weight` is [10, 4] in `a`, but [12, 4] in `vocab`");
    assert!(error.hint().unwrap().contains("vocabular"));
    let error = zoo.refuses(&with("less"), "tensor `model.layers.1.mlp.down_proj.weight` is in `a`, but not in `less`");
    assert!(error.hint().unwrap().contains("on_missing"));
    zoo.refuses(&with("more"), "tensor `model.layers.1.mlp.up_proj.weight` is in `more`, but not in `a`");
    zoo.refuses(&with("int"), "tensor `model.norm.weight` is F32 in `a`, but I32 in `int`");
    zoo.refuses(
        "merge_method: linear\nparameters: {weight: 1}\nslices:\n- sources: [{model: a, layer_range: [0, 1]}, {model: less, layer_range: [1, 2]}]\n",
        "tensor `model.layers.0.mlp.down_proj.weight` is in `a`, but not in `less` (looked for as \
         `model.layers.1.mlp.down_proj.weight`)",
    );
}

#[test]
fn missing_tensors_are_handled_as_the_recipe_says() {
    let name = &layer(1, "mlp.down_proj");
    let zoo = Zoo::new([("base", Model::llama(2)), ("a", Model::llama(2)), ("less", Model::llama(2).without(name))]);
    let with = |method: &str, on_missing: &str| {
        format!(
            "merge_method: {method}\nbase_model: base\non_missing: {on_missing}\nparameters: {{weight: 1}}\nmodels: [{{model: a}}, {{model: less}}]\n"
        )
    };
    let skip = zoo.plan(&with("task_arithmetic", "skip")).unwrap();
    assert!(skip.tensors.iter().all(|tensor| tensor.name != *name));
    assert_eq!(skip.dropped, [(name.clone(), "`less` does not have it".into())]);
    let stand_in = format!("`{name}`: that of `base` stands in for `less`, which lacks it");
    let base = zoo.plan(&with("task_arithmetic", "base")).unwrap();
    assert_eq!(operands(&base, name), [format!("(base:{name})"), format!("a:{name}"), format!("base:{name}")]);
    assert_eq!(base.notes.first(), Some(&stand_in));
    let base = zoo.plan(&with("linear", "base")).unwrap();
    assert_eq!(operands(&base, name), [format!("a:{name}"), format!("base:{name}")]);
    assert_eq!(base.notes, [stand_in]);
}

#[test]
fn tied_heads() {
    let bias = |model: Model| model.with("lm_head.bias", Dtype::F32, &[10]);
    let zoo = Zoo::new([
        ("free", Model::llama(1)),
        ("tied", Model::llama(1).tied()),
        ("stored", Model::llama(1).with_config("tie_word_embeddings", json!(true))),
        ("bias", bias(Model::llama(1).tied())),
    ]);
    let merge = |a: &str, b: &str| {
        zoo.plan(&format!(
            "merge_method: linear\nparameters: {{weight: 1}}\nmodels: [{{model: {a}}}, {{model: {b}}}]\n"
        ))
        .unwrap()
    };
    let head = "lm_head.weight";
    let has_head = |plan: &MergePlan| plan.tensors.iter().any(|tensor| tensor.name == head);
    for plan in [merge("free", "tied"), merge("tied", "free"), merge("stored", "free")] {
        let mut found = operands(&plan, head);
        found.sort();
        assert_eq!(found[0], "free:lm_head.weight");
        assert!(found[1].ends_with(":model.embed_tokens.weight"), "{found:?}");
        assert_eq!(plan.config.tie_word_embeddings(), Some(false));
    }
    for plan in [merge("tied", "stored"), merge("stored", "tied")] {
        assert!(!has_head(&plan));
        assert_eq!(plan.config.tie_word_embeddings(), Some(true));
        assert_eq!(plan.dropped[0].0, head);
    }
    let alone = zoo.plan("merge_method: passthrough\nmodels: [{model: bias}]\n").unwrap();
    assert!(!has_head(&alone) && alone.dropped.is_empty());
    assert_eq!(operands(&alone, "lm_head.bias"), ["bias:lm_head.bias"]);
    assert_eq!(alone.config.tie_word_embeddings(), Some(true));
    // A configuration that comes from another model than the head does.
    let other = zoo.plan("merge_method: passthrough\nbase_model: tied\nmodels: [{model: free}]\n").unwrap();
    assert!(has_head(&other));
    assert_eq!(other.config.tie_word_embeddings(), Some(false));
    let other = zoo.plan("merge_method: passthrough\nbase_model: free\nmodels: [{model: tied}]\n").unwrap();
    assert!(!has_head(&other));
    assert_eq!(other.config.tie_word_embeddings(), Some(true));
}

#[test]
fn what_is_not_floating_point_is_copied_from_the_first_model() {
    let ids = "model.position_ids";
    let zoo = Zoo::new([
        ("a", Model::llama(1).with(ids, Dtype::I64, &[1, 8])),
        ("b", Model::llama(1).with(ids, Dtype::I64, &[1, 8])),
    ]);
    let plan = zoo
        .plan("merge_method: linear\nparameters: {weight: 1}\ndtype: bfloat16\nmodels: [{model: a}, {model: b}]\n")
        .unwrap();
    let (copied, from) = plan.copied().next().unwrap();
    assert_eq!((copied.name.as_str(), copied.dtype, from.model), (ids, Dtype::I64, 0));
    assert_eq!(tensor(&plan, "lm_head.weight").dtype, Dtype::Bf16);
    assert_eq!(plan.config.dtype(), Some(Dtype::Bf16));
}

#[test]
fn numbers_that_cannot_be_widened_are_copied_or_refused() {
    let scales = "model.layers.0.mlp.down_proj.weight_scale";
    for dtype in [Dtype::F8E8M0, Dtype::F8E4M3Fnuz, Dtype::F8E5M2Fnuz, Dtype::C64] {
        let model = || Model::llama(1).with(scales, dtype, &[4, 1]);
        let zoo = Zoo::new([("a", model()), ("b", model())]);
        let plan = zoo.plan("merge_method: passthrough\nmodels: [{model: a}]\n").unwrap();
        assert!(plan.copied().any(|(tensor, _)| tensor.name == scales && tensor.dtype == dtype));
        zoo.refuses(
            "merge_method: linear\nparameters: {weight: 1}\nmodels: [{model: a}, {model: b}]\n",
            &format!("tensor `{scales}` of `a` is {dtype}, which can be copied but not merged"),
        );
    }
}

#[test]
fn the_type_of_the_output() {
    let half = Model::llama(1).with("model.norm.weight", Dtype::Bf16, &[4]);
    let zoo = Zoo::new([("a", half), ("b", Model::llama(1))]);
    let check = |line: &str, norm: Dtype, head: Dtype, config: Dtype| {
        let plan = zoo
            .plan(&format!(
                "merge_method: linear\nparameters: {{weight: 1}}\nmodels: [{{model: a}}, {{model: b}}]\n{line}\n"
            ))
            .unwrap();
        let found = (tensor(&plan, "model.norm.weight").dtype, tensor(&plan, "lm_head.weight").dtype);
        assert_eq!((found, plan.config.dtype()), ((norm, head), Some(config)), "{line}");
    };
    check("", Dtype::Bf16, Dtype::F32, Dtype::F32);
    check("dtype: float16", Dtype::F16, Dtype::F16, Dtype::F16);
    check("dtype: float16\nout_dtype: bfloat16", Dtype::Bf16, Dtype::Bf16, Dtype::Bf16);
}

#[test]
fn tokenizers() {
    let zoo = Zoo::new([
        ("a", Model::llama(1).with_tokens(&["x", "y"]).with_file("chat_template.jinja", "{{ a }}")),
        ("same", Model::llama(1).with_tokens(&["x", "y"]).with_file("chat_template.jinja", "{{ b }}")),
        ("other", Model::llama(1).with_tokens(&["y", "x"]).with_file("chat_template.jinja", "{{ b }}")),
        ("none", Model::llama(1)),
    ]);
    let with = |models: [&str; 2], line: &str| {
        let [a, b] = models;
        format!("merge_method: linear\nparameters: {{weight: 1}}\nmodels: [{{model: {a}}}, {{model: {b}}}]\n{line}\n")
    };
    for source in ["base", "union", "same"] {
        let plan = zoo.plan(&with(["a", "same"], &format!("tokenizer_source: {source}"))).unwrap();
        assert_eq!(plan.tokenizer_from, usize::from(source == "same"), "{source}");
        assert!(plan.notes.is_empty());
    }
    zoo.refuses(
        &with(["a", "other"], "tokenizer_source: union"),
        "recipe.yml:4:19: one tokenizer for all models needs equal vocabularies, but those of `a` and `other` differ: \
         token \"x\" is id 0 in the first and id 1 in the second",
    );
    zoo.refuses(&with(["none", "a"], "tokenizer_source: base"), "recipe.yml:4:19: model `none` has no tokenizer files");
    let plan = zoo.plan(&with(["a", "other"], "")).unwrap();
    assert_eq!(plan.notes.len(), 1, "{:?}", plan.notes);

    let template = |line: &str| zoo.plan(&with(["a", "same"], line)).unwrap().chat_template;
    assert_eq!(template(""), None);
    assert_eq!(template("chat_template: auto").as_deref(), Some("{{ a }}"));
    assert!(template("chat_template: chatml").unwrap().contains("<|im_start|>"));
    assert_eq!(template("chat_template: '{{ messages }}'").as_deref(), Some("{{ messages }}"));
    assert_eq!(template("chat_template: other/chat_template.jinja").as_deref(), Some("{{ b }}"));
    zoo.refuses(
        &with(["a", "same"], "chat_template: vicuna"),
        "recipe.yml:4:16: `chat_template` must be `auto`, `alpaca`, `chatml`, `exaone`, `llama3`, `mistral`, a path to a \
         template, or a Jinja template, found `vicuna`",
    );
    let most = zoo.plan(
        "merge_method: linear\nparameters: {weight: 1}\nmodels: [{model: a}, {model: same}, {model: other}]\nchat_template: auto\n",
    );
    assert_eq!(most.unwrap().chat_template.as_deref(), Some("{{ b }}"));
}

#[test]
fn configurations_that_compute_differently_are_noted() {
    let rope = json!({ "rope_type": "default", "rope_theta": 500000.0 });
    let zoo = Zoo::new([
        ("a", Model::llama(1)),
        ("b", Model::llama(1).with_config("model_type", json!("mistral")).with_config("rope_parameters", rope)),
    ]);
    let plan = zoo.plan("merge_method: linear\nparameters: {weight: 1}\nmodels: [{model: a}, {model: b}]\n").unwrap();
    assert_eq!(
        plan.notes,
        [
            "model type: mistral in `b`, but llama in `a`, whose configuration the output gets",
            "rotary embedding: default with base 500000 in `b`, but not given in `a`, whose configuration the output gets",
        ]
    );
}

#[test]
fn modules_have_inputs_of_their_own() {
    let zoo = Zoo::new([("a", Model::llama(2)), ("b", Model::llama(2))]);
    let plan = zoo
        .plan(
            "merge_method: passthrough\nmodules:\n  default: {models: [{model: a}]}\n  model.layers: {models: [{model: \
             b}], parameters: {scale: 2}}\n  model.layers.1: {models: [{model: a}]}\n",
        )
        .unwrap();
    let check = |name: &str, model: &str, scale: f64| {
        assert_eq!(operands(&plan, name), [format!("{model}:{name}")]);
        assert_eq!(params(&plan, name).input_number(0, "scale"), scale, "{name}");
    };
    check("lm_head.weight", "a", 1.0);
    check(&layer(0, "mlp.down_proj"), "b", 2.0);
    check(&layer(1, "mlp.down_proj"), "a", 1.0);
    assert_eq!(plan.tensors.len(), 9);
    zoo.refuses(
        "merge_method: passthrough\nmodules:\n  model: {models: [{model: a}]}\n",
        "recipe.yml:3:3: no module covers tensor `lm_head.weight` of `a`",
    );
    zoo.refuses(
        "merge_method: passthrough\nmodules:\n  default: {models: [{model: a}]}\n  vision: {models: [{model: a}]}\n",
        "recipe.yml:4:3: no tensor of `a` has a name that starts with `vision.`",
    );
}

#[test]
fn options_come_before_the_recipe() {
    let mut options = PlanOptions::default();
    options.directory = golden();
    options.seed = Some(7);
    options.dtype = Some(Dtype::F16);
    options.stages.insert("stage".into(), golden().join("models/ft2"));
    let text = "merge_method: passthrough\nmodels: [{model: stage}]\nseed: 3\ndtype: float32\n";
    let recipe = Recipe::parse(text, "r.yml", &Registry::builtin()).unwrap().remove(0);
    let plan = plan(&recipe, &options).unwrap();
    assert_eq!((plan.seed, plan.tensors[0].dtype), (7, Dtype::F16));
    assert_eq!(plan.models[0].name, "stage");
    assert!(plan.models[0].dir.path().ends_with("models/ft2"));
}

#[test]
fn models_stay_open_for_plans_to_come() {
    let directory = tempfile::tempdir().unwrap();
    let names = ["a", "b"];
    for (name, from) in names.iter().zip(["ft1", "ft2"]) {
        let (to, from) = (directory.path().join(name), golden().join("models").join(from));
        std::fs::create_dir(&to).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
    let text = "merge_method: linear\nmodels: [{model: a}, {model: ./b}]\nparameters: {weight: 1}\n";
    let recipe = Recipe::parse(text, "r.yml", &Registry::builtin()).unwrap().remove(0);
    let mut options = PlanOptions::default();
    options.directory = directory.path().into();
    let first = plan(&recipe, &options).unwrap();
    // Nothing of them is read again: not even whether they are still there.
    std::fs::remove_dir_all(directory.path().join("b")).unwrap();
    let mut other = options.clone();
    other.seed = Some(1);
    let second = plan(&recipe, &other).unwrap();
    for (a, b) in first.models.iter().zip(&second.models) {
        assert!(std::sync::Arc::ptr_eq(&a.dir, &b.dir));
    }
    assert_eq!(first.notes, second.notes);
    let mut fresh = PlanOptions::default();
    fresh.directory = directory.path().into();
    assert!(plan(&recipe, &fresh).is_err());
}
