//! Errors with their causes.

use std::error::Error;

/// Tells an error together with its causes. Implemented for all errors.
///
/// In this project an error's [`Display`](std::fmt::Display) says what its own layer knows, and its
/// [`source`](Error::source) is the cause. Whoever prints or stores an error wants the chain.
pub trait ErrorChain: Error {
    /// The messages of this error and of its causes, outermost first. A cause that the message before it already quotes
    /// is left out: errors from elsewhere often quote their cause and also return it.
    fn causes(&self) -> Vec<String> {
        let mut messages = vec![self.to_string()];
        let mut below = self.source();
        while let Some(cause) = below {
            let message = cause.to_string();
            if !messages.last().is_some_and(|last| last.contains(&message)) {
                messages.push(message);
            }
            below = cause.source();
        }
        messages
    }

    /// The same in one line, separated by `: `.
    fn chain(&self) -> String {
        self.causes().join(": ")
    }
}

impl<E: Error + ?Sized> ErrorChain for E {}

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
        cause.unwrap().chain()
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
