//! What only a terminal gets: colours on stdout, progress on stderr.

use crate::stderr;
use console::style;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::{self, IsTerminal as _};

/// Colours, where there is someone to see them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Paint(bool);

impl Paint {
    #[cfg(test)]
    pub(crate) const PLAIN: Self = Self(false);

    /// For a stdout that shows colours, and is wanted to: <https://no-color.org>.
    pub(crate) fn stdout() -> Self {
        let minds = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self(io::stdout().is_terminal() && !minds)
    }

    pub(crate) fn is_on(self) -> bool {
        self.0
    }

    /// A heading.
    pub(crate) fn bold(self, text: &str) -> String {
        style(text).bold().force_styling(self.0).to_string()
    }

    /// A verdict that is welcome.
    pub(crate) fn good(self, text: &str) -> String {
        style(text).green().force_styling(self.0).to_string()
    }

    /// One that is not.
    pub(crate) fn bad(self, text: &str) -> String {
        style(text).red().bold().force_styling(self.0).to_string()
    }
}

/// How many of `total` are done and how long the others will take, on stderr if it is a terminal.
pub(crate) fn progress_bar(total: usize) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(total as u64), stderr::progress_target());
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len}, {eta} left  {wide_msg}")
    {
        bar.set_style(style);
    }
    bar
}
