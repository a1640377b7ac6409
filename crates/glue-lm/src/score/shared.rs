//! Prefixes that several chunks share: run when a chunk first needs them, and given up after the last one that does.

use super::packing::{Chunk, Packing};
use crate::cancel;
use crate::error::LmError;
use crate::memory::Footprint;
use crate::model::Model;
use crate::tree::{Branch, Tree};
use glue_progress::CancelToken;
use std::ops::Range;

pub(super) struct SharedPrefixes<'a> {
    packing: &'a Packing,
    footprint: Footprint,
    /// Bytes that prefixes may take.
    budget: u64,
    /// Chunks that are not done and need a prefix.
    users: Vec<usize>,
    /// The prefixes that are there, each with those before it.
    kept: Vec<Option<(Tree, Branch)>>,
}

impl<'a> SharedPrefixes<'a> {
    pub(super) fn new(packing: &'a Packing, footprint: Footprint, budget: u64) -> SharedPrefixes<'a> {
        let mut users = vec![0; packing.prefixes.len()];
        packing.chunks.iter().flat_map(|chunk| packing.path(chunk)).for_each(|prefix| users[prefix] += 1);
        let kept = packing.prefixes.iter().map(|_| None).collect();
        SharedPrefixes { packing, footprint, budget, users, kept }
    }

    /// Chunks from the number `first` on, at most `max` and at least one, whose prefixes fit into the budget together.
    pub(super) fn wave(&self, first: usize, max: usize) -> Range<usize> {
        let mut needed: Vec<bool> = self.kept.iter().map(Option::is_some).collect();
        let bytes = |prefix: usize| self.footprint.kv(self.packing.prefixes[prefix].tokens.len());
        let mut sum: u64 = (0..needed.len()).filter(|&prefix| needed[prefix]).map(bytes).sum();
        let mut end = first;
        for chunk in self.packing.chunks[first..].iter().take(max) {
            for prefix in self.packing.path(chunk) {
                if !std::mem::replace(&mut needed[prefix], true) {
                    sum += bytes(prefix);
                }
            }
            if end > first && sum > self.budget {
                break;
            }
            end += 1;
        }
        first..end
    }

    /// Runs the prefixes that these chunks need and that are not there yet.
    pub(super) fn make(&mut self, model: &Model, wave: &Range<usize>, stop: &CancelToken) -> Result<(), LmError> {
        for chunk in &self.packing.chunks[wave.clone()] {
            let mut path: Vec<usize> = self.packing.path(chunk).collect();
            path.reverse();
            for prefix in path {
                if self.kept[prefix].is_some() {
                    continue;
                }
                cancel::check(stop)?;
                let described = &self.packing.prefixes[prefix];
                let (mut tree, parent) = self.at(described.parent);
                let tokens = &self.packing.sequences[described.sequence].tokens[described.tokens.clone()];
                let mut pieces = tokens.chunks(self.packing.rows());
                let branch = tree.push(parent, pieces.next().unwrap_or_default());
                loop {
                    let pass = tree.pass();
                    model.run(&mut tree, &pass, &[], &[], true)?;
                    let Some(piece) = pieces.next() else { break };
                    tree.extend(branch, piece);
                }
                self.kept[prefix] = Some((tree, branch));
            }
        }
        Ok(())
    }

    /// A tree that holds the prefix of a chunk, and the branch where it ends.
    pub(super) fn before(&self, chunk: &Chunk) -> (Tree, Option<Branch>) {
        self.at(chunk.prefix)
    }

    fn at(&self, prefix: Option<usize>) -> (Tree, Option<Branch>) {
        match prefix.and_then(|prefix| self.kept[prefix].as_ref()) {
            Some((tree, branch)) => (tree.clone(), Some(*branch)),
            None => (Tree::new(), None),
        }
    }

    /// Gives up the prefixes that no chunk after these needs.
    pub(super) fn drop_unused(&mut self, wave: &Range<usize>) {
        for chunk in &self.packing.chunks[wave.clone()] {
            for prefix in self.packing.path(chunk) {
                self.users[prefix] -= 1;
                if self.users[prefix] == 0 {
                    self.kept[prefix] = None;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::KvCacheType;
    use crate::score::packing::Sequence;
    use std::path::Path;

    /// Thirty sequences after each of three prefixes of 61 tokens.
    fn packing() -> Packing {
        let sequence = |i: u32| {
            let mut tokens: Vec<u32> = (0..60).map(|t| (t + 7 * (i / 30)) % 90).collect();
            tokens.extend([90 + i / 30, i % 30, i % 30]);
            Sequence { length_class: Vec::new(), first_scored: 61, prompt: None, tokens }
        };
        Packing::new((0..90).map(sequence).collect(), 40)
    }

    #[test]
    fn prefixes_are_there_while_they_are_needed_and_no_longer() {
        let model = Model::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/archs/llama2")).unwrap();
        let packing = packing();
        assert_eq!(packing.prefixes.len(), 3);
        let footprint = model.footprint(KvCacheType::F32);
        let one = footprint.kv(61);
        // Room for none, for one, for two, for all; and passes one by one, whose prefixes come and go with them.
        for (budget, max, prefixes_together) in [
            (0, usize::MAX, 1),
            (one, usize::MAX, 1),
            (2 * one, usize::MAX, 2),
            (3 * one, usize::MAX, 3),
            (3 * one, 1, 1),
        ] {
            let mut prefixes = SharedPrefixes::new(&packing, footprint, budget);
            let (mut done, mut most) = (0, 0);
            while done < packing.chunks.len() {
                let wave = prefixes.wave(done, max);
                assert!(wave.start == done && wave.len() <= max && !wave.is_empty());
                prefixes.make(&model, &wave, &CancelToken::default()).unwrap();
                for chunk in &packing.chunks[wave.clone()] {
                    let (tree, branch) = prefixes.before(chunk);
                    assert_eq!((tree.kept(), branch.map(|branch| tree.len_of(branch))), (61, Some(61)));
                }
                most = most.max(prefixes.kept.iter().flatten().count());
                prefixes.drop_unused(&wave);
                done = wave.end;
            }
            assert_eq!((most, prefixes.kept.iter().flatten().count()), (prefixes_together, 0), "{budget} {max}");
        }
    }
}
