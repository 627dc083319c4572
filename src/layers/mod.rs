//! The layers around attention: the shape, problem, plan and buffers of each, and its call from
//! slices, in one file.

mod additive;
pub(crate) mod linear;
mod merge;
mod multi_head;
mod multi_head_inputs;
mod multi_head_weights;
mod operator;
mod positional;
mod prelude;
mod rotary;
mod self_attention;
mod state_dict;
mod tensors;
pub(crate) mod tokens;

pub use crate::tables::{RotaryTable, rotary_frequencies, sinusoidal};
pub(crate) use additive::AdditiveProblem;
pub use additive::{
    Additive, AdditiveBuffers, AdditiveInputs, AdditiveOutputs, AdditivePlan, AdditiveShape,
};
pub(crate) use linear::LinearProblem;
pub use linear::{Linear, LinearBuffers, LinearInputs, LinearPlan, LinearShape};
pub(crate) use merge::MergeProblem;
pub use merge::{Merge, MergeBuffers, MergeInputs, MergePlan, MergeShape};
pub use multi_head::{
    HeadWeights, MultiHeadAttention, MultiHeadBuffers, MultiHeadOutputs, MultiHeadPlan,
    MultiHeadShape,
};
pub use multi_head_inputs::{LayerMask, MultiHeadInputs};
pub use multi_head_weights::MultiHeadWeights;
pub use positional::{
    Positional, PositionalBuffers, PositionalInputs, PositionalPlan, PositionalShape,
};
pub use rotary::{Rotary, RotaryBuffers, RotaryInputs, RotaryPlan, RotaryShape};
pub use self_attention::{
    ScaleBy, SelfAttention, SelfAttentionBuffers, SelfAttentionInputs, SelfAttentionOutputs,
    SelfAttentionPlan, SelfAttentionShape, SelfAttentionWeights,
};
pub(crate) use tensors::LayerProblem;
pub(crate) use tokens::{Encoding, TokenProblem};
pub use tokens::{RotaryPairs, TableRows};
