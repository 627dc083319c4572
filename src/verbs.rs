//! RECORD: what every operator does with a plan, written once: `prepare`, `warm_up`, `bind`,
//! `encode`.
//!
//! An operator has a `context`, its plan a `program`; [`Operator`] says what is of one operator
//! alone.

use crate::buffer::BufferRange;
use crate::error::Error;
use crate::tensor::Tensor;

/// What the verbs have to know of an operator.
pub(crate) trait Operator {
    type Plan;

    /// Refuses a plan that another operator made, besides what capabilities tell.
    fn check(&self, _plan: &Self::Plan) -> Result<(), Error> {
        Ok(())
    }

    /// A tensor that the operator itself holds.
    fn parameter(&self, _tensor: Tensor) -> Option<&wgpu::Buffer> {
        None
    }
}

/// The buffers of one call.
pub(crate) trait Buffers<'a> {
    /// Where one of the tensors lies, if it is given.
    fn get(&self, tensor: Tensor) -> Option<BufferRange<'a>>;
}

/// The verbs of an operator.
macro_rules! verbs {
    ($operator:ident, $plan:ident, $buffers:ident, $label:literal) => {
        impl $operator {
            /// Compiles the plan's pipelines now rather than at the first `encode`, and reports
            /// what the shader compiler says.
            ///
            /// # Errors
            /// [`Error::Shader`](crate::Error::Shader); [`Error::Device`](crate::Error::Device) if
            /// the device is lost.
            pub async fn prepare(&self, plan: &$plan) -> Result<(), crate::Error> {
                self.context.pipelines.prepare(&plan.program.variants()).await
            }

            #[doc = concat!("As [`", stringify!($operator), "::prepare`], blocking.")]
            ///
            /// # Errors
            #[doc = concat!("As [`", stringify!($operator), "::prepare`].")]
            pub fn prepare_blocking(&self, plan: &$plan) -> Result<(), crate::Error> {
                pollster::block_on(self.prepare(plan))
            }

            #[doc = concat!("Compiles the plan's pipelines as [`", stringify!($operator), "::prepare`] does, and runs each once on a call")]
            /// of nothing, with buffers of its own: a software adapter, and some drivers, compile a
            /// pipeline when it first runs, for seconds. Submits and waits; on native the wait
            /// blocks.
            ///
            /// # Errors
            /// [`Error::Shader`](crate::Error::Shader), and [`Error::Device`](crate::Error::Device)
            /// for what the device refuses.
            pub async fn warm_up(&self, plan: &$plan) -> Result<(), crate::Error> {
                self.context.warm_up(&plan.program.variants()).await
            }

            #[doc = concat!("As [`", stringify!($operator), "::warm_up`], blocking.")]
            ///
            /// # Errors
            #[doc = concat!("As [`", stringify!($operator), "::warm_up`].")]
            pub fn warm_up_blocking(&self, plan: &$plan) -> Result<(), crate::Error> {
                pollster::block_on(self.warm_up(plan))
            }

            /// Records the plan into `encoder`. Any number of plans may go into one encoder.
            ///
            /// # Errors
            #[doc = concat!("As [`", stringify!($operator), "::bind`]; nothing is recorded then.")]
            pub fn encode(
                &self,
                encoder: &mut wgpu::CommandEncoder,
                plan: &$plan,
                buffers: &$buffers<'_>,
            ) -> Result<(), crate::Error> {
                self.bind(plan, buffers)?.encode(encoder);
                Ok(())
            }

            /// Binds the plan to its buffers, for calls that are recorded again and again: see
            /// [`Call`](crate::Call).
            ///
            /// # Errors
            /// [`Error::Invalid`](crate::Error::Invalid) for a buffer that is missing, not wanted,
            /// too small, shared or without the STORAGE usage, and for a plan of another operator
            /// or for other capabilities. A buffer may be larger than its tensor, and nothing tells
            /// what its bytes are: f32 under a plan for f16 is taken.
            /// [`Error::Device`](crate::Error::Device) if the device is lost.
            pub fn bind(
                &self,
                plan: &$plan,
                buffers: &$buffers<'_>,
            ) -> Result<crate::Call, crate::Error> {
                use crate::verbs::{Buffers, Operator};
                self.check(plan)?;
                let parameter = |tensor| self.parameter(tensor).map(Into::into);
                self.context.bind($label, &plan.program, |tensor| {
                    buffers.get(tensor).or_else(|| parameter(tensor))
                })
            }

            /// What has been made on this operator's device so far: for those who watch that
            /// nothing grows.
            #[must_use]
            pub fn footprint(&self) -> crate::Footprint {
                self.context.footprint()
            }

            /// Gives back the workspace, which grows to what the largest call so far needed, of
            /// this operator and of all that share it. A call that is bound already, or that the
            /// GPU is still busy with, keeps its own until it is dropped and done.
            pub fn release_workspace(&self) {
                self.context.release_workspace();
            }
        }

        impl $plan {
            /// The shaders it runs, each once.
            #[doc(hidden)]
            #[must_use]
            pub fn variants(&self) -> Vec<crate::plan::Variant> {
                self.program.variants()
            }

            /// What is dispatched, in this order.
            #[doc(hidden)]
            #[must_use]
            pub fn dispatches(&self) -> &[crate::plan::Dispatch] {
                &self.program.dispatches
            }

            /// Bytes of the operator's own buffers.
            #[must_use]
            pub fn workspace(&self) -> u64 {
                self.program.workspace()
            }

            /// The device it was made for.
            #[must_use]
            pub fn capabilities(&self) -> &crate::Capabilities {
                &self.program.capabilities
            }
        }
    };
}

/// A call from slices as a method of [`Gpu`](crate::Gpu), and its blocking twin.
macro_rules! one_shot {
    (
        $(#[$doc:meta])*
        $name:ident, $blocking:ident $(<$T:ident>)?
        (&$self:ident, $($argument:ident: $type:ty),* $(,)?) -> $Out:ty $body:block
    ) => {
        impl crate::Gpu {
            $(#[$doc])*
            pub async fn $name $(<$T: crate::problem::Element>)? (
                &$self,
                $($argument: $type),*
            ) -> Result<$Out, crate::Error> $body

            #[doc = concat!("As [`Gpu::", stringify!($name), "`](crate::Gpu::", stringify!($name), "), blocking.")]
            ///
            /// # Errors
            #[doc = concat!("As [`Gpu::", stringify!($name), "`](crate::Gpu::", stringify!($name), ").")]
            pub fn $blocking $(<$T: crate::problem::Element>)? (
                &$self,
                $($argument: $type),*
            ) -> Result<$Out, crate::Error> {
                pollster::block_on($self.$name($($argument),*))
            }
        }
    };
}

pub(crate) use {one_shot, verbs};
