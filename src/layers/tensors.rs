//! Declares the tensors of a layer once, for its GPU buffers and its slices.

use crate::device::Capabilities;
use crate::element::{Element, ElementType};
use crate::error::Error;
use crate::plan::{Part, Program, fit};
use crate::problem::{Data, check_inputs};
use crate::tensor::{Format, Given, Tensor};
use crate::view::View;

/// A call of a layer that holds no weights. Its shape has been checked.
pub(crate) trait LayerProblem: Part + Clone {
    /// The element type `T` of the call.
    fn element(&self) -> ElementType;

    /// The tensors that a caller gives or may give, outputs among them.
    fn given(&self) -> Vec<Given>;

    /// The program on a device: its tensors and dispatches.
    fn program(&self, capabilities: &Capabilities) -> Result<Program, Error> {
        capabilities.check_bindings()?;
        Program::new(capabilities, self.given(), fit(vec![self.clone()], capabilities)?)
    }

    /// Refuses slices that are missing, not wanted or of the wrong length.
    fn validate<'a, T: Element>(&self, inputs: &impl Slices<'a, T>) -> Result<(), Error> {
        check_inputs(self.element(), &self.given(), |tensor| inputs.get(tensor))
    }

    /// Refuses a call whose output does not come back as the elements of its slices.
    fn validate_output(&self, _: ElementType) -> Result<(), Error> {
        Ok(())
    }
}

/// The slices of a call.
pub(crate) trait Slices<'a, T> {
    /// The slice of a tensor, if it is given.
    fn get(&self, tensor: Tensor) -> Option<Data<'a, T>>;
}

/// The tensors of a layer's buffers.
pub(super) trait Tensors {
    /// Each tensor with its field's name, how it is stored, and whether the call writes it.
    const LIST: &'static [(Tensor, &'static str, Format, bool)];

    /// The tensors that a caller gives, each where `view` says.
    fn given(element: ElementType, view: impl Fn(Tensor) -> Option<View>) -> Vec<Given> {
        let given = |&(tensor, name, format, is_output): &(Tensor, _, Format, _)| {
            let (view, per_word) = (view(tensor), format.per_word(element));
            Given { tensor, name, view, per_word, is_output, shape: None }
        };
        Self::LIST.iter().map(given).collect()
    }
}

/// Writes the struct of a layer's buffers and, if asked, that of its slices. Implements `Buffers`
/// and `Tensors` for the first, `Slices` for the second.
///
/// Each line is `Tensor => field: type`. The type is `T` (the shape's element type), `f32`, `u32`
/// or `bool` (a bit on the GPU), behind a `?` if a call may lack the tensor. Tensors under
/// `written` have no slice. The layers' prelude has to be imported.
macro_rules! tensors {
    (
        $(#[$of_buffers:meta])* buffers $Buffers:ident;
        $(#[$of_inputs:meta])* inputs $Inputs:ident $(<$T:ident>)?;
        read { $($read:tt)* }
        written { $($written:tt)* }
    ) => {
        tensors! {
            $(#[$of_buffers])* buffers $Buffers;
            read { $($read)* }
            written { $($written)* }
        }
        tensors! { $(#[$of_inputs])* inputs $Inputs $(<$T>)?; $($read)* }
    };

    (
        $(#[$of_buffers:meta])* buffers $Buffers:ident;
        read { $($(#[$read:meta])* $in:ident => $input:ident: $(?$some:ident)? $($kind:ident)?,)* }
        written {
            $($(#[$write:meta])* $out:ident => $output:ident: $(?$maybe:ident)? $($to:ident)?,)*
        }
    ) => {
        $(#[$of_buffers])*
        ///
        /// All need [`wgpu::BufferUsages::STORAGE`]. Inputs may share a buffer; an output shares
        /// with nothing.
        #[derive(Clone, Copy, Debug)]
        pub struct $Buffers<'a> {
            $(
                $(#[$read])*
                #[doc = tensors!(@stored $($some)? $($kind)?)]
                pub $input: tensors!(@buffer $(?$some)?),
            )*
            $(
                $(#[$write])*
                #[doc = concat!(tensors!(@stored $($maybe)? $($to)?), " The call writes it.")]
                pub $output: tensors!(@buffer $(?$maybe)?),
            )*
        }

        impl<'a> Buffers<'a> for $Buffers<'a> {
            fn get(&self, tensor: Tensor) -> Option<crate::BufferRange<'a>> {
                match tensor {
                    $(Tensor::$in => self.$input.into(),)*
                    $(Tensor::$out => self.$output.into(),)*
                    _ => None,
                }
            }
        }

        impl Tensors for $Buffers<'_> {
            const LIST: &'static [(Tensor, &'static str, crate::tensor::Format, bool)] = &[
                $((Tensor::$in, stringify!($input), tensors!(@format $($some)? $($kind)?), false),)*
                $((Tensor::$out, stringify!($output), tensors!(@format $($maybe)? $($to)?), true),)*
            ];
        }
    };

    (
        $(#[$of_inputs:meta])* inputs $Inputs:ident $(<$T:ident>)?;
        $($(#[$doc:meta])* $tensor:ident => $field:ident: $(?$some:ident)? $($kind:ident)?,)*
    ) => {
        $(#[$of_inputs])*
        #[derive(Clone, Copy, Debug, Default)]
        pub struct $Inputs<'a $(, $T = f32)?> {
            $($(#[$doc])* pub $field: $(Option<&'a [$some]>)? $(&'a [$kind])?,)*
        }

        impl<'a $(, $T: Element)?>
            Slices<'a, tensors!(@element $($T)?)> for $Inputs<'a $(, $T)?>
        {
            fn get(
                &self,
                tensor: Tensor,
            ) -> Option<Data<'a, tensors!(@element $($T)?)>> {
                match tensor {
                    // `Option::from` takes a slice and an option of one.
                    $(Tensor::$tensor => {
                        Option::from(self.$field).map(tensors!(@data $($some)? $($kind)?))
                    })*
                    _ => None,
                }
            }
        }
    };

    (@buffer) => { crate::BufferRange<'a> };
    (@buffer ?$of:ident) => { Option<crate::BufferRange<'a>> };

    (@element) => { f32 };
    (@element $T:ident) => { $T };

    (@data T) => { Data::Elements };
    (@data f32) => { Data::Floats };
    (@data u32) => { Data::Words };
    (@data bool) => { Data::Flags };

    (@format T) => { crate::tensor::Format::Elements };
    (@format bool) => { crate::tensor::Format::Bits };
    (@format $word:ident) => { crate::tensor::Format::Words };

    (@stored T) => { "Elements have the shape's element type." };
    (@stored bool) => { "Bits, lowest first, in u32 words." };
    (@stored $word:ident) => { concat!("Elements are ", stringify!($word), ".") };
}

/// A constructor for a struct of buffers, from the tensors that every call has.
macro_rules! new_buffers {
    ($Buffers:ident($($required:ident),*), $($optional:ident),*) => {
        impl<'a> $Buffers<'a> {
            /// A call without optional tensors; add them by struct update.
            #[must_use]
            pub fn new($($required: impl Into<crate::BufferRange<'a>>),*) -> Self {
                Self { $($required: $required.into(),)* $($optional: None,)* }
            }
        }
    };
}

pub(super) use {new_buffers, tensors};
