//! Our own way to stderr, kept clear of what drivers, loaders and loggers print there.

use indicatif::ProgressDrawTarget;
use std::fs::File;
use std::io::{IsTerminal as _, Write as _};
use std::sync::OnceLock;

/// The terminal, pipe or file that was stderr when the tool started.
static OURS: OnceLock<File> = OnceLock::new();

/// Sends whatever is written to file descriptor 2 from now on to nowhere, except through [`say`].
///
/// It stays so until the process ends: drivers also print from their exit handlers. On Windows,
/// where drivers do not print, nothing is redirected.
pub(crate) fn silence() {
    #[cfg(unix)]
    redirect();
    std::panic::set_hook(Box::new(|panic| write(&panic.to_string())));
}

#[cfg(unix)]
fn redirect() {
    let Ok(nowhere) = File::options().write(true).open("/dev/null") else { return };
    let Ok(ours) = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stderr(), 3) else { return };
    if OURS.set(File::from(ours)).is_ok() {
        // If this fails, drivers may be heard, and so may we.
        let _ = rustix::stdio::dup2_stderr(&nowhere);
    }
}

/// Writes exactly one line, whatever the text holds.
pub(crate) fn say(message: &str) {
    write(&one_line(message));
}

/// A text without line breaks and terminal codes: a tensor's name may contain them, and a
/// compiler's message has many lines.
pub(crate) fn one_line(text: &str) -> String {
    let printable: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    printable.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// If nobody can hear us there is nobody to tell: errors are ignored.
fn write(text: &str) {
    let _ = match OURS.get() {
        Some(mut ours) => ours.write_all(format!("{text}\n").as_bytes()),
        None => writeln!(std::io::stderr(), "{text}"),
    };
}

/// Whether someone watches.
pub(crate) fn is_terminal() -> bool {
    OURS.get().map_or_else(|| std::io::stderr().is_terminal(), File::is_terminal)
}

/// Where a progress bar is drawn: our stderr if it is a terminal, else nowhere.
pub(crate) fn progress_target() -> ProgressDrawTarget {
    match OURS.get().map(File::try_clone) {
        #[cfg(unix)]
        Some(Ok(ours)) if ours.is_terminal() => {
            let terminal = console::Term::read_write_pair(std::io::stdin(), ours);
            ProgressDrawTarget::term(terminal, 20)
        }
        Some(_) => ProgressDrawTarget::hidden(),
        // Draws nothing where it is no terminal.
        None => ProgressDrawTarget::stderr(),
    }
}
