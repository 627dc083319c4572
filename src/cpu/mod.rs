//! The CPU reference: what is right, said as plainly as Rust allows.
//!
//! [`attention`] is the definition in f64, against which everything else is measured;
//! [`attention_rounded`] is its answer for a machine without a GPU; [`stages`] holds the f32 twins
//! of the three-stage path's kernels.

mod additive;
mod attention;
mod linear;
mod merge;
mod multi_head;
mod rotary;
mod row;
mod self_attention;
mod shared;
pub mod stages;

pub use additive::additive;
pub(crate) use attention::attend_rows;
pub use attention::{attention, attention_rounded};
pub use linear::linear;
pub use merge::merge;
pub use multi_head::multi_head_attention;
pub use rotary::{positional, rotary};
pub use self_attention::self_attention;
