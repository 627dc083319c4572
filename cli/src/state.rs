//! The state_dict of a layer: its parameters, from a safetensors file of their own.

use crate::failure::Failure;
use crate::tensors::{self, Tensors};
use std::path::Path;

/// Parameters by name, as F32.
#[derive(Debug)]
pub(crate) struct StateDict(Vec<(&'static str, Vec<usize>, Vec<f32>)>);

impl StateDict {
    /// Reads those of `names` that the file has.
    pub(crate) fn read(path: &Path, names: &[&'static str]) -> Result<Self, Failure> {
        let bytes = tensors::read(path)?;
        let tensors = Tensors::parse(path, &bytes)?;
        let found = names.iter().filter_map(|name| tensors.get(name));
        let decode =
            |tensor: tensors::Tensor<'_>| Ok((tensor.name, tensor.sizes.clone(), tensor.floats()?));
        found.map(decode).collect::<Result<_, Failure>>().map(Self)
    }

    /// Sizes and elements of a parameter, if there is one.
    pub(crate) fn find(&self, name: &str) -> Option<(&[usize], &[f32])> {
        let (_, sizes, elements) = self.0.iter().find(|(own, _, _)| *own == name)?;
        Some((sizes, elements))
    }
}
