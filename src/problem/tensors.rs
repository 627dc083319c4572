//! The slices that go into a one-shot call or the CPU reference, and the vectors that come back.

use super::{Element, ElementType, Problem, View};
use crate::error::Error;
use crate::tensor::{Given, Tensor};
use std::borrow::Cow;

/// The tensors of one call, as slices of `T` (the shape's element type) laid out as its
/// [`AttentionShape`](crate::AttentionShape) says.
#[derive(Clone, Copy, Debug, Default)]
pub struct Inputs<'a, T = f32> {
    /// `[batch, num_heads, q_len, head_dim]`.
    pub query: &'a [T],
    /// `[batch, num_kv_heads, kv_len, head_dim]`; of a shape with pages, the
    /// [pool](super::PagedKeys#order-of-the-pool).
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

/// What one call computed, as far as the shape asks for it: out as `T`, everything else as `S`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outputs<T = f32, S = T> {
    /// `[batch, num_heads, q_len, value_dim]`.
    pub out: Vec<T>,
    /// `[batch, num_heads, q_len]`: natural log; `-inf`, or the sink, for a row that sees no key.
    pub lse: Option<Vec<S>>,
    /// `[batch, num_heads, q_len, kv_len]`: each row sums to 1, or less with a sink, or is 0 if it
    /// sees no key.
    pub weights: Option<Vec<S>>,
    /// `[batch, num_heads, q_len, kv_len]`: `scale * q . k`.
    pub raw_scores: Option<Vec<S>>,
    /// `[batch, num_heads, q_len, kv_len]`: after softcap.
    pub capped_scores: Option<Vec<S>>,
    /// `[batch, num_heads, q_len, kv_len]`: after bias and masks, `-inf` where hidden.
    pub masked_scores: Option<Vec<S>>,
}

/// The elements of one input.
#[derive(Clone, Copy)]
pub(crate) enum Data<'a, T> {
    Elements(&'a [T]),
    Floats(&'a [f32]),
    Words(&'a [u32]),
    Flags(&'a [bool]),
}

impl<'a, T: Element> Data<'a, T> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Elements(slice) => slice.len(),
            Self::Floats(slice) => slice.len(),
            Self::Words(slice) => slice.len(),
            Self::Flags(slice) => slice.len(),
        }
    }

    /// As a kernel reads them: flags are bits of u32 words, the first one the lowest.
    pub(crate) fn bytes(&self) -> Cow<'a, [u8]> {
        match *self {
            Self::Elements(slice) => Cow::Borrowed(bytemuck::cast_slice(slice)),
            Self::Floats(slice) => Cow::Borrowed(bytemuck::cast_slice(slice)),
            Self::Words(slice) => Cow::Borrowed(bytemuck::cast_slice(slice)),
            Self::Flags(slice) => {
                let push = |bits, &flag: &bool| bits << 1 | u32::from(flag);
                let pack = |word: &[bool]| word.iter().rev().fold(0, push);
                let words: Vec<u32> = slice.chunks(32).map(pack).collect();
                Cow::Owned(bytemuck::cast_slice(&words).to_vec())
            }
        }
    }
}

impl<'a, T: Element> Inputs<'a, T> {
    /// One of the inputs, if it is given.
    pub(crate) fn get(&self, tensor: Tensor) -> Option<Data<'a, T>> {
        match tensor {
            Tensor::Query => Some(Data::Elements(self.query)),
            Tensor::Key => Some(Data::Elements(self.key)),
            Tensor::Value => Some(Data::Elements(self.value)),
            Tensor::Mask => self.mask.map(Data::Flags),
            Tensor::Bias => self.bias.map(Data::Floats),
            Tensor::AlibiSlopes => self.alibi_slopes.map(Data::Floats),
            Tensor::Segments => self.segments.map(Data::Words),
            Tensor::Lens => self.lens.map(Data::Words),
            Tensor::Pages => self.pages.map(Data::Words),
            Tensor::Sinks => self.sinks.map(Data::Floats),
            _ => None,
        }
    }

    /// Query, key and value as f32, which holds every number of the other types.
    pub(crate) fn widen(&self) -> [Vec<f32>; 3] {
        let widen = |slice: &[T]| slice.iter().map(|x| x.to_f32()).collect();
        [self.query, self.key, self.value].map(widen)
    }

    /// The same with these in place of query, key and value.
    pub(crate) fn with<'b>(&self, [query, key, value]: &'b [Vec<f32>; 3]) -> Inputs<'b>
    where
        'a: 'b,
    {
        let Self { mask, bias, alibi_slopes, segments, lens, pages, sinks, .. } = *self;
        Inputs { query, key, value, mask, bias, alibi_slopes, segments, lens, pages, sinks }
    }

    /// Compares every slice's length with what the problem needs.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the first slice that does not fit.
    pub fn validate(&self, problem: &Problem) -> Result<(), Error> {
        let given: Vec<Given> = problem.given().collect();
        check_inputs(problem.element, &given, |tensor| self.get(tensor))?;
        for len in self.lens.unwrap_or_default() {
            let expected = format_args!("at most kv_len = {}", problem.kv_len);
            Error::require(*len <= problem.kv_len, "lens", expected, len)?;
        }
        problem.check_table(self.pages.unwrap_or_default(), self.lens)
    }
}

impl<T, S> Outputs<T, S> {
    /// Out, and the others where there are any.
    pub(crate) fn collect<E>(
        out: Vec<T>,
        mut other: impl FnMut(Tensor) -> Result<Option<Vec<S>>, E>,
    ) -> Result<Self, E> {
        Ok(Self {
            out,
            lse: other(Tensor::Lse)?,
            weights: other(Tensor::Weights)?,
            raw_scores: other(Tensor::RawScores)?,
            capped_scores: other(Tensor::CappedScores)?,
            masked_scores: other(Tensor::MaskedScores)?,
        })
    }
}

/// Compares the slices' type and lengths with what is needed.
pub(crate) fn check_inputs<'a, T: Element>(
    element: ElementType,
    given: &[Given],
    data: impl Fn(Tensor) -> Option<Data<'a, T>>,
) -> Result<(), Error> {
    if T::TYPE != element {
        let is_typed = |given: &&Given| matches!(data(given.tensor), Some(Data::Elements(_)));
        let name = given.iter().find(is_typed).map_or("element", |given| given.name);
        return Err(Error::invalid(name, format!("{element} elements"), T::TYPE));
    }
    for Given { tensor, name, view, .. } in given {
        if !Tensor::OUTPUTS.contains(tensor) {
            check_len(name, view.as_ref(), data(*tensor).map(|data| data.len()))?;
        }
    }
    Ok(())
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
            let least = if view.exact { "" } else { "at least " };
            Error::require(fits, argument, format_args!("{least}{extent} elements"), len)
        }
    }
}
