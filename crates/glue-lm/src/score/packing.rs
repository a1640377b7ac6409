//! Sequences packed into trees: which of them run together, and which prefixes are run before.

use crate::tree::{Branch, Tree};
use std::ops::Range;

/// Tokens from which a prefix that several chunks share is worth a pass of its own.
const LONG_PREFIX: usize = 48;

/// What is run for one request.
#[derive(Debug)]
pub(super) struct Sequence {
    /// Only sequences of the same class share prefixes: in others the rotary embeddings differ.
    pub(super) length_class: Vec<usize>,
    /// Rows are scored from this token on.
    pub(super) first_scored: usize,
    /// Tokens that stand together at the root of a tree, which only sequences with the same ones share; any number when
    /// absent.
    pub(super) prompt: Option<usize>,
    pub(super) tokens: Vec<u32>,
}

/// A prefix that is run before the chunks that continue it.
#[derive(Debug)]
pub(super) struct Prefix {
    /// Index of the prefix it continues, which comes earlier.
    pub(super) parent: Option<usize>,
    /// A sequence that has it.
    pub(super) sequence: usize,
    /// Which of its tokens.
    pub(super) tokens: Range<usize>,
}

/// Sequences that run together.
#[derive(Debug)]
pub(super) struct Chunk {
    /// Index of the prefix they continue.
    pub(super) prefix: Option<usize>,
    /// Its length.
    depth: usize,
    /// Places in the order of sequences.
    range: Range<usize>,
}

/// A single sequence that is longer than a pass, in pieces that are not.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pieces {
    /// Its number.
    pub(super) sequence: usize,
    /// Which of its tokens stand in each.
    pub(super) tokens: Vec<Range<usize>>,
}

/// All sequences, in chunks of limited size.
#[derive(Debug)]
pub(super) struct Packing {
    pub(super) sequences: Vec<Sequence>,
    pub(super) prefixes: Vec<Prefix>,
    pub(super) chunks: Vec<Chunk>,
    /// Numbers of sequences, sorted by length class and tokens.
    order: Vec<usize>,
    /// For each place in the order, how many tokens the sequence shares with the one before it.
    shared: Vec<usize>,
    rows: usize,
}

impl Packing {
    /// Packs into chunks of `rows` distinct rows. A single sequence may be longer; see [`pieces`](Self::pieces).
    pub(super) fn new(sequences: Vec<Sequence>, rows: usize) -> Packing {
        let mut order: Vec<usize> = (0..sequences.len()).collect();
        order.sort_by(|&a, &b| {
            let key = |index: usize| {
                let Sequence { length_class, prompt, tokens, .. } = &sequences[index];
                let (prompt, rest) = tokens.split_at(prompt.unwrap_or(0).min(tokens.len()));
                (length_class, prompt, rest)
            };
            key(a).cmp(&key(b))
        });
        let shared = (0..order.len()).map(|place| match place.checked_sub(1) {
            Some(before) => common(&sequences[order[before]], &sequences[order[place]]),
            None => 0,
        });
        let shared = shared.collect();
        let mut packing = Packing { sequences, prefixes: Vec::new(), chunks: Vec::new(), order, shared, rows };
        packing.plan();
        packing
    }

    /// Distinct rows of the sequences at `range` from token `depth` on, all of which share the tokens before it.
    fn rows_of(&self, range: &Range<usize>, depth: usize) -> usize {
        let row = |place: usize| {
            let shared = if place == range.start { depth } else { self.shared[place].max(depth) };
            self.sequences[self.order[place]].tokens.len() - shared
        };
        range.clone().map(row).sum()
    }

    fn plan(&mut self) {
        // Ranges whose sequences share `depth` tokens, which `prefix` holds, from the first to the last.
        let mut todo = vec![(0..self.order.len(), 0, None)];
        while let Some((range, depth, prefix)) = todo.pop() {
            if range.is_empty() {
                continue;
            }
            if range.len() == 1 || self.rows_of(&range, depth) <= self.rows {
                self.chunks.push(Chunk { prefix, depth, range });
                continue;
            }
            let common = self.common_prefix(&range);
            // A prefix run by itself would be rotated as the short sequence that it is.
            let as_short =
                self.sequences[self.order[range.start]].length_class.iter().all(|&length_class| length_class == 0);
            let may_be_cut = self.sequences[self.order[range.start]].prompt.is_none();
            if as_short && may_be_cut && common >= depth + LONG_PREFIX {
                self.prefixes.push(Prefix { parent: prefix, sequence: self.order[range.start], tokens: depth..common });
                todo.push((range, common, Some(self.prefixes.len() - 1)));
                continue;
            }
            let mut groups = self.groups(range, common, depth);
            groups.reverse();
            todo.extend(groups.into_iter().map(|group| (group, depth, prefix)));
        }
        // In the order of sequences: the tree of one chunk lies beside that of the next.
        self.chunks.sort_by_key(|chunk| chunk.range.start);
    }

    /// Tokens that all sequences at `range` share and of which no row is scored.
    fn common_prefix(&self, range: &Range<usize>) -> usize {
        let shared = self.shared[range.start + 1..range.end].iter().copied().min().unwrap_or(0);
        let scored = range.clone().map(|place| self.sequences[self.order[place]].first_scored).min().unwrap_or(0);
        shared.min(scored)
    }

    /// Cuts `range` into pieces that each fit into a chunk, or that share more than `common` tokens.
    ///
    /// Where all of it fits no further, as when the scored rows keep the common prefix short, pieces are cut anywhere.
    fn groups(&self, range: Range<usize>, common: usize, depth: usize) -> Vec<Range<usize>> {
        let mut same = Vec::new();
        let mut start = range.start;
        for place in range.start + 1..range.end {
            if self.shared[place] <= common {
                same.push(start..place);
                start = place;
            }
        }
        same.push(start..range.end);
        if same.len() == 1 {
            same = range.map(|place| place..place + 1).collect();
        }
        // Small pieces go together as long as they fit.
        let mut groups: Vec<Range<usize>> = Vec::new();
        let mut rows_in_last = 0;
        for piece in same {
            match groups.last_mut() {
                Some(last) if rows_in_last + self.added_rows(&piece, depth) <= self.rows => {
                    last.end = piece.end;
                    rows_in_last += self.added_rows(&piece, depth);
                }
                _ => {
                    rows_in_last = self.rows_of(&piece, depth);
                    groups.push(piece);
                }
            }
        }
        groups
    }

    /// Rows that a piece adds to a chunk that ends right before it.
    fn added_rows(&self, piece: &Range<usize>, depth: usize) -> usize {
        self.rows_of(piece, depth) + depth - self.shared[piece.start].max(depth)
    }

    /// The prefix of a chunk, and those before it, up to the first.
    pub(super) fn path(&self, chunk: &Chunk) -> impl Iterator<Item = usize> + '_ {
        std::iter::successors(chunk.prefix, |&prefix| self.prefixes[prefix].parent)
    }

    /// Distinct rows of a chunk, at most.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// The pieces of a chunk that is one sequence with more rows than a pass has; `None` for any other, and for one
    /// that cannot be cut.
    pub(super) fn pieces(&self, chunk: &Chunk) -> Option<Pieces> {
        let &[sequence] = &self.order[chunk.range.clone()] else { return None };
        let Sequence { length_class, prompt, tokens, .. } = &self.sequences[sequence];
        let may_be_cut = prompt.is_none() && length_class.iter().all(|&length_class| length_class == 0);
        if !may_be_cut || tokens.len() - chunk.depth <= self.rows {
            return None;
        }
        let starts = (chunk.depth..tokens.len()).step_by(self.rows);
        let tokens = starts.map(|start| start..(start + self.rows).min(tokens.len())).collect();
        Some(Pieces { sequence, tokens })
    }

    /// Pushes the sequences of `chunk` into `tree` below `parent`, the end of the chunk's prefix. Returns the number of
    /// each and the rows of the pass from the first scored on.
    pub(super) fn place(&self, chunk: &Chunk, tree: &mut Tree, parent: Option<Branch>) -> Vec<(usize, Vec<usize>)> {
        let mut placed = Vec::with_capacity(chunk.range.len());
        // The way to the sequence before: branch, its end in tokens, and the row of the pass of its first token less
        // the number of that token.
        let mut path: Vec<(Option<Branch>, Range<usize>, usize)> = vec![(parent, 0..chunk.depth, 0)];
        let mut next_row = 0;
        for place in chunk.range.clone() {
            let sequence = &self.sequences[self.order[place]];
            let after = |place: usize| if place < chunk.range.end { self.shared[place] } else { 0 };
            let start = if place == chunk.range.start { chunk.depth } else { self.shared[place].max(chunk.depth) };
            while path.len() > 1 && path[path.len() - 1].1.start >= start {
                path.pop();
            }
            // Branches end wherever a later sequence leaves this one.
            let mut cuts = Vec::new();
            let mut least = sequence.tokens.len();
            for later in place + 1..chunk.range.end {
                least = least.min(after(later));
                if least <= start {
                    break;
                }
                cuts.push(least);
            }
            cuts.extend(sequence.prompt.filter(|&end| end > start));
            cuts.push(sequence.tokens.len());
            cuts.sort_unstable();
            cuts.dedup();
            let mut from = start;
            for end in cuts {
                if end > from {
                    let above = path.last().and_then(|(branch, ..)| *branch);
                    let branch = tree.push(above, &sequence.tokens[from..end]);
                    path.push((Some(branch), from..end, next_row));
                    next_row += end - from;
                    from = end;
                }
            }
            let rows = path.iter().flat_map(|(_, tokens, first_row)| {
                let scored = tokens.start.max(sequence.first_scored)..tokens.end;
                scored.map(move |token| first_row + token - tokens.start)
            });
            placed.push((self.order[place], rows.collect()));
        }
        placed
    }
}

fn common(a: &Sequence, b: &Sequence) -> usize {
    if a.length_class != b.length_class {
        return 0;
    }
    let shared = a.tokens.iter().zip(&b.tokens).take_while(|(a, b)| a == b).count();
    match (a.prompt, b.prompt) {
        (None, None) => shared,
        (Some(a), Some(b)) if a == b && shared >= a => shared,
        _ => 0,
    }
}

#[cfg(test)]
mod tests;
