//! The parameters of a multi-head layer.

use super::prelude::*;
use super::state_dict::{Parameter, StateDict, check_parameters};

/// The parameters of a multi-head layer, those of PyTorch's `nn.MultiheadAttention`.
///
/// Head `h` owns columns `h * embed_dim / num_heads..(h + 1) * embed_dim / num_heads` of what is
/// projected.
#[derive(Clone, Copy, Debug)]
pub struct MultiHeadWeights<'a> {
    /// Length of a row of query and of out.
    pub embed_dim: usize,
    /// Number of heads; divides `embed_dim`.
    pub num_heads: usize,
    /// Length of a row of key.
    pub kdim: usize,
    /// Length of a row of value.
    pub vdim: usize,
    /// `[embed_dim, embed_dim]`, what query is multiplied with.
    pub query: &'a [f32],
    /// `[embed_dim, kdim]`.
    pub key: &'a [f32],
    /// `[embed_dim, vdim]`.
    pub value: &'a [f32],
    /// `[3 * embed_dim]`: those of query, key and value in a row.
    pub in_bias: Option<&'a [f32]>,
    /// `[embed_dim, embed_dim]`, what the heads' results are multiplied with.
    pub out: &'a [f32],
    /// `[embed_dim]`.
    pub out_bias: Option<&'a [f32]>,
    /// `[embed_dim]` each: one more row of projected keys and of values, PyTorch's `bias_k` and
    /// `bias_v`.
    pub extra: Option<[&'a [f32]; 2]>,
    /// One more row of zeros in both, after that (PyTorch's `add_zero_attn`).
    pub add_zero_attn: bool,
}

/// Sizes of a multi-head layer, without the elements of its parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MultiHeadSizes {
    pub(crate) embed_dim: usize,
    pub(crate) num_heads: usize,
    pub(crate) kdim: usize,
    pub(crate) vdim: usize,
    pub(crate) has_in_bias: bool,
    pub(crate) has_out_bias: bool,
    pub(crate) has_extra: bool,
    pub(crate) add_zero_attn: bool,
}

impl<'a> MultiHeadWeights<'a> {
    /// Takes a state_dict apart: `find` gives shape and elements of the tensor of a name, if there
    /// is one.
    ///
    /// The names are those of `nn.MultiheadAttention`: `in_proj_weight`, or `q_proj_weight`,
    /// `k_proj_weight` and `v_proj_weight`; `in_proj_bias`; `out_proj.weight`, `out_proj.bias`;
    /// `bias_k` and `bias_v`.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the tensor that is missing, not wanted or of another shape, or if
    /// `num_heads` does not divide the width.
    pub fn from_state_dict(
        num_heads: usize,
        find: impl FnMut(&'static str) -> Option<(&'a [usize], &'a [f32])>,
    ) -> Result<Self, Error> {
        let mut dict = StateDict(find);
        let square = "2 sizes, [embed_dim, embed_dim]";
        let [embed_dim, _] = dict.sizes("out_proj.weight", square)?;
        let out = dict.shaped("out_proj.weight", &[embed_dim, embed_dim])?;
        let three = embed_dim.saturating_mul(3);
        let apart = ["q_proj_weight", "k_proj_weight", "v_proj_weight"];
        let there = apart.into_iter().find(|name| dict.has(name));
        let [(_, query), (kdim, key), (vdim, value)] = match (dict.has("in_proj_weight"), there) {
            (true, Some(name)) => {
                return Err(Error::invalid(name, "none beside in_proj_weight", "a tensor"));
            }
            (false, Some(_)) => {
                let query = dict.shaped(apart[0], &[embed_dim, embed_dim])?;
                let mut of_width = |name| {
                    let [_, width] = dict.sizes(name, &format!("[{embed_dim}, its width]"))?;
                    Ok::<_, Error>((width, dict.shaped(name, &[embed_dim, width])?))
                };
                [(embed_dim, query), of_width(apart[1])?, of_width(apart[2])?]
            }
            _ => {
                let packed = dict.shaped("in_proj_weight", &[three, embed_dim])?;
                let (query, others) = packed.split_at(packed.len() / 3);
                let (key, value) = others.split_at(query.len());
                [query, key, value].map(|weight| (embed_dim, weight))
            }
        };
        let one: &[usize] = &[1, 1, embed_dim];
        let [in_bias, out_bias] =
            dict.pair([("in_proj_bias", &[three]), ("out_proj.bias", &[embed_dim])])?;
        let [extra_key, extra_value] = dict.pair([("bias_k", one), ("bias_v", one)])?;
        let weights = Self {
            embed_dim,
            num_heads,
            kdim,
            vdim,
            query,
            key,
            value,
            in_bias,
            out,
            out_bias,
            extra: extra_key.zip(extra_value).map(<[_; 2]>::from),
            add_zero_attn: false,
        };
        weights.sizes()?;
        Ok(weights)
    }

    /// Sizes of the layer, if every slice has the length it needs.
    pub(crate) fn sizes(&self) -> Result<MultiHeadSizes, Error> {
        let Self { embed_dim, num_heads, kdim, vdim, add_zero_attn, .. } = *self;
        check_not_zero([
            ("embed_dim", embed_dim),
            ("num_heads", num_heads),
            ("kdim", kdim),
            ("vdim", vdim),
        ])?;
        if !embed_dim.is_multiple_of(num_heads) {
            let expected = format!("a divisor of embed_dim = {embed_dim}");
            return Err(Error::invalid("num_heads", expected, num_heads));
        }
        check_parameters(&self.parameters())?;
        Ok(MultiHeadSizes {
            embed_dim,
            num_heads,
            kdim,
            vdim,
            has_in_bias: self.in_bias.is_some(),
            has_out_bias: self.out_bias.is_some(),
            has_extra: self.extra.is_some(),
            add_zero_attn,
        })
    }

    pub(super) fn parameters(&self) -> [Parameter<'a>; 8] {
        let width = self.embed_dim;
        let [extra_key, extra_value] = self.extra.map_or([None; 2], |extra| extra.map(Some));
        [
            (Tensor::QueryWeight, "query weight", Some(self.query), [width, width]),
            (Tensor::KeyWeight, "key weight", Some(self.key), [width, self.kdim]),
            (Tensor::ValueWeight, "value weight", Some(self.value), [width, self.vdim]),
            (Tensor::InBias, "in_bias", self.in_bias, [3, width]),
            (Tensor::OutWeight, "out weight", Some(self.out), [width, width]),
            (Tensor::OutBias, "out_bias", self.out_bias, [1, width]),
            (Tensor::ExtraKey, "extra key", extra_key, [1, width]),
            (Tensor::ExtraValue, "extra value", extra_value, [1, width]),
        ]
    }

    /// Rows of keys and values that the layer adds to those of a call.
    #[must_use]
    pub fn added_rows(&self) -> usize {
        usize::from(self.extra.is_some()) + usize::from(self.add_zero_attn)
    }
}
