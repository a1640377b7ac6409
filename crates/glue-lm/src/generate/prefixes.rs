//! Prompts as a tree of what they share from the beginning.

use std::ops::Range;

/// A stretch of tokens that some prompts share.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Node {
    /// The node before it, by its index; `None` at the beginning.
    pub(super) parent: Option<usize>,
    /// A prompt that has these tokens.
    pub(super) prompt: usize,
    /// Where in that prompt they stand; never empty.
    pub(super) range: Range<usize>,
    /// The prompts that end here.
    pub(super) ends: Range<usize>,
    /// Whether other nodes follow.
    pub(super) has_children: bool,
}

/// The tree of `prompts`, which are sorted and not empty. A node comes after its parent.
pub(super) fn shared_prefixes(prompts: &[&[u32]]) -> Vec<Node> {
    let mut nodes: Vec<Node> = Vec::new();
    // Prompts that agree in their first `depth` tokens, which the nodes up to the parent hold. A stack instead of
    // recursion: prompts may be nested as deeply as there are prompts.
    let mut open = vec![(0..prompts.len(), 0, None)];
    while let Some((group, depth, parent)) = open.pop() {
        let (Some(first), Some(last)) = (prompts.get(group.start), group.clone().next_back().map(|last| prompts[last]))
        else {
            continue;
        };
        // Sorted, so that what the first and the last share is shared by all between them.
        let shared = first.iter().zip(last).take_while(|(a, b)| a == b).count();
        let mut rest = group.start;
        let mut inner = parent;
        if shared > depth {
            while rest < group.end && prompts[rest].len() == shared {
                rest += 1;
            }
            inner = Some(nodes.len());
            let (ends, has_children) = (group.start..rest, rest < group.end);
            nodes.push(Node { parent, prompt: group.start, range: depth..shared, ends, has_children });
        }
        let mut parts = Vec::new();
        while rest < group.end {
            let next = prompts[rest][shared];
            let end = rest + prompts[rest..group.end].iter().take_while(|prompt| prompt[shared] == next).count();
            parts.push((rest..end, shared, inner));
            rest = end;
        }
        open.extend(parts.into_iter().rev());
    }
    nodes
}

/// The different ones of `prompts`, which are sorted and not empty, each a node of its own.
pub(super) fn whole_prompts(prompts: &[&[u32]]) -> Vec<Node> {
    let mut nodes: Vec<Node> = Vec::new();
    for (index, prompt) in prompts.iter().enumerate() {
        match nodes.last_mut().filter(|last| prompts[last.prompt] == *prompt) {
            Some(last) => last.ends.end = index + 1,
            None => nodes.push(Node {
                parent: None,
                prompt: index,
                range: 0..prompt.len(),
                ends: index..index + 1,
                has_children: false,
            }),
        }
    }
    nodes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Puts every prompt together again from the nodes that lead to its end.
    fn rebuilt(prompts: &[&[u32]], nodes: &[Node]) -> Vec<Vec<u32>> {
        let mut found = vec![None; prompts.len()];
        for node in nodes {
            let mut tokens: Vec<u32> = Vec::new();
            let mut at = Some(node);
            while let Some(node) = at {
                tokens.splice(0..0, prompts[node.prompt][node.range.clone()].iter().copied());
                at = node.parent.map(|parent| &nodes[parent]);
            }
            for end in node.ends.clone() {
                assert_eq!(found[end].replace(tokens.clone()), None, "a prompt ends once");
            }
        }
        found.into_iter().map(Option::unwrap).collect()
    }

    #[test]
    fn prompts_that_begin_alike_share_nodes() {
        let prompts: [&[u32]; 5] = [&[1, 2], &[1, 2], &[1, 2, 3, 4], &[1, 2, 3, 5], &[7]];
        let nodes = shared_prefixes(&prompts);
        let shape: Vec<_> = nodes.iter().map(|n| (n.parent, n.range.clone(), n.ends.clone(), n.has_children)).collect();
        assert_eq!(
            shape,
            [
                (None, 0..2, 0..2, true),
                (Some(0), 2..3, 2..2, true),
                (Some(1), 3..4, 2..3, false),
                (Some(1), 3..4, 3..4, false),
                (None, 0..1, 4..5, false),
            ]
        );
        assert_eq!(shared_prefixes(&[]), []);
    }

    #[test]
    fn whole_prompts_share_nothing_with_longer_ones() {
        let prompts: [&[u32]; 4] = [&[1, 2], &[1, 2], &[1, 2, 3], &[7]];
        let nodes = whole_prompts(&prompts);
        let shape: Vec<_> = nodes.iter().map(|n| (n.parent, n.range.clone(), n.ends.clone())).collect();
        assert_eq!(shape, [(None, 0..2, 0..2), (None, 0..3, 2..3), (None, 0..1, 3..4)]);
        assert_eq!(rebuilt(&prompts, &nodes), prompts);
    }

    proptest! {
        #[test]
        fn no_token_is_lost_or_held_twice(mut prompts in prop::collection::vec(prop::collection::vec(0u32..3, 1..8), 0..20)) {
            prompts.sort();
            let slices: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
            let nodes = shared_prefixes(&slices);
            prop_assert_eq!(rebuilt(&slices, &nodes), prompts.clone());
            // As many tokens as there are different beginnings.
            let beginnings: std::collections::BTreeSet<&[u32]> =
                slices.iter().flat_map(|prompt| (1..=prompt.len()).map(|end| &prompt[..end])).collect();
            prop_assert_eq!(nodes.iter().map(|node| node.range.len()).sum::<usize>(), beginnings.len());
            for (index, node) in nodes.iter().enumerate() {
                prop_assert!(node.parent.is_none_or(|parent| parent < index));
                prop_assert_eq!(node.has_children, nodes.iter().any(|other| other.parent == Some(index)));
            }
        }
    }
}
