//! Which examples stand in a prompt.

use crate::data::Row;
use crate::python::random::Random;

/// How examples are chosen from the items that there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Choice {
    /// At random, with the generator that the harness uses, so that a seed gives the same examples as there.
    Random,
    /// The first ones.
    First,
}

impl Choice {
    pub(super) const ALL: &'static [(&'static str, Choice)] =
        &[("default", Choice::Random), ("random", Choice::Random), ("first_n", Choice::First)];
}

/// Gives one prompt after another its examples. Random choices continue where the one before ended.
pub(super) struct Examples<'a> {
    pool: &'a [Row],
    choice: Choice,
    random: Random,
}

impl<'a> Examples<'a> {
    pub(super) fn new(pool: &'a [Row], choice: Choice, seed: u64) -> Examples<'a> {
        Examples { pool, choice, random: Random::new(seed) }
    }

    /// `count` examples, none of which is equal to `not`. `None` when there are too few.
    pub(super) fn draw(&mut self, count: usize, not: Option<&Row>) -> Option<Vec<&'a Row>> {
        if count == 0 {
            return Some(Vec::new());
        }
        let differs = |row: &&Row| not.is_none_or(|not| not.fields != row.fields);
        if self.choice == Choice::First {
            let drawn: Vec<&Row> = self.pool.iter().filter(differs).take(count).collect();
            return (drawn.len() == count).then_some(drawn);
        }
        // One more is drawn than needed, so that the item itself can be set aside.
        let wanted = count.saturating_add(usize::from(not.is_some()));
        if wanted > self.pool.len() {
            return None;
        }
        let drawn = self.random.sample(self.pool.len(), wanted);
        let drawn: Vec<&Row> = drawn.into_iter().map(|i| &self.pool[i]).filter(differs).take(count).collect();
        if drawn.len() == count {
            return Some(drawn);
        }
        let others: Vec<&Row> = self.pool.iter().filter(differs).collect();
        if others.len() < count {
            return None;
        }
        Some(self.random.sample(others.len(), count).into_iter().map(|i| others[i]).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rows(values: &[u32]) -> Vec<Row> {
        let fields = |n: u32| json!({"n": n}).as_object().cloned().unwrap();
        values.iter().zip(1..).map(|(&n, line)| Row { line, fields: fields(n) }).collect()
    }

    #[test]
    fn an_item_is_no_example_of_itself() {
        let pool = rows(&[0, 1, 2, 1, 1]);
        for choice in [Choice::Random, Choice::First] {
            let mut examples = Examples::new(&pool, choice, 1234);
            for _ in 0..20 {
                let drawn = examples.draw(2, Some(&pool[1])).unwrap();
                assert_eq!(drawn.len(), 2);
                assert!(drawn.iter().all(|row| row.fields != pool[1].fields));
            }
            assert!(examples.draw(3, Some(&pool[1])).is_none());
            assert!(examples.draw(6, None).is_none());
        }
        let first = Examples::new(&pool, Choice::First, 0).draw(2, Some(&pool[0])).unwrap();
        assert_eq!(first.iter().map(|row| row.line).collect::<Vec<_>>(), [2, 3]);
    }
}
