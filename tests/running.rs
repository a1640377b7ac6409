//! `glue run` on the shipped zoo, with few items: its decisions, interruptions, which change nothing, and its refusals.

use glue_tests::run::{Run, command, glue, kill_when};
use glue_tests::shipped;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Few items, few evaluations, two forms of mixtures.
const SMALL: &str = "models: [a-chat, a-code, a-math, a-noise, a-reason, b-code, b-math, c-chat]
base: [base-a, base-b]
tasks: {path: tasks, limit: 24}
select: {strategies: [average, {evolutionary: {evaluations: 15}}], budget: {evaluations: 40}}
mixture: {levels: [model], dense: [0.5]}
seed: 3
";

/// A directory with the zoo in it.
struct Place(TempDir);

impl Place {
    fn new(config: &str) -> Place {
        let directory = tempfile::tempdir().expect("a temporary directory");
        copy(&shipped(), &directory.path().join("zoo"));
        fs::write(directory.path().join("zoo/zoo.yml"), config).expect("a config");
        Place(directory)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn run(&self, args: &[&str]) -> Run {
        glue(self.0.path(), [&["run", "zoo/zoo.yml", "--out", "out"], args].concat())
    }

    fn report(&self) -> Value {
        serde_json::from_slice(&fs::read(self.path("out/report.json")).expect("report.json")).expect("JSON")
    }

    /// Files that must not depend on interruptions, by name: the final model and the report.
    fn result(&self) -> Vec<(String, Vec<u8>)> {
        let mut files = vec![("report.json".to_string(), fs::read(self.path("out/report.json")).expect("report.json"))];
        collect(&self.path("out/final"), "final", &mut files);
        files.sort();
        files
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory");
    for entry in fs::read_dir(from).expect("a directory") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name");
        // What the reference is made of is not needed to run.
        if path.is_dir() && name != "reference" && name != "lm_eval" {
            copy(&path, &to.join(name));
        } else if path.is_file() {
            fs::copy(&path, to.join(name)).expect("a copy");
        }
    }
}

fn collect(directory: &Path, prefix: &str, files: &mut Vec<(String, Vec<u8>)>) {
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        let name = format!("{prefix}/{}", path.file_name().expect("a name").to_string_lossy());
        if path.is_dir() {
            collect(&path, &name, files);
        } else {
            files.push((name, fs::read(&path).expect("a file")));
        }
    }
}

fn words(value: &Value) -> Vec<&str> {
    value.as_array().map(|all| all.iter().filter_map(Value::as_str).collect()).unwrap_or_default()
}

#[test]
fn killed_and_resumed_to_the_same_model_and_report() {
    let whole = Place::new(SMALL);
    whole.run(&["--quiet"]).ok();
    let expected = whole.result();
    let report = whole.report();

    // What was decided. Clusters are the families, by what the zoo was made of.
    let clusters = report["data"]["clustering"]["clusters"].as_array().expect("clusters").clone();
    let families: Vec<String> = clusters.iter().map(|cluster| words(&cluster["members"]).join(" ")).collect();
    assert_eq!(families, ["a-chat a-code a-math a-noise a-reason base-a", "b-code b-math base-b", "c-chat"]);
    let last = report["final"]["average"].as_f64().expect("a score");
    let single = report["best_single"]["average"].as_f64().expect("a score");
    assert!(last > single, "{last} is not above the best single model, {single}");
    assert_eq!(report["final"]["path"], "final");
    assert!(report["models"]["a-math"]["average"].is_number() && report["merged"].is_object());
    assert!(whole.path("out/final/config.json").is_file());
    for name in ["report.html", "report.md", "cost.json"] {
        assert!(whole.path("out").join(name).is_file(), "{name}");
    }

    // It says what it is, and which programs open it.
    let card = |directory: &str| fs::read_to_string(whole.path(directory).join("README.md")).expect("a card");
    let (last_card, merged_card) = (card("out/final"), card("out/merged"));
    assert!(last_card.contains("# zoo: final\n\nThe final model of the run `zoo` of Model-GLUE"), "{last_card}");
    assert!(merged_card.contains("# zoo: merged\n\nThe best merge of the run `zoo`"), "{merged_card}");
    let markdown = fs::read_to_string(whole.path("out/report.md")).expect("a report");
    assert!(markdown.contains("glue and transformers") || markdown.contains("glue runs this directory"), "{markdown}");
    for directory in ["out/final", "out/merged"] {
        assert!(whole.path(directory).join("glue.json").is_file(), "{directory}");
    }

    // The final model scores by itself what the report says.
    let scored = glue(
        whole.0.path(),
        ["eval", "out/final", "--tasks", "zoo/tasks", "--split", "test", "--limit", "24", "--json"],
    )
    .json();
    let average = scored["average"].as_f64().expect("an average");
    assert!((average - last).abs() < 1e-12, "{average} and {last}");

    let other = Place::new(SMALL);
    let args = ["run", "zoo/zoo.yml", "--out", "out", "--resume", "--quiet", "--report-every", "0.3"];
    // In the middle of a search, of the walk, of the mixtures and of the test.
    for (stage, file) in [
        ("select", "05-select.work/cluster-1.journal.jsonl"),
        ("frontier", "06-frontier.work/journal.jsonl"),
        ("mixture", "07-mixture.work/form-0.json"),
        ("test", "08-test.work/reference"),
    ] {
        // The report is rewritten within a stage, and says what it is doing.
        let within = format!("the run was in stage {stage}");
        let report = || fs::read_to_string(other.path("out/report.html")).unwrap_or_default();
        let reached = || other.path("out/stages").join(file).exists() && report().contains(&within);
        assert!(kill_when(&mut command(other.0.path(), args), reached), "it ended before {file} was there");
        assert!(!other.path("out/final").exists(), "no model before the end");
        let page = fs::read_to_string(other.path("out/report.html")).expect("a report of what there is");
        assert!(page.contains("Not finished"), "killed at {file}");
    }
    glue(other.0.path(), args).ok();
    for ((name, found), (_, wanted)) in other.result().iter().zip(&expected) {
        assert!(found == wanted, "{name} differs after four kills");
    }
    assert_eq!(other.result().len(), expected.len());
}

#[test]
fn test_items_are_read_when_everything_is_decided() {
    let place = Place::new(SMALL);
    let tasks: Vec<PathBuf> = fs::read_dir(place.path("zoo/tasks"))
        .expect("tasks")
        .map(|entry| entry.expect("an entry").path().join("test.jsonl"))
        .collect();
    let texts: Vec<Vec<u8>> = tasks.iter().map(|path| fs::read(path).expect("items")).collect();
    for path in &tasks {
        fs::remove_file(path).expect("a file to remove");
    }
    // Everything up to the choice of the final model works without a single test item there.
    place.run(&["--quiet", "--until", "mixture"]).ok();
    assert!(place.path("out/stages/07-mixture/result.json").is_file());
    place.run(&["--quiet", "--resume"]).refused("no test items", 2, &["test"]);
    for (path, text) in tasks.iter().zip(&texts) {
        fs::write(path, text).expect("items");
    }
    place.run(&["--quiet", "--resume"]).ok();
    assert!(place.report()["final"]["average"].is_number());

    // Nothing is overwritten, and nothing is done twice.
    place.run(&[]).refused("a run is there", 2, &["--resume"]);
    let before = place.result();
    place.run(&["--quiet", "--resume"]).ok();
    assert!(place.result() == before);
}

#[test]
fn a_model_that_is_handed_over_unchanged_says_so() {
    let config = "models: [b-math, c-chat]\ntasks: {path: tasks, limit: 8}\nselect: {strategies: [average], budget: \
                  {evaluations: 2}}\nmixture: {enabled: false}\nstack: false\n";
    let place = Place::new(config);
    fs::write(place.path("zoo/b-math/README.md"), "---\nlicense: mit\n---\n# Sums\n\nIt adds.\n").expect("a card");
    place.run(&["--quiet"]).ok();
    let report = place.report();
    assert_eq!((&report["final"]["kind"], &report["final"]["made_of"][0][0]), (&"single".into(), &"b-math".into()));
    let card = fs::read_to_string(place.path("out/final/README.md")).expect("a card");
    assert!(card.starts_with("---\nlicense: mit\n---\n> The final model of the run `zoo`"), "{card}");
    assert!(card.contains("is `b-math`, unchanged; ") && card.ends_with("\n# Sums\n\nIt adds.\n"), "{card}");
    let manifest: Value =
        serde_json::from_slice(&fs::read(place.path("out/final/glue.json")).expect("a manifest")).expect("JSON");
    assert_eq!(manifest["copy_of"]["model"], "b-math");
}

#[test]
fn what_is_wrong_is_said_before_anything_is_written() {
    let place = Place::new(SMALL);
    let check = |config: &str, says: &[&str]| {
        fs::write(place.path("zoo/zoo.yml"), config).expect("a config");
        place.run(&[]).refused(config, 2, says);
        assert!(!place.path("out").exists(), "{config}");
    };
    check("models: [a-chat, a-nowhere]\ntasks: tasks\n", &["a-nowhere", "are relative to /"]);
    check("models: [a-chat, a-math]\ntasks: {path: tasks, only: [fact]}\n", &["fact", "facts"]);
    check("models: [a-chat, a-math]\ntasks: no-such-folder\n", &["no-such-folder"]);
    check("models: [a-chat, a-math]\ntask: tasks\n", &["zoo.yml:2:1", "task"]);
    check(
        "models: [a-chat, a-math]\ntasks: {path: tasks, test: proxy}\n",
        &["tasks.test", "items that have no other role"],
    );
    check("models: [a-chat, b/../a-chat]\ntasks: tasks\n", &["a unique name", "a-chat"]);
    check("models: [a-chat]\ntasks: tasks\nselect: {strategies: [averge]}\n", &["averge", "average, coefficient"]);
    check("models: [a-chat]\ntasks: tasks\nmixture: {dense: [1.5]}\n", &["mixture.dense", "1.5"]);
    check(
        "models: [{path: a-chat, base: true}]\ntasks: tasks\n",
        &["zoo.yml:1:10", "a path, or {path: PATH, name: NAME}"],
    );
    let space =
        |keys: &str| format!("models: [a-chat]\ntasks: tasks\nselect: {{space: {{methods: [fisher], {keys}}}}}\n");
    check(&space("statistics: {a-chta: s}"), &["select.space.statistics", "a-chta", "one of a-chat"]);
    check(&space("base_statistics: s"), &["select.space.base_statistics", "under `statistics`"]);
    fs::write(place.path("zoo/zoo.yml"), SMALL).expect("a config");
    place.run(&["--device", "cuda"]).refused("a device", 1, &["built without CUDA", "--device auto"]);
    assert!(!place.path("out").exists());
}

#[test]
fn a_config_is_written_for_a_folder() {
    let place = Place::new("");
    fs::remove_file(place.path("zoo/zoo.yml")).expect("a file to remove");
    let found = glue(place.0.path(), ["run", "--init", "zoo", "--json"]).json();
    assert_eq!(words(&found["base"]), ["base-a", "base-b"], "told from the weights");
    assert_eq!(words(&found["models"]).len(), 10);
    let plan = place.run(&["--dry-run", "--json"]).json();
    assert_eq!(plan["search_items"], 250);
    assert!(plan["seconds_per_item"].as_f64().is_some_and(|seconds| seconds > 0.0));
    assert!(plan["stages"].as_array().is_some_and(|stages| stages.len() > 5));
    assert!(!place.path("out").exists());
    glue(place.0.path(), ["run", "--init", "zoo"]).refused(
        "twice",
        2,
        &["zoo/zoo.yml exists; delete it to write a new one"],
    );
    glue(place.0.path(), ["run", "--init", "zoo/tasks"]).refused("no models", 2, &["expected a folder"]);
}

#[test]
fn reports_are_rendered_again_and_compared() {
    let small = |seed: u64| {
        format!(
            "models: [a-chat, a-math]\nbase: [base-a]\ntasks: {{path: [tasks/arith, tasks/facts], limit: 12}}\n\
             select: {{strategies: [average]}}\nmixture: {{enabled: false}}\nstack: false\nseed: {seed}\n"
        )
    };
    let place = Place::new(&small(1));
    let printed = place.run(&["--quiet"]).ok().out;
    let read = |name: &str| fs::read_to_string(place.path(name)).expect(name);
    let (html, markdown) = (read("out/report.html"), read("out/report.md"));
    for name in ["out/report.html", "out/report.md"] {
        fs::write(place.path(name), "").expect("a file");
    }
    let again = glue(place.0.path(), ["report", "out"]).ok().out;
    assert!(read("out/report.html") == html && read("out/report.md") == markdown);
    // The summary is that of the run. It says where the model and the page are.
    assert_eq!(again, printed);
    assert!(again.contains("out/final") && again.contains("out/report.html"), "{again}");
    assert_eq!(glue(place.0.path(), ["report", "out", "--json"]).json(), place.report());

    fs::write(place.path("zoo/zoo.yml"), small(2)).expect("a config");
    glue(place.0.path(), ["run", "zoo/zoo.yml", "--out", "second", "--quiet"]).ok();
    let compared = glue(place.0.path(), ["report", "out", "second", "--out", "compared"]).ok().out;
    assert!(compared.contains("compared/comparison.html"), "{compared}");
    let page = read("compared/comparison.html");
    assert!(page.contains("second") && page.contains("seed: 2") && read("compared/comparison.md").contains("seed: 2"));
    glue(place.0.path(), ["report", "zoo"]).refused(
        "no run",
        2,
        &["zoo/report.json", "an output directory of glue run"],
    );
}
