//! The self-attention module of many tutorials: its parameters and the sizes of a call.

use super::multi_head::shaped;
use super::options::AttentionOptions;
use super::shape::AttentionShape;
use super::tensors::check_len;
use super::{Data, Problem};
use crate::error::Error;
use crate::tensor::Tensor;
use crate::view::{BroadcastLayout, Layout};

/// The parameters of a `SelfAttention` module: small matrices that all heads share, and one that mixes the heads.
#[derive(Clone, Copy, Debug)]
pub struct SelfAttentionWeights<'a> {
    /// Length of a row of values, keys, queries and out.
    pub embed_size: usize,
    /// Number of heads; divides `embed_size`.
    pub heads: usize,
    /// `[head_dim, head_dim]`, applied to each head's part of values.
    pub values: &'a [f32],
    /// `[head_dim, head_dim]`.
    pub keys: &'a [f32],
    /// `[head_dim, head_dim]`.
    pub queries: &'a [f32],
    /// `[embed_size, embed_size]`.
    pub fc_out: &'a [f32],
    /// `[embed_size]`.
    pub fc_out_bias: &'a [f32],
}

impl<'a> SelfAttentionWeights<'a> {
    /// Takes a state_dict apart: `find` gives shape and elements of the tensor of a name, if there is one.
    ///
    /// The names: `values.weight`, `keys.weight`, `queries.weight`, `fc_out.weight`, `fc_out.bias`.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the tensor that is missing or of another shape, or if `heads` does not divide the
    /// width.
    pub fn from_state_dict(
        heads: usize,
        mut find: impl FnMut(&'static str) -> Option<(&'a [usize], &'a [f32])>,
    ) -> Result<Self, Error> {
        let mut require =
            |name| find(name).ok_or_else(|| Error::invalid(name, "a tensor of this name", "none"));
        let fc_out = require("fc_out.weight")?;
        let &[embed_size, _] = fc_out.0 else {
            let expected = "2 sizes, [embed_size, embed_size]";
            return Err(Error::invalid("fc_out.weight", expected, format!("{:?}", fc_out.0)));
        };
        let head_dim = head_dim(embed_size, heads)?;
        let mut shared = |name| shaped(name, require(name)?, &[head_dim, head_dim]);
        let (values, keys, queries) =
            (shared("values.weight")?, shared("keys.weight")?, shared("queries.weight")?);
        Ok(Self {
            embed_size,
            heads,
            values,
            keys,
            queries,
            fc_out: shaped("fc_out.weight", fc_out, &[embed_size, embed_size])?,
            fc_out_bias: shaped("fc_out.bias", require("fc_out.bias")?, &[embed_size])?,
        })
    }

    /// The length of a head's vectors, if every slice has the length it needs.
    pub(crate) fn head_dim(&self) -> Result<usize, Error> {
        let head_dim = head_dim(self.embed_size, self.heads)?;
        let lens = [
            ("values weight", self.values, [head_dim, head_dim]),
            ("keys weight", self.keys, [head_dim, head_dim]),
            ("queries weight", self.queries, [head_dim, head_dim]),
            ("fc_out weight", self.fc_out, [self.embed_size, self.embed_size]),
            ("fc_out_bias", self.fc_out_bias, [1, self.embed_size]),
        ];
        for (argument, slice, [rows, columns]) in lens {
            if Some(slice.len()) != rows.checked_mul(columns) {
                let expected = format!("{rows} * {columns} elements");
                return Err(Error::invalid(argument, expected, slice.len()));
            }
        }
        Ok(head_dim)
    }
}

fn head_dim(embed_size: usize, heads: usize) -> Result<usize, Error> {
    if heads == 0 || embed_size == 0 || !embed_size.is_multiple_of(heads) {
        let expected = format!("a divisor of embed_size = {embed_size}");
        return Err(Error::invalid("heads", expected, heads));
    }
    Ok(embed_size / heads)
}

/// What the scores are divided by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ScaleBy {
    /// `sqrt(head_dim)`, as Vaswani et al. do.
    #[default]
    Head,
    /// `sqrt(embed_size)`, a well-known variant.
    Embed,
}

/// The sizes of one call of a `SelfAttention` module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SelfAttentionShape {
    /// Number of independent sequences.
    pub batch: usize,
    /// Number of queries per sequence.
    pub q_len: usize,
    /// Number of keys and values per sequence.
    pub kv_len: usize,
    /// What the scores are divided by.
    pub scale_by: ScaleBy,
    /// A boolean mask `[batch, heads, q_len, kv_len]`, true = attend. A row that is wholly masked weighs all keys
    /// alike.
    pub mask: Option<BroadcastLayout>,
    /// Ask for the weights `[batch, heads, q_len, kv_len]`, as [`AttentionShape::weights`](crate::AttentionShape::weights).
    pub weights: bool,
}

impl SelfAttentionShape {
    /// Without a mask, and without weights; change any field from there.
    #[must_use]
    pub fn new(batch: usize, len: usize) -> Self {
        let scale_by = ScaleBy::default();
        Self { batch, q_len: len, kv_len: len, scale_by, mask: None, weights: false }
    }

    /// The attention inside of a module: over projected rows `[batch, len, heads, head_dim]`.
    pub(crate) fn attention(&self, heads: usize, head_dim: usize) -> Result<Problem, Error> {
        let embed_size = heads.saturating_mul(head_dim);
        let shape = AttentionShape {
            kv_len: self.kv_len,
            mask: self.mask,
            // Of a row that sees nothing it is -inf.
            lse: self.mask.map(|_| Layout::Bhsd),
            weights: self.weights.then_some(Layout::Bhsd),
            ..AttentionShape::new(self.batch, heads, self.q_len, head_dim).with_layout(Layout::Bshd)
        };
        let divisor = match self.scale_by {
            ScaleBy::Head => head_dim,
            ScaleBy::Embed => embed_size,
        };
        let problem = Problem::new(&shape, &AttentionOptions::default())?;
        Ok(Problem { scale: 1.0 / (divisor as f64).sqrt(), ..problem })
    }
}

/// The tensors of one call of a `SelfAttention` module.
#[derive(Clone, Copy, Debug, Default)]
pub struct SelfAttentionInputs<'a> {
    /// `[batch, kv_len, embed_size]`.
    pub values: &'a [f32],
    /// `[batch, kv_len, embed_size]`.
    pub keys: &'a [f32],
    /// `[batch, q_len, embed_size]`.
    pub queries: &'a [f32],
    /// Given exactly if the shape has a mask; true = attend.
    pub mask: Option<&'a [bool]>,
}

/// What one call computed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SelfAttentionOutputs<S = f32> {
    /// `[batch, q_len, embed_size]`.
    pub out: Vec<S>,
    /// `[batch, heads, q_len, kv_len]`, if the shape asks for them.
    pub weights: Option<Vec<S>>,
}

impl<'a> SelfAttentionInputs<'a> {
    /// One of the inputs, if it is given.
    pub(crate) fn get(&self, tensor: Tensor) -> Option<Data<'a, f32>> {
        match tensor {
            Tensor::Value => Some(Data::Floats(self.values)),
            Tensor::Key => Some(Data::Floats(self.keys)),
            Tensor::Query => Some(Data::Floats(self.queries)),
            Tensor::Mask => self.mask.map(Data::Flags),
            _ => None,
        }
    }

    /// Compares every slice's length with what a call needs.
    pub(crate) fn validate(&self, problem: &Problem) -> Result<(), Error> {
        let tensors = [
            ("values", Tensor::Value),
            ("keys", Tensor::Key),
            ("queries", Tensor::Query),
            ("mask", Tensor::Mask),
        ];
        for (name, tensor) in tensors {
            let len = self.get(tensor).map(|data| data.len());
            check_len(name, problem.view(tensor).as_ref(), len)?;
        }
        Ok(())
    }
}
