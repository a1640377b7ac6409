//! What the heuristics have in common: a merge that grows by one model at a time, as long as it does not get worse.

use crate::course::Halt;
use crate::session::{Proposal, Session, compare, floor_below, short};
use std::cmp::Ordering;

/// Shares that the current merge keeps when another model comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shares {
    /// m / (m + 1) for a merge of m models: all have the same weight in the end.
    Average,
    /// i / (n + 1) for i from 1 to n; the best is kept.
    Grid(usize),
}

impl Shares {
    /// With `n` points, or an average for 0.
    pub(super) fn new(n: usize) -> Shares {
        if n == 0 { Shares::Average } else { Shares::Grid(n) }
    }

    /// How many there are.
    pub(super) fn len(self) -> u64 {
        match self {
            Shares::Average => 1,
            Shares::Grid(n) => n as u64,
        }
    }

    fn of(self, m: usize) -> Vec<f64> {
        match self {
            Shares::Average => vec![m as f64 / (m + 1) as f64],
            // The greatest first: among equals, the one that changes least is kept.
            Shares::Grid(n) => (1..=n).rev().map(|i| i as f64 / (n + 1) as f64).collect(),
        }
    }
}

/// Which of the models that are left comes next, as a place in the list: `(current weights, models left)`.
pub(super) type Next<'f> = &'f dyn Fn(&Session<'_, '_>, &[(usize, f64)], &[usize]) -> Result<usize, Halt>;

/// Starts from the best single model and offers the others one by one, as `next` says. A model is accepted when the merge
/// is at least as good with it as without.
pub(super) fn grow(session: &mut Session<'_, '_>, shares: Shares, next: Next<'_>) -> Result<(), Halt> {
    let mut left = session.order();
    if left.is_empty() {
        return Err(Halt::Strategy("no model could be scored".into()));
    }
    let first = left.remove(0);
    let mut current = vec![(first, 1.0)];
    let start = single(session, first);
    let scored = session.score(std::slice::from_ref(&start), None);
    if let Some(&i) = scored.tried.first() {
        let average = session.average(i).unwrap_or(f64::NAN);
        session.accept(
            i,
            &start,
            format!("average {}, the best of the models by themselves: the start", short(average)),
        );
    }
    if let Some(halt) = scored.halt {
        return Err(halt);
    }
    while !left.is_empty() {
        let best = session.found().map_or(f64::NEG_INFINITY, |found| found.average);
        let place = next(session, &current, &left)?;
        let model = left.remove(place);
        let mixed = |share: f64| -> Vec<(usize, f64)> {
            current.iter().map(|&(i, w)| (i, w * share)).chain([(model, 1.0 - share)]).collect()
        };
        let proposals: Vec<Proposal> =
            shares.of(current.len()).into_iter().map(|share| session.linear(mixed(share))).collect();
        let scored = session.score(&proposals, Some(floor_below(best)));
        let chosen = best_of(session, &scored.tried).filter(|&place| {
            session.average(scored.tried[place]).is_some_and(|average| compare(average, best) != Ordering::Less)
        });
        for (place, &i) in scored.tried.iter().enumerate() {
            match chosen {
                Some(chosen) if chosen == place => {
                    let average = session.average(i).unwrap_or(f64::NAN);
                    let reason = format!(
                        "average {} is not below {}, the best so far: {} is in",
                        short(average),
                        short(best),
                        session.setup().members[model].name
                    );
                    session.accept(i, &proposals[place], reason);
                }
                Some(chosen) => {
                    let better = session.average(scored.tried[chosen]).unwrap_or(best);
                    session.reject(i, better);
                }
                None => session.reject(i, best),
            }
        }
        if let Some(chosen) = chosen {
            current.clone_from(&proposals[chosen].weights);
        }
        if let Some(halt) = scored.halt {
            return Err(halt);
        }
    }
    Ok(())
}

/// A model by itself, by the recipe that its own score was found with.
pub(super) fn single(session: &Session<'_, '_>, i: usize) -> Proposal {
    let setup = session.setup();
    let candidate = crate::recipe_text::alone(&setup.frame, &setup.members[i].path);
    Proposal { candidate, what: setup.words(&[(i, 1.0)]), weights: vec![(i, 1.0)] }
}

/// The place of the highest average; the first among equals.
fn best_of(session: &Session<'_, '_>, tried: &[usize]) -> Option<usize> {
    let mut best: Option<(usize, f64)> = None;
    for (place, &i) in tried.iter().enumerate() {
        if let Some(average) = session.average(i)
            && best.is_none_or(|(_, found)| compare(average, found) == Ordering::Greater)
        {
            best = Some((place, average));
        }
    }
    best.map(|(place, _)| place)
}

/// The next in the order of individual scores.
pub(super) fn by_score(_: &Session<'_, '_>, _: &[(usize, f64)], _: &[usize]) -> Result<usize, Halt> {
    Ok(0)
}

/// The place of the model that is most like the current merge, or least; the earlier in order among equals.
pub(super) fn by_likeness(
    session: &Session<'_, '_>,
    current: &[(usize, f64)],
    left: &[usize],
    most: bool,
) -> Result<usize, Halt> {
    let mut chosen = (0, f64::NEG_INFINITY);
    for (place, &model) in left.iter().enumerate() {
        let likeness = session.likeness(current, model)?;
        let worth = if most { likeness } else { -likeness };
        if worth > chosen.1 {
            chosen = (place, worth);
        }
    }
    Ok(chosen.0)
}
