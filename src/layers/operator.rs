//! Operators of layers, without and with parameters of their own. The macros need the prelude.

use crate::tensor::Tensor;

/// The tensor in place of one of attention's, where attention is a step of a layer.
pub(super) fn inside(tensor: Tensor) -> Tensor {
    match tensor {
        Tensor::Query => Tensor::ProjectedQuery,
        Tensor::Key => Tensor::ProjectedKey,
        Tensor::Value => Tensor::ProjectedValue,
        Tensor::Out => Tensor::Attended,
        Tensor::Lse => Tensor::AttendedLse,
        tensor => tensor,
    }
}

/// How an operator is made from a device, and a plan from a shape.
macro_rules! operator {
    (
        $(#[$made:meta])*
        $Layer:ident, $operator:ident($($weights:ident: $Weights:ty)?) -> $Made:ty;
        $Plan:ident::$make:ident($($sizes:ident)?), $Shape:ident;
    ) => {
        impl $Layer {
            /// An operator on your device, with pipelines and workspace of its own. Operators made
            /// from one [`Gpu`](crate::Gpu) share theirs.
            $(#[$made])*
            pub fn new(
                device: &wgpu::Device,
                queue: &wgpu::Queue,
                $($weights: $Weights,)?
            ) -> $Made {
                Gpu::from_device(device, queue).$operator($($weights)?)
            }

            /// As [`Self::new`], on no more than `capabilities` of the device.
            $(#[$made])*
            pub fn with_capabilities(
                device: &wgpu::Device,
                queue: &wgpu::Queue,
                $($weights: $Weights,)?
                capabilities: Capabilities,
            ) -> $Made {
                Gpu::with_capabilities(device, queue, capabilities).$operator($($weights)?)
            }

            /// Validates `shape` and decides what will run.
            ///
            /// # Errors
            /// [`Error::Invalid`](crate::Error::Invalid) for a shape that cannot be,
            /// [`Error::Unsupported`](crate::Error::Unsupported) for one that the device is too
            /// small for.
            pub fn plan(&self, shape: &$Shape) -> Result<$Plan, Error> {
                $Plan::$make($(&self.$sizes,)? shape, &self.context.capabilities)
            }
        }
    };
}

/// A layer without parameters: its operator, its plan, how a [`Gpu`](crate::Gpu) makes one, and its
/// call from slices. `Problem = make` validates a shape; the last line reads back what is written.
macro_rules! layer {
    (
        $(#[$doc:meta])* $Layer:ident, $label:literal, $operator:ident;
        $Plan:ident, $Problem:ty = $make:expr;
        $Shape:ident, $Buffers:ident, $Inputs:ident;
        $(#[$one_shot_doc:meta])* $one_shot:ident, $blocking:ident
        -> $Outputs:ty = |$problem:pat_param, $written:ident| $read:expr;
    ) => {
        $(#[$doc])*
        #[derive(Clone, Debug)]
        pub struct $Layer {
            context: Arc<Context>,
        }

        #[doc = concat!("The dispatches of a [`", stringify!($Layer), "`] for one shape: plain data.")]
        #[derive(Clone, Debug, PartialEq)]
        pub struct $Plan {
            pub(crate) problem: $Problem,
            pub(crate) program: Program,
        }

        impl $Plan {
            /// Validates `shape` and plans it for a device.
            ///
            /// # Errors
            #[doc = concat!("As [`", stringify!($Layer), "::plan`].")]
            pub fn new(shape: &$Shape, capabilities: &Capabilities) -> Result<Self, Error> {
                let problem = $make(shape)?;
                Ok(Self { program: problem.program(capabilities)?, problem })
            }
        }

        verbs!($Layer, $Plan, $Buffers, $label);

        impl Operator for $Layer {
            type Plan = $Plan;
        }

        operator! { #[must_use] $Layer, $operator() -> Self; $Plan::new(), $Shape; }

        impl Gpu {
            #[doc = concat!("A [`", stringify!($Layer), "`] on this device that shares its pipelines.")]
            #[must_use]
            pub fn $operator(&self) -> $Layer {
                $Layer { context: self.context.clone() }
            }
        }

        one_shot! {
            $(#[$one_shot_doc])*
            ///
            /// # Errors
            /// [`Error::Invalid`](crate::Error::Invalid) for a call that makes no sense; the other
            /// kinds for what the device refuses.
            $one_shot, $blocking<T>(&self, shape: &$Shape, inputs: &$Inputs<'_, T>) -> $Outputs {
                let operator = self.$operator();
                let $Plan { problem, program } = operator.plan(shape)?;
                problem.validate_output(T::TYPE)?;
                problem.validate(inputs)?;
                let data = |tensor| inputs.get(tensor);
                let $written = self.context.run_once($label, (&operator, &program), data).await?;
                let $problem = problem;
                Ok($read)
            }
        }
    };
}

/// A layer that holds its parameters on the device, `Weights`, and is planned by their `Sizes`.
macro_rules! layer_with_weights {
    (
        $(#[$doc:meta])* $Layer:ident, $label:literal, $operator:ident;
        $Plan:ident, $Shape:ident, $Buffers:ident;
        $Weights:ident, $Sizes:ident;
    ) => {
        $(#[$doc])*
        #[derive(Clone, Debug)]
        pub struct $Layer {
            context: Arc<Context>,
            sizes: $Sizes,
            parameters: Parameters,
        }

        impl $Plan {
            /// The kernel of the attention inside.
            #[must_use]
            pub fn kernel(&self) -> Kernel {
                self.kernel
            }
        }

        verbs!($Layer, $Plan, $Buffers, $label);

        impl Operator for $Layer {
            type Plan = $Plan;

            fn check(&self, plan: &$Plan) -> Result<(), Error> {
                if plan.sizes == self.sizes {
                    return Ok(());
                }
                Err(Error::invalid("plan", "a plan of this operator", "one of another layer"))
            }

            fn parameter(&self, tensor: Tensor) -> Option<&wgpu::Buffer> {
                self.parameters.get(tensor)
            }
        }

        operator! {
            /// Uploads the parameters.
            ///
            /// # Errors
            /// [`Error::Invalid`](crate::Error::Invalid) for parameters whose sizes do not fit; the
            /// other kinds for what the device refuses.
            $Layer, $operator(weights: &$Weights<'_>) -> Result<Self, Error>;
            $Plan::of_sizes(sizes), $Shape;
        }

        impl Gpu {
            #[doc = concat!("A [`", stringify!($Layer), "`] on this device that shares its pipelines.")]
            ///
            /// # Errors
            #[doc = concat!("As [`", stringify!($Layer), "::new`].")]
            pub fn $operator(&self, weights: &$Weights<'_>) -> Result<$Layer, Error> {
                let context = self.context.clone();
                let sizes = weights.sizes()?;
                lost::check(&context.device, "making an operator")?;
                let given = weights.parameters();
                let given = given.map(|(tensor, name, slice, _)| (tensor, name, slice));
                let parameters = Parameters::upload(&context.device, &given)?;
                Ok($Layer { context, sizes, parameters })
            }
        }
    };
}

pub(super) use {layer, layer_with_weights, operator};
