//! Values that flags of several subcommands take.

pub(crate) fn heads(text: &str) -> Result<usize, String> {
    match text.parse::<u128>() {
        // More than usize counts are too many for any tensor.
        Ok(heads @ 1..) => Ok(usize::try_from(heads).unwrap_or(usize::MAX)),
        _ => Err("expected an integer, at least 1".to_owned()),
    }
}

/// More than usize counts is too many for any tensor.
pub(crate) fn place(text: &str) -> Result<usize, String> {
    position(text).map(|place| usize::try_from(place).unwrap_or(usize::MAX))
}

/// Positions beyond u64 are nobody's.
pub(crate) fn position(text: &str) -> Result<u64, String> {
    match text.parse::<u128>() {
        Ok(position) => Ok(u64::try_from(position).unwrap_or(u64::MAX)),
        _ => Err("expected an integer, at least 0".to_owned()),
    }
}

pub(crate) fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        // A day is more than anyone waits, and what a clock counts.
        Ok(seconds) if seconds > 0.0 && seconds <= 86_400.0 => Ok(seconds),
        _ => Err("expected a number above 0, at most 86400".to_owned()),
    }
}

pub(crate) fn base(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(base) if base.is_finite() && base > 0.0 => Ok(base),
        _ => Err("expected a finite number above 0".to_owned()),
    }
}
