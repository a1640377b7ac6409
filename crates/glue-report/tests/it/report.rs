//! What every report must hold: well-formed, self-contained, complete, safe, and the same for the same data.

use crate::support::{Page, check_pictures, parse};
use glue_report::*;

/// The page of a report, checked for everything that holds of any page.
pub(crate) fn page(report: &Report, cost: Option<&Cost>) -> Page {
    let html = html(report, cost).unwrap();
    let page = parse(&html).unwrap_or_else(|error| panic!("{error}"));
    check_self_contained(&html, &page);
    check_structure(&page);
    check_pictures(&page);
    page
}

fn check_self_contained(html: &str, page: &Page) {
    for element in &page.elements {
        for (name, value) in &element.attributes {
            let inside = match name.as_str() {
                "href" => value.starts_with('#'),
                "src" | "srcset" | "data" | "action" | "poster" => false,
                // The names of the two vocabularies; nothing is fetched.
                "xmlns" => value == "http://www.w3.org/2000/svg" || value == "http://www.w3.org/1999/xhtml",
                _ => true,
            };
            assert!(inside, "{name}={value:?} of {} leads outside", element.name);
        }
        assert!(!matches!(element.name.as_str(), "link" | "img" | "iframe" | "object" | "image"), "{}", element.name);
    }
    let style: String = page.all("style").map(|style| style.text.as_str()).collect();
    assert!(!style.contains("@import"));
    let urls: Vec<&str> = style.split("url(").skip(1).collect();
    assert!(urls.iter().all(|url| url.starts_with('#')), "{urls:?}");
    assert_eq!(html.matches("<script").count(), 0);
}

/// Headings without gaps, ids without doubles, and every reference to an id has one.
fn check_structure(page: &Page) {
    let mut level = 0;
    for element in &page.elements {
        let Some(found) = element.name.strip_prefix('h').and_then(|digit| digit.parse::<usize>().ok()) else {
            continue;
        };
        assert!(found <= level + 1, "h{found} after h{level}");
        level = found;
    }
    assert_eq!(page.all("h1").count(), 1);
    let ids: Vec<&str> = page.elements.iter().filter_map(|element| element.get("id")).collect();
    let unique: std::collections::BTreeSet<&str> = ids.iter().copied().collect();
    assert_eq!(ids.len(), unique.len(), "an id stands twice: {ids:?}");
    for element in &page.elements {
        let references = element.get("aria-labelledby").into_iter().flat_map(str::split_whitespace);
        for reference in references.chain(element.get("href").and_then(|href| href.strip_prefix('#'))) {
            assert!(unique.contains(reference), "nothing has the id {reference}");
        }
    }
    let tables = page.all("table").count();
    assert_eq!(page.all("caption").count(), tables);
    assert!(page.all("th").all(|cell| cell.get("scope").is_some()));
}

/// Every model, task and cluster is named in the text.
fn check_names(page: &Page, report: &Report) {
    let text = page.text();
    for name in report.models.iter().map(|model| &model.name).chain(report.tasks.iter().map(|task| &task.name)) {
        assert!(text.contains(name.as_str()), "{name} is missing");
    }
}

/// A report in which every name is another, everywhere.
fn renamed(report: &Report, from: &str, to: &str) -> Report {
    let quoted = |name: &str| serde_json::to_string(name).unwrap();
    let text = serde_json::to_string(report).unwrap().replace(&quoted(from), &quoted(to));
    serde_json::from_str(&text).unwrap()
}

#[test]
fn the_sample_is_a_good_page() {
    let (report, cost) = crate::zoo::sample();
    let page = page(&report, Some(&cost));
    check_names(&page, &report);
    let text = page.text();
    for expected in ["a-noise is harmful", "+18.8", "98.2", "mix only", "threshold 0.95", "run/final"] {
        assert!(text.contains(expected), "{expected} is missing");
    }
    // Two convergences, two pictures of the zoo, one of pairs, two of the router, two of the frontier, and panels.
    let panels = 2 * (report.tasks.len() + 1);
    assert_eq!(page.all("svg").filter(|svg| svg.get("role") == Some("img")).count(), panels + 9);
    assert_eq!(page.all("desc").count(), panels + 9);
}

#[test]
fn a_report_without_stages_is_a_page() {
    let report = Report::default();
    page(&report, None);
    page(&report, Some(&Cost::default()));
    assert!(markdown(&report, None).unwrap().contains("final has not been decided yet"));
    let value: serde_json::Value = serde_json::from_str(&json(&report).unwrap()).unwrap();
    assert!(value["best_single"].is_null() && value["final"].is_null());
    assert_eq!(value["models"], serde_json::json!({}));
}

#[test]
fn each_part_can_be_missing() {
    let (full, cost) = crate::zoo::sample();
    let drop: [fn(&mut Report); 18] = [
        |report| report.frontier = None,
        |report| report.decisions.clear(),
        |report| report.sizes.clear(),
        |report| report.flips.clear(),
        |report| report.similarity = None,
        |report| report.dendrogram = None,
        |report| report.clustering = None,
        |report| report.individual.clear(),
        |report| report.selections.clear(),
        |report| report.candidates.clear(),
        |report| report.mixture = None,
        |report| report.router = None,
        |report| report.test = None,
        |report| report.outcome = None,
        |report| report.models.clear(),
        |report| report.compatibility.clear(),
        |report| report.limits = Limits::default(),
        |report| report.run = Run::default(),
    ];
    for drop in drop {
        let mut report = full.clone();
        drop(&mut report);
        page(&report, Some(&cost));
        markdown(&report, None).unwrap();
        assert_eq!(from_json(&json(&report).unwrap()).unwrap(), report);
    }
    // Scores may be missing too.
    let mut report = full;
    let test = report.test.as_mut().unwrap();
    test.rows[0].scores.pop();
    test.rows.last_mut().unwrap().scores.clear();
    for score in test.rows.iter_mut().flat_map(|row| &mut row.scores) {
        score.score.stderr = None;
    }
    page(&report, None);
}

#[test]
fn names_cannot_break_a_page() {
    let (report, cost) = crate::zoo::sample();
    let evil = "<script>alert(\"&'`|*_\u{1}\u{8}</svg>\\";
    let shown = evil.replace(['\u{1}', '\u{8}'], "\u{fffd}");
    for name in ["a-noise", "a-math", "facts", "evolutionary", "A", "mix-3", "merged-a"] {
        let report = renamed(&report, name, evil);
        let page = page(&report, Some(&cost));
        assert!(page.text().contains(&shown), "{name}");
        assert_eq!(page.all("script").count(), 0);
        let markdown = markdown(&report, Some(&cost)).unwrap();
        let named = markdown.replace("\\<script", "");
        assert!(!named.lines().filter(|line| !line.contains('`')).any(|line| line.contains("<script")), "{name}");
        assert_eq!(from_json(&json(&report).unwrap()).unwrap(), report);
    }
}

#[test]
fn every_table_of_markdown_is_rectangular() {
    let (report, cost) = crate::zoo::sample();
    let report = renamed(&report, "a-noise", "a|noise`|`");
    let markdown = markdown(&report, Some(&cost)).unwrap();
    let cells = |line: &str| line.replace("\\|", "").matches('|').count();
    let mut width = None;
    let mut tables = 0;
    for line in markdown.lines() {
        if !line.starts_with('|') {
            width = None;
            continue;
        }
        let expected = *width.get_or_insert_with(|| {
            tables += 1;
            cells(line)
        });
        assert_eq!(cells(line), expected, "{line}");
    }
    assert!(tables >= 12, "{tables}");
}

fn curve_point(e: u64, k: usize) -> CurvePoint {
    CurvePoint { evaluations: e * 3 + 1, best: 0.5 + 0.001 * (e * k as u64) as f64, validation: Some(0.5) }
}

/// A zoo of `n` models with names as long as those on model hubs.
fn zoo_of(n: usize) -> Report {
    let names: Vec<String> =
        (0..n).map(|i| format!("an-organisation-{i}/Some-Model-7b-instruct-v0.{i}-with-a-long-name")).collect();
    let task = Task { name: "a task whose name is far too long for a small picture".into(), ..Task::default() };
    let scores = |i: usize| {
        let score = Score { value: (i % 10) as f64 / 10.0, stderr: Some(0.2), n: None };
        vec![TaskScore { task: task.name.clone(), score }]
    };
    let figure = |i: usize, j: usize| (i % 7 != j % 5 || i == j).then_some(1.0 - 0.01 * i.abs_diff(j) as f64);
    let curve = |k: usize| (0..60).map(|e| curve_point(e, k)).collect();
    Report {
        tasks: vec![task.clone()],
        models: names.iter().map(|name| Model { name: name.clone(), ..Model::default() }).collect(),
        compatibility: (0..n)
            .flat_map(|j| (0..j).map(move |i| (i, j)))
            .map(|(i, j)| Pair { first: names[i].clone(), second: names[j].clone(), ..Pair::default() })
            .collect(),
        similarity: Some(Similarity {
            matrix: (0..n).map(|i| (0..n).map(|j| figure(i, j)).collect()).collect(),
            names: names.clone(),
            ..Similarity::default()
        }),
        dendrogram: Some(Dendrogram {
            joins: (1..n)
                .map(|k| Join {
                    first: if k == 1 { 0 } else { n + k - 2 },
                    second: k,
                    height: Some(1.0 - 0.02 * k as f64),
                })
                .collect(),
            names: names.clone(),
            ..Dendrogram::default()
        }),
        clustering: Some(Clustering {
            threshold: 0.95,
            clusters: names
                .chunks(3)
                .enumerate()
                .map(|(i, members)| Cluster {
                    name: i.to_string(),
                    first: members[0].clone(),
                    members: members.to_vec(),
                })
                .collect(),
            ..Clustering::default()
        }),
        selections: vec![Selection {
            cluster: "0".into(),
            strategies: (0..n)
                .map(|k| StrategyResult { name: format!("strategy {k}"), curve: curve(k), ..StrategyResult::default() })
                .collect(),
            ..Selection::default()
        }],
        router: Some(Router {
            confusion: Some(Confusion {
                skills: names.clone(),
                experts: names.clone(),
                counts: (0..n).map(|i| (0..n).map(|j| u64::from(i == j) * 9).collect()).collect(),
                right: (0..n).map(Some).collect(),
            }),
            load: vec![Load { task: task.name.clone(), shares: vec![1.0 / n as f64; n] }],
            experts: names.clone(),
            ..Router::default()
        }),
        test: Some(Test {
            rows: (0..n)
                .map(|i| TestRow { name: names[i].clone(), role: Role::Single, scores: scores(i) })
                .chain([TestRow { name: "final".into(), role: Role::Final, scores: scores(9) }])
                .collect(),
            ..Test::default()
        }),
        frontier: Some(Frontier {
            points: (1..=n)
                .rev()
                .map(|experts| FrontierPoint {
                    experts: names[..experts]
                        .iter()
                        .map(|name| FrontierExpert { name: name.clone(), ..FrontierExpert::default() })
                        .collect(),
                    validation: Some(scores(experts)[0].score),
                    ..FrontierPoint::default()
                })
                .collect(),
            ..Frontier::default()
        }),
        sizes: (0..n)
            .map(|i| SizeRow {
                name: names[i].clone(),
                parameters: 7_000_000_000 * (i as u64 % 4),
                score: scores(i)[0].score,
                pareto: i % 2 == 0,
                ..SizeRow::default()
            })
            .collect(),
        ..Report::default()
    }
}

#[test]
fn zoos_of_any_size_fit() {
    for n in [1, 2, 3, 40] {
        let report = zoo_of(n);
        let page = page(&report, None);
        check_names(&page, &report);
    }
}

#[test]
fn odd_figures_fit() {
    let (mut report, cost) = crate::zoo::sample();
    // Scores that are no shares, distances, all the same, and none at all.
    for (value, scale) in [(-3.5, Scale::Distance), (1e6, Scale::Similarity), (0.0, Scale::Distance)] {
        for score in report.test.as_mut().unwrap().rows.iter_mut().flat_map(|row| &mut row.scores) {
            score.score = Score { value, stderr: Some(1e3), n: None };
        }
        let similarity = report.similarity.as_mut().unwrap();
        similarity.scale = scale;
        similarity.matrix.iter_mut().flatten().for_each(|figure| *figure = Some(value));
        let tree = report.dendrogram.as_mut().unwrap();
        tree.scale = scale;
        tree.joins.iter_mut().for_each(|join| join.height = Some(value));
        report.selections[0].strategies[0].curve =
            vec![CurvePoint { evaluations: 0, best: value, validation: Some(value) }];
        report.sizes[0].score = Score { value, stderr: Some(1e3), n: None };
        report.frontier.as_mut().unwrap().points[0].validation = Some(Score { value, stderr: Some(1e3), n: None });
        page(&report, Some(&cost));
    }
}

#[test]
fn equal_data_gives_equal_bytes_and_costs_are_apart() {
    let (report, cost) = crate::zoo::sample();
    let (again, _) = crate::zoo::sample();
    assert_eq!(html(&report, Some(&cost)).unwrap(), html(&again, Some(&cost)).unwrap());
    assert_eq!(json(&report).unwrap(), json(&again).unwrap());
    let text = json(&report).unwrap();
    let found = from_json(&text).unwrap();
    assert_eq!(found, report);
    assert_eq!(json(&found).unwrap(), text);
    // No time, memory or disk of the run but the limits it was given.
    for word in ["peak_bytes", "disk_bytes\": 5", "machine", "threads"] {
        assert!(!text.contains(word), "{word}");
    }
    let mut slow = cost.clone();
    slow.stages[3].seconds = 7.0e4;
    assert_ne!(html(&report, Some(&slow)).unwrap(), html(&report, Some(&cost)).unwrap());
    let read: Cost = serde_json::from_str(&cost_json(&cost).unwrap()).unwrap();
    assert_eq!(read, cost);
}

#[test]
fn scripts_find_what_they_rely_on() {
    let (report, _) = crate::zoo::sample();
    let value: serde_json::Value = serde_json::from_str(&json(&report).unwrap()).unwrap();
    let close = |found: &serde_json::Value, expected: f64| {
        // Means of five decimal fractions, off by a few units in the last place.
        assert!((found.as_f64().unwrap() - expected).abs() < 1e-12, "{found} {expected}");
    };
    close(&value["models"]["a-math"]["arith"], 0.772);
    close(&value["models"]["a-math"]["average"], 0.7088);
    assert_eq!(value["models"].as_object().unwrap().len(), 10);
    assert_eq!(value["best_single"]["name"], "a-math");
    close(&value["best_single"]["average"], 0.7088);
    close(&value["merged"]["average"], 0.7536);
    close(&value["merged"]["clusters"]["merged-a"]["program"], 0.868);
    assert_eq!(value["final"]["path"], "run/final");
    close(&value["final"]["average"], 0.8968);
    close(&value["oracle"]["average"], 0.9136);
    assert_eq!(value["oracle"]["tasks"]["facts"]["model"], "a-chat");
    close(&value["final"]["of_oracle"], 0.8968 / 0.9136);
    close(&value["final"]["gain"]["value"], 0.188);
    close(&value["final"]["gain"]["stderr"], 0.0116);
    assert_eq!((&value["final"]["kind"], &value["final"]["parameters"]), (&"mixture".into(), &2_166_656.into()));
}

#[test]
fn the_lines_say_what_matters() {
    let (report, _) = crate::zoo::sample();
    let lines = lines(&report);
    let labels: Vec<&str> = lines.iter().map(|line| line.label).collect();
    assert_eq!(labels, ["Result", "Smaller", "Oracle", "Merged", "Forgotten", "Dropped", "Model"]);
    let text = |label: &str| lines.iter().find(|line| line.label == label).unwrap().text.as_str();
    assert!(text("Oracle").starts_with("98.2 % of 0.914"), "{}", text("Oracle"));
    assert!(text("Merged").starts_with("a-math and a-code, in final."), "{}", text("Merged"));
    assert!(text("Dropped").starts_with("a-noise (harmful: "), "{}", text("Dropped"));
    assert!(text("Model").starts_with("run/final: 4.35 MB on disk"), "{}", text("Model"));
    assert!(lines[6].command.as_ref().is_some_and(|command| command.starts_with("glue generate")));
}

fn score_of(value: f64) -> Option<Score> {
    Some(Score { value, ..Score::default() })
}

#[test]
fn contradictions_are_refused() {
    let check = |change: fn(&mut Report), expected: &str| {
        let (mut report, _) = crate::zoo::sample();
        change(&mut report);
        let error = json(&report).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert!(html(&report, None).is_err() && markdown(&report, None).is_err());
    };
    check(|report| report.test.as_mut().unwrap().rows[0].scores[0].score.value = f64::NAN, "test, base-a, facts");
    check(|report| report.tasks[0].name = "average".into(), "kept for the average");
    check(|report| report.models[1].name = "base-a".into(), "stands twice");
    check(|report| drop(report.similarity.as_mut().unwrap().matrix.pop()), "10 rows expected, found 9");
    check(|report| report.dendrogram.as_mut().unwrap().joins[0].first = 17, "join 0 takes node 17");
    check(|report| report.dendrogram.as_mut().unwrap().joins[2].first = 0, "join 2 takes node 0");
    check(|report| report.router.as_mut().unwrap().load[0].shares.clear(), "3 shares expected, found 0");
    check(|report| report.selections[0].weights.as_mut().unwrap().groups.clear(), "0 weights expected, found 3");
    check(|report| report.sizes[1].score.value = f64::NAN, "sizes, merged-a");
    check(|report| report.decisions[0].p = f64::NAN, "decision on merged-a, p");
    check(|report| report.frontier.as_mut().unwrap().points[0].search = score_of(f64::NAN), "frontier, 6 models");
    let cost = Cost { stages: vec![StageCost { seconds: f64::INFINITY, ..StageCost::default() }], ..Cost::default() };
    assert!(cost_json(&cost).is_err());
    assert!(matches!(from_json("{}"), Err(ReportError::Json(_))));
}
