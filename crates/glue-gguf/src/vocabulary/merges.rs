//! Merges of a BPE: whether they reach every token, and how they and scores follow from each other.

use std::collections::HashMap;

/// Merges by the ids of what they merge, in the order of their ranks.
pub(crate) struct Merges<'a> {
    ids: &'a HashMap<&'a str, u32>,
    ranks: HashMap<(u32, u32), usize>,
}

impl<'a> Merges<'a> {
    /// Takes pairs of tokens, of which the first is merged first. Pairs with a side that is no token are left out.
    pub(crate) fn new<'b>(
        ids: &'a HashMap<&'a str, u32>,
        pairs: impl IntoIterator<Item = (&'b str, &'b str)>,
    ) -> Merges<'a> {
        let mut ranks = HashMap::new();
        for (rank, (left, right)) in pairs.into_iter().enumerate() {
            if let (Some(&left), Some(&right)) = (ids.get(left), ids.get(right)) {
                ranks.entry((left, right)).or_insert(rank);
            }
        }
        Merges { ids, ranks }
    }

    /// Whether merging the characters of `token` gives it back.
    pub(crate) fn reach(&self, token: &str) -> bool {
        // Where each piece begins, and the end.
        let mut bounds: Vec<usize> = token.char_indices().map(|(at, _)| at).chain([token.len()]).collect();
        let id = |from: usize, to: usize| self.ids.get(&token[from..to]).copied();
        while bounds.len() > 2 {
            let best = (0..bounds.len() - 2)
                .filter_map(|at| {
                    let pair = (id(bounds[at], bounds[at + 1])?, id(bounds[at + 1], bounds[at + 2])?);
                    Some((*self.ranks.get(&pair)?, at))
                })
                .min();
            match best {
                Some((_, at)) => bounds.remove(at + 1),
                None => return false,
            };
        }
        true
    }

    /// Rank of the merge of two tokens.
    pub(crate) fn rank(&self, left: &str, right: &str) -> Option<usize> {
        self.ranks.get(&(*self.ids.get(left)?, *self.ids.get(right)?)).copied()
    }
}

/// The ways to make `token` of two parts, neither of which is empty.
pub(crate) fn splits(token: &str) -> impl Iterator<Item = (&str, &str)> {
    token.char_indices().skip(1).map(|(at, _)| token.split_at(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merges_reach_a_token_only_in_the_order_of_their_ranks() {
        let tokens = ["a", "b", "c", "ab", "bc", "abc"];
        let ids: HashMap<&str, u32> = tokens.iter().copied().zip(0..).collect();
        let merges = Merges::new(&ids, [("a", "b"), ("b", "c"), ("ab", "c")]);
        assert!(tokens.iter().all(|token| merges.reach(token)));
        // The second merge now takes the b away from the first.
        let merges = Merges::new(&ids, [("b", "c"), ("a", "b"), ("ab", "c")]);
        assert!(merges.reach("ab") && !merges.reach("abc"));
        assert_eq!(merges.rank("ab", "c"), Some(2));
        assert_eq!(merges.rank("c", "ab"), None);
    }

    #[test]
    fn a_token_is_split_between_its_characters() {
        assert_eq!(splits("aé▁").collect::<Vec<_>>(), [("a", "é▁"), ("aé", "▁")]);
        assert_eq!(splits("é").count(), 0);
    }
}
