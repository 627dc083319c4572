//! WHAT: shapes, strides and options, validated once into a [`Problem`] that nothing has to doubt again.

mod additive;
mod attention;
mod cut;
mod lens;
mod linear;
mod merge;
mod multi_head;
mod options;
mod pages;
mod ragged;
mod segments;
mod self_attention;
mod sequences;
mod shape;
mod small;
mod tensors;
mod tokens;

pub(crate) use additive::AdditiveProblem;
pub use additive::{AdditiveInputs, AdditiveOutputs, AdditiveShape};
pub use attention::Problem;
pub use lens::Lens;
pub(crate) use linear::LinearProblem;
pub use linear::{LinearInputs, LinearShape};
pub(crate) use merge::MergeProblem;
pub use merge::{MergeInputs, MergeShape};
pub(crate) use multi_head::MultiHeadSizes;
pub use multi_head::{
    HeadWeights, LayerMask, MultiHeadInputs, MultiHeadOutputs, MultiHeadShape, MultiHeadWeights,
};
pub use options::{Align, AttentionOptions};
pub use pages::Pages;
pub(crate) use pages::check_page_len;
pub(crate) use ragged::SequenceRow;
pub use self_attention::{
    ScaleBy, SelfAttentionInputs, SelfAttentionOutputs, SelfAttentionShape, SelfAttentionWeights,
};
pub use sequences::{Band, PackedSequence, Sequence};
pub use shape::{AlibiLayout, AttentionShape, CuSeqlens, PagedKeys, PresentKeys, SegmentLayout};
pub use small::SmallTensors;
pub(crate) use tensors::{Data, check_len};
pub use tensors::{Inputs, Outputs};
pub(crate) use tokens::{Encoding, TokenProblem};
pub use tokens::{
    PositionalInputs, PositionalShape, RotaryInputs, RotaryPairs, RotaryShape, TableRows,
};

pub use crate::element::{Element, ElementType};
pub use crate::view::{BroadcastLayout, BroadcastStrides, Layout, Strides, View};
pub(crate) use crate::view::{length, move_view, resolve};
