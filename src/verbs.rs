//! RECORD: the methods that all operators and plans share, written by `verbs!`. `one_shot!` writes
//! calls from slices.
//!
//! `verbs!` needs a field `context` in the operator and a field `program` in the plan. [`Operator`]
//! holds what differs between operators.

use crate::buffer::BufferRange;
use crate::error::Error;
use crate::tensor::Tensor;

/// What differs between operators.
pub(crate) trait Operator {
    type Plan;

    /// Refuses a plan that another operator made. `bind` compares capabilities itself.
    fn check(&self, _plan: &Self::Plan) -> Result<(), Error> {
        Ok(())
    }

    /// The operator's own buffer for a tensor, such as a weight.
    fn parameter(&self, _tensor: Tensor) -> Option<&wgpu::Buffer> {
        None
    }
}

/// The buffers of one call.
pub(crate) trait Buffers<'a> {
    /// Where a tensor lies, if the caller gives it.
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

            /// Counts of what has been made so far for this operator and all that share its device's
            /// pipelines: repeated calls make nothing new.
            #[must_use]
            pub fn footprint(&self) -> crate::Footprint {
                self.context.footprint()
            }

            /// Frees the workspace of this operator and of all that share it. It grows to what the
            /// largest call needs. A call that is bound, or still running on the GPU, keeps its own
            /// until it is dropped and done.
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

            /// Bytes of workspace that the plan needs.
            #[must_use]
            pub fn workspace(&self) -> u64 {
                self.program.workspace()
            }

            /// The capabilities of the device that the plan was made for.
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
