//! Which expert an item should go to: by its skill, or by the expert with the lowest loss on it.

use crate::error::RouterError;
use crate::init::ExpertPrompts;
use crate::items::Item;
use crate::random::permutation;
use ndarray::{Array2, ArrayView2, Axis};
use std::collections::{BTreeMap, BTreeSet};

/// Losses closer than this, in nats, are tied: less than rounding of `f32` makes of some dozen tokens.
pub const TIE: f64 = 1e-4;

/// The expert of each task: the one that `given` names for the task or for its skill; or the expert that is called like
/// the task or the skill; or the one with the lowest mean loss on its items, of equals the first.
///
/// `losses` [items, experts] are asked for only if some task is left for them.
///
/// # Errors
/// [`RouterError::UnknownExpert`], [`RouterError::UnknownTask`], [`RouterError::NoAnswer`] for a task that is left for
/// the losses and has items without an answer, and those of `losses`.
pub fn assign(
    items: &[Item],
    given: &BTreeMap<String, String>,
    experts: &[String],
    losses: &mut dyn FnMut() -> Result<Array2<f64>, RouterError>,
) -> Result<BTreeMap<String, usize>, RouterError> {
    let names: BTreeSet<&str> = items.iter().flat_map(|item| [item.task.as_str(), item.skill.as_str()]).collect();
    for (name, expert) in given {
        if !experts.contains(expert) {
            let (name, expert) = (name.clone(), expert.clone());
            return Err(RouterError::UnknownExpert { name, expert, known: experts.to_vec() });
        }
        if !names.contains(name.as_str()) {
            let known = names.iter().map(|&name| name.to_owned()).collect();
            return Err(RouterError::UnknownTask { name: name.clone(), known });
        }
    }
    let number = |name: &String| experts.iter().position(|expert| expert == name);
    let mut assigned = BTreeMap::new();
    let mut open = BTreeSet::new();
    for item in items {
        let named = given.get(&item.task).or(given.get(&item.skill)).and_then(number);
        match named.or_else(|| number(&item.task)).or_else(|| number(&item.skill)) {
            Some(expert) => assigned.insert(item.task.clone(), expert),
            None => {
                open.insert(item.task.clone());
                None
            }
        };
    }
    if !open.is_empty() {
        if let Some(item) = items.iter().find(|item| open.contains(&item.task) && item.answer.is_none()) {
            let (task, purpose) = (item.task.clone(), "finding the expert with the lowest loss");
            return Err(RouterError::NoAnswer { task, purpose });
        }
        let losses = losses()?;
        check_rows(items.len(), losses.view())?;
        for task in open {
            let rows: Vec<usize> = (0..items.len()).filter(|&row| items[row].task == task).collect();
            let sums = losses.select(Axis(0), &rows).sum_axis(Axis(0));
            let best = (0..experts.len()).reduce(|best, expert| if sums[expert] < sums[best] { expert } else { best });
            assigned.insert(task, best.unwrap_or(0));
        }
    }
    Ok(assigned)
}

/// Targets [items, experts] by the expert of each item's task: one 1 in each row.
///
/// # Errors
/// [`RouterError::UnknownTask`] for an item of a task without an expert.
pub fn skill_targets(
    items: &[Item],
    assigned: &BTreeMap<String, usize>,
    experts: usize,
) -> Result<Array2<f64>, RouterError> {
    let mut targets = Array2::zeros((items.len(), experts));
    for (item, mut row) in items.iter().zip(targets.axis_iter_mut(Axis(0))) {
        let Some(place) = assigned.get(&item.task).and_then(|&expert| row.get_mut(expert)) else {
            let known = assigned.keys().cloned().collect();
            return Err(RouterError::UnknownTask { name: item.task.clone(), known });
        };
        *place = 1.0;
    }
    Ok(targets)
}

/// Targets by the loss, in nats, of the right answer under each expert [items, experts]. With `temperature` 0 the
/// expert of the lowest loss has all, and experts within [`TIE`] of it share; else targets are the softmax of
/// -loss/temperature.
///
/// # Errors
/// [`RouterError::Setting`] for a temperature below 0, [`RouterError::NotFinite`] for a loss that is no number.
pub fn loss_targets(losses: ArrayView2<'_, f64>, temperature: f64) -> Result<Array2<f64>, RouterError> {
    if !(temperature >= 0.0 && temperature.is_finite()) {
        let found = temperature.to_string();
        return Err(RouterError::Setting { name: "temperature", found, expected: "a number of at least 0" });
    }
    let mut targets = losses.to_owned();
    for mut row in targets.axis_iter_mut(Axis(0)) {
        let lowest = row.fold(f64::INFINITY, |a, &b| a.min(b));
        if !lowest.is_finite() || row.iter().any(|loss| loss.is_nan()) {
            return Err(RouterError::NotFinite { what: "the loss of an item".into(), found: lowest });
        }
        if temperature > 0.0 {
            row.mapv_inplace(|loss| ((lowest - loss) / temperature).exp());
        } else {
            row.mapv_inplace(|loss| f64::from(u8::from(loss <= lowest + TIE)));
        }
        let sum = row.sum();
        row /= sum;
    }
    Ok(targets)
}

/// Prompts for experts that have none: up to `count` of the items of each expert's tasks, drawn by `seed`; with
/// `contrast`, as many of the other experts' items are its negative prompts. An expert without a task has no positive
/// prompts.
pub fn automatic_prompts(
    items: &[Item],
    assigned: &BTreeMap<String, usize>,
    experts: &[String],
    count: usize,
    contrast: bool,
    seed: u64,
) -> Vec<ExpertPrompts> {
    let drawn = |stream: usize, wanted: &dyn Fn(usize) -> bool| -> Vec<String> {
        let mut own: Vec<usize> =
            (0..items.len()).filter(|&i| assigned.get(&items[i].task).is_some_and(|&e| wanted(e))).collect();
        let order = permutation(seed, stream as u64, own.len());
        own = order.into_iter().take(count).map(|place| own[place]).collect();
        own.into_iter().map(|i| items[i].prompt.trim_end().to_owned()).collect()
    };
    let one = |(number, expert): (usize, &String)| ExpertPrompts {
        expert: expert.clone(),
        positive: drawn(2 * number, &|e| e == number),
        negative: if contrast { drawn(2 * number + 1, &|e| e != number) } else { Vec::new() },
    };
    experts.iter().enumerate().map(one).collect()
}

fn check_rows(expected: usize, losses: ArrayView2<'_, f64>) -> Result<(), RouterError> {
    if losses.nrows() == expected {
        return Ok(());
    }
    Err(RouterError::Mismatch { what: "losses of items".into(), expected, found: losses.nrows() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    fn items() -> Vec<Item> {
        let item = |task: &str, skill: &str, prompt: &str| Item {
            task: task.into(),
            skill: skill.into(),
            prompt: prompt.into(),
            answer: Some(" 2".into()),
        };
        vec![
            item("arith", "math", "1 + 1 ="),
            item("order", "reason", "a is taller"),
            item("wino", "reason", "it"),
            item("misc", "misc", "x "),
            item("misc", "misc", "y"),
        ]
    }

    fn experts() -> Vec<String> {
        ["chat", "math", "thinker"].map(String::from).to_vec()
    }

    #[test]
    fn experts_are_named_or_called_alike_or_best() {
        let given = BTreeMap::from([("reason".to_owned(), "thinker".to_owned()), ("wino".into(), "chat".into())]);
        let losses = array![[9.0, 9.0, 9.0], [0.0, 9.0, 9.0], [0.0, 9.0, 9.0], [3.0, 1.0, 2.0], [3.0, 2.0, 1.0]];
        let found = assign(&items(), &given, &experts(), &mut || Ok(losses.clone())).unwrap();
        // `misc` is a tie of sums, and the first counts.
        let expected = [("arith", 1), ("misc", 1), ("order", 2), ("wino", 0)];
        assert_eq!(found, expected.map(|(task, expert)| (task.to_owned(), expert)).into());
        let targets = skill_targets(&items(), &found, 3).unwrap();
        assert_eq!(targets.row(1).to_vec(), [0.0, 0.0, 1.0]);
        assert!(skill_targets(&items(), &BTreeMap::new(), 3).is_err());
        // Nobody asks for losses when all tasks are settled.
        let all = BTreeMap::from([("reason".into(), "chat".into()), ("misc".into(), "chat".into())]);
        assert!(assign(&items(), &all, &experts(), &mut || Err(RouterError::Stopped)).is_ok());
        assert!(assign(&items(), &given, &experts(), &mut || Err(RouterError::Stopped)).is_err());
        // Losses of nothing say nothing.
        let mut silent = items();
        silent[4].answer = None;
        let error = assign(&silent, &given, &experts(), &mut || Ok(losses.clone())).unwrap_err();
        assert!(matches!(&error, RouterError::NoAnswer { task, .. } if task == "misc"), "{error}");
        assert!(assign(&silent, &all, &experts(), &mut || Err(RouterError::Stopped)).is_ok());
    }

    #[test]
    fn wrong_names_are_refused() {
        let check = |name: &str, expert: &str| {
            let given = BTreeMap::from([(name.to_owned(), expert.to_owned())]);
            assign(&items(), &given, &experts(), &mut || Ok(Array2::zeros((5, 3)))).unwrap_err()
        };
        assert!(matches!(check("wino", "nobody"), RouterError::UnknownExpert { .. }));
        assert!(matches!(check("none", "chat"), RouterError::UnknownTask { .. }));
    }

    #[test]
    fn the_lowest_loss_has_all_and_ties_share() {
        let losses = array![[1.0, 2.0, 3.0], [2.0, 2.0 + TIE / 2.0, 5.0]];
        let hard = loss_targets(losses.view(), 0.0).unwrap();
        assert_eq!(hard, array![[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]]);
        let soft = loss_targets(array![[0.0, 2.0f64.ln()]].view(), 1.0).unwrap();
        assert!((soft[[0, 0]] - 2.0 / 3.0).abs() < 1e-15);
        assert!(loss_targets(losses.view(), -1.0).is_err());
        assert!(loss_targets(array![[f64::NAN, 1.0]].view(), 0.0).is_err());
    }

    #[test]
    fn prompts_come_from_the_items_of_the_expert() {
        let assigned = BTreeMap::from([("arith".to_owned(), 1), ("misc".into(), 0), ("order".into(), 2)]);
        let prompts = automatic_prompts(&items(), &assigned, &experts(), 1, true, 7);
        assert_eq!(prompts[1].positive, ["1 + 1 ="]);
        assert!(["x", "y"].contains(&prompts[0].positive[0].as_str()) && prompts[0].positive.len() == 1);
        assert!(prompts[1].negative.len() == 1 && prompts[1].negative[0] != "1 + 1 =");
        assert_eq!(prompts, automatic_prompts(&items(), &assigned, &experts(), 1, true, 7));
        assert!(automatic_prompts(&items(), &assigned, &experts(), 2, false, 7).iter().all(|p| p.negative.is_empty()));
    }
}
