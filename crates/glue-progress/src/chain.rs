//! Errors with their causes.

use std::error::Error;

/// The messages of `error` and of its causes, outermost first. A cause whose message the one before it already contains is left
/// out: types from elsewhere often quote their cause and also return it.
pub fn causes(error: &dyn Error) -> Vec<String> {
    let mut messages = vec![error.to_string()];
    let mut below = error.source();
    while let Some(cause) = below {
        let message = cause.to_string();
        if !messages.last().is_some_and(|last| last.contains(&message)) {
            messages.push(message);
        }
        below = cause.source();
    }
    messages
}

/// An error and its causes in one line, separated by `: `.
pub fn error_chain(error: &dyn Error) -> String {
    causes(error).join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt;

    #[derive(Debug)]
    struct Layer(&'static str, Option<Box<Layer>>);

    impl fmt::Display for Layer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Layer {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.1.as_deref().map(|cause| cause as &dyn Error)
        }
    }

    fn chained(messages: &[&'static str]) -> String {
        let cause = messages.iter().rev().fold(None, |cause, message| Some(Box::new(Layer(message, cause))));
        error_chain(&*cause.unwrap())
    }

    #[test]
    fn all_causes_are_told() {
        assert_eq!(chained(&["cannot merge"]), "cannot merge");
        assert_eq!(chained(&["cannot merge", "a.bin", "disk full"]), "cannot merge: a.bin: disk full");
    }

    #[test]
    fn what_is_quoted_is_not_repeated() {
        assert_eq!(chained(&["cannot merge", "a.bin: disk full", "disk full"]), "cannot merge: a.bin: disk full");
    }
}
