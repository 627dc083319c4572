//! One dispatch as plain data: which shader, which parts of which buffers, what grid.

use super::params::{Params, SequenceParams, ViewParams};
use super::storage::Storage;
use super::variant::{Entry, Variant};
use super::window::Window;
use crate::device::Capabilities;
use crate::problem::{ElementType, Problem, SmallTensor, View};

/// A tensor that a dispatch reads or writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are those of AttentionBuffers")]
pub enum Tensor {
    Query,
    Key,
    Value,
    Out,
    Lse,
    Mask,
    Bias,
    AlibiSlopes,
    Segments,
    Lens,
    Pages,
    Sinks,
    Weights,
    RawScores,
    CappedScores,
    MaskedScores,
    /// Scores nobody asked to keep; the operator's own buffer.
    Workspace,
    /// Out before it is packed into words that rows share; the operator's own buffer.
    Unpacked,
    /// Out, and maximum and sum, over parts of the keys, before they are merged; the operator's own buffers.
    PartialOut,
    PartialLse,
    /// Maximum and sum of each row, of which the weights are made; the operator's own buffer.
    Sums,
    /// Small tensors one after the other, where a call has several; the operator's own buffer.
    Joined,
}

impl Tensor {
    /// The operator's own buffers, of which a plan says how large they are.
    pub(crate) const OWN: [Self; 5] =
        [Self::Workspace, Self::Unpacked, Self::PartialOut, Self::PartialLse, Self::Sums];

    /// Its binding number in a shader.
    #[must_use]
    pub fn binding(self, entry: Entry) -> u32 {
        match self {
            Self::Out if entry == Entry::Pack => 10,
            Self::PartialOut if entry == Entry::AttentionCombine => 12,
            Self::PartialLse if entry == Entry::AttentionCombine => 13,
            Self::Sums if entry == Entry::AttentionWeights => 13,
            Self::Out | Self::Unpacked | Self::PartialOut => 4,
            Self::Query => 1,
            Self::Key => 2,
            Self::Value => 3,
            Self::Lse | Self::PartialLse | Self::Sums => 5,
            Self::Mask => 6,
            Self::Bias => 7,
            Self::AlibiSlopes
            | Self::Segments
            | Self::Lens
            | Self::Pages
            | Self::Sinks
            | Self::Joined => 8,
            Self::Weights
            | Self::RawScores
            | Self::CappedScores
            | Self::MaskedScores
            | Self::Workspace => 9,
        }
    }

    /// Elements in one 32-bit word: a mask has a bit an element.
    #[must_use]
    pub fn elements_per_word(self, element: ElementType) -> u32 {
        match self {
            Self::Mask => 32,
            Self::Query | Self::Key | Self::Value | Self::Out => element.per_word(),
            _ => 1,
        }
    }

    /// The window onto a view of it.
    pub(super) fn window(
        self,
        element: ElementType,
        view: &View,
        capabilities: &Capabilities,
    ) -> Window {
        Window::onto(self.elements_per_word(element), view, capabilities)
    }

    /// Bytes of a buffer that holds the first `elements` elements.
    #[must_use]
    pub fn bytes(self, element: ElementType, elements: u32) -> u64 {
        u64::from(elements.div_ceil(self.elements_per_word(element))) * 4
    }
}

/// A tensor bound through a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Which tensor.
    pub tensor: Tensor,
    /// Where it lies in its buffer.
    pub view: View,
    /// Which part of the buffer.
    pub window: Window,
}

/// One dispatch.
#[derive(Clone, Debug, PartialEq)]
pub struct Dispatch {
    /// The shader.
    pub variant: Variant,
    /// Its uniform block.
    pub params: Params,
    /// What it binds; bindings of the shader that are not listed get a dummy.
    pub bound: Vec<Bound>,
    /// What each sequence is, if they differ; else empty.
    pub table: Vec<SequenceParams>,
    /// Workgroups along each axis.
    pub grid: [u32; 3],
}

/// What a dispatch writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Results {
    /// Out, and lse if it is asked for.
    Final,
    /// Out, and maximum and sum in place of lse, of which the weights will be made.
    WithSums,
    /// The same of one part of the keys, in the operator's own buffers.
    OfPart,
}

impl Dispatch {
    /// A dispatch of `variant` for `problem`, with what it binds of the operator's or of scores at `others`.
    pub(super) fn new(
        variant: Variant,
        results: Results,
        problem: &Problem,
        others: &[(Tensor, View)],
        grid: [u32; 3],
        capabilities: &Capabilities,
    ) -> Self {
        let mut params = Params::new(problem);
        if results != Results::Final {
            params.flags |= Params::STORES_SUMS;
        }
        let mut bound = Vec::new();
        let views = [
            (Tensor::Query, Some(problem.query)),
            (Tensor::Key, Some(problem.key)),
            (Tensor::Value, Some(problem.value)),
            (Tensor::Out, Some(problem.out)),
            (Tensor::Lse, problem.lse),
            (Tensor::Mask, problem.mask),
            (Tensor::Bias, problem.bias),
        ];
        let views = views.into_iter().filter_map(|(tensor, view)| Some((tensor, view?)));
        for (tensor, view) in views.chain(auxiliary(problem)).chain(others.iter().copied()) {
            let tensor = match tensor {
                Tensor::Out if results == Results::OfPart => Tensor::PartialOut,
                Tensor::Lse if results == Results::OfPart => Tensor::PartialLse,
                Tensor::Lse if results == Results::WithSums => Tensor::Sums,
                tensor => tensor,
            };
            // What an empty tensor or an unused one would bind is a dummy. Without keys, no page of a pool is read.
            let number = tensor.binding(variant.entry);
            let is_unread = matches!(tensor, Tensor::Key | Tensor::Value) && problem.kv_len == 0;
            if view.extent == 0 || is_unread || !variant.entry.bindings().contains_key(&number) {
                continue;
            }
            let window = tensor.window(problem.element, &view, capabilities);
            let unpacked = Window::unpacked(&window, &view);
            if tensor == Tensor::Out && variant.entry == Entry::Pack {
                params.words = view.extent.div_ceil(2) - window.first_element / 2;
                bound.push(Bound { tensor: Tensor::Unpacked, view, window: unpacked });
            }
            let (tensor, window) = match tensor {
                Tensor::Out if variant.out == Storage::Unpacked => (Tensor::Unpacked, unpacked),
                tensor => (tensor, window),
            };
            bound.push(Bound { tensor, view, window });
            let place = ViewParams::within(&view, &window);
            // Results over parts are read at bindings of their own, and written at those of out and lse.
            let is_read = number >= Tensor::PartialOut.binding(Entry::AttentionCombine);
            match tensor {
                Tensor::Query => params.query = place,
                Tensor::Key => params.key = place,
                Tensor::Value => params.value = place,
                Tensor::PartialOut if is_read => params.partial_out = place,
                Tensor::PartialLse | Tensor::Sums if is_read => params.partial_lse = place,
                Tensor::Out | Tensor::Unpacked | Tensor::PartialOut => params.out = place,
                Tensor::Lse | Tensor::PartialLse | Tensor::Sums => {
                    params.lse = place;
                    params.flags |= Params::HAS_LSE;
                }
                Tensor::Mask => {
                    (params.mask, params.mask_column) = (place, view.column);
                    params.flags |= Params::HAS_MASK;
                }
                Tensor::Bias => (params.bias, params.bias_column) = (place, view.column),
                Tensor::AlibiSlopes
                | Tensor::Segments
                | Tensor::Lens
                | Tensor::Pages
                | Tensor::Sinks
                | Tensor::Joined => {
                    params.set_auxiliary(problem, &window);
                }
                _ => params.scores = place,
            }
        }
        Self { variant, params, bound, table: Vec::new(), grid }
    }
}

/// What stands in the buffer of small tensors.
fn auxiliary(problem: &Problem) -> Option<(Tensor, View)> {
    let tensor = match problem.small.present().next()? {
        _ if problem.small.are_joined() => Tensor::Joined,
        small => small.into(),
    };
    let hull = |a: View, b: View| {
        let (offset, extent) = (a.offset.min(b.offset), a.extent.max(b.extent));
        View { offset, extent, ..a }
    };
    Some((tensor, problem.small_views().map(|(_, view)| view).reduce(hull)?))
}

impl From<SmallTensor> for Tensor {
    fn from(small: SmallTensor) -> Self {
        match small {
            SmallTensor::AlibiSlopes => Self::AlibiSlopes,
            SmallTensor::Segments => Self::Segments,
            SmallTensor::Lens => Self::Lens,
            SmallTensor::Pages => Self::Pages,
            SmallTensor::Sinks => Self::Sinks,
        }
    }
}
