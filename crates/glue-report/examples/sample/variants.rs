//! The sample as it would look had it gone otherwise: nothing gained, interrupted, another seed.

use super::zoo::sample;
use glue_report::*;

/// A run that gained nothing: its final model is the best one of the zoo.
pub(crate) fn nothing_gained() -> Report {
    let (mut report, _) = sample();
    report.run.title = "Six copies with noise".into();
    let names: Vec<String> = (0..6).map(|k| format!("copy-{k}")).collect();
    let tasks = report.tasks.clone();
    let score = |k: usize, task: usize| {
        let value = 0.655 + 0.009 * (k as f64 * 1.7 + task as f64).sin();
        Score { value, stderr: Some(0.03), n: Some(250) }
    };
    let row = |k: usize, name: &str, role| TestRow {
        name: name.into(),
        role,
        scores: tasks
            .iter()
            .enumerate()
            .map(|(t, task)| TaskScore { task: task.name.clone(), score: score(k, t) })
            .collect(),
    };
    let mut rows: Vec<TestRow> = names.iter().enumerate().map(|(k, name)| row(k, name, Role::Single)).collect();
    rows.push(row(8, "merged", Role::Merged));
    // The best of the six by its average.
    let average = |k: &usize| (0..tasks.len()).map(|task| score(*k, task).value).sum::<f64>();
    let best = (0..6).max_by(|a, b| average(a).total_cmp(&average(b))).unwrap_or(0);
    rows.push(row(best, "final", Role::Final));
    let models = report.models.iter().zip(&names).map(|(model, name)| Model {
        name: name.clone(),
        path: format!("zoo/{name}"),
        base: false,
        ..model.clone()
    });
    let size = |name: &str, what: &str, k: usize, gain: Option<Score>, last| SizeRow {
        name: name.into(),
        what: what.into(),
        parameters: 722_048,
        parameters_active: 722_048,
        score: rows[k].average(&tasks).unwrap_or_default(),
        gain,
        last,
        ..SizeRow::default()
    };
    let gain = Some(Score { value: (average(&8) - average(&best)) / 5.0, stderr: Some(0.007), n: None });
    let mut sizes = vec![
        size(&names[best], SizeRow::BEST_SINGLE, best, None, true),
        size("merged", SizeRow::BEST_MERGE, 6, gain, false),
    ];
    SizeRow::mark_pareto(&mut sizes);
    let decision = |question: &str, challenger: &str, gain: f64, p: f64, challengers: usize| RuleRow {
        question: question.into(),
        incumbent: names[best].clone(),
        challenger: challenger.into(),
        gain,
        stderr: Some(0.009),
        p,
        challengers,
        accepted: false,
    };
    Report {
        models: models.collect(),
        decisions: vec![
            decision("merge or single model", "merged", 0.004, 0.61, 6),
            decision("2 models or 1", "copy-1 and copy-4", 0.011, 0.38, 15),
        ],
        sizes,
        test: Some(Test { split: "test".into(), rows, gain_stderr: Some(0.0), over_bases: Vec::new() }),
        outcome: Some(Final {
            name: "final".into(),
            kind: FinalKind::Single,
            why: "No challenger has a significant gain on the validation items".into(),
            path: "final".into(),
            parameters: 722_048,
            bytes: Some(1_448_184),
            dtype: "F16".into(),
            made_of: vec![vec![names[best].clone()]],
            ..Final::default()
        }),
        run: report.run,
        tasks: report.tasks,
        ..Report::default()
    }
}

/// The report of a run that was interrupted in its search.
pub(crate) fn interrupted() -> Report {
    let (report, _) = sample();
    let mut selection = report.selections[0].clone();
    selection.chosen = None;
    selection.why = "The search is not finished".into();
    selection.weights = None;
    selection.recipe = None;
    Report {
        run: Run { unfinished: Some("singles".into()), commands: Vec::new(), outputs: Vec::new(), ..report.run },
        selections: vec![selection],
        frontier: None,
        decisions: Vec::new(),
        sizes: Vec::new(),
        flips: Vec::new(),
        candidates: Vec::new(),
        mixture: None,
        router: None,
        test: None,
        outcome: None,
        ..report
    }
}

/// Another run on the same zoo, whose mixture was no better.
pub(crate) fn other() -> Report {
    let (mut report, _) = sample();
    report.run.config =
        report.run.config.replace("evaluations: 400", "evaluations: 100").replace("seed: 42", "seed: 7");
    report.run.seed = 7;
    if let Some(test) = &mut report.test {
        for score in test.rows.iter_mut().filter(|row| row.role == Role::Final).flat_map(|row| &mut row.scores) {
            score.score.value -= 0.01;
        }
    }
    for row in report.sizes.iter_mut().filter(|row| row.last) {
        row.score.value -= 0.01;
        row.gain = row.gain.map(|gain| Score { value: gain.value - 0.01, ..gain });
    }
    report.decisions[1].accepted = true;
    report.decisions.pop();
    report
}
