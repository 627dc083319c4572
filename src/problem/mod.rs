//! WHAT: shapes, strides and options, validated once into a [`Problem`] that nothing has to doubt
//! again.

mod attention;
mod cut;
mod options;
mod pages;
mod ragged;
mod sequences;
mod shape;
mod small;
mod tensors;

pub use attention::Problem;
pub use options::{Align, AttentionOptions};
pub use pages::Pages;
pub(crate) use pages::check_page_len;
pub use sequences::{Band, Lens, PackedSequence, Sequence};
pub use shape::{AlibiLayout, AttentionShape, CuSeqlens, PagedKeys, PresentKeys, SegmentLayout};
pub use small::SmallTensors;
pub(crate) use tensors::{Data, check_inputs, check_len};
pub use tensors::{Inputs, Outputs};

pub(crate) use crate::element::{Element, ElementType};
pub(crate) use crate::view::{BroadcastLayout, Layout, Strides, View};
pub(crate) use crate::view::{length, move_view, resolve};
