//! What a check is asked, and what it found.

use super::compare::Bounds;
use std::time::Duration;

/// How thorough a check is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckOptions<'a> {
    /// Leave out sizes that only cost another compilation, and long calls.
    pub quick: bool,
    /// Only the cases of this [`Row::name`].
    pub only: Option<&'a str>,
    /// Only what these, each a [`Row::kernel`], compute; all if empty.
    pub kernels: &'a [&'a str],
    /// Start no further case after this time; [`Report::left_out`] counts those that never ran.
    pub limit: Option<Duration>,
}

/// How far a check has got.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress<'a> {
    /// Cases done.
    pub done: usize,
    /// Cases in all.
    pub total: usize,
    /// What was started or done just now.
    pub name: &'a str,
    /// The rows that this completes, as they will stand in the report; in the end also those that
    /// [`CheckOptions::limit`] cut off.
    pub rows: &'a [Row],
}

/// What a check found.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The adapter's name, backend and driver.
    pub adapter: String,
    /// One row a kernel and kind of case.
    pub rows: Vec<Row>,
    /// Cases that [`CheckOptions::limit`] left no time for.
    pub left_out: usize,
}

/// The worst of one kernel's or operation's cases of one kind.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Name of attention's kernel or of another operation, and of the limits it was held to if not
    /// the device's own.
    pub kernel: String,
    /// What was tried.
    pub name: &'static str,
    /// Number of calls.
    pub cases: usize,
    /// Largest [`Accuracy::max_relative`](super::Accuracy::max_relative) of any output of the
    /// shape's element type.
    pub max_relative: f64,
    /// Largest [`Accuracy::frobenius`](super::Accuracy::frobenius) of any output of the shape's
    /// element type.
    pub frobenius: f64,
    /// What they may be.
    pub bounds: Bounds,
    /// The first failure: shape, options and the worst element, or the device's error.
    pub failure: Option<String>,
}

impl Report {
    /// Whether there were cases, all of them ran, and none failed.
    #[must_use]
    pub fn passed(&self) -> bool {
        !self.rows.is_empty() && self.left_out == 0 && !self.failed()
    }

    /// Whether a case failed.
    #[must_use]
    pub fn failed(&self) -> bool {
        self.rows.iter().any(|row| row.failure.is_some())
    }
}
