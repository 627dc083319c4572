//! Parameters of layers: taken from a PyTorch state_dict, and checked against the sizes.

use crate::error::Error;
use crate::tensor::Tensor;
use crate::view::multiply;

/// A parameter: its name, its elements if the layer has it, and its rows and columns.
pub(super) type Parameter<'a> = (Tensor, &'static str, Option<&'a [f32]>, [usize; 2]);

/// Compares every slice's length with the sizes.
pub(super) fn check_parameters(parameters: &[Parameter<'_>]) -> Result<(), Error> {
    parameters
        .iter()
        .try_for_each(|(_, name, slice, sizes)| check_count(name, slice.map(<[f32]>::len), sizes))
}

/// Compares a number of elements, if there are any, with the product of sizes.
pub(super) fn check_count(
    name: &'static str,
    found: Option<usize>,
    sizes: &[usize],
) -> Result<(), Error> {
    match found {
        Some(found) if multiply(name, sizes) != Ok(found) => {
            let sizes: Vec<String> = sizes.iter().map(usize::to_string).collect();
            Err(Error::invalid(name, format!("{} elements", sizes.join(" * ")), found))
        }
        _ => Ok(()),
    }
}

/// Shape and elements of a tensor of a state_dict.
type Found<'a> = (&'a [usize], &'a [f32]);

/// Tensors found by their names.
pub(super) struct StateDict<F>(pub(super) F);

impl<'a, F: FnMut(&'static str) -> Option<Found<'a>>> StateDict<F> {
    pub(super) fn has(&mut self, name: &'static str) -> bool {
        (self.0)(name).is_some()
    }

    fn find(&mut self, name: &'static str) -> Result<Found<'a>, Error> {
        (self.0)(name).ok_or_else(|| Error::invalid(name, "a tensor of this name", "none"))
    }

    /// The elements of a tensor of just this shape.
    pub(super) fn shaped(
        &mut self,
        name: &'static str,
        expected: &[usize],
    ) -> Result<&'a [f32], Error> {
        let (shape, elements) = self.find(name)?;
        if shape == expected && multiply(name, expected) == Ok(elements.len()) {
            return Ok(elements);
        }
        Err(Error::invalid(name, format!("{expected:?}"), format!("{shape:?}")))
    }

    /// Rows and columns of a matrix; `expected` says what they should be.
    pub(super) fn sizes(
        &mut self,
        name: &'static str,
        expected: &str,
    ) -> Result<[usize; 2], Error> {
        let (shape, _) = self.find(name)?;
        <[usize; 2]>::try_from(shape)
            .map_err(|_| Error::invalid(name, expected, format!("{shape:?}")))
    }

    /// Two tensors, of these shapes, of which a state_dict has both or none.
    pub(super) fn pair(
        &mut self,
        tensors: [(&'static str, &[usize]); 2],
    ) -> Result<[Option<&'a [f32]>; 2], Error> {
        let [(one, shape), (other, other_shape)] = tensors;
        let (missing, there) = match [one, other].map(|name| self.has(name)) {
            [false, false] => return Ok([None; 2]),
            [true, true] => {
                let one = self.shaped(one, shape)?;
                return Ok([one, self.shaped(other, other_shape)?].map(Some));
            }
            [false, true] => (one, other),
            [true, false] => (other, one),
        };
        Err(Error::invalid(missing, format!("a tensor of this name beside {there}"), "none"))
    }
}
