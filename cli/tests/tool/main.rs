//! The tool as its users meet it: a process, files, exit codes, and what stands on stdout and stderr.

mod additive;
mod bench;
mod check;
mod demo;
mod devices;
mod hostile;
mod info;
mod layers;
mod lengths;
mod plot;
mod refusals;
mod rope;
mod run;
mod segments;
mod shell;
mod sinks;
mod support;
#[cfg(unix)]
mod terminal;
mod wrong;
