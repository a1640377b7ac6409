//! What a report says of its outcome: each kind of final model, nothing gained, an interrupted run, two runs, sizes.

use crate::report::page;
use crate::support::parse;
use crate::variants;
use crate::zoo::sample;
use glue_report::*;

/// The lines of a report by label.
fn line(report: &Report, label: &str) -> Option<String> {
    lines(report).into_iter().find(|line| line.label == label).map(|line| line.text)
}

fn strings(names: &[&[&str]]) -> Vec<Vec<String>> {
    names.iter().map(|names| names.iter().map(ToString::to_string).collect()).collect()
}

/// A report with two single models, a base and a final model, all with one task.
fn small(outcome: Final, last: f64, stderr: f64) -> Report {
    let scores = |value| vec![TaskScore { task: "facts".into(), score: Score { value, stderr: Some(0.01), n: None } }];
    let row = |name: &str, role, value| TestRow { name: name.into(), role, scores: scores(value) };
    Report {
        tasks: vec![Task { name: "facts".into(), ..Task::default() }],
        test: Some(Test {
            rows: vec![
                row("base", Role::Base, 0.6),
                row("scan", Role::Single, 0.728),
                row("news", Role::Single, 0.7),
                row("final", Role::Final, last),
            ],
            gain_stderr: Some(stderr),
            ..Test::default()
        }),
        outcome: Some(Final { name: "final".into(), path: "final".into(), ..outcome }),
        ..Report::default()
    }
}

#[test]
fn the_first_line_names_the_final_model() {
    let check = |kind, made_of: &[&[&str]], parameters, active, last, stderr, expected: &str| {
        let parameters_active = Some(active);
        let outcome = Final { kind, made_of: strings(made_of), parameters, parameters_active, ..Final::default() };
        let report = small(outcome, last, stderr);
        let first = &lines(&report)[0];
        assert_eq!(first.to_string(), format!("Result: {expected}"));
        assert!(page(&report, None).text().contains(expected));
    };
    let (one, two) = (134_515_008, 269_030_592);
    check(
        FinalKind::Single,
        &[&["scan"]],
        one,
        one,
        0.728,
        0.0,
        "final is scan unchanged (135 M parameters): no merge or mixture scored significantly better. It scores 0.728 ± \
         0.010 on the test items.",
    );
    // Another single model may be best on the test items, which decide nothing.
    check(
        FinalKind::Single,
        &[&["news"]],
        one,
        one,
        0.7,
        0.012,
        "final is news unchanged (135 M parameters): no merge or mixture scored significantly better. It scores 0.700 ± \
         0.010 on the test items. On these, scan has the highest average: −2.8 ± 1.2 points.",
    );
    check(
        FinalKind::Merged,
        &[&["news", "mood", "scan"]],
        one,
        one,
        0.75,
        0.015,
        "final is the merge of news, mood and scan (135 M parameters): 0.750, +2.2 ± 1.5 points against the best single \
         model, scan, which is no clear difference.",
    );
    check(
        FinalKind::Mixture,
        &[&["news", "mood"], &["scan"]],
        two,
        one,
        0.852,
        0.013,
        "final is a mixture of 2 models: scan, and the merge of news and mood (269 M parameters, 135 M active): 0.852, \
         +12.4 ± 1.3 points over the best single model, scan.",
    );
    check(
        FinalKind::Mixture,
        &[&["news"], &["scan"]],
        two,
        one,
        0.7,
        0.01,
        "final is a mixture of 2 models: news and scan (269 M parameters, 135 M active): 0.700, −2.8 ± 1.0 points against \
         the best single model, scan: it is worse.",
    );
    // Without the test, and of many models.
    let names: Vec<String> = (0..12).map(|k| format!("m{k}")).collect();
    let made_of: Vec<Vec<String>> = names.iter().map(|name| vec![name.clone()]).collect();
    let mut report = small(Final { made_of, ..Final::default() }, 0.7, 0.1);
    report.test = None;
    let expected =
        "final is a mixture of 12 models: m0, m1, m2, m3, m4, m5, m6 and 5 more. It has not been tested yet.";
    assert_eq!(line(&report, "Result").unwrap(), expected);
}

#[test]
fn nothing_gained_is_said() {
    let report = variants::nothing_gained();
    let page = page(&report, None);
    let result = line(&report, "Result").unwrap();
    assert!(
        result.contains("unchanged (722 K parameters): no merge or mixture scored significantly better"),
        "{result}"
    );
    assert_eq!(
        line(&report, "Merged").unwrap(),
        "Nothing in final is merged. The best merge alone, merged, scores 0.655 ± 0.013."
    );
    assert!(page.text().contains("gained: final is copy-0"));
    // What scripts read.
    let value: serde_json::Value = serde_json::from_str(&json(&report).unwrap()).unwrap();
    assert_eq!(value["final"]["kind"], "single");
    assert_eq!(value["final"]["made_of"], serde_json::json!([["copy-0"]]));
    assert_eq!(
        (value["final"]["gain"]["value"].as_f64(), value["final"]["gain"]["stderr"].as_f64()),
        (Some(0.0), Some(0.0))
    );
}

#[test]
fn an_unfinished_run_has_a_report() {
    let report = variants::interrupted();
    let (_, cost) = sample();
    let page = page(&report, Some(&cost));
    let text = page.text();
    assert!(text.contains("The last complete stage is singles. This page is rewritten as the run continues."));
    assert!(text.contains("a-noise is harmful") && !text.contains("the test has not run"));
    let labels: Vec<&str> = lines(&report).iter().map(|line| line.label).collect();
    assert_eq!(labels, ["Not finished", "Result", "So far", "Dropped"]);
    let so_far = line(&report, "So far").unwrap();
    assert!(so_far.contains("a-math with 0.674") && so_far.contains("cluster A has 0.736"), "{so_far}");
    assert!(markdown(&report, None).unwrap().contains("> **Not finished.** The last complete stage is singles."));
    let value: serde_json::Value = serde_json::from_str(&json(&report).unwrap()).unwrap();
    assert_eq!(value["unfinished"], "singles");
    assert!(value["final"].is_null());
    // Within a stage it says what is going on.
    let mut within = report.clone();
    within.run.activity = Some(Activity {
        stage: "select".into(),
        phase: "cluster A: searching".into(),
        unit: "evaluations".into(),
        done: 12,
        total: Some(40),
        messages: vec!["cluster A: ties <of> two: 0.75".into()],
    });
    let text = crate::report::page(&within, None).text();
    assert!(text.contains(
        "The last complete stage is singles. When this was written, the run was in stage select, cluster A: searching: \
         12 of 40 evaluations."
    ));
    assert!(text.contains("Under way") && text.contains("cluster A: ties <of> two: 0.75."), "{text}");
    // Nothing is complete yet.
    let report = Report { run: Run { unfinished: Some(String::new()), ..Run::default() }, ..Report::default() };
    assert!(lines(&report)[0].text.starts_with("No stage is complete yet."));
}

#[test]
fn the_frontier_of_sizes_is_marked() {
    let row = |what: &str, parameters, value| SizeRow {
        what: what.into(),
        parameters,
        score: Score { value, ..Score::default() },
        pareto: true,
        ..SizeRow::default()
    };
    // Beaten at its size; beaten by a smaller one of the same score; equal in both; the oracle beats nobody.
    let mut rows = [
        row(SizeRow::BEST_SINGLE, 100, 0.70),
        row(SizeRow::BEST_MERGE, 100, 0.75),
        row("a", 200, 0.75),
        row("b", 300, 0.80),
        row("c", 300, 0.80),
        row(SizeRow::ORACLE, 50, 0.95),
    ];
    SizeRow::mark_pareto(&mut rows);
    assert_eq!(rows.map(|row| row.pareto), [false, true, false, true, true, false]);
}

#[test]
fn sizes_are_a_table_for_terminals_too() {
    let (report, cost) = sample();
    let table = size_table(&report, Some(&cost));
    let names: Vec<&str> = table.columns.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["model", "what it is", "parameters", "score", "gain", "active", "disk", "items/s"]);
    let row = table.rows.iter().find(|row| row[0].starts_with("mix-3")).unwrap();
    let expected = [
        "mix-3 ◆ ●",
        "mixture of models and merges",
        "2.17 M 3.00×",
        "0.897 ± 0.008",
        "+18.8 ± 1.2",
        "723 K",
        "4.34 MB",
        "174",
    ];
    assert_eq!(row, &expected);
    assert!(table.rows.iter().all(|row| row.len() == names.len()));
    assert_eq!(size_table(&report, None).columns.len(), 7, "speeds are known from the cost alone");
    assert_eq!(size_table(&Report::default(), None), TextTable::default());
    // On the page the final model stands out, and the smaller ones are named in a line.
    let page = page(&report, Some(&cost));
    let highlighted = page.elements.iter().filter(|element| element.get("class") == Some("highlight")).count();
    assert_eq!(highlighted, 3, "sizes, frontier, test");
    assert!(line(&report, "Smaller").unwrap().starts_with("Best merge, merged-a: 0.754"));
}

#[test]
fn decisions_flips_and_the_frontier_are_shown() {
    let (mut report, _) = sample();
    report.flips[0].examples[0].prompt = format!("{}the end of a prompt", "word ".repeat(400));
    report.decisions[0].p = 0.0;
    let text = page(&report, None).text();
    for expected in [
        "math-code: task_arithmetic: a-math 0.9, a-code 0.8",
        "→ arith, program",
        "b-code and c-chat",
        "→ no task",
        "< 0.001",
        "275 became right, 40 became wrong",
        "6 examples of items that flipped.",
        "word the end of a prompt",
        "The budget of 96 merges was spent",
    ] {
        assert!(text.contains(expected), "{expected}");
    }
    assert!(!text.contains(&"word ".repeat(100)), "only the end of a prompt is shown");
    let table = markdown(&report, None).unwrap();
    assert!(table.contains("| a-chat → facts<br>a-reason → order, wino<br>math-code: task\\_arithmetic"), "{table}");
}

#[test]
fn forgetting_is_paired_where_it_can_be() {
    let mut report = small(Final { kind: FinalKind::Merged, ..Final::default() }, 0.58, 0.01);
    assert_eq!(
        line(&report, "Forgotten").unwrap(),
        "Nothing: on no task is the base, base, significantly better than final."
    );
    // Two points are 1.4 independent standard errors, and 4 paired ones.
    let score = Score { value: -0.02, stderr: Some(0.005), n: None };
    report.test.as_mut().unwrap().over_bases =
        vec![ScoreRow { name: "base".into(), scores: vec![TaskScore { task: "facts".into(), score }] }];
    assert_eq!(line(&report, "Forgotten").unwrap(), "facts (base 0.600, final 0.580: −2.0 ± 0.5 points).");
    assert_eq!(summary(&report).forgotten.len(), 1);
    assert!(page(&report, None).text().contains("forgotten"));
    // A gain is not forgetting.
    report.test.as_mut().unwrap().over_bases[0].scores[0].score.value = 0.02;
    assert!(summary(&report).forgotten.is_empty());
}

#[test]
fn two_runs_are_compared() {
    let ((first, cost), second) = (sample(), variants::other());
    let side = |name, report| Side { name, report, cost: Some(&cost) };
    let found = compare(side("one", &first), side("two", &second)).unwrap();
    let html = found.html().unwrap();
    let page = parse(&html).unwrap();
    assert!(!html.contains("<script"));
    let expected = "The final model of two has −1.0 ± 1.2 points against that of one (unpaired error), which is no clear difference.";
    assert_eq!(found.lines()[2].text, expected);
    assert_eq!(found.warnings(), [""; 0]);
    for text in [
        expected,
        "4 decisions are the same in both runs.",
        "not asked",
        "The best single model, a-math, has the same scores",
    ] {
        assert!(page.text().contains(text), "{text}");
    }
    let markdown = found.markdown();
    assert!(markdown.contains("- evaluations: 400") || markdown.contains("-   evaluations: 400"), "{markdown}");
    assert!(markdown.contains("```diff") && markdown.contains("+ seed: 7"), "{markdown}");
    // A run with itself.
    let same = compare(side("one", &first), side("one", &first)).unwrap();
    assert!(same.markdown().contains("The configs are the same."));
    assert!(same.markdown().contains("6 decisions are the same in both runs."));
    // Other data: a comparison with warnings.
    let mut other = second.clone();
    other.tasks[0].splits[2].items = 20;
    other.run.inputs[12].hash = "xxh3:0".into();
    let warned = compare(side("one", &first), side("two", &other)).unwrap();
    assert_eq!(
        warned.warnings(),
        [
            "Split test of task facts has 250 items in the first run, 20 in the second.",
            "Inputs of the same name have different contents: task wino."
        ]
    );
    // Runs that are not finished, or have nothing.
    let empty = Report::default();
    let unfinished = variants::interrupted();
    for (a, b) in [(&first, &unfinished), (&unfinished, &empty), (&empty, &empty)] {
        let found = compare(side("a", a), side("b", b)).unwrap();
        parse(&found.html().unwrap()).unwrap();
        assert!(found.lines()[2].text.contains("the test has not run in both"));
    }
}

#[test]
fn of_many_tries_the_first_and_the_best_are_shown() {
    let (mut report, _) = sample();
    let tried = |k: u32| Decision {
        strategy: "evolutionary".into(),
        candidate: format!("candidate {k}"),
        score: Some(Score { value: f64::from(k % 97) / 97.0, stderr: Some(0.1), n: None }),
        accepted: false,
        reason: "lower, \"by a bit\"".into(),
    };
    report.selections[0].decisions = (0..500).map(tried).collect();
    let text = page(&report, None).text();
    assert!(text.contains("Shown: the first 8 and the best 12 of the others; all are in tries.csv."));
    // The first, the best, and not one of the others.
    assert!(text.contains("candidate 7") && text.contains("candidate 96\n") && !text.contains("candidate 50\n"));
    let csv = tries_csv(&report);
    let mut rows = csv.split("\r\n");
    assert_eq!(rows.next(), Some("cluster,number,strategy,candidate,score,stderr,accepted,reason"));
    assert_eq!(rows.next(), Some("A,1,evolutionary,candidate 0,0,0.1,false,\"lower, \"\"by a bit\"\"\""));
    // 500 of cluster A, one of B, and the end of the last line.
    assert_eq!(rows.count(), 499 + 1 + 1);
}

#[test]
fn convergence_shows_what_held() {
    let (mut report, _) = sample();
    let dotted = |report: &Report| {
        let page = page(report, None);
        page.all("path").filter(|path| path.get("class").is_some_and(|class| class.contains("held-out"))).count()
    };
    // Those of the two clusters: four strategies and two, of which one has a point at its only evaluation.
    let with = dotted(&report);
    assert_eq!(with, 5);
    for point in report.selections.iter_mut().flat_map(|s| &mut s.strategies).flat_map(|s| &mut s.curve) {
        point.validation = None;
    }
    assert_eq!(dotted(&report), 0);
}
