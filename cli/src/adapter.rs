//! From `--device`, `--backend` and `--adapter` to something that computes.

use crate::failure::Failure;
use crate::stderr;
use crate::tensors::rounded;
use clap::{Args, ValueEnum};
use std::cell::Cell;
use wgpu_attention::wgpu::{self, AdapterInfo, Backends};
use wgpu_attention::{
    AttentionOptions, AttentionShape, Element, Error, Gpu, GpuOptions, Inputs, Outputs,
    RotaryInputs, RotaryShape, cpu,
};

/// Where to compute.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct DeviceArgs {
    /// `auto`: a GPU or software adapter if there is one, else the CPU reference
    #[arg(long, value_enum, default_value_t)]
    pub(crate) device: DeviceChoice,
    /// Only adapters of this backend
    #[arg(long, value_enum)]
    pub(crate) backend: Option<BackendChoice>,
    /// Only adapters with this in their name
    #[arg(long, value_name = "NAME", allow_hyphen_values = true)]
    pub(crate) adapter: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum DeviceChoice {
    #[default]
    Auto,
    Gpu,
    Cpu,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum BackendChoice {
    Vulkan,
    Metal,
    Dx12,
    Gl,
}

/// What computes.
#[derive(Debug)]
pub(crate) enum Machine {
    Gpu {
        gpu: Box<Gpu>,
        /// Whether the CPU may take over what the device cannot do.
        or_cpu: bool,
        /// Whether it has.
        has_left: Cell<bool>,
    },
    Cpu,
}

impl Machine {
    /// Opens what the flags ask for; says so if that is the CPU for want of an adapter.
    pub(crate) fn open(args: &DeviceArgs) -> Result<Self, Failure> {
        let or_cpu = match args.device {
            DeviceChoice::Cpu => return Ok(Self::Cpu),
            DeviceChoice::Gpu => false,
            DeviceChoice::Auto => true,
        };
        match Gpu::open_blocking(&options(args)) {
            Ok(gpu) => Ok(Self::Gpu { gpu: Box::new(gpu), or_cpu, has_left: Cell::new(false) }),
            Err(error) if or_cpu => {
                say_fallback(&error);
                Ok(Self::Cpu)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Attention from slices to vectors.
    pub(crate) fn attention<T: Element>(
        &self,
        shape: &AttentionShape,
        options: &AttentionOptions,
        inputs: &Inputs<'_, T>,
    ) -> Result<Outputs<T, f32>, Failure> {
        self.compute(
            |gpu| gpu.attention_blocking(shape, options, inputs),
            || cpu::attention_rounded(shape, options, inputs),
        )
    }

    /// What a GPU computes, or the CPU: in its place, or where it may take over what the device cannot do.
    pub(crate) fn compute<T>(
        &self,
        on_gpu: impl FnOnce(&Gpu) -> Result<T, Error>,
        on_cpu: impl FnOnce() -> Result<T, Error>,
    ) -> Result<T, Failure> {
        let computed = match self {
            Self::Gpu { gpu, or_cpu, has_left } => match on_gpu(gpu) {
                Err(error @ Error::Unsupported { .. }) if *or_cpu => {
                    say_fallback(&error);
                    has_left.set(true);
                    on_cpu()
                }
                computed => computed,
            },
            Self::Cpu => on_cpu(),
        };
        Ok(computed?)
    }

    /// A rotary encoding from slices to a vector.
    pub(crate) fn rotary<T: Element>(
        &self,
        shape: &RotaryShape,
        inputs: &RotaryInputs<'_, T>,
    ) -> Result<Vec<T>, Failure> {
        self.compute(
            |gpu| gpu.rotary_blocking(shape, inputs),
            || cpu::rotary(shape, inputs).map(rounded),
        )
    }

    /// The GPU, if all was computed on it.
    pub(crate) fn used_gpu(&self) -> Option<&Gpu> {
        match self {
            Self::Gpu { gpu, has_left, .. } if !has_left.get() => Some(gpu),
            Self::Gpu { .. } | Self::Cpu => None,
        }
    }

    /// What computed: name, backend and driver.
    pub(crate) fn describe(&self) -> String {
        self.used_gpu().map_or("CPU reference".to_owned(), |gpu| describe(&gpu.adapter_info()))
    }
}

/// The library's options for these flags.
pub(crate) fn options(args: &DeviceArgs) -> GpuOptions {
    let backends = args.backend.map(|backend| match backend {
        BackendChoice::Vulkan => Backends::VULKAN,
        BackendChoice::Metal => Backends::METAL,
        BackendChoice::Dx12 => Backends::DX12,
        BackendChoice::Gl => Backends::GL,
    });
    GpuOptions { backends, adapter: args.adapter.clone(), software: true }
}

/// An adapter in a few words.
pub(crate) fn describe(info: &AdapterInfo) -> String {
    let driver = [info.driver.as_str(), info.driver_info.as_str()].join(" ");
    match driver.trim() {
        "" => format!("{} ({}, {})", info.name, info.backend, kind(info)),
        driver => format!("{} ({}, {}, {driver})", info.name, info.backend, kind(info)),
    }
}

/// What sort of device it is.
pub(crate) fn kind(info: &AdapterInfo) -> &'static str {
    match info.device_type {
        wgpu::DeviceType::DiscreteGpu => "discrete",
        wgpu::DeviceType::IntegratedGpu => "integrated",
        wgpu::DeviceType::VirtualGpu => "virtual",
        wgpu::DeviceType::Cpu => "software",
        wgpu::DeviceType::Other => "unknown",
    }
}

fn say_fallback(error: &Error) {
    stderr::say(&format!("{error}; using the CPU reference"));
}
