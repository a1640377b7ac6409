//! What are stacked layers of two models (frankenmerges) worth?

use std::fmt::Write;

use anyhow::{Context, Result};

use super::mixture::mixed;
use super::plot::{Line, Plot};
use super::{Lab, Scores, USEFUL};

/// Layers of a model of the zoo.
const LAYERS: usize = 4;
/// How many layers each model gives: the first of one, the last of the other. Three are what the pipeline tries.
const TAKEN: [usize; 3] = [2, 3, 4];

/// Stacks of every ordered pair of the useful fine-tunes and of each with itself, against the better of the two alone,
/// and against their mixture as whole models.
pub(super) fn run(lab: &Lab) -> Result<String> {
    let mut parents = Vec::new();
    for name in USEFUL {
        let model = lab.zoo.join(name);
        parents.push((name, lab.scores(&model, "proxy")?, lab.test(&model)?));
    }
    let mut text = String::from(
        "## Stacking\n\nThe first n layers of one model and, on top of them, the last n of another, n of 4: with n = 2 as many layers as \
         a model has, with 3 and 4 half as many again and twice as many. The mixture holds both models whole; each item goes to one, by a \
         gate trained on the train split. Test averages.\n\n| below | above | the better one alone | n = 2 | 3 | 4 | mixture \
         |\n|---|---|--:|--:|--:|--:|--:|\n",
    );
    let mut of_two = Vec::new();
    let mut of_one = Vec::new();
    let mut mixtures: Vec<((&str, &str), f64)> = Vec::new();
    for (below, below_proxy, below_test) in &parents {
        for (above, above_proxy, above_test) in &parents {
            let mut scores = Vec::new();
            for taken in TAKEN {
                let name = format!("stack-{below}-{above}-{taken}");
                scores.push(lab.test_recipe(&name, &recipe(below, above, taken))?);
            }
            let mixture = if below == above {
                of_one.push(scores.clone());
                None
            } else {
                of_two.push(scores.clone());
                let pair = if below < above { (*below, *above) } else { (*above, *below) };
                Some(match mixtures.iter().find(|(known, _)| *known == pair) {
                    Some((_, score)) => *score,
                    None => {
                        let score = mixture(lab, (below, below_proxy), (above, above_proxy))?;
                        mixtures.push((pair, score));
                        score
                    }
                })
            };
            let scores: Vec<String> = scores.iter().map(|score| format!("{score:.4}")).collect();
            let mixture = mixture.map_or("–".into(), |score| format!("{score:.4}"));
            let better = below_test.max(*above_test);
            let _ = writeln!(text, "| {below} | {above} | {better:.4} | {} | {mixture} |", scores.join(" | "));
        }
    }
    let best = |scores: &mut dyn Iterator<Item = f64>| scores.fold(f64::NEG_INFINITY, f64::max);
    let line = |name: &str, of: &[Vec<f64>], pick: &dyn Fn(&mut dyn Iterator<Item = f64>) -> f64| Line {
        name: name.into(),
        points: TAKEN
            .iter()
            .enumerate()
            .map(|(i, taken)| (*taken as f64, pick(&mut of.iter().map(|scores| scores[i]))))
            .collect(),
    };
    let plot = Plot {
        x: "layers of each, of 4",
        y: "average score, test",
        lines: vec![
            line("best pair", &of_two, &best),
            line("mean of all pairs", &of_two, &mean),
            line("on itself, mean", &of_one, &mean),
        ],
        levels: vec![
            ("best mixture of two".into(), best(&mut mixtures.iter().map(|(_, score)| *score))),
            ("best model alone".into(), best(&mut parents.iter().map(|(_, _, test)| *test))),
        ],
    };
    let _ = writeln!(text, "\n{}", lab.picture("stacking", &plot.svg())?);
    Ok(text)
}

fn mean(scores: &mut dyn Iterator<Item = f64>) -> f64 {
    let (sum, n) = scores.fold((0.0, 0.0), |(sum, n), score| (sum + score, n + 1.0));
    sum / n
}

/// The first layers of one model and the last of another.
fn recipe(below: &str, above: &str, taken: usize) -> String {
    let slice = |model: &str, from: usize, to: usize| {
        format!("  - sources: [{{model: {model}, layer_range: [{from}, {to}]}}]\n")
    };
    format!("merge_method: passthrough\nslices:\n{}{}", slice(below, 0, taken), slice(above, LAYERS - taken, LAYERS))
}

/// The test average of two models mixed as they are. Gates learn to send each task to the model that is better at
/// it on the proxy split.
fn mixture(lab: &Lab, (one, of_one): (&str, &Scores), (other, of_other): (&str, &Scores)) -> Result<f64> {
    let experts = of_one.tasks.iter().map(|(task, score)| {
        let (_, rival) =
            of_other.tasks.iter().find(|(name, _)| name == task).context("models scored on other tasks")?;
        Ok((task.as_str(), if score >= rival { one } else { other }))
    });
    let experts = experts.collect::<Result<Vec<_>>>()?;
    let description = format!(
        "base_model: {one}\ngate_mode: random\nlevel: model\nwhole: true\nexperts: [{{source_model: {one}}}, {{source_model: \
         {other}}}]\n"
    );
    let (_, report) = mixed(lab, &format!("mixture-{one}-{other}"), &description, &experts)?;
    report["average"].as_f64().context("no average")
}
