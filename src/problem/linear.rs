//! A linear layer: its sizes, and where its tensors lie.

use super::tensors::check_len;
use super::{Data, Element, length};
use crate::element::ElementType;
use crate::error::Error;
use crate::tensor::{Given, Tensor};
use crate::view::move_view;
use crate::view::{Layout, Strides, View, resolve, resolve_output};
use std::ops::Range;

/// Sizes and layouts of `out = x weight^T + bias`, the linear layer as PyTorch's `nn.Linear` has it.
///
/// Rows come in `batch` groups of `len`, so that `[batch, len, features]` and `[len, batch, features]` go into each
/// other without a copy. Any size but `out_features` may be 0; without features in, out is the bias.
///
/// ```
/// use wgpu_attention::{Layout, LinearShape, Strides};
/// // From [len 5, batch 2, 8] to [batch 2, len 5, 12].
/// let shape = LinearShape {
///     batch: 2,
///     x: Layout::Strided(Strides { batch: 8, row: 16, ..Strides::default() }),
///     bias: Some(0),
///     ..LinearShape::new(5, 8, 12)
/// };
/// # let _ = shape;
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LinearShape {
    /// Number of groups of rows.
    pub batch: usize,
    /// Rows of each group.
    pub len: usize,
    /// Length of a row of x.
    pub in_features: usize,
    /// Length of a row of out.
    pub out_features: usize,
    /// What all four tensors are stored as.
    pub element: ElementType,
    /// Whether out is f32 all the same, the sums not rounded.
    pub out_f32: bool,
    /// Where x `[batch, len, in_features]` lies; its head stride is not used.
    pub x: Layout,
    /// Where out `[batch, len, out_features]` goes; its head stride is not used.
    pub out: Layout,
    /// The element at which the weight `[out_features, in_features]` begins.
    pub weight: usize,
    /// The element at which the bias `[out_features]` begins, if there is one.
    pub bias: Option<usize>,
}

impl LinearShape {
    /// `len` contiguous rows, without a bias; change any field from there.
    #[must_use]
    pub fn new(len: usize, in_features: usize, out_features: usize) -> Self {
        Self {
            batch: 1,
            len,
            in_features,
            out_features,
            element: ElementType::F32,
            out_f32: false,
            x: Layout::Bhsd,
            out: Layout::Bhsd,
            weight: 0,
            bias: None,
        }
    }
}

/// The tensors of a linear layer as slices.
#[derive(Clone, Copy, Debug, Default)]
pub struct LinearInputs<'a, T = f32> {
    /// `[batch, len, in_features]`.
    pub x: &'a [T],
    /// `[out_features, in_features]`.
    pub weight: &'a [T],
    /// `[out_features]`; given exactly if the shape has a bias.
    pub bias: Option<&'a [T]>,
}

/// A validated linear layer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LinearProblem {
    pub(crate) batch: u32,
    pub(crate) len: u32,
    pub(crate) in_features: u32,
    pub(crate) out_features: u32,
    pub(crate) element: ElementType,
    pub(crate) out_element: ElementType,
    /// Rows of `in_features`.
    pub(crate) x: View,
    /// Rows of `in_features`, one for each column of out.
    pub(crate) weight: View,
    /// Rows of one element, one for each column of out.
    pub(crate) bias: Option<View>,
    /// Rows of `out_features`.
    pub(crate) out: View,
}

impl LinearProblem {
    pub(crate) fn new(shape: &LinearShape) -> Result<Self, Error> {
        let s = shape;
        if s.out_features == 0 {
            return Err(Error::invalid("out_features", "at least 1", 0));
        }
        let from = |offset, row| match offset {
            0 => Layout::Bhsd,
            offset => Layout::Strided(Strides { offset, row, ..Strides::default() }),
        };
        let weight = from(s.weight, s.in_features);
        let bias = |offset| resolve("bias", [1, 1, s.out_features, 1], from(offset, 1));
        Ok(Self {
            batch: length("batch", s.batch)?,
            len: length("len", s.len)?,
            in_features: length("in_features", s.in_features)?,
            out_features: length("out_features", s.out_features)?,
            element: s.element,
            out_element: if s.out_f32 { ElementType::F32 } else { s.element },
            x: resolve("x", [s.batch, 1, s.len, s.in_features], s.x)?,
            weight: resolve("weight", [1, 1, s.out_features, s.in_features], weight)?,
            bias: s.bias.map(bias).transpose()?,
            out: resolve_output("out", [s.batch, 1, s.len, s.out_features], s.out)?,
        })
    }

    /// What a caller gives.
    pub(crate) fn given(&self) -> [Given; 4] {
        let per_word = self.element.per_word();
        [
            Given::input(Tensor::X, "x", self.x, per_word),
            Given::input(Tensor::Weight, "weight", self.weight, per_word),
            Given::input(Tensor::Bias, "bias", self.bias, per_word),
            Given::output(Tensor::Out, "out", self.out, self.out_element.per_word()),
        ]
    }

    /// Some of the rows and columns of out, which is not empty.
    pub(crate) fn part(&self, batches: Range<u32>, rows: Range<u32>, columns: Range<u32>) -> Self {
        let count = |range: &Range<u32>| range.end - range.start;
        let one = 0..1;
        let by_column = |view, width| move_view(view, &one, &one, &columns, width);
        let out = View { offset: self.out.offset + columns.start, ..self.out };
        Self {
            batch: count(&batches),
            len: count(&rows),
            out_features: count(&columns),
            x: move_view(self.x, &batches, &one, &rows, self.in_features),
            weight: by_column(self.weight, self.in_features),
            bias: self.bias.map(|view| by_column(view, 1)),
            out: move_view(out, &batches, &one, &rows, count(&columns)),
            ..*self
        }
    }
}

impl<'a, T: Element> LinearInputs<'a, T> {
    /// One of the inputs, if it is given.
    pub(crate) fn get(&self, tensor: Tensor) -> Option<Data<'a, T>> {
        match tensor {
            Tensor::X => Some(Data::Elements(self.x)),
            Tensor::Weight => Some(Data::Elements(self.weight)),
            Tensor::Bias => self.bias.map(Data::Elements),
            _ => None,
        }
    }

    /// Compares every slice's length with what the problem needs.
    pub(crate) fn validate(&self, problem: &LinearProblem) -> Result<(), Error> {
        if T::TYPE != problem.element {
            return Err(Error::invalid("x", format!("{} elements", problem.element), T::TYPE));
        }
        for Given { tensor, name, view, .. } in problem.given() {
            if tensor != Tensor::Out {
                check_len(name, view.as_ref(), self.get(tensor).map(|data| data.len()))?;
            }
        }
        Ok(())
    }
}
