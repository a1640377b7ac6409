//! Statistics in a plan: which tensor gets which, what they cost, and what is refused.

use crate::common::{Model, Zoo};
use glue_recipe::{MergePlan, TensorPlan, estimate};
use glue_tensor::Dtype;

const HEAD: &str = "lm_head.weight";
const EMBEDDING: &str = "model.embed_tokens.weight";
const DOWN: &str = "model.layers.0.mlp.down_proj.weight";

/// A number for each element of every tensor of `model`.
fn fishers(model: &Model) -> Model {
    let mut statistics = Model::llama(0);
    let of = |(name, _, shape): &(String, Dtype, Vec<usize>)| (format!("{name}.fisher"), Dtype::F32, shape.clone());
    statistics.tensors = model.tensors.iter().map(of).collect();
    statistics
}

fn activations(tensors: &[(&str, usize)]) -> Model {
    let mut statistics = Model::llama(0);
    let of = |(name, columns): &(&str, usize)| (format!("{name}.activation"), Dtype::F32, vec![*columns]);
    statistics.tensors = tensors.iter().map(of).collect();
    statistics
}

fn tensor<'a>(plan: &'a MergePlan, name: &str) -> &'a TensorPlan {
    plan.tensors.iter().find(|tensor| tensor.name == name).unwrap_or_else(|| panic!("no {name} in the plan"))
}

/// The statistics of a tensor: `model:tensor`.
fn statistics(plan: &MergePlan, name: &str) -> Vec<String> {
    let of = |r: &glue_recipe::TensorRef| format!("{}:{}", plan.models[r.model].name, r.name);
    tensor(plan, name).statistics().iter().map(of).collect()
}

const FISHER: &str = "merge_method: fisher\nmodels:\n- {model: a, statistics: of-a}\n- {model: b, statistics: of-b}\n";

#[test]
fn tied_heads_have_the_statistic_of_their_embedding() {
    let (a, b) = (Model::llama(1), Model::llama(1).tied());
    let zoo = Zoo::new([("of-a", fishers(&a)), ("of-b", fishers(&b)), ("a", a), ("b", b)]);
    let plan = zoo.plan(FISHER).unwrap();
    assert_eq!(statistics(&plan, HEAD), [format!("a:{HEAD}.fisher"), format!("b:{EMBEDDING}.fisher")]);
    assert!(plan.spec(tensor(&plan, HEAD)).statistic.is_some());
}

#[test]
fn what_stands_in_for_a_tensor_brings_its_own_statistic() {
    let (a, b) = (Model::llama(1), Model::llama(1).without(DOWN));
    let base = fishers(&a);
    let zoo = Zoo::new([("of-base", base), ("of-a", fishers(&a)), ("of-b", fishers(&b)), ("a", a), ("b", b)]);
    zoo.add("base", Model::llama(1));
    let config = format!("base_model: base\non_missing: base\nbase_statistics: of-base\n{FISHER}");
    let plan = zoo.plan(&config).unwrap();
    assert_eq!(statistics(&plan, DOWN), [format!("a:{DOWN}.fisher"), format!("base:{DOWN}.fisher")]);
    zoo.refuses(
        &config.replace("base_statistics: of-base\n", ""),
        &format!("the statistics of `a` have the `fisher` of tensor `{DOWN}`, but `base` is given none"),
    );
}

#[test]
fn tensors_without_the_statistic_are_planned_without() {
    let zoo = Zoo::new([("base", Model::llama(1)), ("a", Model::llama(1)), ("of-base", activations(&[(DOWN, 8)]))]);
    let config = "merge_method: aim\nbase_model: base\nbase_statistics: of-base\nmodels: [{model: a}]\nparameters: {operator: \
                  task_arithmetic, weight: 1}\n";
    let plan = zoo.plan(config).unwrap();
    assert_eq!(statistics(&plan, DOWN), [format!("base:{DOWN}.activation")]);
    assert_eq!(statistics(&plan, EMBEDDING), [""; 0]);
    assert!(plan.spec(tensor(&plan, EMBEDDING)).statistic.is_none());
    // 8 numbers more to read than there are in both models: 40 + 40 + 4 + 4 + 32 + 16 each.
    assert_eq!(estimate(&plan, 1).read_bytes, 4 * (2 * 136 + 8));

    // The base may be listed, with its statistics there.
    let listed = config.replace("base_statistics: of-base\n", "");
    let listed = listed.replace("[{model: a}]", "[{model: a}, {model: base, statistics: of-base}]");
    assert_eq!(statistics(&zoo.plan(&listed).unwrap(), DOWN).len(), 1);

    zoo.add("of-other", activations(&[("transformer.h.0.mlp.weight", 8)]));
    zoo.refuses(
        &config.replace("of-base", "of-other"),
        "recipe.yml:1:15: `aim` needs the statistic `activation`, but `of-other` has it of no tensor that is merged",
    );
    zoo.add("of-narrow", activations(&[(DOWN, 4)]));
    zoo.refuses(
        &config.replace("of-base", "of-narrow"),
        &format!(
            "`{DOWN}.activation` in the statistics of-narrow is F32 of shape [4], but must be floating-point numbers of \
             shape [8] for tensor `{DOWN}`"
        ),
    );
}

#[test]
fn memory_counts_statistics() {
    let (a, b) = (Model::llama(1), Model::llama(1));
    let zoo = Zoo::new([("of-a", fishers(&a)), ("of-b", fishers(&b)), ("a", a), ("b", b)]);
    let with = estimate(&zoo.plan(FISHER).unwrap(), 1);
    let linear = "merge_method: linear\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 1}\n";
    let without = estimate(&zoo.plan(linear).unwrap(), 1);
    assert_eq!(with.read_bytes, 2 * without.read_bytes);
    // Two more operands of the largest tensors, 40 elements of f32.
    assert_eq!(with.peak_memory_bytes, without.peak_memory_bytes + 2 * 40 * 4);
    // A base that is listed and whose statistics are of no use is named.
    let config = FISHER.replace("fisher\n", "fisher\nbase_model: a\n");
    assert_eq!(
        zoo.plan(&config).unwrap().notes,
        [""; 0],
        "the base of an operator that has no use for one is an input"
    );
}
