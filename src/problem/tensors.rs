//! The slices that go into a one-shot call or the CPU reference, and the vectors that come back.

use super::{Element, Problem, Segments, View};
use crate::error::Error;

/// The tensors of one call, as slices of `T` (the shape's element type) laid out as its [`AttentionShape`](crate::AttentionShape) says.
#[derive(Clone, Copy, Debug, Default)]
pub struct Inputs<'a, T = f32> {
    /// `[batch, num_heads, q_len, head_dim]`.
    pub query: &'a [T],
    /// `[batch, num_kv_heads, kv_len, head_dim]`; of a shape with pages, the pool `[pages, num_kv_heads, page_len, head_dim]`.
    pub key: &'a [T],
    /// `[batch, num_kv_heads, kv_len, value_dim]`, as key.
    pub value: &'a [T],
    /// Given exactly if the shape has a mask; true = attend.
    pub mask: Option<&'a [bool]>,
    /// Given exactly if the shape has a bias.
    pub bias: Option<&'a [f32]>,
    /// Given exactly if the shape has ALiBi slopes.
    pub alibi_slopes: Option<&'a [f32]>,
    /// Given exactly if the shape has segment ids.
    pub segments: Option<&'a [u32]>,
    /// Given exactly if the shape has `lens`: `[batch]`, at most `kv_len` each.
    pub lens: Option<&'a [u32]>,
    /// The table `[batch, pages_per_sequence]`, given exactly if the shape has pages.
    pub pages: Option<&'a [u32]>,
    /// `[num_heads]`, given exactly if the shape has sinks.
    pub sinks: Option<&'a [f32]>,
}

/// What one call computed: out as `T`, everything else as `S`. The optional ones are there if the shape
/// asks for them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outputs<T = f32, S = T> {
    /// `[batch, num_heads, q_len, value_dim]`.
    pub out: Vec<T>,
    /// `[batch, num_heads, q_len]`: natural log; `-inf`, or the sink, for a row that sees no key.
    pub lse: Option<Vec<S>>,
    /// `[batch, num_heads, q_len, kv_len]`: each row sums to 1, or less with a sink, or is 0 if it sees no key.
    pub weights: Option<Vec<S>>,
    /// `[batch, num_heads, q_len, kv_len]`: `scale * q . k`.
    pub raw_scores: Option<Vec<S>>,
    /// `[batch, num_heads, q_len, kv_len]`: after softcap.
    pub capped_scores: Option<Vec<S>>,
    /// `[batch, num_heads, q_len, kv_len]`: after bias and masks, `-inf` where hidden.
    pub masked_scores: Option<Vec<S>>,
}

/// Query, key and value as f32.
#[derive(Debug)]
pub(crate) struct Widened {
    query: Vec<f32>,
    key: Vec<f32>,
    value: Vec<f32>,
}

impl Widened {
    /// The inputs they came from, with these in place of query, key and value.
    pub(crate) fn inputs<'a, T>(&'a self, others: &Inputs<'a, T>) -> Inputs<'a> {
        Inputs {
            query: &self.query,
            key: &self.key,
            value: &self.value,
            mask: others.mask,
            bias: others.bias,
            alibi_slopes: others.alibi_slopes,
            segments: others.segments,
            lens: others.lens,
            pages: others.pages,
            sinks: others.sinks,
        }
    }
}

impl<T: Element> Inputs<'_, T> {
    /// Query, key and value as f32, which holds every number of the other types.
    pub(crate) fn widen(&self) -> Widened {
        let widen = |slice: &[T]| slice.iter().map(|x| x.to_f32()).collect();
        Widened { query: widen(self.query), key: widen(self.key), value: widen(self.value) }
    }

    /// Compares every slice's length with what the problem needs.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the first slice that is missing, not wanted, or of the wrong length.
    pub fn validate(&self, problem: &Problem) -> Result<(), Error> {
        if T::TYPE != problem.element {
            return Err(Error::invalid("query", format!("{} elements", problem.element), T::TYPE));
        }
        check_len("query", Some(&problem.query), Some(self.query.len()))?;
        check_len("key", Some(&problem.key), Some(self.key.len()))?;
        check_len("value", Some(&problem.value), Some(self.value.len()))?;
        check_len("mask", problem.mask.as_ref(), self.mask.map(<[_]>::len))?;
        check_len("bias", problem.bias.as_ref(), self.bias.map(<[_]>::len))?;
        check_len("alibi_slopes", problem.alibi.as_ref(), self.alibi_slopes.map(<[_]>::len))?;
        let ids = problem.segments.as_ref().map(Segments::ids);
        check_len("segments", ids.as_ref(), self.segments.map(<[_]>::len))?;
        check_len("sinks", problem.sinks.as_ref(), self.sinks.map(<[_]>::len))?;
        let lens = problem.lens.map(|lens| lens.view);
        check_len("lens", lens.as_ref(), self.lens.map(<[_]>::len))?;
        if let Some(len) = self.lens.unwrap_or_default().iter().find(|&&len| len > problem.kv_len) {
            return Err(Error::invalid(
                "lens",
                format!("at most kv_len = {}", problem.kv_len),
                len,
            ));
        }
        let table = problem.pages.map(|pages| pages.table);
        check_len("pages", table.as_ref(), self.pages.map(<[_]>::len))?;
        problem.check_table(self.pages.unwrap_or_default(), self.lens)
    }
}

pub(crate) fn check_len(
    argument: &'static str,
    view: Option<&View>,
    len: Option<usize>,
) -> Result<(), Error> {
    match (view, len) {
        (None, None) => Ok(()),
        (Some(_), None) => Err(Error::invalid(argument, "a slice, as the shape has one", "none")),
        (None, Some(len)) => {
            Err(Error::invalid(argument, "none, as the shape has none", format!("{len} elements")))
        }
        (Some(view), Some(len)) => {
            let extent = view.extent as usize;
            let fits = if view.exact { len == extent } else { len >= extent };
            if fits {
                return Ok(());
            }
            let least = if view.exact { "" } else { "at least " };
            Err(Error::invalid(argument, format!("{least}{extent} elements"), len))
        }
    }
}
