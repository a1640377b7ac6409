//! The order of tensor names in an output.

use std::cmp::Ordering;

/// Compares names part by part: layer `2` sorts before layer `10`, and numbers sort before words.
pub(super) fn natural(a: &str, b: &str) -> Ordering {
    let number = |part: &str| part.parse::<u64>().ok();
    let by_part = a.split('.').zip(b.split('.')).map(|(x, y)| match (number(x), number(y)) {
        (Some(n), Some(m)) => n.cmp(&m).then_with(|| x.cmp(y)),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => x.cmp(y),
    });
    by_part.into_iter().find(|order| order.is_ne()).unwrap_or_else(|| a.len().cmp(&b.len()).then_with(|| a.cmp(b)))
}

#[cfg(test)]
mod tests {
    //! Layers in their order, and any names in some order.
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_are_compared_by_value() {
        let mut names = ["b.10", "b.2", "b.norm", "b.1a", "b", "a.3"];
        names.sort_by(|a, b| natural(a, b));
        assert_eq!(names, ["a.3", "b", "b.2", "b.10", "b.1a", "b.norm"]);
    }

    proptest! {
        /// `sort_by` may panic unless the order is total, and names come from files.
        #[test]
        fn names_have_a_total_order(names in prop::array::uniform3("[0-2a-]{0,2}(\\.[0-2a-]{0,2}){0,2}")) {
            let [a, b, c] = &names;
            prop_assert_eq!(natural(a, b), natural(b, a).reverse());
            prop_assert_eq!(natural(a, b).is_eq(), a == b);
            if natural(a, b).is_le() && natural(b, c).is_le() {
                prop_assert!(natural(a, c).is_le(), "{} {} {}", a, b, c);
            }
        }
    }
}
