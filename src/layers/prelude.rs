//! Names that every layer's file imports.

pub(super) use super::operator::{inside, layer, layer_with_weights, operator};
pub(super) use super::tensors::{LayerProblem, Slices, Tensors, new_buffers, tensors};
pub(super) use crate::buffer::Parameters;
pub(super) use crate::context::Context;
pub(super) use crate::device::{Capabilities, check_limits};
pub(super) use crate::element::{Element, ElementType};
pub(super) use crate::error::Error;
pub(super) use crate::host::Gpu;
pub(super) use crate::lost;
pub(super) use crate::plan::storage::{of, starts_on, writing};
pub(super) use crate::plan::{
    Bindings, Constant, Dispatch, Entry, Excess, Part, Program, ROW_LANES, Storage, Variant, fit,
    halves,
};
pub(super) use crate::problem::{Data, check_inputs};
pub(super) use crate::tensor::{Given, Tensor};
pub(super) use crate::verbs::{Buffers, Operator, one_shot, verbs};
pub(super) use crate::view::{
    BroadcastLayout, Layout, Strides, View, check_not_zero, count, length, move_view, reach,
    resolve, resolve_output,
};
pub(super) use std::ops::Range;
pub(super) use std::sync::Arc;
