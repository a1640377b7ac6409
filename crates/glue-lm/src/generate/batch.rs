//! A batch that takes in prompts while sequences end.
//!
//! Prompts are nodes of a tree of what they share from the beginning, and come in by the order of that tree. A node
//! stays as long as a sequence that goes through it has not ended. A sequence begins when its prompt has been run; it
//! takes a place in the batch when there is one, which reserves memory for all the tokens that it may get.

use super::plan::Limits;
use super::prefixes::{Node, shared_prefixes, whole_prompts};
use super::sequence::{Sequence, StopTokens};
use super::{GenerateOptions, Generated, Member, Request};
use crate::cancel;
use crate::error::LmError;
use crate::model::{Rows, Want, floats};
use crate::text::{TextError, TextModel};
use crate::tree::{Branch, Tree};
use rayon::prelude::*;
use std::collections::VecDeque;

pub(super) struct Batch<'a> {
    text_model: &'a TextModel,
    requests: &'a [Request],
    options: &'a GenerateOptions,
    stops: &'a StopTokens,
    limits: Limits,
    /// Sorted by the tokens of their prompts.
    members: Vec<Member>,
    /// A node comes after its parent.
    nodes: Vec<Node>,
    /// Where each node stands.
    states: Vec<State>,
    /// The node that comes in next, and how many of its tokens are in.
    next: (usize, usize),
    tree: Tree,
    active: Vec<Active<'a>>,
    /// Sequences that have begun and wait for a place.
    waiting: VecDeque<Active<'a>>,
    /// Bytes that nodes and active sequences take or may come to take.
    reserved: u64,
    /// Whether experts are chosen by prompts, which then run whole.
    routes_samples: bool,
    /// Whether a prompt must run in one pass, because keys are rotated for its length.
    in_one_pass: bool,
    generated: Vec<Generated>,
}

/// A node of the prompts.
#[derive(Debug, Clone, Copy, Default)]
struct State {
    branch: Option<Branch>,
    /// Nodes and sequences right after it that have not ended.
    users: usize,
}

/// A sequence that has begun and not ended, and where in the tree it stands.
struct Active<'a> {
    sequence: Sequence<'a>,
    branch: Branch,
    /// Whether the branch is the sequence's own to be extended.
    own: bool,
    /// The node of its prompt; none after the whole text was run again.
    node: Option<usize>,
    /// The prompt before the branch, after the whole text was run again.
    prompt: Option<Branch>,
}

/// A prompt that ends in a pass: its node, its branch, and the place of its last token among those pending there.
struct Entering {
    node: usize,
    branch: Branch,
    last: usize,
}

impl<'a> Batch<'a> {
    /// A batch of the given prompts and samples, sorted by the tokens of the prompts.
    pub(super) fn new(
        text_model: &'a TextModel,
        requests: &'a [Request],
        options: &'a GenerateOptions,
        (stops, limits): (&'a StopTokens, Limits),
        members: Vec<Member>,
    ) -> Batch<'a> {
        let prompts: Vec<&[u32]> = members.iter().map(|member| requests[member.prompt].tokens.as_slice()).collect();
        let routes_samples = text_model.model.routes_samples();
        let nodes = if routes_samples { whole_prompts(&prompts) } else { shared_prefixes(&prompts) };
        let mut states = vec![State::default(); nodes.len()];
        for (node, Node { parent, ends, .. }) in nodes.iter().enumerate() {
            states[node].users += ends.len();
            if let Some(parent) = parent {
                states[*parent].users += 1;
            }
        }
        Batch {
            text_model,
            requests,
            options,
            stops,
            limits,
            in_one_pass: prompts.iter().any(|prompt| !text_model.rotates_as_short(prompt.len())),
            members,
            nodes,
            states,
            next: (0, 0),
            tree: Tree::with_cache_type(options.cache_type),
            active: Vec::new(),
            waiting: VecDeque::new(),
            reserved: 0,
            routes_samples,
            generated: Vec::new(),
        }
    }

    /// Generates all sequences to their end. `show` sees each one after each of its steps.
    pub(super) fn run(
        mut self,
        progress: &(dyn Fn(usize) + Sync),
        show: &mut dyn FnMut(&mut Sequence<'a>),
    ) -> Result<Vec<Generated>, TextError> {
        loop {
            self.fill();
            let mut rows = self.extend();
            let entering = self.admit();
            if self.tree.pending() == 0 {
                return Ok(self.generated);
            }
            rows.extend(entering.iter().map(|entering| (entering.branch, entering.last)));
            cancel::check(&self.options.cancel)?;
            let logits = if rows.is_empty() { Rows::None } else { Rows::Some(&rows) };
            let output = self.text_model.model.forward(&mut self.tree, &Want { logits, hidden: &[] })?;
            let logits = floats(&output.logits).map_err(LmError::from)?;
            self.choose(&logits, &entering, show)?;
            drop(logits);
            let ended = self.retire();
            if ended > 0 {
                progress(ended);
            }
        }
    }

    /// Gives places to sequences that wait, as long as there are any.
    fn fill(&mut self) {
        let bytes = self.limits.of_sequence(self.options.max_new_tokens);
        while self.active.len() < self.limits.sequences
            && (self.active.is_empty() || self.reserved + bytes <= self.limits.bytes)
            && let Some(next) = self.waiting.pop_front()
        {
            self.reserved += bytes;
            self.active.push(next);
        }
    }

    /// Puts the newest token of every active sequence into the tree. Returns where they stand.
    fn extend(&mut self) -> Vec<(Branch, usize)> {
        let mut left = Vec::new();
        for at in &mut self.active {
            let length = self.tree.len_of(at.branch);
            if !self.text_model.model.same_rotation(length, length + 1) {
                // What is kept was rotated for a shorter text; the whole text runs again.
                if at.own && at.node.is_none_or(|node| self.states[node].branch != Some(at.branch)) {
                    self.tree.release(at.branch);
                }
                if let Some(prompt) = at.prompt {
                    self.tree.release(prompt);
                }
                left.extend(at.node.take());
                // The prompt stays a branch of its own, for models that choose experts by it.
                let prompt = self.tree.push(None, &self.requests[at.sequence.prompt()].tokens);
                at.branch = self.tree.push(Some(prompt), at.sequence.tokens());
                (at.own, at.prompt) = (true, Some(prompt));
            } else if at.own {
                self.tree.extend(at.branch, at.sequence.newest());
            } else {
                at.branch = self.tree.push(Some(at.branch), at.sequence.newest());
                at.own = true;
            }
        }
        left.into_iter().for_each(|node| self.leave(node));
        // Not the last of each branch: a prompt that runs again has none that is asked for.
        self.active.iter().map(|at| (at.branch, self.tree.pending_of(at.branch) - 1)).collect()
    }

    /// Takes in tokens of prompts, as many as fit into this pass and into memory.
    fn admit(&mut self) -> Vec<Entering> {
        let mut entering = Vec::new();
        let max_rows = match self.in_one_pass {
            true => usize::MAX,
            false => self.limits.rows.saturating_sub(self.active.len()).max(1),
        };
        let mut rows = 0;
        let mut sequences = self.active.len() + self.waiting.len();
        while let Some(node) = self.nodes.get(self.next.0) {
            let (index, done) = self.next;
            let bytes = self.limits.footprint.kv(node.range.len());
            let nothing_runs = sequences == 0 && rows == 0;
            let fits = sequences < self.limits.sequences && self.reserved + bytes <= self.limits.bytes;
            if done == 0 && !fits && !nothing_runs {
                break;
            }
            let prompt = &self.requests[self.members[node.prompt].prompt].tokens;
            let tokens = &prompt[node.range.clone()][done..];
            let room = max_rows - rows;
            if room == 0 || (self.routes_samples && rows > 0 && tokens.len() > room) {
                break;
            }
            let now = if self.routes_samples { tokens.len() } else { tokens.len().min(room) };
            let branch = match self.states[index].branch {
                None => {
                    self.reserved += bytes;
                    let parent = node.parent.and_then(|parent| self.states[parent].branch);
                    self.tree.push(parent, &tokens[..now])
                }
                Some(branch) => {
                    self.tree.extend(branch, &tokens[..now]);
                    branch
                }
            };
            self.states[index].branch = Some(branch);
            rows = rows.saturating_add(now).min(max_rows);
            if now < tokens.len() {
                self.next.1 += now;
                break;
            }
            self.next = (index + 1, 0);
            if !node.ends.is_empty() {
                sequences += node.ends.len();
                entering.push(Entering { node: index, branch, last: now - 1 });
            }
        }
        entering
    }

    /// Chooses the next token of active sequences and the first of those that begin, by the rows of `logits` in this
    /// order.
    fn choose(
        &mut self,
        logits: &[f32],
        entering: &[Entering],
        show: &mut dyn FnMut(&mut Sequence<'a>),
    ) -> Result<(), TextError> {
        let width = self.text_model.model.vocab_size();
        let row = |row: usize| &logits[row * width..][..width];
        let n = self.active.len();
        let advanced = self.active.par_iter_mut().enumerate();
        advanced.try_for_each(|(index, at)| at.sequence.advance(row(index)))?;
        self.active.iter_mut().for_each(|at| show(&mut at.sequence));
        for (index, &Entering { node, branch, .. }) in entering.iter().enumerate() {
            let Node { ends, has_children, .. } = &self.nodes[node];
            // Nobody else continues the branch.
            let own = ends.len() == 1 && !has_children;
            let begin = |&member: &Member| {
                let request = &self.requests[member.prompt];
                let (tokenizer, stops) = (&self.text_model.tokenizer, self.stops);
                let mut sequence =
                    Sequence::new(tokenizer, self.options, member, stops, request.stream, &request.tokens)?;
                sequence.advance(row(n + index))?;
                Ok::<_, TextError>(Active { sequence, branch, own, node: Some(node), prompt: None })
            };
            let begun: Vec<Active<'a>> =
                self.members[ends.clone()].par_iter().map(begin).collect::<Result<_, TextError>>()?;
            self.waiting.extend(begun);
        }
        let new = self.waiting.len() - entering.iter().map(|e| self.nodes[e.node].ends.len()).sum::<usize>();
        self.waiting.iter_mut().skip(new).for_each(|at| show(&mut at.sequence));
        Ok(())
    }

    /// Lets go of the sequences that have ended. Returns how many there were.
    fn retire(&mut self) -> usize {
        let of_sequence = self.limits.of_sequence(self.options.max_new_tokens);
        let mut ended = Vec::new();
        for at in self.active.extract_if(.., |at| at.sequence.has_ended()) {
            self.reserved -= of_sequence;
            ended.push(at);
        }
        let (at_once, waiting): (VecDeque<Active<'a>>, VecDeque<Active<'a>>) =
            std::mem::take(&mut self.waiting).into_iter().partition(|at| at.sequence.has_ended());
        self.waiting = waiting;
        ended.extend(at_once);
        let count = ended.len();
        for at in ended {
            // The branch of a node goes with the node.
            if at.own && at.node.is_none_or(|node| self.states[node].branch != Some(at.branch)) {
                self.tree.release(at.branch);
            }
            if let Some(prompt) = at.prompt {
                self.tree.release(prompt);
            }
            if let Some(node) = at.node {
                self.leave(node);
            }
            self.generated.push(at.sequence.into_generated(self.requests));
        }
        count
    }

    /// One user less of a node. Without users, a node and those before it that nobody else needs are given back.
    fn leave(&mut self, node: usize) {
        let mut at = Some(node);
        while let Some(node) = at {
            self.states[node].users -= 1;
            if self.states[node].users > 0 {
                return;
            }
            if let Some(branch) = self.states[node].branch.take() {
                self.tree.release(branch);
                self.reserved -= self.limits.footprint.kv(self.nodes[node].range.len());
            }
            at = self.nodes[node].parent;
        }
    }
}
