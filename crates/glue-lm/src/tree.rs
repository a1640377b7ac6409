//! Sequences that share prefixes, and the keys and values kept of them: a batch and a KV cache in one.
//!
//! A branch holds some consecutive tokens after those of its parent. A sequence is the way from a root to the end of a
//! branch. Tokens are pending until the next forward pass, which runs all that is pending of a tree at once and keeps
//! keys and values in the branches.
//!
//! A root is a sample, for models that route samples: what is pending in it at its first pass is its prompt, by which
//! its experts are chosen, once for all that follows it.

use crate::ops::{KeyValue, KvCacheType, Segment, Span};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

/// A branch of a [`Tree`]. It means nothing in another tree, nor after its release.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Branch {
    index: usize,
    generation: u32,
}

/// Sequences that share prefixes. Belongs to the model that runs it first.
///
/// A clone shares the keys and values kept so far and goes its own way from there.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    /// What keys and values are kept in.
    cache_type: KvCacheType,
    nodes: Vec<Node>,
    free: Vec<usize>,
    /// Branches with pending tokens, in the order in which they were first pushed or extended.
    pending: Vec<usize>,
}

#[derive(Clone, Debug)]
struct Node {
    generation: u32,
    live: bool,
    parent: Option<usize>,
    children: usize,
    /// Position of the first token.
    start: usize,
    /// Tokens whose keys and values are kept.
    done: usize,
    pending: Vec<u32>,
    /// The first branch of every sequence through this one.
    root: usize,
    /// One entry per layer, or per expert of a layer, from the first pass on; none where an expert was not chosen.
    cache: Vec<Option<KeyValue>>,
    /// In a root: the scores of the experts by each gate that routes samples.
    scores: Vec<Option<Arc<[f32]>>>,
}

impl Tree {
    /// A tree without tokens.
    pub fn new() -> Tree {
        Tree::default()
    }

    /// A tree without tokens that keeps keys and values in this type.
    pub fn with_cache_type(cache_type: KvCacheType) -> Tree {
        Tree { cache_type, ..Tree::default() }
    }

    /// A new branch of `tokens` after the end of `parent`, or at position 0. They are pending until the next forward
    /// pass; `parent` may be pending too.
    ///
    /// # Panics
    /// When `parent` was released or is of another tree.
    pub fn push(&mut self, parent: Option<Branch>, tokens: &[u32]) -> Branch {
        let parent = parent.map(|branch| self.index(branch));
        let start = parent.map_or(0, |parent| self.nodes[parent].end());
        if let Some(parent) = parent {
            self.nodes[parent].children += 1;
        }
        let root = parent.map(|parent| self.nodes[parent].root);
        let mut node = Node {
            // A root is its own; its index is known below.
            root: root.unwrap_or(usize::MAX),
            scores: Vec::new(),
            generation: 0,
            live: true,
            parent,
            children: 0,
            start,
            done: 0,
            pending: tokens.to_vec(),
            cache: Vec::new(),
        };
        let index = match self.free.pop() {
            Some(index) => {
                node.generation = self.nodes[index].generation + 1;
                self.nodes[index] = node;
                index
            }
            None => {
                self.nodes.push(node);
                self.nodes.len() - 1
            }
        };
        if root.is_none() {
            self.nodes[index].root = index;
        }
        if !tokens.is_empty() {
            self.pending.push(index);
        }
        Branch { index, generation: self.nodes[index].generation }
    }

    /// Appends `tokens` to a branch without children: the step of a generation. Pending until the next forward pass,
    /// after those of the branch that are pending already.
    ///
    /// # Panics
    /// When the branch has children, was released, or is of another tree.
    pub fn extend(&mut self, branch: Branch, tokens: &[u32]) {
        let index = self.index(branch);
        let node = &mut self.nodes[index];
        assert!(node.children == 0, "a branch with children cannot be extended");
        if node.pending.is_empty() && !tokens.is_empty() {
            self.pending.push(index);
        }
        node.pending.extend_from_slice(tokens);
    }

    /// Tokens from the root to the end of the branch, pending ones included.
    ///
    /// # Panics
    /// When the branch was released or is of another tree.
    pub fn len_of(&self, branch: Branch) -> usize {
        self.nodes[self.index(branch)].end()
    }

    /// Gives back the memory of a branch without children, with what is pending of it.
    ///
    /// # Panics
    /// When the branch has children, was released already, or is of another tree.
    pub fn release(&mut self, branch: Branch) {
        let index = self.index(branch);
        let node = &mut self.nodes[index];
        assert!(node.children == 0, "a branch with children cannot be released");
        node.live = false;
        node.cache = Vec::new();
        node.pending = Vec::new();
        let parent = node.parent;
        if let Some(parent) = parent {
            self.nodes[parent].children -= 1;
        }
        self.pending.retain(|&other| other != index);
        self.free.push(index);
    }

    /// Tokens that the next forward pass runs.
    pub fn pending(&self) -> usize {
        self.pending.iter().map(|&index| self.nodes[index].pending.len()).sum()
    }

    /// Pending tokens of a branch.
    pub(crate) fn pending_of(&self, branch: Branch) -> usize {
        self.nodes[self.index(branch)].pending.len()
    }

    /// Layers that are kept, those of every expert counted, if any are.
    pub(crate) fn layers_kept(&self) -> Option<usize> {
        self.nodes.iter().find(|node| node.live && node.done > 0).map(|node| node.cache.len())
    }

    fn index(&self, branch: Branch) -> usize {
        let node = self.nodes.get(branch.index);
        let known = node.is_some_and(|node| node.live && node.generation == branch.generation);
        assert!(known, "{branch:?} is not a branch of this tree");
        branch.index
    }

    /// What the next pass runs.
    pub(crate) fn pass(&self) -> Pass {
        let mut tokens = Vec::new();
        let mut positions = Vec::new();
        let mut rows_of = HashMap::with_capacity(self.pending.len());
        for &index in &self.pending {
            let node = &self.nodes[index];
            let first = node.start + node.done;
            rows_of.insert(index, tokens.len()..tokens.len() + node.pending.len());
            positions.extend(first..first + node.pending.len());
            tokens.extend_from_slice(&node.pending);
        }
        let mut lengths = vec![0; tokens.len()];
        let mut segments = Vec::with_capacity(self.pending.len());
        for &index in &self.pending {
            let rows = rows_of[&index].clone();
            let end = self.nodes[index].end();
            let mut path = Vec::new();
            let mut next = Some(index);
            while let Some(index) = next {
                let node = &self.nodes[index];
                if let Some(rows) = rows_of.get(&index) {
                    lengths[rows.clone()].iter_mut().for_each(|length| *length = end.max(*length));
                    path.push(KeyRange::Now(rows.clone()));
                }
                if node.done > 0 {
                    path.push(KeyRange::Before(index, node.done));
                }
                next = node.parent;
            }
            path.reverse();
            path.dedup_by(|after, before| match (before, after) {
                (KeyRange::Now(before), KeyRange::Now(after)) if before.end == after.start => {
                    before.end = after.end;
                    true
                }
                _ => false,
            });
            segments.push(PassSegment { node: index, rows, path, sample: 0 });
        }
        let mut samples: Vec<Sample> = Vec::new();
        let mut numbers = HashMap::new();
        for segment in &mut segments {
            let root = self.nodes[segment.node].root;
            segment.sample = *numbers.entry(root).or_insert_with(|| {
                let decided = self.nodes[root].done > 0;
                let prompt = if decided { 0..0 } else { rows_of.get(&root).cloned().unwrap_or(0..0) };
                samples.push(Sample { root, decided, prompt });
                samples.len() - 1
            });
        }
        Pass { tokens, positions, lengths, segments, samples, rows_of }
    }

    /// The scores of the experts by the gate `gate` of a sample whose prompt was run in an earlier pass.
    pub(crate) fn scores_of(&self, sample: &Sample, gate: usize) -> Option<Arc<[f32]>> {
        self.nodes[sample.root].scores.get(gate).cloned().flatten()
    }

    /// Keeps the scores of the experts by a gate.
    pub(crate) fn keep_scores(&mut self, sample: &Sample, gate: usize, scores: Arc<[f32]>) {
        let all = &mut self.nodes[sample.root].scores;
        if all.len() <= gate {
            all.resize(gate + 1, None);
        }
        all[gate] = Some(scores);
    }

    /// The segments of a pass as attention takes them, for the keys and values kept at `slot`. `kv_rows` are the rows
    /// of the pass that have keys and values there, whole samples, and `query_rows` those that have queries; both
    /// ascend, and are all rows when absent.
    pub(crate) fn attention_segments(
        &self,
        pass: &Pass,
        slot: usize,
        kv_rows: Option<&[usize]>,
        query_rows: Option<&[usize]>,
    ) -> Arc<[Segment]> {
        let query_rows = query_rows.or(kv_rows);
        let mut at = 0;
        let segment = |segment: &PassSegment| {
            let (rows, positions) = match query_rows {
                None => (segment.rows.clone(), pass.positions[segment.rows.clone()].to_vec()),
                Some(query_rows) => {
                    let n = query_rows[at..].partition_point(|&row| row < segment.rows.end);
                    let rows = at..at + n;
                    at += n;
                    (rows.clone(), query_rows[rows].iter().map(|&row| pass.positions[row]).collect())
                }
            };
            // An expert that is not chosen has neither queries of a sample nor keys.
            if rows.is_empty() {
                return None;
            }
            let mut spans = Vec::with_capacity(segment.path.len());
            for part in &segment.path {
                match part {
                    KeyRange::Now(rows) => spans.push(Span::Now(placed(kv_rows, rows))),
                    KeyRange::Before(node, len) => {
                        let kept = self.nodes[*node].cache.get(slot).and_then(Option::as_ref);
                        // What an expert holds of a sample it holds of all of it.
                        debug_assert!(kept.is_some(), "no keys at {slot}");
                        let chunks = kept.into_iter().flat_map(|kept| kept.first(*len));
                        spans.extend(chunks.map(|(chunk, rows)| Span::Before(Arc::clone(chunk), rows)));
                    }
                }
            }
            Some(Segment { rows, positions, spans })
        };
        pass.segments.iter().filter_map(segment).collect()
    }

    /// Keeps keys and values at `slot`, each [rows, width], of the rows `kv_rows` of a pass: whole samples, ascending;
    /// all rows when absent.
    pub(crate) fn keep(&mut self, pass: &Pass, slot: usize, kv_rows: Option<&[usize]>, k: &[f32], v: &[f32]) {
        let width = k.len() / kv_rows.map_or(pass.tokens.len(), <[usize]>::len).max(1);
        for segment in &pass.segments {
            let rows = placed(kv_rows, &segment.rows);
            if rows.is_empty() {
                continue;
            }
            let node = &mut self.nodes[segment.node];
            let rows = rows.start * width..rows.end * width;
            let (k, v) = (&k[rows.clone()], &v[rows]);
            if node.cache.len() <= slot {
                node.cache.resize(slot + 1, None);
            }
            // Chunks are changed in place unless a clone of the tree holds them too.
            let kept = node.cache[slot].get_or_insert_default();
            kept.append(node.done, self.cache_type, [k, v], width);
        }
    }

    /// Ends a pass of a model with as many places for keys and values as `slots`: what was pending is done.
    pub(crate) fn finish(&mut self, slots: usize) {
        for index in std::mem::take(&mut self.pending) {
            let node = &mut self.nodes[index];
            node.cache.resize(slots, None);
            node.done += node.pending.len();
            node.pending.clear();
        }
    }

    /// Tokens whose keys and values are kept.
    pub fn kept(&self) -> usize {
        self.nodes.iter().filter(|node| node.live).map(|node| node.done).sum()
    }

    /// Where the keys kept of a branch lie in memory, by layer and chunk.
    #[cfg(test)]
    pub(crate) fn addresses(&self, branch: Branch) -> Vec<Vec<usize>> {
        let of_layer = |kept: &Option<KeyValue>| {
            kept.iter().flat_map(|kept| kept.first(usize::MAX)).map(|(chunk, _)| chunk.address()).collect()
        };
        self.nodes[self.index(branch)].cache.iter().map(of_layer).collect()
    }

    /// Row of a pass that holds the pending token `index` of `branch`.
    pub(crate) fn row_of(&self, pass: &Pass, branch: Branch, index: usize) -> Option<usize> {
        let rows = pass.rows_of.get(&self.index(branch))?;
        (index < rows.len()).then(|| rows.start + index)
    }
}

/// Where a run of rows stands among those of `kv_rows`: empty, or all of it.
fn placed(kv_rows: Option<&[usize]>, rows: &Range<usize>) -> Range<usize> {
    kv_rows.map_or(rows.clone(), |kv_rows| {
        let place = |row: usize| kv_rows.partition_point(|&other| other < row);
        place(rows.start)..place(rows.end)
    })
}

impl Node {
    fn end(&self) -> usize {
        self.start + self.done + self.pending.len()
    }
}

/// The pending tokens of a tree, packed into rows.
#[derive(Debug)]
pub(crate) struct Pass {
    pub(crate) tokens: Vec<u32>,
    pub(crate) positions: Vec<usize>,
    /// For each row, the length of the longest sequence that runs through it and ends in this pass.
    pub(crate) lengths: Vec<usize>,
    pub(crate) segments: Vec<PassSegment>,
    /// The roots of the segments.
    pub(crate) samples: Vec<Sample>,
    /// Rows of each branch.
    rows_of: HashMap<usize, Range<usize>>,
}

/// The pending tokens of one branch.
#[derive(Debug)]
pub(crate) struct PassSegment {
    node: usize,
    pub(crate) rows: Range<usize>,
    path: Vec<KeyRange>,
    /// Which of the samples of the pass it belongs to.
    pub(crate) sample: usize,
}

/// A root with pending tokens after it or in it.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    root: usize,
    /// Whether its prompt was run in an earlier pass.
    pub(crate) decided: bool,
    /// The rows of its prompt, when it was not.
    pub(crate) prompt: Range<usize>,
}

/// Where some of the keys of a segment are.
#[derive(Debug)]
enum KeyRange {
    Now(Range<usize>),
    Before(usize, usize),
}

impl Pass {
    /// Whether any key comes from an earlier pass.
    pub(crate) fn looks_back(&self) -> bool {
        self.segments.iter().flat_map(|segment| &segment.path).any(|part| matches!(part, KeyRange::Before(..)))
    }
}
