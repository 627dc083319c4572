//! Which of the heatmaps of a tensor are drawn.

use super::args::PlotArgs;
use crate::failure::Failure;
use crate::tensors::{AXES, HEADS, MEAN, Tensor, Tensors};

/// The sizes of the weights, none of them 0.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    batch: usize,
    /// `None` where the weights are the mean over all heads.
    heads: Option<usize>,
    pub(super) queries: usize,
    pub(super) keys: usize,
}

/// All axes; the file may lack leading ones, and says so in its metadata if it is `heads` alone.
const ALL: [&str; 4] = ["batch", "heads", "queries", "keys"];

impl Sizes {
    /// Of the file's weights: by what its metadata say of their axes, else the last of all four.
    pub(super) fn new(tensor: &Tensor<'_>, tensors: &Tensors) -> Result<Self, Failure> {
        let Some(first @ 0..3) = ALL.len().checked_sub(tensor.sizes.len()) else {
            return Err(tensor.refuse("2 to 4 sizes, [batch, heads, queries, keys]"));
        };
        if tensor.sizes.contains(&0) {
            return Err(tensor.refuse("sizes of at least 1"));
        }
        let axes = match tensors.strings(AXES)? {
            None => ALL[first..].iter().map(|&axis| axis.to_owned()).collect(),
            Some(axes) if is_known(&axes) && axes.len() == tensor.sizes.len() => axes,
            Some(axes) => {
                let expected = format!("{} of {ALL:?}", tensor.sizes.len());
                let what = format_args!("{AXES} in __metadata__");
                return Err(Failure::input(what, expected, format_args!("{axes:?}")));
            }
        };
        let size = |axis| axes.iter().zip(tensor.sizes).find(|(own, _)| *own == axis);
        let [batch, heads, queries, keys] = ALL.map(|axis| size(axis).map_or(1, |(_, &size)| size));
        let is_mean = tensors.text(HEADS) == Some(MEAN) && heads == 1;
        Ok(Self { batch, heads: (!is_mean).then_some(heads), queries, keys })
    }

    /// The weights of one heatmap.
    pub(super) fn of<'a>(&self, weights: &'a [f32], batch: usize, head: usize) -> &'a [f32] {
        let len = self.queries * self.keys;
        &weights[(batch * self.heads.unwrap_or(1) + head) * len..][..len]
    }

    /// Its name among the others.
    pub(super) fn title(&self, batch: usize, head: usize) -> String {
        match (self.batch, self.heads) {
            (1, None) => "Mean over heads".to_owned(),
            (_, None) => format!("Batch {batch}, mean over heads"),
            (1, Some(1)) => "Attention weights".to_owned(),
            (1, Some(_)) => format!("Head {head}"),
            (_, Some(1)) => format!("Batch {batch}"),
            (_, Some(_)) => format!("Batch {batch}, head {head}"),
        }
    }
}

/// Whether queries and keys stand behind what may stand before them, in order.
fn is_known(axes: &[String]) -> bool {
    let axes: Vec<&str> = axes.iter().map(String::as_str).collect();
    matches!(axes[..], [.., "queries", "keys"])
        && matches!(axes[..axes.len() - 2], [] | ["batch"] | ["heads"] | ["batch", "heads"])
}

/// Heads and batches in the order in which they are asked for.
#[derive(Debug)]
pub(super) struct Selection {
    batches: Vec<usize>,
    heads: Vec<usize>,
}

impl Selection {
    pub(super) fn new(args: &PlotArgs, sizes: Sizes) -> Result<Self, Failure> {
        Ok(Self {
            batches: select("--batch", &args.batch, sizes.batch)?,
            heads: select("--head", &args.head, sizes.heads.unwrap_or(1))?,
        })
    }

    /// Batch and head of each heatmap.
    pub(super) fn panels(&self) -> impl Iterator<Item = (usize, usize)> {
        self.batches.iter().flat_map(|&batch| self.heads.iter().map(move |&head| (batch, head)))
    }

    /// How many stand side by side: all heads if they are few, else a square.
    pub(super) fn columns(&self) -> usize {
        let count = if self.heads.len() == 1 { self.batches.len() } else { self.heads.len() };
        (1..).find(|columns| columns * columns >= count).unwrap_or(count).max(count.min(4))
    }
}

/// What is asked for, each once; all of `count` if nothing is.
fn select(flag: &str, asked: &[usize], count: usize) -> Result<Vec<usize>, Failure> {
    if asked.is_empty() {
        return Ok((0..count).collect());
    }
    let mut places = Vec::new();
    for &place in asked {
        if place >= count {
            return Err(Failure::input(flag, format_args!("0 to {}", count - 1), place));
        }
        if !places.contains(&place) {
            places.push(place);
        }
    }
    Ok(places)
}
