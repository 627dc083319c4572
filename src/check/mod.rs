//! Whether an answer is right: found values against the f64 reference.

mod compare;

pub use compare::{Accuracy, Bounds, Difference, compare};
