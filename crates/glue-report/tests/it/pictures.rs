//! What every picture in a file of its own must hold: well-formed, self-contained, complete, whatever the names and
//! figures.

use crate::support::{Page, check_pictures, parse};
use glue_report::pictures::{self, Convergence, Routing, RoutingRow, StrategyScores};
use glue_report::{Cluster, Dendrogram, Join, ReportError, Scale, Score, Similarity, SizeRow};

const NAMES: [&str; 3] = ["a<b> & \"c\"", "it's\u{1}", "ünï"];
const SHOWN: [&str; 3] = ["a<b> & \"c\"", "it's\u{fffd}", "ünï"];

/// The elements of a picture, checked for everything that holds of any.
fn drawn(svg: &str) -> Page {
    assert!(svg.starts_with("<svg xmlns=\"http://www.w3.org/2000/svg\" "), "{svg}");
    let page = parse(svg).unwrap_or_else(|error| panic!("{error}"));
    check_pictures(&page);
    check_texts(&page);
    check_style(&page);
    assert_eq!((page.all("svg").count(), page.all("script").count(), page.all("image").count()), (1, 0, 0));
    assert!(!svg.contains("href") && !svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    let root = &page.elements[0];
    assert_eq!((root.get("role"), root.get("aria-labelledby")), (Some("img"), Some("picture-t picture-d")));
    assert_eq!((page.elements[1].name.as_str(), page.elements[1].get("id")), ("title", Some("picture-t")));
    assert_eq!((page.elements[2].name.as_str(), page.elements[2].get("id")), ("desc", Some("picture-d")));
    let ground = page.all("rect").next().expect("a ground");
    let view: Vec<&str> = ["x", "y", "width", "height"].iter().filter_map(|name| ground.get(name)).collect();
    assert_eq!(root.get("viewBox"), Some(view.join(" ").as_str()), "the ground is all of the picture");
    page
}

/// Every text is inside the picture, as far as the number of its characters tells.
fn check_texts(page: &Page) {
    let view: Vec<f64> = page.elements[0].get("viewBox").unwrap().split(' ').map(|x| x.parse().unwrap()).collect();
    for text in page.all("text") {
        let number = |name| text.get(name).unwrap().parse::<f64>().unwrap();
        let classes: Vec<&str> = text.get("class").unwrap().split(' ').collect();
        let size = [("t-h", 14.0), ("t-s", 11.0), ("t-c", 10.5), ("t", 12.0)];
        let (_, size) = size.into_iter().find(|(class, _)| classes.contains(class)).expect("a class with a size");
        // Half of the size is the mean width of the letters of a narrow sans-serif.
        let width = 0.5 * size * text.text.chars().count() as f64;
        let before = match text.get("text-anchor") {
            Some("start") => 0.0,
            Some("middle") => width / 2.0,
            _ => width,
        };
        let [x, y] = [number("x"), number("y")];
        let ([left, right], [top, bottom]) = match text.get("transform") {
            Some(_) => ([x - size, x], [y + before - width, y + before]),
            None => ([x - before, x - before + width], [y - size, y]),
        };
        let inside = left >= view[0] && right <= view[0] + view[2] && top >= view[1] && bottom <= view[1] + view[3];
        assert!(inside, "{text:?} leaves {view:?}");
    }
}

/// The style needs nothing from outside and no variables, and knows every class in both themes.
fn check_style(page: &Page) {
    let style: String = page.all("style").map(|style| style.text.as_str()).collect();
    for word in ["var(", "url(", "@import", "<"] {
        assert!(!style.contains(word), "{word}");
    }
    let (light, dark) = style.split_once("@media screen and (prefers-color-scheme: dark)").expect("two themes");
    for element in &page.elements {
        for class in element.get("class").into_iter().flat_map(|classes| classes.split(' ')) {
            // What all texts have in common is said of `text`.
            let selector = format!(".{class}");
            let known = |style: &str| {
                let mut rules = style.split(&selector).skip(1);
                class == "t" || rules.any(|rule| rule.starts_with(['{', ' ']))
            };
            assert!(known(light) && known(dark), "no rule for {class}");
        }
    }
}

fn of_class<'a>(page: &'a Page, element: &'a str, class: &str) -> usize {
    let has = |found: &&str| found.split(' ').any(|found| found == class);
    page.all(element).filter_map(|element| element.get("class")).filter(has).count()
}

fn similarity(scale: Scale) -> Similarity {
    let [same, near] = match scale {
        Scale::Similarity => [1.0, 0.97],
        Scale::Distance => [0.0, 9.5],
    };
    let row = |figures: [Option<f64>; 3]| figures.to_vec();
    Similarity {
        metric: "test".into(),
        scale,
        names: NAMES.map(String::from).to_vec(),
        matrix: vec![
            row([Some(same), Some(near), None]),
            row([Some(near), Some(same), None]),
            row([None, None, Some(same)]),
        ],
    }
}

fn tree(scale: Scale) -> Dendrogram {
    let near = if scale == Scale::Similarity { 0.97 } else { 9.5 };
    let join = |first, second, height| Join { first, second, height };
    Dendrogram {
        link: "average".into(),
        scale,
        names: NAMES.map(String::from).to_vec(),
        joins: vec![join(0, 1, Some(near)), join(2, 3, None)],
    }
}

fn cluster(name: &str, members: &[&str]) -> Cluster {
    let members: Vec<String> = members.iter().map(ToString::to_string).collect();
    Cluster { name: name.into(), first: members[0].clone(), members }
}

fn routing() -> Routing {
    let row = |name: &str, amounts: [f64; 2]| RoutingRow { name: name.into(), amounts: amounts.to_vec(), right: None };
    Routing {
        title: "routing \"at\" layer 0".into(),
        experts: vec![NAMES[0].into(), "math".into()],
        rows: vec![row("a & z", [1.0, 0.0]), row("b", [1.5, 3.0])],
    }
}

#[test]
fn heatmaps_have_a_cell_for_each_pair_whatever_the_names() {
    for (scale, near) in [(Scale::Similarity, ".970"), (Scale::Distance, "9.50")] {
        let similarity = similarity(scale);
        let page = drawn(&pictures::heatmap(&similarity, &[2, 0, 1], &[1, 2]).unwrap());
        assert_eq!((of_class(&page, "rect", "cell"), of_class(&page, "rect", "frame")), (9, 2));
        assert_eq!(of_class(&page, "rect", "h-none"), 4, "pairs without a figure");
        let texts: Vec<&str> = page.all("text").map(|text| text.text.as_str()).collect();
        for name in SHOWN {
            assert_eq!(texts.iter().filter(|text| **text == name).count(), 2, "{name}");
        }
        assert_eq!(texts.iter().filter(|text| **text == near).count(), 2);
        assert_eq!(texts.iter().filter(|text| **text == "–").count(), 4);
        // More similar is deeper, on either scale.
        assert_eq!(of_class(&page, "rect", "h8"), if scale == Scale::Similarity { 5 } else { 3 });
        assert_eq!(of_class(&page, "rect", "h0"), if scale == Scale::Similarity { 0 } else { 2 });
    }
    let same = Similarity { matrix: vec![vec![Some(0.0); 3]; 3], ..similarity(Scale::Distance) };
    let page = drawn(&pictures::heatmap(&same, &[0, 1, 2], &[]).unwrap());
    assert_eq!(of_class(&page, "rect", "h8"), 9, "nothing is unlike");
}

#[test]
fn models_that_are_close_get_all_the_colours() {
    let matrix = |figures: [f64; 3]| -> Vec<Vec<Option<f64>>> {
        let [ab, ac, bc] = figures;
        [[1.0, ab, ac], [ab, 1.0, bc], [ac, bc, 1.0]].map(|row| row.map(Some).to_vec()).to_vec()
    };
    let check = |figures, groups: &[usize], steps: [usize; 3], note: Option<&str>| {
        let close = Similarity { matrix: matrix(figures), ..similarity(Scale::Similarity) };
        let page = drawn(&pictures::heatmap(&close, &[0, 1, 2], groups).unwrap());
        let cells: Vec<&str> =
            page.all("rect").filter_map(|rect| rect.get("class")).filter(|c| c.starts_with("cell")).collect();
        let expected = steps.map(|step| format!("cell h{step}"));
        assert_eq!([cells[1], cells[2], cells[5]], expected.each_ref().map(String::as_str));
        assert_eq!(page.text().contains("Colours span only"), note.is_some());
        assert!(note.is_none_or(|note| page.text().contains(note)));
    };
    // All are close: the whole scale between the least and the most similar pair.
    check([0.9991, 0.9995, 0.9999], &[3], [0, 4, 8], Some("0.99910 to 0.99990"));
    check([0.9991, 0.9995, 0.9999], &[], [0, 4, 8], Some("0.99910 to 0.99990"));
    // Two families of one model and two: one pair is no range.
    check([0.9991, 0.1, 0.2], &[2, 1], [8, 0, 1], None);
    // Far apart: from 0 to 1.
    check([0.5, 0.1, 0.99], &[3], [4, 0, 8], None);
}

#[test]
fn sizes_have_a_mark_for_each_model_and_a_line_for_the_oracle() {
    let (report, _) = crate::zoo::sample();
    let page = drawn(&pictures::sizes(&report.sizes).unwrap());
    let marks = |form: &str, class: &str| of_class(&page, form, class);
    // The best merge and the paper's mixture and that of members are on the frontier, the best single model is not.
    assert_eq!(
        (marks("polygon", "mark-final"), marks("circle", "mark-frontier"), marks("circle", "mark-beaten")),
        (1, 3, 1)
    );
    assert_eq!((marks("line", "threshold"), marks("path", "stairs")), (1, 1));
    assert_eq!(marks("line", "error"), 3 * 5, "a bar with two ends for each");
    let texts: Vec<&str> = page.all("text").map(|text| text.text.as_str()).collect();
    for text in ["mix-3 0.897", "merged-a 0.754", "perfect routing 0.914", "1 M", "2 M"] {
        assert!(texts.contains(&text), "{text} of {texts:?}");
    }
    drawn(&pictures::sizes(&[]).unwrap());
    drawn(&pictures::sizes(&report.sizes[..1]).unwrap());
    let long = SizeRow { name: "an-organisation/".repeat(20), parameters: 7, ..SizeRow::default() };
    drawn(&pictures::sizes(std::slice::from_ref(&long)).unwrap());
    let error =
        pictures::sizes(&[SizeRow { score: Score { value: f64::NAN, ..Score::default() }, ..long }]).unwrap_err();
    assert!(error.to_string().contains("a finite number"), "{error}");
}

#[test]
fn the_frontier_has_two_lines_and_a_ring() {
    let (report, _) = crate::zoo::sample();
    let frontier = report.frontier.unwrap();
    let page = drawn(&pictures::frontier(&frontier).unwrap());
    // Five points and one in the legend.
    assert_eq!((of_class(&page, "polygon", "s1"), of_class(&page, "circle", "s0")), (6, 6));
    assert_eq!((of_class(&page, "path", "line"), of_class(&page, "circle", "ring")), (2 + 2, 1 + 1));
    drawn(&pictures::frontier(&glue_report::Frontier::default()).unwrap());
    let mut open = frontier;
    open.points.iter_mut().for_each(|point| (point.search, point.labels) = (None, Vec::new()));
    let page = drawn(&pictures::frontier(&open).unwrap());
    assert_eq!(of_class(&page, "polygon", "s1") + of_class(&page, "circle", "ring"), 1, "the legend");
}

#[test]
fn figures_of_any_size_fit_their_cells() {
    for (value, shown) in [(123_456.0, "1.2e5"), (4.2e-11, "4.2e−11"), (0.012_34, ".0123"), (12_345.0, "12345")] {
        let similarity = Similarity { matrix: vec![vec![Some(value); 3]; 3], ..similarity(Scale::Distance) };
        let page = drawn(&pictures::heatmap(&similarity, &[0, 1, 2], &[]).unwrap());
        assert!(page.all("text").any(|text| text.text == shown), "{shown}");
        let cell: f64 = page.all("rect").nth(1).and_then(|cell| cell.get("width")).unwrap().parse().unwrap();
        // Digits are a little wider than half of the 10.5 pixels of their size.
        assert!(cell > 0.5 * 10.5 * shown.chars().count() as f64, "{shown} in {cell}");
    }
}

#[test]
fn dendrograms_draw_what_joins() {
    for (scale, threshold) in [(Scale::Similarity, 0.95), (Scale::Distance, 4.0)] {
        let clusters = [cluster("1", &NAMES[..2]), cluster("2", &NAMES[2..])];
        let page = drawn(&pictures::dendrogram(&tree(scale), &clusters, Some(threshold)).unwrap());
        // The third model is apart.
        assert_eq!((of_class(&page, "path", "branch"), of_class(&page, "line", "threshold")), (1, 1));
        let texts: Vec<&str> = page.all("text").map(|text| text.text.as_str()).collect();
        let wanted = [format!("threshold {threshold}"), "1".into(), "2".into()];
        for text in SHOWN.into_iter().chain(wanted.iter().map(String::as_str)) {
            assert!(texts.contains(&text), "{text} of {texts:?}");
        }
        assert_eq!(of_class(&page, "line", "divide"), 1);
    }
    let alone = Dendrogram { joins: Vec::new(), ..tree(Scale::Similarity) };
    let page = drawn(&pictures::dendrogram(&alone, &[], None).unwrap());
    assert_eq!((of_class(&page, "path", "branch"), of_class(&page, "line", "threshold")), (0, 0));
}

#[test]
fn one_model_or_none_has_pictures_too() {
    for scale in [Scale::Similarity, Scale::Distance] {
        for n in [0, 1] {
            let names = NAMES[..n].iter().map(ToString::to_string).collect::<Vec<_>>();
            let matrix = vec![vec![Some(0.0); n]; n];
            let one = Similarity { names: names.clone(), matrix, ..similarity(scale) };
            let (order, groups) = pictures::order(&one, None, &[]);
            assert_eq!((order.len(), groups.len()), (n, 0));
            drawn(&pictures::heatmap(&one, &order, &groups).unwrap());
            let tree = Dendrogram { names, joins: Vec::new(), ..tree(scale) };
            drawn(&pictures::dendrogram(&tree, &[], Some(0.5)).unwrap());
        }
    }
}

#[test]
fn long_names_have_room() {
    let long: Vec<String> = (0..3).map(|i| format!("an-organisation/Some-Model-7b-instruct-v0.{i}")).collect();
    let longest = format!("{}/model", "directory/".repeat(40));
    let names = vec![long[0].clone(), longest.clone(), long[2].clone()];
    let figures = Similarity { names: names.clone(), ..similarity(Scale::Similarity) };
    let tree = Dendrogram { names: names.clone(), ..tree(Scale::Similarity) };
    let rows = names.iter().map(|name| RoutingRow { name: name.clone(), amounts: vec![1.0; 3], right: Some(0) });
    let table = Routing { title: longest.clone(), experts: names.clone(), rows: rows.collect() };
    for svg in [
        pictures::heatmap(&figures, &[0, 1, 2], &[3]),
        pictures::dendrogram(&tree, &[], None),
        pictures::routing(&table),
    ] {
        let page = drawn(&svg.unwrap());
        let texts: Vec<&str> = page.all("text").map(|text| text.text.as_str()).collect();
        assert!(texts.contains(&names[0].as_str()), "{texts:?}");
        let cut = texts.iter().find(|text| text.contains('…')).expect("what is too long is cut");
        assert!(cut.starts_with("directory/") && cut.ends_with("/model"), "{cut}");
        assert!(page.all("title").any(|title| title.text.contains(&longest)), "the name in full");
    }
}

#[test]
fn clusters_are_neighbours_in_the_order() {
    let similarity = Similarity {
        names: ["a", "b", "c", "d", "e"].map(String::from).to_vec(),
        matrix: vec![vec![Some(1.0); 5]; 5],
        ..Similarity::default()
    };
    let clusters = [cluster("1", &["a", "d"]), cluster("2", &["b", "c"])];
    assert_eq!(pictures::order(&similarity, None, &[]), (vec![0, 1, 2, 3, 4], vec![]));
    assert_eq!(pictures::order(&similarity, None, &clusters), (vec![0, 3, 1, 2, 4], vec![2, 2]));
    let joins = [(2, 4), (1, 5), (3, 6), (0, 7)].map(|(first, second)| Join { first, second, height: Some(0.5) });
    let tree = Dendrogram { names: similarity.names.clone(), joins: joins.to_vec(), ..Dendrogram::default() };
    assert_eq!(pictures::order(&similarity, Some(&tree), &[]), (vec![0, 1, 2, 4, 3], vec![]));
    assert_eq!(pictures::order(&similarity, Some(&tree), &clusters), (vec![0, 3, 1, 2, 4], vec![2, 2]));
}

#[test]
fn routing_has_a_cell_for_each_share_and_the_load() {
    let page = drawn(&pictures::routing(&routing()).unwrap());
    // Two rows and the load, two experts.
    assert_eq!((of_class(&page, "rect", "cell"), of_class(&page, "rect", "frame")), (6, 0));
    let texts: Vec<&str> = page.all("text").map(|text| text.text.as_str()).collect();
    for text in ["routing \"at\" layer 0", SHOWN[0], "math", "a & z", "b", "all", "100 %", "67 %", "1.50", "3", "45 %"]
    {
        assert!(texts.contains(&text), "{text} of {texts:?}");
    }
    let mut framed = routing();
    framed.rows[1].right = Some(1);
    let page = drawn(&pictures::routing(&framed).unwrap());
    assert_eq!(of_class(&page, "rect", "frame"), 1);
    assert!(page.all("desc").any(|desc| desc.text.contains("b: 3 of 4.50 to math")));
}

#[test]
fn routing_without_experts_rows_or_amounts_is_a_picture() {
    let table = routing();
    let row = |amounts: &[f64]| RoutingRow { name: "idle".into(), amounts: amounts.to_vec(), right: None };
    drawn(&pictures::routing(&Routing::default()).unwrap());
    drawn(&pictures::routing(&Routing { rows: Vec::new(), ..table.clone() }).unwrap());
    drawn(&pictures::routing(&Routing { experts: Vec::new(), rows: vec![row(&[])], ..table.clone() }).unwrap());
    let page = drawn(&pictures::routing(&Routing { rows: vec![row(&[0.0, 0.0])], ..table }).unwrap());
    assert_eq!(page.all("text").filter(|text| text.text == "0 %").count(), 4);
}

#[test]
fn contradictions_are_refused() {
    let check = |result: Result<String, ReportError>, expected: &str| {
        let error = result.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    let good = similarity(Scale::Similarity);
    check(pictures::heatmap(&good, &[0, 3], &[]), "order: a number below 3 expected, found 3");
    check(pictures::heatmap(&good, &[0, 1], &[1, 2]), "models in groups: a number below 3 expected, found 3");
    check(pictures::heatmap(&good, &[0, 1], &[usize::MAX, 2]), "models in groups");
    let ragged = Similarity { matrix: vec![vec![None; 3], vec![None; 3], vec![None]], ..good.clone() };
    check(pictures::heatmap(&ragged, &[], &[]), "3 figures expected, found 1");
    let infinite = Similarity { matrix: vec![vec![Some(f64::INFINITY); 3]; 3], ..good };
    check(pictures::heatmap(&infinite, &[], &[]), "a finite number");
    let join =
        |first, second| Dendrogram { joins: vec![Join { first, second, height: None }], ..tree(Scale::Distance) };
    check(pictures::dendrogram(&join(0, 3), &[], None), "join 0 takes node 3, which does not exist yet");
    check(pictures::dendrogram(&join(1, 1), &[], None), "join 0 takes node 1");
    check(pictures::dendrogram(&tree(Scale::Distance), &[], Some(f64::NAN)), "dendrogram: threshold");
    let row = |amounts: &[f64], right| {
        let row = RoutingRow { name: "facts".into(), amounts: amounts.to_vec(), right };
        pictures::routing(&Routing { rows: vec![row], ..routing() })
    };
    check(row(&[1.0], None), "routing of facts: 2 amounts expected, found 1");
    check(row(&[1.0, f64::NAN], None), "routing of facts: a finite number");
    check(row(&[1.0, -1.0], None), "routing of facts: an amount of 0 or more is needed, found -1");
    check(row(&[1.0, 1.0], Some(2)), "right expert: a number below 2 expected, found 2");
}

#[test]
fn equal_data_gives_equal_bytes() {
    assert_eq!(pictures::routing(&routing()).unwrap(), pictures::routing(&routing()).unwrap());
}

fn convergence() -> Convergence {
    let strategy = |name: &str, points: &[(usize, f64)]| StrategyScores { name: name.into(), points: points.to_vec() };
    let many: Vec<(usize, f64)> = (6..46).map(|i| (i, 0.5 + 0.002 * ((i * 7) % 20) as f64)).collect();
    Convergence {
        title: "convergence".into(),
        score: "average score".into(),
        evaluations: 50,
        strategies: vec![
            strategy("baseline", &[(1, 0.4), (2, 0.5), (3, 0.01), (4, 0.02)]),
            strategy(NAMES[0], &many),
            strategy("none", &[]),
        ],
    }
}

#[test]
fn convergence_has_a_mark_for_each_candidate_a_legend_and_the_best_so_far() {
    let page = drawn(&pictures::convergence(&convergence()).unwrap());
    let marks = |form: &str, class: &str| of_class(&page, form, class);
    // Each strategy has its candidates and its place in the legend; of 44 candidates the two lowest are below the axis.
    assert_eq!((marks("circle", "s0"), marks("polygon", "s1"), marks("polygon", "s2")), (2 + 1, 40 + 1, 1));
    let texts: Vec<&str> = page.all("text").map(|text| text.text.as_str()).collect();
    for text in [
        "evaluations",
        "average score",
        "best so far",
        "baseline",
        SHOWN[0],
        "0",
        "50",
        "2 candidates are below the axis.",
    ] {
        assert!(texts.contains(&text), "{text}: {texts:?}");
    }
    // Steps never go down, and end at the last evaluation.
    let path =
        page.all("path").find(|path| path.get("class") == Some("stairs")).and_then(|path| path.get("d")).unwrap();
    let corners: Vec<[f64; 2]> = path
        .trim_start_matches('M')
        .split('L')
        .map(|corner| corner.split(' ').map(|x| x.parse().unwrap()).collect::<Vec<f64>>().try_into().unwrap())
        .collect();
    assert!(corners.windows(2).all(|pair| pair[1][0] >= pair[0][0] && pair[1][1] <= pair[0][1]), "{corners:?}");
    let axis = page.all("line").filter(|line| line.get("class") == Some("axis")).last().unwrap();
    assert_eq!(corners.last().unwrap()[0].to_string(), axis.get("x2").unwrap());

    let nothing = Convergence { title: "nothing".into(), ..Convergence::default() };
    assert!(drawn(&pictures::convergence(&nothing).unwrap()).text().contains("No candidate has a score."));
    let check = |point, expected: &str| {
        let mut search = convergence();
        search.strategies[1].points.push(point);
        let error = pictures::convergence(&search).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    check((47, f64::NAN), "a finite number is needed");
    check((51, 0.5), "a number below 51 expected, found 51");
}
