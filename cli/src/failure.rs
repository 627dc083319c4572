//! What can go wrong, and the exit code it becomes.

use std::io;
use wgpu_attention::Error;

/// Why the tool stops.
#[derive(Debug)]
pub enum Failure {
    /// Bad input: flags, files, tensors. Says what is wrong, what was expected and what was found.
    Input(String),
    /// No usable device, or it was lost.
    Device(String),
    /// `check` or `bench` found a wrong result; its table has said which.
    Wrong,
    /// Whoever read our stdout has gone; that is their choice, and no error.
    ReaderGone,
    /// `--help` or `--version`, answered.
    Answered,
}

impl Failure {
    /// A [`Failure::Input`] in the one form they all have.
    pub(crate) fn input(
        what: impl std::fmt::Display,
        expected: impl std::fmt::Display,
        found: impl std::fmt::Display,
    ) -> Self {
        Self::Input(format!("{what}: expected {expected}, found {found}"))
    }

    /// What to say to a subcommand that is not there.
    pub(crate) fn no_subcommand(name: &str) -> Self {
        let expected = "demo, info, check, bench, run, mha, selfattn, plot, rope, posenc, additive, completions or man";
        Self::input("subcommand", expected, format_args!("\"{name}\""))
    }

    /// The process's exit code.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::ReaderGone | Self::Answered => 0,
            Self::Wrong => 1,
            Self::Input(_) => 2,
            Self::Device(_) => 3,
        }
    }

    /// What to say on stderr.
    #[must_use]
    pub fn message(&self) -> Option<&str> {
        match self {
            Self::Input(message) | Self::Device(message) => Some(message),
            Self::Wrong | Self::ReaderGone | Self::Answered => None,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        if error.is_invalid() {
            Self::Input(error.to_string())
        } else {
            Self::Device(error.to_string())
        }
    }
}

/// Errors of writing to stdout.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Self::ReaderGone
        } else {
            Self::Input(format!("stdout: {error}"))
        }
    }
}
