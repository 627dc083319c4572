//! Masks and biases, which broadcast to the scores, and may be padded to the number of keys.

use crate::failure::Failure;
use crate::tensors::Tensor;
use wgpu_attention::BroadcastLayout;

/// A mask or bias of the file.
#[derive(Debug)]
pub(super) struct Mask<'a> {
    tensor: Tensor<'a>,
    /// How many elements each row lacks.
    padding: usize,
}

impl<'a> Mask<'a> {
    /// With `pad`, rows too short for `keys` are padded, also those of one element.
    pub(super) fn new(tensor: Tensor<'a>, keys: usize, pad: bool) -> Self {
        let padding = match tensor.sizes.last() {
            Some(&columns) if pad => keys.saturating_sub(columns),
            _ => 0,
        };
        Self { tensor, padding }
    }

    /// How it lies once it is padded.
    pub(super) fn layout(&self) -> Result<BroadcastLayout, Failure> {
        let mut sizes = self.tensor.sizes.clone();
        if let Some(columns) = sizes.last_mut() {
            *columns += self.padding;
        }
        Ok(BroadcastLayout::from_dims(self.tensor.name, &sizes)?)
    }

    /// The elements of a mask.
    pub(super) fn bools(&self) -> Result<Vec<bool>, Failure> {
        Ok(self.padded(self.tensor.bools()?, false))
    }

    /// The elements of a bias.
    pub(super) fn floats(&self) -> Result<Vec<f32>, Failure> {
        Ok(self.padded(self.tensor.floats()?, f32::NEG_INFINITY))
    }

    fn padded<T: Copy>(&self, elements: Vec<T>, hidden: T) -> Vec<T> {
        let Some((&columns, leading)) = self.tensor.sizes.split_last() else { return elements };
        if self.padding == 0 {
            return elements;
        }
        let rows =
            (0..leading.iter().product()).map(|row: usize| &elements[row * columns..][..columns]);
        rows.flat_map(|row| row.iter().copied().chain(std::iter::repeat_n(hidden, self.padding)))
            .collect()
    }
}
