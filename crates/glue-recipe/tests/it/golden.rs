//! Every golden case plans, to the tensors and the configuration that mergekit wrote.

use glue_merge::Registry;
use glue_recipe::{PlanOptions, Recipe, estimate, plan};
use glue_tensor::Checkpoint;
use serde_json::Value;
use std::collections::BTreeMap;

#[test]
fn golden_cases_plan_to_the_expected_names_shapes_and_configuration() {
    let golden = crate::common::golden();
    let mut options = PlanOptions::default();
    options.directory = golden.clone();
    let mut count = 0;
    for case in std::fs::read_dir(golden.join("cases")).unwrap() {
        let case = case.unwrap().path();
        let name = case.file_name().unwrap().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(case.join("config.yml")).unwrap();
        let recipe =
            Recipe::parse(&text, &name, &Registry::builtin()).unwrap_or_else(|e| panic!("{name}: {e}")).remove(0);
        let plan = plan(&recipe, &options).unwrap_or_else(|e| panic!("{name}: {e}"));

        let expected = Checkpoint::open(case.join("expected.safetensors")).unwrap();
        let expected: BTreeMap<_, _> =
            expected.tensors().iter().map(|info| (info.name.clone(), (info.shape.clone(), info.dtype))).collect();
        let found: BTreeMap<_, _> = plan.tensors.iter().map(|t| (t.name.clone(), (t.shape.clone(), t.dtype))).collect();
        assert_eq!(found, expected, "{name}");

        let config = std::fs::read(case.join("expected_config.json")).unwrap();
        assert_eq!(plan.config.to_value(), serde_json::from_slice::<Value>(&config).unwrap(), "{name}");
        assert!(plan.notes.is_empty() && plan.dropped.is_empty(), "{name}: {:?} {:?}", plan.notes, plan.dropped);
        let written: u64 = plan.tensors.iter().map(|tensor| tensor.n_bytes()).sum();
        assert_eq!(estimate(&plan, 2).write_bytes, written, "{name}");
        count += 1;
    }
    assert_eq!(count, 33);
}
