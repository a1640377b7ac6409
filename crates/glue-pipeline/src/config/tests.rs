//! Roles and presets.
use super::*;

fn parse(rest: &str) -> Result<ZooConfig, String> {
    let text = format!("models: [a, b]\n{rest}");
    ZooConfig::parse(&text, "zoo.yml", &StrategyRegistry::builtin()).map_err(|error| error.to_string())
}

#[test]
fn every_item_has_one_role() {
    let config = parse("tasks: t\n").expect("a config");
    let split = |role| config.tasks.split(role).to_string();
    assert_eq!(ItemUse::ALL.map(split), ["proxy[:50%]", "proxy[50%:]", "train", "test"]);
    // One split can serve all roles, of all tasks or of one.
    let one = "search: \"test[:25%]\", validation: \"test[25%:50%]\", router: \"test[50%:60%]\"";
    assert!(parse(&format!("tasks: {{path: t, {one}, test: \"test[60%:]\"}}\n")).is_ok());
    let own = parse(&format!("tasks: {{path: t, per_task: {{code: {{{one}, test: \"test[60%:]\"}}}}}}\n"));
    let own = own.expect("a config").tasks.own_splits(ItemUse::Router);
    assert_eq!(own.into_iter().collect::<Vec<_>>(), [("code".to_string(), "test[50%:60%]".to_string())]);
    // Roles that share items are refused, also where only one task is concerned.
    let refused = |tasks: &str| parse(&format!("tasks: {{path: t, {tasks}}}\n")).expect_err(tasks);
    let error = refused("validation: \"proxy[40%:]\"");
    assert!(error.contains("`tasks.validation`") && error.contains("`tasks.search: proxy[:50%]`"), "{error}");
    let error = refused("per_task: {code: {router: test}}");
    assert!(error.contains("`tasks.test`") && error.contains("of task `code`"), "{error}");
    let error = refused("search: \"proxy[:half]\"");
    assert!(error.contains("whole number of percent"), "{error}");
}

#[test]
fn a_preset_fills_what_is_left_out() {
    let paper = parse("tasks: t\npreset: paper\nselect: {racing: exact}\nmixture: {experts: 3}\n").expect("a config");
    let names: Vec<&str> = paper.select.strategies.iter().map(|strategy| strategy.name.as_str()).collect();
    assert_eq!(names, ["coefficient", "evolutionary"]);
    assert!(paper.select.space.as_ref().is_some_and(|space| space.normalise && space.layer_groups == 4));
    assert_eq!((paper.mixture.candidates, &paper.mixture.dense[..]), (MixtureCandidates::Merged, &[0.5][..]));
    assert!(!paper.select.filter && !paper.frontier.enabled && !paper.stack);
    // What is given stays.
    assert_eq!((paper.select.racing, paper.mixture.experts), (Racing::Exact, 3));
    let given = parse("tasks: t\npreset: paper\nstack: true\nmixture: {candidates: both}\n").expect("a config");
    assert!(given.stack && given.mixture.candidates == MixtureCandidates::Both);
    assert!(parse("tasks: t\npreset: papr\n").expect_err("no preset").contains("paper"));
}
