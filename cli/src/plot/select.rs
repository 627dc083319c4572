//! Which of the heatmaps of a tensor are drawn.

use crate::args::PlotArgs;
use crate::failure::Failure;
use crate::tensors::Tensor;

/// The sizes of the weights, none of them 0.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    batch: usize,
    heads: usize,
    pub(super) queries: usize,
    pub(super) keys: usize,
}

impl Sizes {
    pub(super) fn new(tensor: &Tensor<'_>) -> Result<Self, Failure> {
        let found = format!("{:?}", tensor.sizes);
        let (batch, heads, queries, keys) = match *tensor.sizes.as_slice() {
            [queries, keys] => (1, 1, queries, keys),
            [heads, queries, keys] => (1, heads, queries, keys),
            [batch, heads, queries, keys] => (batch, heads, queries, keys),
            _ => {
                let expected = "2 to 4 sizes, [batch, heads, queries, keys]";
                return Err(Failure::input(tensor.name, expected, found));
            }
        };
        if tensor.sizes.contains(&0) {
            return Err(Failure::input(tensor.name, "sizes of at least 1", found));
        }
        Ok(Self { batch, heads, queries, keys })
    }

    /// The weights of one heatmap.
    pub(super) fn of<'a>(&self, weights: &'a [f32], batch: usize, head: usize) -> &'a [f32] {
        let len = self.queries * self.keys;
        &weights[(batch * self.heads + head) * len..][..len]
    }

    /// Its name among the others.
    pub(super) fn title(&self, batch: usize, head: usize) -> String {
        match (self.batch, self.heads) {
            (1, 1) => "Attention weights".to_owned(),
            (1, _) => format!("Head {head}"),
            _ => format!("Batch {batch}, head {head}"),
        }
    }
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
            heads: select("--head", &args.head, sizes.heads)?,
        })
    }

    /// Batch and head of each heatmap.
    pub(super) fn panels(&self) -> impl Iterator<Item = (usize, usize)> {
        self.batches.iter().flat_map(|&batch| self.heads.iter().map(move |&head| (batch, head)))
    }

    /// How many stand side by side: all heads if they are few, else about as many as below each other.
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
