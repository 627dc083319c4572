//! Values that flags of several subcommands take.

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::error::ErrorKind;
use clap::{Arg, Command};
use std::ffi::OsStr;

/// One of several values, by its name.
#[derive(Clone)]
pub(crate) struct Choice<T>(Vec<(&'static str, T)>);

pub(crate) fn choice<T>(values: impl IntoIterator<Item = (&'static str, T)>) -> Choice<T> {
    Choice(values.into_iter().collect())
}

pub(crate) fn one_of(names: impl IntoIterator<Item = &'static str>) -> Choice<&'static str> {
    choice(names.into_iter().map(|name| (name, name)))
}

impl<T: Copy + Send + Sync + 'static> TypedValueParser for Choice<T> {
    type Value = T;

    fn parse_ref(
        &self,
        command: &Command,
        argument: Option<&Arg>,
        value: &OsStr,
    ) -> Result<T, clap::Error> {
        let names = PossibleValuesParser::new(self.0.iter().map(|(name, _)| *name));
        // What is no UTF-8 is none of the names either.
        let name = names.parse_ref(command, argument, OsStr::new(&*value.to_string_lossy()))?;
        let found = self.0.iter().find(|(known, _)| *known == name);
        let unknown = || command.clone().error(ErrorKind::InvalidValue, name.clone());
        found.map(|(_, value)| *value).ok_or_else(unknown)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(self.0.iter().map(|(name, _)| PossibleValue::new(*name))))
    }
}

pub(crate) fn heads(text: &str) -> Result<usize, String> {
    at_least(1, text)
}

pub(crate) fn place(text: &str) -> Result<usize, String> {
    at_least(0, text)
}

/// More than usize counts are too many for any tensor.
fn at_least(least: u128, text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number: &u128| *number >= least);
    let number = number.ok_or_else(|| format!("expected an integer, at least {least}"))?;
    Ok(usize::try_from(number).unwrap_or(usize::MAX))
}

/// Positions beyond u64 are nobody's.
pub(crate) fn position(text: &str) -> Result<u64, String> {
    let number: u128 = text.parse().map_err(|_| "expected an integer, at least 0")?;
    Ok(u64::try_from(number).unwrap_or(u64::MAX))
}

/// A day is more than anyone waits, and what a clock counts.
pub(crate) fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok().filter(|seconds: &f64| *seconds > 0.0 && *seconds <= 86_400.0);
    seconds.ok_or_else(|| "expected a number above 0, at most 86400".to_owned())
}

pub(crate) fn base(text: &str) -> Result<f64, String> {
    let base = text.parse().ok().filter(|base: &f64| base.is_finite() && *base > 0.0);
    base.ok_or_else(|| "expected a finite number above 0".to_owned())
}
