//! One permutation: a bijection of 0 … n-1, stored as the list of the source of each element.
//!
//! `p` applied to `x` is `y[i] = x[p[i]]`.

use glue_tensor::random;
use serde::{Deserialize, Serialize};

/// Why a list of numbers is not a permutation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PermutationError {
    /// A number is too large.
    #[error("entry {at} of a permutation of {len} elements is {found}; entries go from 0 to {}", len - 1)]
    OutOfRange {
        /// Position in the list.
        at: usize,
        /// The number there.
        found: u32,
        /// Length of the list.
        len: usize,
    },
    /// A number is listed twice.
    #[error("entry {at} of a permutation of {len} elements is {found} again")]
    Repeated {
        /// Position in the list of the second time.
        at: usize,
        /// The number there.
        found: u32,
        /// Length of the list.
        len: usize,
    },
}

/// A permutation of `len` elements. Serialised as the list of its sources; a list that is not a permutation is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<u32>", into = "Vec<u32>")]
pub struct Permutation {
    sources: Vec<u32>,
}

impl Permutation {
    /// The permutation that moves element `sources[i]` to index `i`.
    ///
    /// # Errors
    /// [`PermutationError`] unless each number below the length is listed once.
    pub fn new(sources: Vec<u32>) -> Result<Permutation, PermutationError> {
        let len = sources.len();
        let mut seen = vec![false; len];
        for (at, &found) in sources.iter().enumerate() {
            match seen.get_mut(found as usize) {
                None => return Err(PermutationError::OutOfRange { at, found, len }),
                Some(true) => return Err(PermutationError::Repeated { at, found, len }),
                Some(seen) => *seen = true,
            }
        }
        Ok(Permutation { sources })
    }

    /// The permutation of `len` elements that moves none.
    pub fn identity(len: usize) -> Permutation {
        Permutation { sources: (0..len as u32).collect() }
    }

    /// A uniformly random permutation of `len` elements: a function of `seed` and `stream`, the number of the
    /// permutation among those of the same seed.
    pub fn random(len: usize, seed: u64, stream: u64) -> Permutation {
        let key = random::mix(seed ^ random::mix(stream.wrapping_add(1)));
        let mut sources: Vec<u32> = (0..len as u32).collect();
        for (drawn, i) in (1..len).rev().enumerate() {
            // The upper half of a product with a uniform number of 64 bits is uniform below the bound, to 2^-32.
            let j = (u128::from(random::at(key, drawn as u64)) * (i as u128 + 1)) >> 64;
            sources.swap(i, j as usize);
        }
        Permutation { sources }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.sources.len()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.sources.is_empty()
    }

    /// The source of the element at index `at`.
    ///
    /// # Panics
    /// When `at` is not below the length.
    pub fn source(&self, at: usize) -> usize {
        self.sources[at] as usize
    }

    /// The source of each element, by index.
    pub fn sources(&self) -> &[u32] {
        &self.sources
    }

    /// Whether no element moves.
    pub fn is_identity(&self) -> bool {
        self.moved() == 0
    }

    /// How many elements move.
    pub fn moved(&self) -> usize {
        self.sources.iter().enumerate().filter(|&(i, &source)| i != source as usize).count()
    }

    /// The permutation that undoes this one.
    pub fn inverse(&self) -> Permutation {
        let mut sources = vec![0; self.len()];
        for (i, &source) in self.sources.iter().enumerate() {
            sources[source as usize] = i as u32;
        }
        Permutation { sources }
    }

    /// This permutation applied after `first`, as one; `None` when their lengths differ.
    pub fn after(&self, first: &Permutation) -> Option<Permutation> {
        (self.len() == first.len())
            .then(|| Permutation { sources: self.sources.iter().map(|&i| first.sources[i as usize]).collect() })
    }

    /// The elements of `values` in their new order; `None` when their number is not the permutation's.
    pub fn apply<T: Clone>(&self, values: &[T]) -> Option<Vec<T>> {
        (self.len() == values.len()).then(|| self.sources.iter().map(|&i| values[i as usize].clone()).collect())
    }
}

impl TryFrom<Vec<u32>> for Permutation {
    type Error = PermutationError;

    fn try_from(sources: Vec<u32>) -> Result<Permutation, PermutationError> {
        Permutation::new(sources)
    }
}

impl From<Permutation> for Vec<u32> {
    fn from(permutation: Permutation) -> Vec<u32> {
        permutation.sources
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lists_that_are_no_permutation_are_refused() {
        let len = 3;
        assert_eq!(Permutation::new(vec![0, 1, 3]), Err(PermutationError::OutOfRange { at: 2, found: 3, len }));
        assert_eq!(Permutation::new(vec![0, 2, 2]), Err(PermutationError::Repeated { at: 2, found: 2, len }));
        let error = serde_json::from_str::<Permutation>("[1, 1]").unwrap_err().to_string();
        assert!(error.contains("entry 1 of a permutation of 2 elements is 1 again"), "{error}");
        assert_eq!(Permutation::new(Vec::new()).unwrap(), Permutation::identity(0));
    }

    #[test]
    fn random_permutations_of_a_seed_stay_the_same() {
        // By Fisher and Yates, with SplitMix64 from a state of both numbers on.
        assert_eq!(Permutation::random(8, 1, 2).sources(), [0, 5, 1, 7, 6, 3, 4, 2]);
    }

    #[test]
    fn random_permutations_follow_seed_and_stream() {
        let p = Permutation::random(50, 1, 2);
        assert_eq!(p, Permutation::random(50, 1, 2));
        assert_ne!(p, Permutation::random(50, 2, 2));
        assert_ne!(p, Permutation::random(50, 1, 3));
        assert_eq!(Permutation::new(p.sources().to_vec()), Ok(p));
    }

    #[test]
    fn random_permutations_are_uniform() {
        let mut counts = std::collections::BTreeMap::new();
        for stream in 0..6000 {
            *counts.entry(Permutation::random(3, 5, stream).sources().to_vec()).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), 6);
        // 1000 each, standard deviation 29: six of them.
        assert!(counts.values().all(|&count| (820..1180).contains(&count)), "{counts:?}");
    }

    proptest! {
        #[test]
        fn inverse_undoes_and_composition_is_application_in_turn(len in 0usize..40, seed: u64) {
            let (p, q) = (Permutation::random(len, seed, 0), Permutation::random(len, seed, 1));
            let x: Vec<usize> = (100..100 + len).collect();
            let y = p.apply(&x).unwrap();
            prop_assert_eq!(p.inverse().apply(&y).unwrap(), x.clone());
            prop_assert_eq!(q.after(&p).unwrap().apply(&x).unwrap(), q.apply(&y).unwrap());
            prop_assert!(p.after(&p.inverse()).unwrap().is_identity());
            prop_assert!(p.inverse().after(&p).unwrap().is_identity());
        }
    }
}
