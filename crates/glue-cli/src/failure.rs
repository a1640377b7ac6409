//! Why a command ended early: the error, what the user can do, and the exit status.

use crate::shell::Shell;
use crate::visible::indented;
use glue_progress::ErrorChain;
use std::error::Error;
use std::fmt::Display;
use std::io;
use std::path::Path;
use std::process::ExitCode;

/// Why a command ended early.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Standard output does not take more.
    Output(io::Error),
    /// clap has worded it, label and usage included.
    AlreadyWorded {
        /// All of it.
        message: String,
        /// What the user can do, where clap does not know.
        hint: Option<String>,
    },
    /// The user stopped it, and nothing of it is left.
    Interrupted,
    /// The user stopped it, and it can be resumed.
    Paused {
        /// What was done and is kept.
        kept: String,
        /// How it is resumed.
        hint: String,
    },
    /// Anything else.
    Error {
        /// 1, or 2 when it is the command line or a config that is wrong.
        status: u8,
        /// What happened, with its causes.
        error: anyhow::Error,
        /// What the user can do.
        hint: Option<String>,
    },
}

impl Failure {
    /// Something that went wrong while working.
    pub(crate) fn failed(error: impl Error + Send + Sync + 'static) -> Self {
        Self::Error { status: 1, error: error.into(), hint: None }
    }

    /// A command line or a config that is refused.
    pub(crate) fn refused(error: impl Error + Send + Sync + 'static) -> Self {
        Self::Error { status: 2, error: error.into(), hint: None }
    }

    /// A refusal in the words of clap.
    pub(crate) fn already_worded(message: String, hint: Option<String>) -> Self {
        Self::AlreadyWorded { message, hint }
    }

    /// The same, told as the cause of `what`.
    pub(crate) fn context(self, what: impl Display + Send + Sync + 'static) -> Self {
        match self {
            Self::Error { status, error, hint } => Self::Error { status, error: error.context(what), hint },
            other => other,
        }
    }

    /// The same with this hint, unless it is `None`.
    pub(crate) fn hint(mut self, hint: Option<impl Into<String>>) -> Self {
        if let (Self::Error { hint: own, .. }, Some(hint)) = (&mut self, hint) {
            *own = Some(hint.into());
        }
        self
    }

    /// Tells the user, and returns the status to exit with.
    pub(crate) fn report(&self, shell: &mut Shell<'_>) -> ExitCode {
        match self {
            // The reader has what it wanted.
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
            Self::Output(error) => {
                let label = shell.error_label();
                shell.warn(&format!("{label} cannot write to standard output: {error}"));
                ExitCode::FAILURE
            }
            Self::AlreadyWorded { message, hint } => {
                shell.warn(message.trim_end());
                report_hint(hint.as_deref(), shell);
                ExitCode::from(2)
            }
            Self::Interrupted => {
                shell.warn("interrupted; nothing partial is left");
                ExitCode::from(shell.interrupt_status())
            }
            Self::Paused { kept, hint } => {
                let label = shell.error_label();
                shell.warn(&format!("{label} interrupted{kept}"));
                report_hint(Some(hint), shell);
                ExitCode::from(shell.interrupt_status())
            }
            Self::Error { status, error, hint } => {
                let label = shell.error_label();
                shell.warn(&format!("{label} {}", words(error)));
                report_hint(hint.as_deref(), shell);
                ExitCode::from(*status)
            }
        }
    }
}

impl From<io::Error> for Failure {
    /// Takes an error of standard output. Errors of files come wrapped in the type that names the file.
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

fn report_hint(hint: Option<&str>, shell: &mut Shell<'_>) {
    if let Some(hint) = hint {
        let label = shell.hint_label();
        shell.warn(&format!("{label} {}", indented(hint)));
    }
}

/// An error of a file, with its name.
pub(crate) fn of_file(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// An error with its causes, each indented and of bounded length.
fn words(error: &anyhow::Error) -> String {
    error.causes().iter().map(|cause| indented(cause)).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    //! How errors read.
    use super::*;

    #[test]
    fn a_name_with_a_line_break_is_no_error_of_its_own() {
        let error = anyhow::Error::from(io::Error::other("tensor `a\nerror: b`: wrong"));
        assert_eq!(words(&error), "tensor `a\n    error: b`: wrong");
    }

    #[test]
    fn causes_are_listed_once() {
        let inner = io::Error::other("disk on fire");
        let error = anyhow::Error::from(inner).context("model.safetensors: disk on fire").context("cannot merge");
        assert_eq!(words(&error), "cannot merge: model.safetensors: disk on fire");
    }
}
