//! `glue multi`: merges of merges, and reuse of the outputs of earlier stages.

use glue_tests::Zoo;
use glue_tests::zoo::Q_PROJ;
use serde_json::{Value, json};

const STAGES: &str = "name: mean
merge_method: linear
models: [{model: a}, {model: b}]
parameters: {weight: 0.5}
---
merge_method: slerp
base_model: base
models: [{model: mean}]
parameters: {t: 0.25}
";

/// Runs the stages, and returns for each whether it was reused.
fn reused(zoo: &Zoo, out: &str, args: &[&str]) -> Vec<bool> {
    zoo.write("stages.yml", STAGES);
    let args = [&["multi", "stages.yml", out, "--json", "--work-dir", "work"], args].concat();
    let report = zoo.glue(&args).json();
    let stages = report["stages"].as_array().expect("stages");
    let names: Vec<&Value> = stages.iter().map(|stage| &stage["stage"]).collect();
    assert_eq!(names, [&json!("mean"), &Value::Null]);
    stages.iter().map(|stage| stage["reused"].as_bool().expect("a flag")).collect()
}

#[test]
fn two_stages_are_two_merges() {
    let zoo = Zoo::small();
    reused(&zoo, "out", &[]);
    let (first, second) = STAGES.split_once("---\n").expect("two stages");
    zoo.merge(first, "mean", &[]).ok();
    zoo.merge(second, "by-hand", &[]).ok();
    assert!(zoo.bytes("out/model.safetensors") == zoo.bytes("by-hand/model.safetensors"));
    assert!(zoo.bytes("work/mean/model.safetensors") == zoo.bytes("mean/model.safetensors"));
}

#[test]
fn a_stage_is_made_again_when_something_it_depends_on_has_changed() {
    let zoo = Zoo::small();
    assert_eq!(reused(&zoo, "first", &[]), [false, false]);
    let made = zoo.listing("work");
    assert_eq!(reused(&zoo, "again", &[]), [true, false]);
    assert!(zoo.listing("work") == made);
    assert!(zoo.bytes("again/model.safetensors") == zoo.bytes("first/model.safetensors"));

    assert_eq!(reused(&zoo, "seed", &["--seed", "9"]), [false, false]);
    assert_eq!(reused(&zoo, "seed-again", &["--seed", "9"]), [true, false]);

    zoo.edit("b", |tensors| tensors.get_mut(Q_PROJ).expect("a tensor").data[0] ^= 1);
    assert_eq!(reused(&zoo, "weights", &["--seed", "9"]), [false, false]);
    assert!(zoo.bytes("weights/model.safetensors") != zoo.bytes("first/model.safetensors"));
    assert_eq!(reused(&zoo, "weights-again", &["--seed", "9"]), [true, false]);
}

#[test]
fn stages_go_beside_the_output_unless_told_otherwise() {
    let zoo = Zoo::small();
    zoo.write("stages.yml", STAGES);
    let text = zoo.glue(&["multi", "stages.yml", "out"]).ok().out;
    assert!(zoo.path("out.stages/mean/model.safetensors").exists());
    assert_eq!(text.lines().count(), 2, "{text}");
    let text = zoo.glue(&["multi", "stages.yml", "again"]).ok().out;
    assert!(!text.contains("reused"), "another output has stages of its own: {text}");
}

#[test]
fn a_dry_run_of_stages_leaves_nothing() {
    let zoo = Zoo::small();
    zoo.write("stages.yml", STAGES);
    let before = zoo.listing("");
    let report = zoo.glue(&["multi", "stages.yml", "out", "--dry-run", "--json"]).json();
    assert!(zoo.listing("") == before, "left {:?}", zoo.names(""));
    assert_eq!(report["stages"][0]["bytes_written"], 816);
    assert_eq!(report["stages"][1]["after"], json!(["mean"]));
}

#[test]
fn what_is_not_a_former_output_is_not_removed() {
    let zoo = Zoo::small();
    zoo.write("stages.yml", STAGES);
    std::fs::create_dir_all(zoo.path("work/mean")).expect("a temporary directory");
    zoo.write("work/mean/precious", "kept");
    let before = zoo.listing("");
    let run = zoo.glue(&["multi", "stages.yml", "out", "--work-dir", "work"]);
    run.refused(
        "a directory of somebody else's",
        1,
        &["stage mean", "work/mean: the directory exists and is not empty"],
    );
    assert!(zoo.listing("") == before, "left {:?}", zoo.names(""));
}

#[test]
fn stages_in_any_order_are_the_same_merges() {
    let zoo = Zoo::small();
    zoo.write("stages.yml", STAGES);
    zoo.glue(&["multi", "stages.yml", "out"]).ok();
    let (first, second) = STAGES.split_once("---\n").expect("two stages");
    zoo.write("turned.yml", format!("{second}---\n{first}"));
    zoo.glue(&["multi", "turned.yml", "turned"]).ok();
    for name in ["model.safetensors", "config.json"] {
        assert!(zoo.bytes(&format!("out/{name}")) == zoo.bytes(&format!("turned/{name}")), "{name}");
    }
    assert!(zoo.path("turned.stages/mean/model.safetensors").exists());
}

#[test]
fn with_names_for_all_stages_those_that_no_other_uses_are_outputs() {
    let zoo = Zoo::small();
    let (first, second) = STAGES.split_once("---\n").expect("two stages");
    let third = second.replace("t: 0.25", "t: 0.75");
    zoo.write("stages.yml", format!("name: near\n{second}---\nname: far\n{third}---\n{first}"));
    let dry = zoo.glue(&["multi", "stages.yml", "out", "--dry-run"]).ok().out;
    assert!(dry.contains("output near") && dry.contains("output far") && dry.contains("stage mean"), "{dry}");
    assert!(!zoo.path("out").exists());
    let run = || zoo.glue(&["multi", "stages.yml", "out", "--json"]).json();
    let report = run();
    let names: Vec<&Value> = report["stages"].as_array().expect("stages").iter().map(|stage| &stage["stage"]).collect();
    assert_eq!(names, [&json!("mean"), &json!("near"), &json!("far")]);
    let directories =
        |name: &str| -> Vec<String> { zoo.names(name).into_iter().filter(|name| name.ends_with('/')).collect() };
    assert_eq!(
        (directories("out"), directories("out.stages")),
        (vec!["far/".into(), "near/".into()], vec!["mean/".into()])
    );
    for (name, config) in [("near", second), ("far", third.as_str())] {
        zoo.merge(first, "mean", &[]).ok();
        zoo.merge(config, &format!("{name}-by-hand"), &[]).ok();
        let [one, two] = [format!("out/{name}"), format!("{name}-by-hand")];
        assert!(
            zoo.bytes(&format!("{one}/model.safetensors")) == zoo.bytes(&format!("{two}/model.safetensors")),
            "{name}"
        );
        std::fs::remove_dir_all(zoo.path("mean")).expect("a directory that was just made");
    }
    // An existing output stays if it is what would be made; else the run is refused.
    assert!(run()["stages"].as_array().expect("stages").iter().all(|stage| stage["reused"] == true));
    let before = zoo.listing("out");
    zoo.write("stages.yml", format!("name: near\n{third}---\nname: far\n{third}---\n{first}"));
    zoo.glue(&["multi", "stages.yml", "out", "--json"]).refused("another output", 1, &["near", "not empty"]);
    assert!(zoo.listing("out") == before);
}
