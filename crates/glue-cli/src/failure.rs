//! Why a command ended early: the error, a hint for the user, and the exit status.

use crate::shell::Shell;
use crate::visible::indented;
use glue_progress::ErrorChain;
use std::error::Error;
use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Why a command ended early.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Standard output cannot be written to.
    Output(io::Error),
    /// An error that clap has worded, with label and usage.
    AlreadyWorded {
        /// All of it.
        message: String,
        /// A hint that clap does not give.
        hint: Option<String>,
    },
    /// The user stopped it, and it leaves no output.
    Interrupted,
    /// The user stopped it, and it can be resumed.
    Paused {
        /// What was kept.
        kept: String,
        /// How to resume.
        hint: String,
    },
    /// What was checked has errors, and they are printed: status 1.
    Unfit,
    /// Several errors, none of which is the cause of another.
    Several(Vec<Failure>),
    /// Anything else.
    Error {
        /// 1, or 2 if the command line or a config is wrong.
        status: u8,
        /// What happened, with its causes.
        error: anyhow::Error,
        /// A hint for the user.
        hint: Option<String>,
    },
}

impl Failure {
    /// An error during the work: status 1.
    pub(crate) fn failed(error: impl Error + Send + Sync + 'static) -> Self {
        Self::Error { status: 1, error: error.into(), hint: None }
    }

    /// A command line or a config that is refused: status 2.
    pub(crate) fn refused(error: impl Error + Send + Sync + 'static) -> Self {
        Self::Error { status: 2, error: error.into(), hint: None }
    }

    /// A refusal in the words of clap.
    pub(crate) fn already_worded(message: String, hint: Option<String>) -> Self {
        Self::AlreadyWorded { message, hint }
    }

    /// The same, as the cause of `what`.
    pub(crate) fn context(self, what: impl Display + Send + Sync + 'static) -> Self {
        match self {
            Self::Error { status, error, hint } => Self::Error { status, error: error.context(what), hint },
            Self::Several(failures) => {
                let what = what.to_string();
                Self::Several(failures.into_iter().map(|failure| failure.context(what.clone())).collect())
            }
            other => other,
        }
    }

    /// The same with this hint, if there is one.
    pub(crate) fn hint(mut self, hint: Option<impl Into<String>>) -> Self {
        if let (Self::Error { hint: own, .. }, Some(hint)) = (&mut self, hint) {
            *own = Some(hint.into());
        }
        self
    }

    /// Reports to the user and returns the exit status.
    pub(crate) fn report(&self, shell: &Shell<'_>) -> ExitCode {
        match self {
            // The reader closed the pipe: it has what it wanted.
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
            Self::Output(error) => {
                shell.failure(true, &format!("cannot write to standard output: {error}"), None);
                ExitCode::FAILURE
            }
            Self::AlreadyWorded { message, hint } => {
                // It has its label.
                shell.failure(false, message.trim_end(), hint.as_deref());
                ExitCode::from(2)
            }
            Self::Interrupted => {
                shell.failure(false, "interrupted; no partial output is left", None);
                ExitCode::from(shell.interrupt_status())
            }
            Self::Paused { kept, hint } => {
                shell.failure(true, &format!("interrupted{kept}"), Some(hint));
                ExitCode::from(shell.interrupt_status())
            }
            Self::Unfit => ExitCode::FAILURE,
            Self::Several(failures) => {
                for failure in failures {
                    failure.report(shell);
                }
                // A config that is wrong in one place is wrong.
                let refused = |failure: &Failure| matches!(failure, Self::Error { status: 2, .. });
                ExitCode::from(if failures.iter().any(refused) { 2 } else { 1 })
            }
            Self::Error { status, error, hint } => {
                shell.failure(true, &words(error), hint.as_deref());
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

/// A hint for a model of a config that does not exist, where paths are relative to the working directory.
pub(crate) fn no_such_model() -> String {
    format!("model paths are relative to the working directory, {}; nothing is downloaded", resolved(Path::new(".")))
}

/// The absolute path of `folder`.
pub(crate) fn resolved(folder: &Path) -> String {
    let absolute = std::env::current_dir().map_or_else(|_| folder.into(), |here| here.join(folder));
    absolute.components().collect::<PathBuf>().display().to_string()
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
