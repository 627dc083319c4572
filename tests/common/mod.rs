//! What the tests with and without a GPU share.

pub(crate) mod data;
pub(crate) mod layer_cases;
