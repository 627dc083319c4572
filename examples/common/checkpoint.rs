//! A model's weights.

use super::Result;
use safetensors::{Dtype, SafeTensors};

/// The tensors of a safetensors file.
pub(crate) struct Checkpoint<'a>(SafeTensors<'a>);

impl<'a> Checkpoint<'a> {
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self> {
        Ok(Self(SafeTensors::deserialize(bytes)?))
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.tensor(name).is_ok()
    }

    /// The elements of the f32 tensor of this name and shape.
    pub(crate) fn floats(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let tensor = self.0.tensor(name)?;
        if tensor.dtype() != Dtype::F32 || tensor.shape() != shape {
            let found = (tensor.dtype(), tensor.shape());
            return Err(format!("{name}: expected F32 {shape:?}, found {found:?}").into());
        }
        Ok(bytemuck::pod_collect_to_vec(tensor.data()))
    }
}
