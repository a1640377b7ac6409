//! From the parts of a prompt to its text.

use super::{Chat, Task};
use crate::error::{ModelError, TaskError};
use crate::model::ChatMessage;
use crate::python::is_space;
use std::cell::Cell;

/// Text of all prompts of a split, in bytes. The largest benchmarks of long contexts have a quarter of that.
const MAX_TEXT: usize = 4 << 30;

/// A part of a prompt: whose words it is, and what follows it in plain text.
#[derive(Debug, Clone)]
pub(super) struct Turn {
    role: &'static str,
    content: String,
    delimiter: String,
}

/// What stands between the parts.
#[derive(Debug, Clone)]
pub(super) struct Delimiters {
    /// Between question and answer.
    pub(super) target: String,
    /// After each example.
    pub(super) example: String,
}

/// Bytes of the text of `turns`.
pub(super) fn length(turns: &[Turn]) -> usize {
    turns.iter().map(|turn| turn.content.len() + turn.delimiter.len()).sum()
}

/// How much text the prompts of a split may still have. Templates and examples make much of little, in every prompt
/// again.
pub(super) struct TextBudget<'a> {
    task: &'a Task,
    left: Cell<usize>,
}

impl<'a> TextBudget<'a> {
    pub(super) fn new(task: &'a Task) -> TextBudget<'a> {
        TextBudget { task, left: Cell::new(MAX_TEXT) }
    }

    pub(super) fn spend(&self, bytes: usize) -> Result<(), TaskError> {
        let left = self.left.get().checked_sub(bytes);
        let error =
            || TaskError::TooMuchText { path: self.task.path.clone(), task: self.task.name.clone(), limit: MAX_TEXT };
        left.map(|left| self.left.set(left)).ok_or_else(error)
    }
}

/// What comes before everything else, an instruction and the description of a task; nothing if both are empty.
/// `delimiter` separates them where no white space does.
pub(super) fn system(instruction: Option<&str>, description: &str, delimiter: &str) -> Vec<Turn> {
    let instruction = instruction.unwrap_or_default();
    let apart = !description.is_empty() && needs_delimiter(instruction, description);
    let content = format!("{instruction}{}{description}", if apart { delimiter } else { "" });
    if content.is_empty() {
        return Vec::new();
    }
    vec![Turn { role: "system", content, delimiter: String::new() }]
}

/// A question with its answer. `prefix` is how each answer begins.
pub(super) fn example(question: String, answer: &str, prefix: Option<&str>, delimiters: &Delimiters) -> Vec<Turn> {
    // An example without an answer stands there like a question.
    if answer.is_empty() {
        return self::question(question, prefix, &delimiters.target);
    }
    let delimiter = match prefix {
        Some(prefix) if !needs_delimiter(&question, prefix) => "",
        _ => &delimiters.target,
    };
    let answer = match prefix {
        Some(prefix) if needs_delimiter(prefix, answer) => format!("{prefix} {answer}"),
        Some(prefix) => format!("{prefix}{answer}"),
        None => answer.into(),
    };
    vec![
        Turn { role: "user", content: question, delimiter: delimiter.into() },
        Turn { role: "assistant", content: answer, delimiter: delimiters.example.clone() },
    ]
}

/// The question that the model answers.
pub(super) fn question(question: String, prefix: Option<&str>, target_delimiter: &str) -> Vec<Turn> {
    let Some(prefix) = prefix else {
        return vec![Turn { role: "user", content: question, delimiter: String::new() }];
    };
    let delimiter = if needs_delimiter(&question, prefix) { target_delimiter } else { "" };
    vec![
        Turn { role: "user", content: question, delimiter: delimiter.into() },
        Turn { role: "assistant", content: prefix.into(), delimiter: String::new() },
    ]
}

/// The prompt: all parts in a row, or as a conversation.
pub(super) fn render(turns: &[Turn], chat: Option<Chat<'_>>) -> Result<String, ModelError> {
    let text = |turns: &[Turn]| turns.iter().map(|turn| format!("{}{}", turn.content, turn.delimiter)).collect();
    let Some(chat) = chat else {
        return Ok(text(turns));
    };
    let message = |turn: &Turn| ChatMessage { role: turn.role.into(), content: turn.content.clone() };
    if chat.multiturn {
        return (chat.render)(&turns.iter().map(message).collect::<Vec<_>>());
    }
    // All examples and the question become one question; the beginning of an answer remains the assistant's.
    let mut middle = turns;
    let system = middle.split_off_first().filter(|turn| turn.role == "system");
    if system.is_none() {
        middle = turns;
    }
    let mut rest = middle;
    let assistant = rest.split_off_last().filter(|turn| turn.role == "assistant");
    if assistant.is_some() {
        middle = rest;
    }
    let (question, last) = match middle.split_last() {
        Some((last, before)) => (text(before), last.content.as_str()),
        None => (String::new(), ""),
    };
    let user = ChatMessage { role: "user".into(), content: format!("{question}{last}") };
    let messages: Vec<_> = system.map(message).into_iter().chain([user]).chain(assistant.map(message)).collect();
    (chat.render)(&messages)
}

/// What separates a context from what is scored after it.
pub(super) fn continuation_delimiter<'a>(target: &'a str, prefix: Option<&str>, chat: Option<Chat<'_>>) -> &'a str {
    match chat {
        None => target,
        Some(_) => match prefix {
            Some(prefix) if !prefix.is_empty() && !prefix.ends_with(is_space) => target,
            _ => "",
        },
    }
}

fn needs_delimiter(before: &str, after: &str) -> bool {
    !before.is_empty() && !before.ends_with(is_space) && !after.starts_with(is_space)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delimiters() -> Delimiters {
        Delimiters { target: " ".into(), example: "\n\n".into() }
    }

    fn turns(prefix: Option<&str>) -> Vec<Turn> {
        let mut turns = system(None, "Sums.\n", "\n\n");
        turns.extend(example("1+1=".into(), "2", prefix, &delimiters()));
        turns.extend(question("2+2=".into(), prefix, " "));
        turns
    }

    fn conversation(turns: &[Turn], multiturn: bool) -> String {
        let render = |messages: &[ChatMessage]| -> Result<String, ModelError> {
            Ok(messages.iter().map(|message| format!("<{}>{}", message.role, message.content)).collect())
        };
        super::render(turns, Some(Chat { render: &render, multiturn })).unwrap()
    }

    #[test]
    fn prompts_in_plain_text_and_as_conversations() {
        assert_eq!(render(&turns(None), None).unwrap(), "Sums.\n1+1= 2\n\n2+2=");
        assert_eq!(render(&turns(Some("so")), None).unwrap(), "Sums.\n1+1= so 2\n\n2+2= so");
        let multi = "<system>Sums.\n<user>1+1=<assistant>2<user>2+2=";
        assert_eq!(conversation(&turns(None), true), multi);
        assert_eq!(conversation(&turns(None), false), "<system>Sums.\n<user>1+1= 2\n\n2+2=");
        assert_eq!(conversation(&turns(Some("so")), false), "<system>Sums.\n<user>1+1= so 2\n\n2+2=<assistant>so");
    }

    #[test]
    fn an_instruction_stands_before_the_description() {
        let text = |instruction, description| render(&system(instruction, description, "\n\n"), None).unwrap();
        assert_eq!(text(Some("Be brief."), "Sums."), "Be brief.\n\nSums.");
        assert_eq!(text(Some("Be brief.\n"), "Sums."), "Be brief.\nSums.");
        assert_eq!((text(Some("Be brief."), ""), text(None, "")), ("Be brief.".into(), String::new()));
    }

    #[test]
    fn a_conversation_has_no_delimiter_before_the_answer() {
        let render = |_: &[ChatMessage]| Ok(String::new());
        let chat = Some(Chat { render: &render, multiturn: false });
        assert_eq!(continuation_delimiter(" ", None, None), " ");
        assert_eq!(continuation_delimiter(" ", None, chat), "");
        assert_eq!(continuation_delimiter(" ", Some("so"), chat), " ");
        assert_eq!(continuation_delimiter(" ", Some("so "), chat), "");
    }
}
