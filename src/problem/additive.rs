//! Additive attention: its sizes, and the slices of a call.

use super::tensors::check_len;
use super::{Data, Element, ElementType, View, length};
use crate::error::Error;
use crate::tensor::{Given, Tensor};
use crate::view::{BroadcastLayout, Layout, resolve, resolve_broadcast};

/// Sizes of one additive attention call; all tensors are contiguous. `batch`, `q_len` and `kv_len` may be zero.
///
/// ```
/// use wgpu_attention::AdditiveShape;
/// // A decoder state of 32 numbers looks at 10 encoder states of 48, through a hidden layer of 16.
/// let shape = AdditiveShape { weights: true, ..AdditiveShape::new(1, [1, 10], [32, 48, 48], 16) };
/// assert_eq!((shape.kv_len, shape.value_dim), (10, 48));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AdditiveShape {
    /// Number of sequences.
    pub batch: usize,
    /// Queries per sequence.
    pub q_len: usize,
    /// Keys per sequence.
    pub kv_len: usize,
    /// Length of a query.
    pub query_dim: usize,
    /// Length of a key.
    pub key_dim: usize,
    /// Length of a value and of an output vector.
    pub value_dim: usize,
    /// Length of the vectors that queries and keys are projected to.
    pub hidden_dim: usize,
    /// What inputs and out are stored as; projections, sums and weights are f32.
    pub element: ElementType,
    /// Whether there is a `b`.
    pub bias: bool,
    /// Sizes of a boolean mask, true = attend: each that of `[batch, q_len, kv_len]`, or 1, which repeats.
    pub mask: Option<[usize; 3]>,
    /// Ask for the attention weights `[batch, q_len, kv_len]`.
    pub weights: bool,
}

impl AdditiveShape {
    /// `[q_len, kv_len]`, `[query_dim, key_dim, value_dim]`; f32, with a bias, without mask and weights; change any field
    /// from there.
    #[must_use]
    pub fn new(batch: usize, lens: [usize; 2], dims: [usize; 3], hidden_dim: usize) -> Self {
        let ([q_len, kv_len], [query_dim, key_dim, value_dim]) = (lens, dims);
        Self {
            batch,
            q_len,
            kv_len,
            query_dim,
            key_dim,
            value_dim,
            hidden_dim,
            element: ElementType::F32,
            bias: true,
            mask: None,
            weights: false,
        }
    }
}

/// The tensors of one additive attention call, as contiguous slices.
#[derive(Clone, Copy, Debug)]
pub struct AdditiveInputs<'a, T = f32> {
    /// `[batch, q_len, query_dim]`.
    pub query: &'a [T],
    /// `[batch, kv_len, key_dim]`.
    pub key: &'a [T],
    /// `[batch, kv_len, value_dim]`.
    pub value: &'a [T],
    /// `[hidden_dim, query_dim]`.
    pub w_q: &'a [T],
    /// `[hidden_dim, key_dim]`.
    pub w_k: &'a [T],
    /// `[hidden_dim]`.
    pub w_v: &'a [T],
    /// `[hidden_dim]`, given exactly if the shape has a bias.
    pub b: Option<&'a [T]>,
    /// Given exactly if the shape has a mask; true = attend.
    pub mask: Option<&'a [bool]>,
}

/// What one additive attention call computed: out as `T`, the weights as `S`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AdditiveOutputs<T = f32, S = T> {
    /// `[batch, q_len, value_dim]`.
    pub out: Vec<T>,
    /// `[batch, q_len, kv_len]`, if asked for: each row sums to 1, or is 0 if it sees no key.
    pub weights: Option<Vec<S>>,
}

/// A validated call, its tensors by name.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct AdditiveProblem {
    pub(crate) shape: AdditiveShape,
    pub(crate) query: View,
    pub(crate) key: View,
    pub(crate) value: View,
    pub(crate) w_q: View,
    pub(crate) w_k: View,
    pub(crate) w_v: View,
    pub(crate) b: Option<View>,
    pub(crate) mask: Option<View>,
    pub(crate) out: View,
    pub(crate) weights: Option<View>,
}

impl AdditiveProblem {
    pub(crate) fn new(shape: &AdditiveShape) -> Result<Self, Error> {
        let s = *shape;
        for (argument, size) in [
            ("query_dim", s.query_dim),
            ("key_dim", s.key_dim),
            ("value_dim", s.value_dim),
            ("hidden_dim", s.hidden_dim),
        ] {
            if size == 0 {
                return Err(Error::invalid(argument, "at least 1", 0));
            }
            length(argument, size)?;
        }
        for (argument, size) in [("batch", s.batch), ("q_len", s.q_len), ("kv_len", s.kv_len)] {
            length(argument, size)?;
        }
        let view = |argument, batch, rows, columns| {
            resolve(argument, [batch, 1, rows, columns], Layout::Bhsd)
        };
        let mask = |[batch, rows, columns]: [usize; 3]| {
            let sizes = BroadcastLayout::Sizes([batch, 1, rows, columns]);
            resolve_broadcast("mask", [s.batch, 1, s.q_len, s.kv_len], sizes)
        };
        let weights = view("weights", s.batch, s.q_len, s.kv_len);
        Ok(Self {
            shape: s,
            query: view("query", s.batch, s.q_len, s.query_dim)?,
            key: view("key", s.batch, s.kv_len, s.key_dim)?,
            value: view("value", s.batch, s.kv_len, s.value_dim)?,
            w_q: view("w_q", 1, s.hidden_dim, s.query_dim)?,
            w_k: view("w_k", 1, s.hidden_dim, s.key_dim)?,
            w_v: view("w_v", 1, 1, s.hidden_dim)?,
            b: s.bias.then(|| view("b", 1, 1, s.hidden_dim)).transpose()?,
            mask: s.mask.map(mask).transpose()?,
            out: view("out", s.batch, s.q_len, s.value_dim)?,
            weights: s.weights.then_some(weights).transpose()?,
        })
    }
}

impl AdditiveProblem {
    /// What a caller gives.
    pub(crate) fn given(&self) -> [Given; 10] {
        let per_word = self.shape.element.per_word();
        [
            Given::input(Tensor::Query, "query", self.query, per_word),
            Given::input(Tensor::Key, "key", self.key, per_word),
            Given::input(Tensor::Value, "value", self.value, per_word),
            Given::input(Tensor::QueryWeight, "w_q", self.w_q, per_word),
            Given::input(Tensor::KeyWeight, "w_k", self.w_k, per_word),
            Given::input(Tensor::ValueWeight, "w_v", self.w_v, per_word),
            Given::input(Tensor::InBias, "b", self.b, per_word),
            Given::input(Tensor::Mask, "mask", self.mask, 32),
            Given::output(Tensor::Out, "out", self.out, per_word),
            Given::output(Tensor::Weights, "weights", self.weights, 1),
        ]
    }
}

impl<'a, T: Element> AdditiveInputs<'a, T> {
    /// One of the inputs, if it is given.
    pub(crate) fn get(&self, tensor: Tensor) -> Option<Data<'a, T>> {
        match tensor {
            Tensor::Query => Some(Data::Elements(self.query)),
            Tensor::Key => Some(Data::Elements(self.key)),
            Tensor::Value => Some(Data::Elements(self.value)),
            Tensor::QueryWeight => Some(Data::Elements(self.w_q)),
            Tensor::KeyWeight => Some(Data::Elements(self.w_k)),
            Tensor::ValueWeight => Some(Data::Elements(self.w_v)),
            Tensor::InBias => self.b.map(Data::Elements),
            Tensor::Mask => self.mask.map(Data::Flags),
            _ => None,
        }
    }

    /// Compares every slice's length with what the problem needs.
    pub(crate) fn validate(&self, p: &AdditiveProblem) -> Result<(), Error> {
        if T::TYPE != p.shape.element {
            let expected = format!("{} elements", p.shape.element);
            return Err(Error::invalid("query", expected, T::TYPE));
        }
        for Given { tensor, name, view, .. } in p.given().iter().filter(|given| !given.is_output) {
            check_len(name, view.as_ref(), self.get(*tensor).map(|data| data.len()))?;
        }
        Ok(())
    }
}
