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

/// Steps that finding out about all merges may take: far more than for any vocabulary there is, and less than a minute.
const MAX_STEPS: u64 = 1 << 34;

/// Checks that no vocabulary of `tokens` takes unbounded time here: work grows with the cube of the length of a token.
///
/// # Errors
/// In words, with the token that is too long.
pub(crate) fn check_lengths<'a>(tokens: impl IntoIterator<Item = &'a str>) -> Result<(), String> {
    let mut steps = 0u64;
    for token in tokens {
        let length = token.len() as u64;
        steps = steps.saturating_add(length.saturating_pow(3));
        if steps > MAX_STEPS {
            let beginning: String = token.chars().take(20).collect();
            return Err(format!(
                "its tokens are too long, such as one of {length} bytes that begins with {beginning:?}"
            ));
        }
    }
    Ok(())
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
    fn tokens_without_bound_are_refused() {
        let (long, usual) = ("a".repeat(4000), "ab".repeat(40));
        assert!(check_lengths([long.as_str()]).unwrap_err().contains("one of 4000 bytes"));
        assert_eq!(check_lengths(std::iter::repeat_n(usual.as_str(), 10_000)), Ok(()));
    }

    #[test]
    fn a_token_is_split_between_its_characters() {
        assert_eq!(splits("aé▁").collect::<Vec<_>>(), [("a", "é▁"), ("aé", "▁")]);
        assert_eq!(splits("é").count(), 0);
    }
}
