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
            pub fn new(
                shape: &$Shape,
                capabilities: &Capabilities,
            ) -> Result<Self, Error> {
                let problem = $make(shape)?;
                Ok(Self { program: problem.program(capabilities)?, problem })
            }
        }

        verbs!($Layer, $Plan, $Buffers, $label);

        impl Operator for $Layer {
            type Plan = $Plan;
        }

        impl $Layer {
            /// An operator on your device, with pipelines and workspace of its own. Operators made
            /// from one [`Gpu`](crate::Gpu) share theirs.
            #[must_use]
            pub fn new(device: &wgpu::Device, queue: &wgpu::Queue) -> Self {
                Self::with_capabilities(device, queue, Capabilities::of(device))
            }

            #[doc = concat!("As [`", stringify!($Layer), "::new`], on no more than `capabilities` of the device.")]
            #[must_use]
            pub fn with_capabilities(
                device: &wgpu::Device,
                queue: &wgpu::Queue,
                capabilities: Capabilities,
            ) -> Self {
                let capabilities = capabilities.granted(device);
                let context = Context::new(device, queue, capabilities);
                Self { context: Arc::new(context) }
            }

            /// Validates `shape` and decides what will run.
            ///
            /// # Errors
            /// [`Error::Invalid`](crate::Error::Invalid) for a shape that cannot be,
            /// [`Error::Unsupported`](crate::Error::Unsupported) for one that the device is too
            /// small for.
            pub fn plan(&self, shape: &$Shape) -> Result<$Plan, Error> {
                $Plan::new(shape, &self.context.capabilities)
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

        impl Gpu {
            #[doc = concat!("A [`", stringify!($Layer), "`] on this device that shares its pipelines.")]
            #[must_use]
            pub fn $operator(&self) -> $Layer {
                $Layer { context: self.context.clone() }
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

        impl $Layer {
            /// An operator on your device, with pipelines and workspace of its own. Operators made
            /// from one [`Gpu`](crate::Gpu) share theirs. Uploads the parameters.
            ///
            /// # Errors
            /// [`Error::Invalid`](crate::Error::Invalid) for parameters whose sizes do not fit; the
            /// other kinds for what the device refuses.
            pub fn new(
                device: &wgpu::Device,
                queue: &wgpu::Queue,
                weights: &$Weights<'_>,
            ) -> Result<Self, Error> {
                Self::with_capabilities(device, queue, weights, Capabilities::of(device))
            }

            #[doc = concat!("As [`", stringify!($Layer), "::new`], on no more than `capabilities` of the device.")]
            ///
            /// # Errors
            #[doc = concat!("As [`", stringify!($Layer), "::new`].")]
            pub fn with_capabilities(
                device: &wgpu::Device,
                queue: &wgpu::Queue,
                weights: &$Weights<'_>,
                capabilities: Capabilities,
            ) -> Result<Self, Error> {
                let capabilities = capabilities.granted(device);
                let context = Context::new(device, queue, capabilities);
                Self::from_context(Arc::new(context), weights)
            }

            fn from_context(
                context: Arc<Context>,
                weights: &$Weights<'_>,
            ) -> Result<Self, Error> {
                let sizes = weights.sizes()?;
                lost::check(&context.device, "making an operator")?;
                let given = weights.parameters();
                let given = given.map(|(tensor, name, slice, _)| (tensor, name, slice));
                let parameters = Parameters::upload(&context.device, &given)?;
                Ok(Self { context, sizes, parameters })
            }

            /// Validates `shape` and decides what will run.
            ///
            /// # Errors
            /// [`Error::Invalid`](crate::Error::Invalid) for a shape that cannot be,
            /// [`Error::Unsupported`](crate::Error::Unsupported) for one that the device is too
            /// small for.
            pub fn plan(&self, shape: &$Shape) -> Result<$Plan, Error> {
                $Plan::of_sizes(&self.sizes, shape, &self.context.capabilities)
            }
        }

        impl $Plan {
            /// The kernel of the attention inside.
            #[must_use]
            pub fn kernel(&self) -> Kernel {
                self.kernel
            }
        }

        impl Gpu {
            #[doc = concat!("A [`", stringify!($Layer), "`] on this device that shares its pipelines.")]
            ///
            /// # Errors
            #[doc = concat!("As [`", stringify!($Layer), "::new`].")]
            pub fn $operator(&self, weights: &$Weights<'_>) -> Result<$Layer, Error> {
                $Layer::from_context(self.context.clone(), weights)
            }
        }
    };
}

pub(super) use {layer, layer_with_weights};
