//! A multi-head layer: its parameters, the sizes of a call, its masks.

use super::Data;
use super::shape::{AttentionShape, CuSeqlens};
use crate::error::Error;
use crate::tensor::Tensor;
use crate::view::{BroadcastLayout, Layout, Strides};

/// The parameters of a multi-head layer, those of PyTorch's `nn.MultiheadAttention`.
///
/// Head `h` owns columns `h * embed_dim / num_heads..(h + 1) * embed_dim / num_heads` of what is projected.
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
    /// `[3 * embed_dim]`: of query, key and value, one after the other.
    pub in_bias: Option<&'a [f32]>,
    /// `[embed_dim, embed_dim]`, what the heads' results are multiplied with.
    pub out: &'a [f32],
    /// `[embed_dim]`.
    pub out_bias: Option<&'a [f32]>,
    /// `[embed_dim]` each: one more row of projected keys and of values, PyTorch's `bias_k` and `bias_v`.
    pub extra: Option<[&'a [f32]; 2]>,
    /// One more row of zeros in both, after that (PyTorch's `add_zero_attn`).
    pub add_zero_attn: bool,
}

/// What a multi-head layer is, without its numbers.
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
    /// Takes a state_dict apart: `find` gives shape and elements of the tensor of a name, if there is one.
    ///
    /// The names are those of `nn.MultiheadAttention`: `in_proj_weight`, or `q_proj_weight`, `k_proj_weight` and
    /// `v_proj_weight`; `in_proj_bias`; `out_proj.weight`, `out_proj.bias`; `bias_k` and `bias_v`.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the tensor that is missing, not wanted or of another shape, or if `num_heads`
    /// does not divide the width.
    pub fn from_state_dict(
        num_heads: usize,
        mut find: impl FnMut(&'static str) -> Option<(&'a [usize], &'a [f32])>,
    ) -> Result<Self, Error> {
        let out = require("out_proj.weight", find("out_proj.weight"))?;
        let &[embed_dim, _] = out.0 else {
            let expected = "2 sizes, [embed_dim, embed_dim]";
            return Err(Error::invalid("out_proj.weight", expected, format!("{:?}", out.0)));
        };
        let out = shaped("out_proj.weight", out, &[embed_dim, embed_dim])?;
        let apart = ["q_proj_weight", "k_proj_weight", "v_proj_weight"];
        let [query, (kdim, key), (vdim, value)] = match find("in_proj_weight") {
            Some(packed) => {
                for name in apart {
                    if find(name).is_some() {
                        return Err(Error::invalid(name, "none beside in_proj_weight", "a tensor"));
                    }
                }
                let rows = embed_dim.saturating_mul(3);
                let packed = shaped("in_proj_weight", packed, &[rows, embed_dim])?;
                let (query, others) = packed.split_at(packed.len() / 3);
                let (key, value) = others.split_at(query.len());
                [query, key, value].map(|weight| (embed_dim, weight))
            }
            None => {
                let [query, key, value] = apart.map(|name| (name, find(name)));
                if [&query, &key, &value].iter().all(|(_, found)| found.is_none()) {
                    return Err(Error::invalid("in_proj_weight", "a tensor of this name", "none"));
                }
                let query = shaped(query.0, require(query.0, query.1)?, &[embed_dim, embed_dim])?;
                [
                    (embed_dim, query),
                    of_width(key.0, embed_dim, require(key.0, key.1)?)?,
                    of_width(value.0, embed_dim, require(value.0, value.1)?)?,
                ]
            }
        };
        let (in_bias, out_bias) = pair(["in_proj_bias", "out_proj.bias"], &mut find)?
            .map_or((None, None), |[i, o]| (Some(i), Some(o)));
        let in_bias = in_bias
            .map(|found| shaped("in_proj_bias", found, &[embed_dim.saturating_mul(3)]))
            .transpose()?;
        let out_bias =
            out_bias.map(|found| shaped("out_proj.bias", found, &[embed_dim])).transpose()?;
        let extra = match pair(["bias_k", "bias_v"], &mut find)? {
            Some([key, value]) => Some([
                shaped("bias_k", key, &[1, 1, embed_dim])?,
                shaped("bias_v", value, &[1, 1, embed_dim])?,
            ]),
            None => None,
        };
        let weights = Self {
            embed_dim,
            num_heads,
            kdim,
            vdim,
            query: query.1,
            key,
            value,
            in_bias,
            out,
            out_bias,
            extra,
            add_zero_attn: false,
        };
        weights.sizes()?;
        Ok(weights)
    }

    /// Compares every slice's length with the sizes.
    pub(crate) fn sizes(&self) -> Result<MultiHeadSizes, Error> {
        let Self { embed_dim, num_heads, kdim, vdim, .. } = *self;
        for (argument, size) in
            [("embed_dim", embed_dim), ("num_heads", num_heads), ("kdim", kdim), ("vdim", vdim)]
        {
            if size == 0 {
                return Err(Error::invalid(argument, "at least 1", 0));
            }
        }
        if !embed_dim.is_multiple_of(num_heads) {
            let expected = format!("a divisor of embed_dim = {embed_dim}");
            return Err(Error::invalid("num_heads", expected, num_heads));
        }
        let lens = [
            ("query weight", Some(self.query), [embed_dim, embed_dim]),
            ("key weight", Some(self.key), [embed_dim, kdim]),
            ("value weight", Some(self.value), [embed_dim, vdim]),
            ("in_bias", self.in_bias, [3, embed_dim]),
            ("out weight", Some(self.out), [embed_dim, embed_dim]),
            ("out_bias", self.out_bias, [1, embed_dim]),
            ("extra key", self.extra.map(|[key, _]| key), [1, embed_dim]),
            ("extra value", self.extra.map(|[_, value]| value), [1, embed_dim]),
        ];
        for (argument, slice, [rows, columns]) in lens {
            if slice.is_some_and(|slice| Some(slice.len()) != rows.checked_mul(columns)) {
                let found = slice.unwrap_or_default().len();
                return Err(Error::invalid(
                    argument,
                    format!("{rows} * {columns} elements"),
                    found,
                ));
            }
        }
        Ok(MultiHeadSizes {
            embed_dim,
            num_heads,
            kdim,
            vdim,
            has_in_bias: self.in_bias.is_some(),
            has_out_bias: self.out_bias.is_some(),
            has_extra: self.extra.is_some(),
            add_zero_attn: self.add_zero_attn,
        })
    }

    /// Rows of keys and values that the layer adds to those of a call.
    #[must_use]
    pub fn added_rows(&self) -> usize {
        usize::from(self.extra.is_some()) + usize::from(self.add_zero_attn)
    }
}

/// A tensor of a state_dict: shape and elements.
type Found<'a> = (&'a [usize], &'a [f32]);

fn require<'a>(name: &'static str, found: Option<Found<'a>>) -> Result<Found<'a>, Error> {
    found.ok_or_else(|| Error::invalid(name, "a tensor of this name", "none"))
}

/// The elements, if there are as many as `expected` says, in that shape.
pub(super) fn shaped<'a>(
    name: &'static str,
    (shape, elements): Found<'a>,
    expected: &[usize],
) -> Result<&'a [f32], Error> {
    let count = expected.iter().try_fold(1_usize, |product, &size| product.checked_mul(size));
    if shape == expected && Some(elements.len()) == count {
        return Ok(elements);
    }
    Err(Error::invalid(name, format!("{expected:?}"), format!("{shape:?}")))
}

/// As [`shaped`] for a matrix of any width, which comes too.
fn of_width<'a>(
    name: &'static str,
    rows: usize,
    found: Found<'a>,
) -> Result<(usize, &'a [f32]), Error> {
    match *found.0 {
        [_, width] => Ok((width, shaped(name, found, &[rows, width])?)),
        _ => Err(Error::invalid(name, format!("[{rows}, its width]"), format!("{:?}", found.0))),
    }
}

/// Two tensors of which a state_dict has both or none.
fn pair<'a>(
    [one, other]: [&'static str; 2],
    find: &mut impl FnMut(&'static str) -> Option<Found<'a>>,
) -> Result<Option<[Found<'a>; 2]>, Error> {
    let half = |missing, there| {
        Err(Error::invalid(missing, format!("a tensor of this name beside {there}"), "none"))
    };
    match (find(one), find(other)) {
        (None, None) => Ok(None),
        (Some(first), Some(second)) => Ok(Some([first, second])),
        (None, Some(_)) => half(one, other),
        (Some(_), None) => half(other, one),
    }
}

/// The sizes of one call of a multi-head layer.
///
/// ```
/// use wgpu_attention::{HeadWeights, MultiHeadShape};
/// // Two sequences of 5 queries and 7 keys, and the weights of all heads.
/// let shape = MultiHeadShape {
///     kv_len: 7,
///     weights: Some(HeadWeights::PerHead),
///     ..MultiHeadShape::new(2, 5)
/// };
/// # let _ = shape;
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MultiHeadShape {
    /// Number of independent sequences.
    pub batch: usize,
    /// Number of queries per sequence.
    pub q_len: usize,
    /// Number of keys per sequence, without those that the layer adds.
    pub kv_len: usize,
    /// Whether query, key, value and out are `[batch, len, width]`, or PyTorch's default `[len, batch, width]`.
    pub batch_first: bool,
    /// How many of its keys each sequence has, if not all: `[batch]`. Not for a layer that adds rows.
    pub kv_lens: Option<Vec<usize>>,
    /// Sequences of different lengths, one after the other; then `batch` is 1. Not for a layer that adds rows.
    pub cu_seqlens: Option<CuSeqlens>,
    /// A boolean mask over `[batch, num_heads, q_len, keys]`, the rows that the layer adds included; true = attend.
    /// For [`MultiHeadAttention::encode`](crate::MultiHeadAttention::encode) alone: one-shots and the reference take
    /// PyTorch's masks in [`MultiHeadInputs`].
    pub mask: Option<BroadcastLayout>,
    /// A bias that is added to the scores, as the mask.
    pub bias: Option<BroadcastLayout>,
    /// Ask for the weights, as [`AttentionShape::weights`](crate::AttentionShape::weights).
    pub weights: Option<HeadWeights>,
}

/// Which weights are asked for; `keys` counts the rows that the layer adds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HeadWeights {
    /// Their mean over the heads, `[batch, q_len, keys]`.
    Mean,
    /// `[batch, num_heads, q_len, keys]`.
    PerHead,
}

impl MultiHeadShape {
    /// Self-attention over `[batch, len, embed_dim]`; change any field from there.
    #[must_use]
    pub fn new(batch: usize, len: usize) -> Self {
        Self {
            batch,
            q_len: len,
            kv_len: len,
            batch_first: true,
            kv_lens: None,
            cu_seqlens: None,
            mask: None,
            bias: None,
            weights: None,
        }
    }

    /// How rows of `width` lie in query, key, value and out.
    pub(crate) fn rows(&self, width: usize) -> Layout {
        if self.batch_first {
            return Layout::Bhsd;
        }
        let row = self.batch.saturating_mul(width);
        Layout::Strided(Strides { batch: width, row, ..Strides::default() })
    }

    /// The attention inside of a layer: over projected rows `[batch, len, num_heads, head_dim]`.
    pub(crate) fn attention(&self, sizes: &MultiHeadSizes) -> Result<AttentionShape, Error> {
        let added = usize::from(sizes.has_extra) + usize::from(sizes.add_zero_attn);
        let padded =
            [("kv_lens", self.kv_lens.is_some()), ("cu_seqlens", self.cu_seqlens.is_some())];
        if let Some((name, _)) = padded.into_iter().find(|(_, given)| *given && added > 0) {
            return Err(Error::invalid(name, "none, as the layer adds rows", "some"));
        }
        let kv_len = self.kv_len.saturating_add(added);
        let keys = sizes.num_heads.saturating_mul(kv_len);
        // The heads of a query side by side, so that their mean can be taken for some of the queries.
        let beside = Layout::Strided(Strides {
            offset: 0,
            batch: self.q_len.saturating_mul(keys),
            head: kv_len,
            row: keys,
        });
        let head_dim = sizes.embed_dim / sizes.num_heads;
        let shape = AttentionShape::new(self.batch, sizes.num_heads, self.q_len, head_dim);
        Ok(AttentionShape {
            kv_len,
            kv_lens: self.kv_lens.clone(),
            cu_seqlens: self.cu_seqlens.clone(),
            mask: self.mask,
            bias: self.bias,
            weights: self.weights.map(|weights| match weights {
                HeadWeights::Mean => beside,
                HeadWeights::PerHead => Layout::Bhsd,
            }),
            ..shape.with_layout(Layout::Bshd)
        })
    }
}

/// The tensors of one call of a multi-head layer, with masks as PyTorch has them.
#[derive(Clone, Copy, Debug, Default)]
pub struct MultiHeadInputs<'a> {
    /// `[batch, q_len, embed_dim]`, or `[q_len, batch, embed_dim]`.
    pub query: &'a [f32],
    /// `[batch, kv_len, kdim]`, or `[kv_len, batch, kdim]`.
    pub key: &'a [f32],
    /// `[batch, kv_len, vdim]`, or `[kv_len, batch, vdim]`.
    pub value: &'a [f32],
    /// `[q_len, kv_len]` or `[batch * num_heads, q_len, kv_len]`.
    pub attn_mask: Option<LayerMask<'a>>,
    /// `[batch, kv_len]`.
    pub key_padding_mask: Option<LayerMask<'a>>,
}

/// A mask as `nn.MultiheadAttention` takes it: the reverse of [`Inputs::mask`](crate::Inputs).
#[derive(Clone, Copy, Debug)]
pub enum LayerMask<'a> {
    /// True = NOT allowed to attend.
    Hidden(&'a [bool]),
    /// Added to the scores; `-inf` hides.
    Added(&'a [f32]),
}

/// What one call computed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MultiHeadOutputs<S = f32> {
    /// `[batch, q_len, embed_dim]`, or `[q_len, batch, embed_dim]`.
    pub out: Vec<S>,
    /// See [`HeadWeights`].
    pub weights: Option<Vec<S>>,
}

impl LayerMask<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Hidden(mask) => mask.len(),
            Self::Added(mask) => mask.len(),
        }
    }
}

impl<'a> MultiHeadInputs<'a> {
    /// One of the inputs but masks.
    pub(crate) fn get(&self, tensor: Tensor) -> Option<Data<'a, f32>> {
        match tensor {
            Tensor::Query => Some(Data::Floats(self.query)),
            Tensor::Key => Some(Data::Floats(self.key)),
            Tensor::Value => Some(Data::Floats(self.value)),
            _ => None,
        }
    }

    /// Compares every slice's length with what a call needs.
    pub(crate) fn validate(
        &self,
        sizes: &MultiHeadSizes,
        shape: &MultiHeadShape,
    ) -> Result<(), Error> {
        for (argument, given) in [("mask", shape.mask.is_some()), ("bias", shape.bias.is_some())] {
            if given {
                return Err(Error::invalid(argument, "none, as masks come as inputs", "one"));
            }
        }
        let (q_len, kv_len) = (shape.q_len, shape.kv_len);
        let heads = shape.batch.saturating_mul(sizes.num_heads);
        let lens = [
            ("query", Some(self.query.len()), [shape.batch, q_len, sizes.embed_dim]),
            ("key", Some(self.key.len()), [shape.batch, kv_len, sizes.kdim]),
            ("value", Some(self.value.len()), [shape.batch, kv_len, sizes.vdim]),
            ("key_padding_mask", self.key_padding_mask.map(|m| m.len()), [shape.batch, kv_len, 1]),
        ];
        let product = |sizes: [usize; 3]| {
            sizes.iter().try_fold(1_usize, |product, &size| product.checked_mul(size))
        };
        for (argument, found, sizes) in lens {
            if let Some(found) = found.filter(|&found| Some(found) != product(sizes)) {
                let [a, b, c] = sizes;
                return Err(Error::invalid(argument, format!("{a} * {b} * {c} elements"), found));
            }
        }
        match self.attn_mask.map(|mask| mask.len()) {
            Some(found)
                if ![1, heads].iter().any(|&n| Some(found) == product([n, q_len, kv_len])) =>
            {
                let expected = format!("{q_len} * {kv_len} elements, or {heads} times as many");
                Err(Error::invalid("attn_mask", expected, found))
            }
            Some(_) if shape.cu_seqlens.is_some() => {
                Err(Error::invalid("attn_mask", "none beside cu_seqlens", "one"))
            }
            _ if self.key_padding_mask.is_some() && shape.cu_seqlens.is_some() => {
                Err(Error::invalid("key_padding_mask", "none beside cu_seqlens", "one"))
            }
            _ => Ok(()),
        }
    }

    /// Whether the attention mask is of each sequence and head.
    pub(crate) fn is_per_head(&self, shape: &MultiHeadShape) -> bool {
        let plane = shape.q_len.saturating_mul(shape.kv_len);
        self.attn_mask.is_some_and(|mask| mask.len() != plane)
    }
}
