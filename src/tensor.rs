//! Every tensor of every operation, listed once: its name, its axes, how it is stored, who writes
//! it. Validation, slicing, binding, uploads and downloads are loops over this list.

use crate::element::ElementType;
use crate::view::View;
use std::ops::{Index, IndexMut};

/// The tensors in groups, each of which becomes a list too.
macro_rules! tensors {
    ($($(#[$about:meta])* $group:ident { $($(#[$doc:meta])* $tensor:ident)* })*) => {
        /// A tensor that an operation reads or writes.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[expect(missing_docs, reason = "the names are those of the structs of buffers")]
        pub enum Tensor {
            $($($(#[$doc])* $tensor,)*)*
        }

        impl Tensor {
            $($(#[$about])*
            pub const $group: [Self; [$(stringify!($tensor)),*].len()] = [$(Self::$tensor),*];)*
        }
    };
}

tensors! {
    /// What attention reads, in the order in which it is validated.
    INPUTS {
        Query Key Value Mask Bias AlibiSlopes
        /// Segment ids of the queries; those of the keys stand behind them in the same buffer.
        Segments
        KeySegments Lens Pages Sinks
    }
    /// What attention writes.
    OUTPUTS { Out Lse Weights RawScores CappedScores MaskedScores }
    /// What layers read and write besides.
    LAYERS {
        X Weight Cos Sin Table Positions
        /// Results over parts of the keys, given to be merged.
        Parts
        PartsLse
    }
    /// Parameters of layers.
    PARAMETERS { QueryWeight KeyWeight ValueWeight InBias OutWeight OutBias ExtraKey ExtraValue }
    /// The operators' own buffers.
    OWN {
        /// Scores nobody asked to keep.
        Workspace
        /// Out before it is packed into words that rows share.
        Unpacked
        /// Out over parts of the keys, before they are merged.
        PartialOut
        /// The running maximum and sum of each row over parts of the keys.
        PartialLse
        /// The running maximum and sum of each row, of which the weights are made.
        Sums
        /// Small tensors one after the other, where a call has several.
        Joined
        /// Projected rows of a layer.
        ProjectedQuery
        ProjectedKey
        ProjectedValue
        /// What attention inside a layer gives.
        Attended
        AttendedLse
        /// Weights of all heads, of which only the mean is asked for.
        HeadWeights
        /// Rows of a cache on their way from one place to another.
        Aside
    }
}

/// How a tensor is cut along one of its dimensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Axis {
    /// One of it, whatever the part.
    One,
    /// The batch's sequences.
    Batch,
    /// Sequences, also those that are packed one after the other into one of the batch.
    Sequences,
    Heads,
    KvHeads,
    Queries,
    Keys,
    /// Pages of keys.
    Pages,
    /// Columns of a query or key.
    HeadDim,
    /// Columns of a value or of out.
    ValueDim,
}

/// How a tensor's elements are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// As the call's element type.
    Elements,
    /// A 32-bit word each: f32 or u32.
    Words,
    /// A bit each.
    Bits,
}

impl Format {
    /// Elements in one 32-bit word.
    pub(crate) fn per_word(self, element: ElementType) -> u32 {
        match self {
            Self::Elements => element.per_word(),
            Self::Words => 1,
            Self::Bits => 32,
        }
    }
}

/// What there is to know of one of attention's tensors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spec {
    /// As in the public structs and in the kernels.
    pub(crate) name: &'static str,
    /// What batch, heads, rows and columns are.
    pub(crate) axes: [Axis; 4],
    pub(crate) format: Format,
    pub(crate) is_output: bool,
}

/// A tensor that a caller of an operation gives, or leaves out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Given {
    pub(crate) tensor: Tensor,
    /// As in the public structs.
    pub(crate) name: &'static str,
    /// Where it lies, if the call has it.
    pub(crate) view: Option<View>,
    /// Elements in one 32-bit word.
    pub(crate) per_word: u32,
    pub(crate) is_output: bool,
    /// For messages: what its elements are, and how many along each dimension.
    pub(crate) shape: Option<(&'static str, [u32; 4])>,
}

impl Given {
    /// One that is read.
    pub(crate) fn input(
        tensor: Tensor,
        name: &'static str,
        view: impl Into<Option<View>>,
        per_word: u32,
    ) -> Self {
        Self { tensor, name, view: view.into(), per_word, is_output: false, shape: None }
    }

    /// One that is written.
    pub(crate) fn output(
        tensor: Tensor,
        name: &'static str,
        view: impl Into<Option<View>>,
        per_word: u32,
    ) -> Self {
        Self { is_output: true, ..Self::input(tensor, name, view, per_word) }
    }

    /// Elements up to the last one that is used.
    pub(crate) fn len(&self) -> usize {
        self.view.map_or(0, |view| view.extent as usize)
    }

    /// Bytes of a buffer that holds these.
    pub(crate) fn bytes(&self) -> Option<u64> {
        self.view.map(|view| u64::from(view.extent.div_ceil(self.per_word)) * 4)
    }
}

impl Tensor {
    /// Attention's, inputs first.
    pub(crate) fn attention() -> impl Iterator<Item = Self> {
        Self::INPUTS.into_iter().chain(Self::OUTPUTS)
    }

    /// Small ones of a word an element, which kernels read through one binding, in the order in
    /// which they are joined.
    pub const SMALL: [Self; 5] =
        [Self::AlibiSlopes, Self::Segments, Self::Lens, Self::Pages, Self::Sinks];

    /// Whether it is of use within one call alone, which may then be cut until it is small.
    pub(crate) fn is_scratch(self) -> bool {
        let scratch =
            [Self::Workspace, Self::Unpacked, Self::PartialOut, Self::PartialLse, Self::Sums];
        scratch.contains(&self)
    }

    /// What there is to know of one of attention's.
    pub(crate) fn spec(self) -> Spec {
        use Axis::{Batch, HeadDim, Heads, Keys, KvHeads, One, Queries, Sequences, ValueDim};
        use Format::{Bits, Elements, Words};
        let scores = [Batch, Heads, Queries, Keys];
        let (name, axes, format) = match self {
            Self::Query => ("query", [Batch, Heads, Queries, HeadDim], Elements),
            Self::Key => ("key", [Batch, KvHeads, Keys, HeadDim], Elements),
            Self::Value => ("value", [Batch, KvHeads, Keys, ValueDim], Elements),
            Self::Mask => ("mask", scores, Bits),
            Self::Bias => ("bias", scores, Words),
            Self::AlibiSlopes => ("alibi_slopes", [Sequences, Heads, One, One], Words),
            Self::Segments => ("segments", [Batch, One, Queries, One], Words),
            Self::KeySegments => ("segments", [Batch, One, Keys, One], Words),
            Self::Lens => ("lens", [Batch, One, One, One], Words),
            Self::Pages => ("pages", [Batch, One, Axis::Pages, One], Words),
            Self::Sinks => ("sinks", [One, Heads, One, One], Words),
            Self::Out => ("out", [Batch, Heads, Queries, ValueDim], Elements),
            Self::Lse => ("lse", [Batch, Heads, Queries, One], Words),
            Self::Weights => ("weights", scores, Words),
            Self::RawScores => ("raw_scores", scores, Words),
            Self::CappedScores => ("capped_scores", scores, Words),
            Self::MaskedScores => ("masked_scores", scores, Words),
            _ => ("a tensor of a layer", [One; 4], Words),
        };
        Spec { name, axes, format, is_output: Self::OUTPUTS.contains(&self) }
    }
}

/// Where each of attention's tensors lies, if a call has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Views([Option<View>; Tensor::INPUTS.len() + Tensor::OUTPUTS.len()]);

impl Views {
    /// The same tensors, each where `change` puts it.
    pub(crate) fn map(self, change: impl Fn(Tensor, View) -> View) -> Self {
        let mut views = self;
        for tensor in Tensor::attention() {
            views[tensor] = views[tensor].map(|view| change(tensor, view));
        }
        views
    }
}

impl Index<Tensor> for Views {
    type Output = Option<View>;

    /// None of a tensor that is not attention's.
    fn index(&self, tensor: Tensor) -> &Option<View> {
        self.0.get(tensor as usize).unwrap_or(&None)
    }
}

impl IndexMut<Tensor> for Views {
    /// Of one of attention's.
    fn index_mut(&mut self, tensor: Tensor) -> &mut Option<View> {
        &mut self.0[tensor as usize]
    }
}
