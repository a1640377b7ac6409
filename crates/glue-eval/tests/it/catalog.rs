//! Tasks of lm-evaluation-harness by name: groups in groups, tags, what groups set for their members, and data in the
//! layout of the hub.

use crate::support::Table;
use glue_eval::groups::{group_scores, tasks_of};
use glue_eval::{
    DataSources, EntryKind, EvalOptions, Member, Overlap, Prepared, Report, Status, Task, TaskCatalog, TaskSet,
    evaluate, load_task_set, load_tasks, overlap,
};
use glue_progress::{ErrorChain, NoProgress};
use std::fs;
use std::path::Path;

/// A directory with files.
struct Tree(tempfile::TempDir);

impl Tree {
    fn new(files: &[(&str, &str)]) -> Tree {
        let tree = Tree(tempfile::tempdir().unwrap());
        for (path, text) in files {
            tree.write(path, text);
        }
        tree
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn catalog(&self) -> TaskCatalog {
        let data = DataSources::new([self.path().join("data")]).with_hub_cache(None);
        TaskCatalog::open(&[self.path().join("tasks")], data).unwrap()
    }

    fn load(&self, names: &[&str]) -> Result<TaskSet, String> {
        self.catalog().load(names).map_err(|error| error.chain())
    }

    fn refused(&self, names: &[&str]) -> String {
        let error = self.load(names).unwrap_err();
        error.replace(&format!("{}/", self.path().display()), "")
    }
}

const BASE: &str = "dataset_path: org/quiz\noutput_type: multiple_choice\ntest_split: test\nfewshot_split: dev\n\
                    doc_to_text: q\ndoc_to_choice: choices\ndoc_to_target: gold\nmetadata: {version: 1.5}\n";

const README: &str = "---\nconfigs:\n- config_name: sea\n  data_files:\n  - {split: test, path: sea/test*}\n  \
                      - {split: dev, path: sea/dev*}\n- config_name: sky\n  data_dir: sky\n  data_files: {test: test.jsonl, dev: dev.jsonl}\n---\n";

fn items(count: usize, about: &str) -> String {
    let item =
        |i: usize| format!("{{\"q\": \"{about} {i}?\", \"choices\": [\"a{i}\", \"b{i}\"], \"gold\": {}}}\n", i % 2);
    (0..count).map(item).collect()
}

/// Two tasks of a quiz under groups and a tag.
fn quiz() -> Tree {
    let tree = Tree::new(&[
        ("tasks/quiz/_base_yaml", BASE),
        (
            "tasks/quiz/sea.yaml",
            "include: _base_yaml\ntask: quiz_sea\ntask_alias: sea\ntag: quiz_tasks\ndataset_name: sea\n",
        ),
        (
            "tasks/quiz/sky.yaml",
            "include: _base_yaml\ntask: quiz_sky\ntag:\n  - quiz_tasks\n  - high\ndataset_name: sky\n",
        ),
        (
            "tasks/quiz/_quiz.yaml",
            "group: quiz\ngroup_alias: Quiz\ntask:\n  - quiz_inner\naggregate_metric_list:\n  - metric: acc\n    \
             weight_by_size: true\nmetadata:\n  version: 2\n",
        ),
        (
            "tasks/quiz/_inner.yaml",
            "group: quiz_inner\ntask: [quiz_tasks]\naggregate_metric_list:\n  metric: acc\n  weight_by_size: false\n",
        ),
        ("data/org/quiz/README.md", README),
        ("data/org/quiz/sky/test.jsonl", ""),
    ]);
    tree.write("data/org/quiz/sea/test-0.jsonl", &items(12, "sea"));
    tree.write("data/org/quiz/sea/dev-0.jsonl", &items(5, "shown sea"));
    tree.write("data/org/quiz/sky/test.jsonl", &items(4, "sky"));
    tree.write("data/org/quiz/sky/dev.jsonl", &items(5, "shown sky"));
    tree
}

fn names(set: &TaskSet) -> Vec<&str> {
    set.tasks.iter().map(Task::name).collect()
}

fn report(set: &TaskSet, options: &EvalOptions) -> Report {
    evaluate(&Table::default(), &set.tasks, options, &NoProgress).unwrap()
}

#[test]
fn a_group_in_a_group_has_the_scores_of_the_harness() {
    let tree = quiz();
    let set = tree.load(&["quiz"]).unwrap();
    assert_eq!(names(&set), ["quiz_sea", "quiz_sky"]);
    let groups: Vec<(&str, Option<&str>)> = set.groups.iter().map(|group| (group.alias(), group.version())).collect();
    assert_eq!(groups, [("Quiz", Some("2")), ("quiz_inner", None)]);
    assert_eq!(set.groups[0].members(), [Member::Group("quiz_inner".into())]);
    assert_eq!(tasks_of(&set.groups[0], &set.groups), ["quiz_sea", "quiz_sky"]);
    let report = report(&set, &EvalOptions::default());
    let [sea, sky] = [0, 1].map(|t| report.tasks[t].metric("acc").unwrap().clone());
    assert!(sea.value != sky.value, "the two averages would be the same");
    let scores = group_scores(&set.groups, &set.tasks, &report);
    let found: Vec<(&str, f64, usize)> =
        scores.iter().map(|group| (group.name.as_str(), group.metrics[0].value, group.metrics[0].n)).collect();
    let weighted = (12.0 * sea.value + 4.0 * sky.value) / 16.0;
    assert_eq!(found, [("quiz", weighted, 16), ("quiz_inner", (sea.value + sky.value) / 2.0, 16)]);
    let pooled = 11.0 * 12.0 * sea.stderr.unwrap().powi(2) + 3.0 * 4.0 * sky.stderr.unwrap().powi(2);
    let pooled = (pooled / 14.0 / 16.0).sqrt();
    // The order of the operations differs.
    assert!(scores.iter().all(|group| (group.metrics[0].stderr.unwrap() - pooled).abs() < 1e-12));
}

#[test]
fn names_patterns_and_tags_select_tasks() {
    let tree = quiz();
    let catalog = tree.catalog();
    let kinds: Vec<(&str, EntryKind)> = catalog.entries().map(|(name, entry)| (name, entry.kind())).collect();
    let expected = [
        ("high", EntryKind::Tag),
        ("quiz", EntryKind::Group),
        ("quiz_inner", EntryKind::Group),
        ("quiz_sea", EntryKind::Task),
        ("quiz_sky", EntryKind::Task),
        ("quiz_tasks", EntryKind::Tag),
    ];
    assert_eq!(kinds, expected);
    assert_eq!(catalog.members("quiz_tasks"), ["quiz_sea", "quiz_sky"]);
    assert_eq!(catalog.members("quiz"), ["quiz_inner"]);
    assert_eq!(names(&tree.load(&["high"]).unwrap()), ["quiz_sky"]);
    assert_eq!(names(&tree.load(&["quiz_s*", "quiz_sea"]).unwrap()), ["quiz_sea", "quiz_sky"]);
    assert_eq!(names(&tree.load(&["quiz_sk[xy]"]).unwrap()), ["quiz_sky"]);
    let error = tree.refused(&["quiz_see"]);
    let expected = "no task, group or tag is named `quiz_see` in ";
    assert!(error.starts_with(expected) && error.ends_with("similar names are quiz, quiz_sea, quiz_sky"), "{error}");
    assert!(tree.refused(&["nothing_*"]).starts_with("no task, group or tag is named `nothing_*`"));
    let set = tree.load(&["quiz_tasks"]).unwrap();
    assert_eq!(set.tasks[0].groups(), ["quiz_tasks"]);
    assert_eq!((set.tasks[0].alias(), set.tasks[0].version().unwrap().as_f64()), ("sea", Some(1.5)));
}

#[test]
fn what_a_group_sets_reaches_the_tasks_below_it() {
    let tree = quiz();
    tree.write("tasks/three.yaml", "group: three\ntask:\n  - task: quiz\n    num_fewshot: 3\n");
    tree.write(
        "tasks/two.yaml",
        "group: two\nnum_fewshot: 2\ntask:\n  - quiz_sky\n  - task: quiz_sea\n    num_fewshot: 1\n",
    );
    let shots = |names: &[&str]| -> Vec<(String, usize)> {
        let report = report(&tree.load(names).unwrap(), &EvalOptions::default());
        report.tasks.into_iter().map(|task| (task.name, task.num_fewshot)).collect()
    };
    assert_eq!(shots(&["three"]), [("quiz_sea".to_string(), 3), ("quiz_sky".to_string(), 3)]);
    assert_eq!(shots(&["two"]), [("quiz_sky".to_string(), 2), ("quiz_sea".to_string(), 1)]);
    // The same task with other keys is another task.
    assert!(tree.refused(&["two", "quiz"]).starts_with("two tasks are named `quiz_sea`"));
    // By its file, whose members are below the same directory.
    let data = DataSources::new([tree.path().join("data")]).with_hub_cache(None);
    let set = load_task_set(&[tree.path().join("tasks/two.yaml")], &data).unwrap();
    assert_eq!(report(&set, &EvalOptions::default()).tasks[0].num_fewshot, 2);
    assert_eq!(set.groups[0].name(), "two");
}

#[test]
fn groups_define_tasks_and_groups_of_their_own() {
    let tree = quiz();
    tree.write(
        "tasks/own.yaml",
        &format!(
            "group: own\ntask:\n  - quiz_sky\n  - group: part\n    group_alias: the part\n    task:\n      - quiz_sea\n    \
             aggregate_metric_list: [{{metric: acc, filter_list: none}}]\n  - task: new\n    dataset_name: sea\n{}",
            BASE.lines().fold(String::new(), |text, line| text + "    " + line + "\n")
        ),
    );
    let set = tree.load(&["own"]).unwrap();
    assert_eq!(names(&set), ["quiz_sky", "quiz_sea", "own::new"]);
    assert_eq!((set.groups[1].name(), set.groups[1].alias()), ("own::part", "the part"));
    let report = report(&set, &EvalOptions { fraction: Some(0.3), ..EvalOptions::default() });
    // 0.3 · 4 and 0.3 · 12, rounded up.
    assert_eq!(report.tasks.iter().map(|task| task.n).collect::<Vec<_>>(), [2, 4, 4]);
}

#[test]
fn a_file_that_cannot_be_read_stops_nothing_else() {
    let tree = quiz();
    tree.write("tasks/broken.yaml", "task: [a\n b: {\n");
    tree.write("tasks/other.yaml", "task: other\ninclude: nowhere\n");
    let catalog = tree.catalog();
    assert_eq!(names(&catalog.load(&["quiz_sea"]).unwrap()), ["quiz_sea"]);
    let unreadable: Vec<_> = catalog.unreadable().iter().map(|(path, _)| path.file_name().unwrap()).collect();
    assert_eq!(unreadable, ["broken.yaml", "other.yaml"]);
    assert!(tree.refused(&["other"]).contains("files that cannot be read: tasks/broken.yaml: "));
}

#[test]
fn groups_without_an_end_are_refused() {
    let tree = quiz();
    tree.write("tasks/a.yaml", "group: a\ntask: [b]\n");
    tree.write("tasks/b.yaml", "group: b\ntask: [a]\n");
    assert!(tree.refused(&["a"]).ends_with("the group `a` is in itself: a > b"), "{}", tree.refused(&["a"]));
    // Twenty levels with two members each name a million.
    for i in 0..20 {
        let next = i + 1;
        tree.write(&format!("tasks/g{i}.yaml"), &format!("group: g{i}\ntask: [h{next}, g{next}]\n"));
        tree.write(&format!("tasks/h{i}.yaml"), &format!("group: h{i}\ntask: [g{next}]\n"));
    }
    tree.write("tasks/g20.yaml", "group: g20\ntask: [quiz_sea]\n");
    tree.write("tasks/h20.yaml", "group: h20\ntask: [quiz_sea]\n");
    let result = tree.load(&["g0"]);
    assert!(result.is_ok_and(|set| names(&set) == ["quiz_sea"]));
    tree.write("tasks/wrong.yaml", "group: wrong\ntask: [quiz_sea, nowhere]\n");
    let error = tree.refused(&["wrong"]);
    assert!(
        error.starts_with("tasks/wrong.yaml: the group `wrong`: no task, group or tag is named `nowhere`"),
        "{error}"
    );
    tree.write(
        "tasks/wrong.yaml",
        "group: wrong\ntask: [quiz_sea]\naggregate_metric_list: {metric: acc, aggregation: max}\n",
    );
    let error = tree.refused(&["wrong"]);
    assert_eq!(error, "tasks/wrong.yaml:3: `aggregation` should be `mean`, but is \"max\"");
}

#[test]
fn missing_data_is_named_with_the_command_that_gets_it() {
    let tree = quiz();
    fs::remove_dir_all(tree.path().join("data/org/quiz/sea")).unwrap();
    let error = tree.refused(&["quiz_sea"]);
    let expected = "tasks/quiz/_base_yaml:1: the data `org/quiz` (configuration `sea`) is missing: data/org/quiz: it has \
                    no file `sea/test*` for the split `test`; get it with `glue fetch --dataset org/quiz`, or \
                    name the directory that holds org/quiz with --data";
    assert!(error.contains("the data `org/quiz` (configuration `sea`) is missing: data/org/quiz: "), "{error}");
    assert!(error.ends_with(&expected[expected.find("; get it").unwrap()..]), "{error}");
    let catalog = tree.catalog();
    assert_eq!(catalog.status("quiz_sky"), Status::Runs);
    let Status::MissingData { repository, config, command, .. } = catalog.status("quiz") else {
        panic!("missing data")
    };
    assert_eq!((repository.as_str(), config.as_deref()), ("org/quiz", Some("sea")));
    assert_eq!(command, "glue fetch --dataset org/quiz");
    tree.write("tasks/images.yaml", &format!("task: images\ndoc_to_image: image\n{BASE}"));
    let counts = tree.catalog().counts();
    assert_eq!((counts.tasks, counts.runs, counts.missing_data, counts.refused), (3, 1, 1, 1));
    assert_eq!((counts.groups, counts.tags, counts.reasons["doc_to_image"]), (2, 2, 1));

    // A function that is not evaluated here is said with the data and without.
    tree.write("tasks/other.py", "import ctypes\n\ndef text(doc):\n    return ctypes.sizeof(doc)\n");
    let task = |name: &str, config: &str| {
        let base = BASE.replace("doc_to_text: q", "doc_to_text: !function other.text");
        tree.write(&format!("tasks/{name}.yaml"), &format!("task: {name}\ndataset_name: {config}\n{base}"));
    };
    task("here", "sky");
    task("away", "sea");
    let catalog = tree.catalog();
    let Status::NeedsPython { message } = catalog.status("here") else { panic!("it needs Python") };
    assert!(message.contains("ctypes"), "{message}");
    assert!(matches!(catalog.status("away"), Status::MissingData { needs_python: true, .. }));
    let counts = catalog.counts();
    assert_eq!((counts.runs, counts.needs_python, counts.missing_data), (2, 2, 2));
}

#[test]
fn slices_and_files_of_splits() {
    let tree = quiz();
    let task = |name: &str, more: &str| {
        let base = BASE.replace("test_split: test\n", "").replace("fewshot_split: dev\n", "");
        let base = if more.starts_with("dataset_path") { base.replace("dataset_path: org/quiz\n", "") } else { base };
        tree.write(&format!("tasks/{name}.yaml"), &format!("task: {name}\n{base}{more}"));
        report(&tree.load(&[name]).unwrap(), &EvalOptions::default()).tasks.remove(0)
    };
    let found = task("slice", "dataset_name: sea\ntest_split: test[25%:]\n");
    assert_eq!((found.n, found.split.as_str()), (9, "test[25%:]"));
    let found = task("files", "dataset_kwargs: {data_files: {here: \"s*/test*.jsonl\"}}\ntest_split: here\n");
    assert_eq!(found.n, 16);
    let found = task("directory", "dataset_kwargs: {data_dir: sky}\ntest_split: test\n");
    assert_eq!(found.n, 4);
    let found = task(
        "address",
        "dataset_path: json\ndataset_kwargs: {data_files: {test: \"hf://datasets/org/quiz@main/sky/test.jsonl\"}}\n\
         test_split: test\n",
    );
    assert_eq!(found.n, 4);
    tree.write(
        "tasks/none.yaml",
        &format!("task: none\n{}", BASE.replace("test_split: test", "dataset_name: sky\ntest_split: nope")),
    );
    let error = tree.refused(&["none"]);
    assert!(error.contains("`test_split` should be a split of `org/quiz` in data/org/quiz/sky (test, dev)"), "{error}");
}

#[test]
fn a_directory_marks_the_tasks_of_groups_in_groups() {
    let tree = quiz();
    // Tasks of a directory are found with the data beside them.
    for part in ["sea", "sky"] {
        let text = fs::read_to_string(tree.path().join(format!("tasks/quiz/{part}.yaml"))).unwrap();
        tree.write(
            &format!("tasks/quiz/{part}.yaml"),
            &text.replace("task: quiz", "dataset_path: ../../data/org/quiz\ntask: quiz"),
        );
    }
    let tasks = load_tasks(&[tree.path().join("tasks")]).unwrap();
    assert_eq!(tasks.len(), 2);
    let mut groups = tasks[0].groups().to_vec();
    groups.sort();
    assert_eq!(groups, ["quiz", "quiz_inner", "quiz_tasks"]);
}

#[test]
fn items_that_two_splits_share_are_counted() {
    let tree = quiz();
    let shared = fs::read_to_string(tree.path().join("data/org/quiz/sky/test.jsonl")).unwrap();
    let own = shared.lines().next().unwrap().replace("sky 0?", "SKY  0?");
    tree.write("data/org/quiz/sky/dev.jsonl", &format!("{}{own}\n", items(3, "shown sky")));
    let prepare = |split: Option<&str>| {
        let options = EvalOptions { split: split.map(String::from), num_fewshot: Some(0), ..EvalOptions::default() };
        Prepared::new(tree.load(&["quiz"]).unwrap().tasks, &options, None).unwrap()
    };
    let found = overlap(&prepare(Some("dev")), &prepare(None));
    assert_eq!(found, [Overlap { task: "quiz_sky".into(), shared: 1, items: 4 }]);
    let set = tree.load(&["quiz_sky"]).unwrap();
    let is_test = |split: Option<&str>| set.tasks[0].is_test_split(split.map(|split| split.parse().unwrap()).as_ref());
    assert!(is_test(None) && is_test(Some("test")) && is_test(Some("test[:50%]")));
    assert!(!is_test(Some("dev")) && !is_test(Some("nope")));
}
