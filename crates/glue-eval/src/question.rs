//! What is right for an item, as continuations whose likelihood can be computed: what a model is trained by.

use crate::evaluate::Prepared;
use crate::task::{Ask, Check, Item};
use std::borrow::Cow;

/// An item as a choice among continuations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question<'a> {
    /// A context and its continuation for each choice; one where only the right answer is known.
    pub choices: Vec<(&'a str, Cow<'a, str>)>,
    /// Which of them are right; not empty.
    pub gold: Cow<'a, [usize]>,
}

impl Prepared {
    /// What is asked by item `item` of task `task`, both by number, and what is right. `None` where no continuation is
    /// known to be right: whole texts, and programs that are run.
    ///
    /// # Panics
    /// When there is no such task or item.
    pub fn question(&self, task: usize, item: usize) -> Option<Question<'_>> {
        of(&self.items()[task].items[item])
    }
}

fn of(item: &Item) -> Option<Question<'_>> {
    let (choices, gold): (_, Cow<'_, [usize]>) = match &item.ask {
        Ask::Choose { contexts, continuations, choices, gold } => {
            // Contexts or continuations are one for all choices, or one for each.
            let pick = |i: usize| {
                let context = contexts.get(i).or(contexts.first()).map_or("", String::as_str);
                let continuation = continuations.get(i).or(continuations.first()).map_or("", String::as_str);
                (context, Cow::from(continuation))
            };
            ((0..choices.len()).map(pick).collect(), Cow::from(&gold[..]))
        }
        Ask::Continue { context, continuation } => {
            (vec![(context.as_str(), Cow::from(continuation.as_str()))], Cow::from(&[0][..]))
        }
        // What the model writes is compared without a delimiter.
        Ask::Generate { context, check: Check::Match(targets), .. } => {
            (vec![(context.as_str(), Cow::from(format!(" {}", targets.first()?)))], Cow::from(&[0][..]))
        }
        Ask::Generate { check: Check::Run { .. }, .. } | Ask::Roll { .. } => return None,
    };
    (!gold.is_empty()).then_some(Question { choices, gold })
}

#[cfg(test)]
mod tests {
    //! Every kind of item.
    use super::*;
    use crate::error::FilePosition;
    use crate::task::Generating;
    use std::sync::Arc;

    /// Checks the choices of an item and which are right; that there is no question where none is.
    fn check(ask: Ask, choices: &[(&str, &str)], gold: &[usize]) {
        let item = Item { place: FilePosition::at("items.jsonl", 1), fields: serde_json::Map::new(), ask };
        let choices = choices.iter().map(|&(context, text)| (context, Cow::from(text))).collect();
        let expected = (!gold.is_empty()).then_some(Question { choices, gold: Cow::from(gold) });
        assert_eq!(of(&item), expected);
    }

    fn texts(list: &[&str]) -> Vec<String> {
        list.iter().map(|text| text.to_string()).collect()
    }

    #[test]
    fn choices_texts_and_answers() {
        let choose = |contexts: &[&str], continuations: &[&str], gold: &[usize]| Ask::Choose {
            contexts: texts(contexts),
            continuations: texts(continuations),
            choices: texts(&["x", "y"]),
            gold: gold.to_vec(),
        };
        check(choose(&["Q"], &[" x", " y"], &[1]), &[("Q", " x"), ("Q", " y")], &[1]);
        check(choose(&["P", "Q"], &[" z"], &[0, 1]), &[("P", " z"), ("Q", " z")], &[0, 1]);
        check(choose(&["Q"], &[" x", " y"], &[]), &[], &[]);
        let continued = Ask::Continue { context: "a".into(), continuation: " b".into() };
        check(continued, &[("a", " b")], &[0]);
        check(Ask::Roll { text: "a".into() }, &[], &[]);
        let settings = || {
            let until = Vec::new();
            Arc::new(Generating { until, max_new_tokens: 1, ..Generating::default() })
        };
        let generate = |check| Ask::Generate { context: "Q".into(), settings: settings(), check };
        check(generate(Check::Match(texts(&["7", "seven"]))), &[("Q", " 7")], &[0]);
        check(generate(Check::Run { before: String::new(), after: String::new() }), &[], &[]);
    }
}
