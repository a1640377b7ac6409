//! The frontier of the sample, what was decided, and what came of it.

use super::figures::TASKS;
use super::zoo::{average, share};
use glue_report::*;

/// Test scores of the final model, a mixture of three.
pub(crate) const FINAL: [f64; 5] = [0.844, 0.976, 0.968, 0.744, 0.952];
/// Test scores of the mixture of four members.
pub(crate) const MEMBERS: [f64; 5] = [0.844, 0.976, 0.968, 0.764, 0.972];

fn strings(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

pub(crate) fn frontier() -> Frontier {
    let single = |name: &str, tasks: &[&str]| FrontierExpert {
        name: name.into(),
        members: vec![name.into()],
        merge: String::new(),
        tasks: strings(tasks),
    };
    let merge = |name: &str, members: &[&str], merge: &str, tasks: &[&str]| FrontierExpert {
        name: name.into(),
        members: strings(members),
        merge: merge.into(),
        tasks: strings(tasks),
    };
    let point = |experts: Vec<FrontierExpert>, step: &str, search, validation, labels: &[&str]| FrontierPoint {
        parameters: experts.iter().map(|expert| if expert.name == "c-chat" { 350_880 } else { 722_048 }).sum(),
        experts,
        step: step.into(),
        search: average(search),
        validation: average(validation),
        labels: strings(labels),
    };
    let chat = || single("a-chat", &["facts"]);
    let reason = || single("a-reason", &["order", "wino"]);
    let math_code =
        || merge("math-code", &["a-math", "a-code"], "task_arithmetic: a-math 0.9, a-code 0.8", &["arith", "program"]);
    let all = merge(
        "merged-a",
        &["a-chat", "a-math", "a-code", "a-reason"],
        "task_arithmetic: a-chat 0.22, a-math 0.55, a-code 0.55, a-reason 0.3",
        &TASKS,
    );
    let reason_chat = merge(
        "reason-chat",
        &["a-reason", "a-chat"],
        "ties: a-reason 1, a-chat 1, density 0.5",
        &["facts", "order", "wino"],
    );
    Frontier {
        points: vec![
            point(
                vec![
                    chat(),
                    reason(),
                    single("a-math", &["arith"]),
                    single("a-code", &["program"]),
                    single("b-code", &[]),
                    single("c-chat", &[]),
                ],
                "",
                0.882,
                0.891,
                &[],
            ),
            point(
                vec![chat(), reason(), single("a-math", &["arith"]), single("a-code", &["program"])],
                "b-code and c-chat left out: no task needs them",
                0.882,
                0.891,
                &[FrontierPoint::MEMBERS],
            ),
            point(
                vec![chat(), reason(), math_code()],
                "a-math and a-code merged",
                0.879,
                0.886,
                &[FrontierPoint::CHOSEN],
            ),
            point(vec![reason_chat, math_code()], "a-reason and a-chat merged", 0.821, 0.808, &[]),
            point(vec![all], "all merged", 0.736, 0.748, &["best merge"]),
        ],
        evaluations: 96,
        note: Some("The budget of 96 merges was spent before every pair was refined".into()),
    }
}

pub(crate) fn decisions() -> Vec<RuleRow> {
    let row = |question: &str, incumbent: &str, challenger: &str, gain, stderr, p, challengers, accepted| RuleRow {
        question: question.into(),
        incumbent: incumbent.into(),
        challenger: challenger.into(),
        gain,
        stderr: Some(stderr),
        p,
        challengers,
        accepted,
    };
    vec![
        row("merge or single model, cluster A", "a-math", "merged-a", 0.062, 0.014, 0.0002, 4, true),
        row("merge or single model, cluster B", "b-code", "merged-b", -0.007, 0.011, 0.871, 2, false),
        row("2 models or 1", "merged-a", "reason-chat and math-code", 0.06, 0.013, 0.0001, 2, true),
        row(
            "3 models or 2",
            "reason-chat and math-code",
            "a-chat, a-reason and math-code",
            0.078,
            0.012,
            0.0001,
            2,
            true,
        ),
        row("4 models or 3", "a-chat, a-reason and math-code", "mix-4", 0.005, 0.006, 0.412, 1, false),
        row("form of the mixture", "level block", "level ffn", -0.038, 0.009, 1.0, 3, false),
    ]
}

pub(crate) fn sizes() -> Vec<SizeRow> {
    let mean = |values: &[f64; 5]| {
        let scores = values.map(|value| share(value, 250));
        let squares: f64 = scores.iter().filter_map(|score| score.stderr).map(|stderr| stderr * stderr).sum();
        Score { value: values.iter().sum::<f64>() / 5.0, stderr: Some(squares.sqrt() / 5.0), n: Some(1250) }
    };
    let best = mean(&[0.5, 0.924, 0.636, 0.772, 0.712]);
    let row = |name: &str,
               what: &str,
               parameters: u64,
               active,
               values: &[f64; 5],
               stderr: Option<f64>,
               path: Option<&str>| {
        let score = mean(values);
        SizeRow {
            name: name.into(),
            what: what.into(),
            parameters,
            parameters_active: active,
            bytes: path.map(|_| 2 * parameters + 8_000),
            score,
            gain: stderr.map(|stderr| Score { value: score.value - best.value, stderr: Some(stderr), n: Some(1250) }),
            path: path.map(str::to_string),
            ..SizeRow::default()
        }
    };
    let one = 722_048;
    let merge = [0.552, 0.952, 0.82, 0.576, 0.868];
    let paper = [0.556, 0.948, 0.828, 0.576, 0.884];
    let mut rows = vec![
        row("a-math", SizeRow::BEST_SINGLE, one, one, &[0.5, 0.924, 0.636, 0.772, 0.712], None, Some("zoo/a-math")),
        row("merged-a", SizeRow::BEST_MERGE, one, one, &merge, Some(0.0104), Some("merged")),
        row("mix-paper", SizeRow::PAPER, 1_795_616, 722_560, &paper, Some(0.0105), None),
        row("mix-3", "mixture of models and merges", 2_166_656, 722_560, &FINAL, Some(0.0116), Some("final")),
        row("mix-4", SizeRow::MEMBERS, 2_888_704, 722_560, &MEMBERS, Some(0.0118), None),
        row("oracle", SizeRow::ORACLE, 4 * one, one, &[0.852, 0.976, 0.98, 0.772, 0.988], Some(0.0112), None),
    ];
    rows[3].last = true;
    SizeRow::mark_pareto(&mut rows);
    rows
}

pub(crate) fn flips() -> Vec<Flips> {
    let flip = |item, prompt: &str, expected: &str, before: &str, after: &str, gained| Flip {
        item,
        prompt: prompt.into(),
        expected: expected.into(),
        before: before.into(),
        after: after.into(),
        gained,
    };
    let examples: [Vec<Flip>; 5] = [
        vec![flip(12, "Question: What does Ada Brook like to eat?\nAnswer:", "plums", "bread", "plums", true)],
        vec![flip(
            40,
            "Bea is taller than Cal. Cal is taller than Dan.\nQuestion: Who is the tallest?\nAnswer:",
            "Bea",
            "Cal",
            "Bea",
            true,
        )],
        vec![
            flip(
                3,
                "The cup did not fit in the box because it was too large. What was too large?",
                "cup",
                "box",
                "cup",
                true,
            ),
            flip(77, "Tom thanked Sam because he had helped. Who had helped?", "Sam", "Sam", "Tom", false),
        ],
        vec![flip(
            101,
            "Tom has 4 apples and buys 3 more. Then he gives 2 to Ann.\nQuestion: How many apples does Tom have?\nAnswer:",
            "5",
            "5",
            "7",
            false,
        )],
        vec![flip(9, "x = [1, 2, 3]\nprint(len(x) + x[0])\n# prints:", "4", "3", "4", true)],
    ];
    let counts = [(92, 6), (17, 4), (89, 6), (9, 16), (68, 8)];
    let flips = |((task, (gained, lost)), examples): ((&&str, (usize, usize)), Vec<Flip>)| Flips {
        task: task.to_string(),
        gained,
        lost,
        examples,
    };
    TASKS.iter().zip(counts).zip(examples).map(flips).collect()
}
