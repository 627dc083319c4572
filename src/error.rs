//! Every way a call can fail, in two families: your call, and this machine.

use std::borrow::Cow;
use std::fmt;

/// What [`Error::Device`] says of a device that is lost.
pub(crate) const LOST: &str = "the device is lost";

/// What went wrong, with the argument's name, what was expected and what was found.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Error {
    /// Your call: an argument (shape, stride, buffer, option, slice) cannot be used.
    Invalid {
        /// The argument's name, as in the public structs; an operation's name may stand before it.
        argument: Cow<'static, str>,
        /// What it has to be.
        expected: String,
        /// What it was.
        found: String,
    },
    /// Your call: a pool has too few free pages. Remove or truncate sequences, then try again.
    Full {
        /// Pages that the call needs.
        needed: usize,
        /// Pages that are free.
        free: usize,
    },
    /// This machine: no adapter matches what was asked for.
    NoAdapter {
        /// What was asked for.
        wanted: String,
        /// The adapters there are.
        found: String,
    },
    /// This machine: the device lacks a feature or limit that the call needs.
    Unsupported {
        /// The feature or limit.
        what: &'static str,
        /// How much of it the call needs.
        expected: String,
        /// How much of it the device has.
        found: String,
    },
    /// This machine: a driver or shader compiler refused one of our kernels.
    Shader {
        /// The pipeline's name, which spells its variant.
        pipeline: String,
        /// What the compiler said.
        message: String,
    },
    /// This machine: wgpu refused a command, or the device is lost: see [`Error::is_lost`].
    Device {
        /// What was being done.
        action: &'static str,
        /// What wgpu said; "the device is lost" in place of what that led to.
        message: String,
    },
}

impl Error {
    /// An [`Error::Invalid`] from whatever displays.
    pub(crate) fn invalid(
        argument: &'static str,
        expected: impl fmt::Display,
        found: impl fmt::Display,
    ) -> Self {
        Self::Invalid {
            argument: argument.into(),
            expected: expected.to_string(),
            found: found.to_string(),
        }
    }

    /// An [`Error::Invalid`] unless the argument is as it has to be.
    pub(crate) fn require(
        holds: bool,
        argument: &'static str,
        expected: impl fmt::Display,
        found: impl fmt::Display,
    ) -> Result<(), Self> {
        if holds { Ok(()) } else { Err(Self::invalid(argument, expected, found)) }
    }

    /// The same of a call to `operation`.
    pub(crate) fn of(self, operation: &'static str) -> Self {
        match self {
            Self::Invalid { argument, expected, found } => Self::Invalid {
                argument: format!("{operation}: {argument}").into(),
                expected,
                found,
            },
            other => other,
        }
    }

    /// An [`Error::Unsupported`]: the call needs at least `expected`, the device has `found`.
    pub(crate) fn unsupported(
        what: &'static str,
        expected: impl Into<u64>,
        found: impl Into<u64>,
    ) -> Self {
        let (expected, found) = (format!("at least {}", expected.into()), found.into().to_string());
        Self::Unsupported { what, expected, found }
    }

    /// True if the call itself is at fault, false if the machine is.
    #[must_use]
    pub fn is_invalid(&self) -> bool {
        matches!(self, Self::Invalid { .. } | Self::Full { .. })
    }

    /// True if the device is lost. Open another then, and make operators and caches anew.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        matches!(self, Self::Device { message, .. } if message == LOST)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid { argument, expected, found } => {
                write!(f, "{argument}: expected {expected}, found {found}")
            }
            Self::Full { needed, free } => {
                write!(f, "pages: expected {needed} free pages, found {free}")
            }
            Self::NoAdapter { wanted, found } => {
                write!(f, "adapter: expected {wanted}, found {found}")
            }
            Self::Unsupported { what, expected, found } => {
                write!(f, "this device's {what}: expected {expected}, found {found}")
            }
            Self::Shader { pipeline, message } => write!(f, "pipeline {pipeline}: {message}"),
            Self::Device { action, message } => write!(f, "{action}: {message}"),
        }
    }
}

impl std::error::Error for Error {}
