//! What stands beside the rows and above the columns.

use super::args::PlotArgs;
use super::select::Sizes;
use crate::failure::Failure;
use crate::tensors::Tensors;

/// More characters of a label would leave little room for the rest.
const LONGEST: usize = 24;

/// Labels, and where they come from.
type Named = (&'static str, Vec<String>);

/// The labels of queries and keys: from the flags, else from the file, else their numbers.
pub(super) fn labels(
    args: &PlotArgs,
    tensors: &Tensors,
    sizes: Sizes,
) -> Result<[Vec<String>; 2], Failure> {
    let given = |flag, text: &Option<String>| -> Option<Named> {
        Some((flag, text.as_ref()?.split_whitespace().map(str::to_owned).collect()))
    };
    let mut queries = given("--tokens", &args.tokens);
    let mut keys = given("--key-tokens", &args.key_tokens);
    // Tokens that a flag replaces take with them what the file says of either axis.
    if queries.is_none() {
        queries = tensors.strings("tokens")?.map(|words| ("tokens in __metadata__", words));
        if keys.is_none() {
            keys =
                tensors.strings("key_tokens")?.map(|words| ("key_tokens in __metadata__", words));
        }
    }
    // In self-attention queries and keys are the same tokens.
    if keys.is_none() && sizes.queries == sizes.keys {
        keys.clone_from(&queries);
    }
    Ok([drawable(queries, sizes.queries)?, drawable(keys, sizes.keys)?])
}

/// As many labels as there are rows or columns, each fit to be drawn.
fn drawable(labels: Option<Named>, count: usize) -> Result<Vec<String>, Failure> {
    match labels {
        None => Ok((0..count).map(|place| place.to_string()).collect()),
        Some((_, words)) if words.len() == count => {
            Ok(words.iter().map(|word| printable(word)).collect())
        }
        Some((name, words)) => {
            Err(Failure::input(name, format_args!("{count} tokens"), words.len()))
        }
    }
}

/// A token in one line and without what neither a terminal nor XML may hold, cut if it is long.
fn printable(word: &str) -> String {
    let allowed = |c: char| !c.is_control() && !matches!(c, '\u{fffe}' | '\u{ffff}');
    let clean = word.chars().map(|c| if allowed(c) { c } else { '\u{fffd}' });
    let mut label: String = clean.clone().take(LONGEST).collect();
    if clean.count() > LONGEST {
        label.pop();
        label.push('…');
    }
    label
}
