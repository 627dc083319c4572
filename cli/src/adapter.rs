//! From `--device`, `--backend` and `--adapter` to something that computes.

use crate::failure::Failure;
use crate::stderr;
use crate::values::choice;
use clap::{Args, ValueEnum};
use std::cell::Cell;
use wgpu_attention::layers::{RotaryInputs, RotaryShape};
use wgpu_attention::wgpu::{self, AdapterInfo, Backends};
use wgpu_attention::{
    AttentionOptions, AttentionShape, Element, Error, Gpu, GpuOptions, Inputs, Outputs, cpu,
};

const BACKENDS: [(&str, Backends); 4] = [
    ("vulkan", Backends::VULKAN),
    ("metal", Backends::METAL),
    ("dx12", Backends::DX12),
    ("gl", Backends::GL),
];

/// Where to compute.
#[derive(Clone, Debug, Args)]
pub(crate) struct DeviceArgs {
    /// `auto`: a GPU or software adapter if there is one, else the CPU reference
    #[arg(long, value_enum, default_value_t)]
    pub(crate) device: DeviceChoice,
    /// Only adapters of this backend
    #[arg(long, value_parser = choice(BACKENDS))]
    backend: Option<Backends>,
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

/// What computes: a GPU, or the CPU.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) gpu: Option<Gpu>,
    /// Whether the CPU may take over what the device cannot do.
    or_cpu: bool,
    /// Whether it has.
    has_left: Cell<bool>,
}

impl Machine {
    /// Opens what the flags ask for; says so if that is the CPU for want of an adapter.
    pub(crate) fn open(args: &DeviceArgs) -> Result<Self, Failure> {
        let or_cpu = args.device == DeviceChoice::Auto;
        let is_cpu = args.device == DeviceChoice::Cpu;
        let gpu = match (!is_cpu).then(|| Gpu::open_blocking(&options(args))).transpose() {
            Err(error) if or_cpu => {
                say_fallback(&error);
                None
            }
            opened => opened?,
        };
        Ok(Self { gpu, or_cpu, has_left: Cell::new(false) })
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

    /// Computes on the GPU, or on the CPU where there is none or where it may take over.
    pub(crate) fn compute<T>(
        &self,
        on_gpu: impl FnOnce(&Gpu) -> Result<T, Error>,
        on_cpu: impl FnOnce() -> Result<T, Error>,
    ) -> Result<T, Failure> {
        let computed = match self.gpu.as_ref().map(on_gpu) {
            Some(Err(error @ Error::Unsupported { .. })) if self.or_cpu => {
                say_fallback(&error);
                self.has_left.set(true);
                on_cpu()
            }
            Some(computed) => computed,
            None => on_cpu(),
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
            || Ok(cpu::rotary(shape, inputs)?.into_iter().map(T::from_f64).collect()),
        )
    }

    /// The GPU, if all was computed on it.
    pub(crate) fn used_gpu(&self) -> Option<&Gpu> {
        self.gpu.as_ref().filter(|_| !self.has_left.get())
    }

    /// What computed: name, backend and driver.
    pub(crate) fn describe(&self) -> String {
        self.used_gpu().map_or("CPU reference".to_owned(), |gpu| describe(&gpu.adapter_info()))
    }
}

/// Refuses the CPU, for a command that is about GPUs.
pub(crate) fn require_gpu(args: &DeviceArgs, why: &str) -> Result<(), Failure> {
    match args.device {
        DeviceChoice::Cpu => {
            Err(Failure::input("--device", format_args!("auto or gpu: {why}"), "cpu"))
        }
        DeviceChoice::Auto | DeviceChoice::Gpu => Ok(()),
    }
}

/// The caller's device, or the one that the flags ask for; the CPU takes over from neither.
pub(crate) fn open(args: &DeviceArgs, given: Option<&Gpu>) -> Result<Gpu, Failure> {
    Ok(given.map_or_else(|| Gpu::open_blocking(&options(args)), |gpu| Ok(gpu.clone()))?)
}

/// The library's options for these flags.
pub(crate) fn options(args: &DeviceArgs) -> GpuOptions {
    GpuOptions { backends: args.backend, adapter: args.adapter.clone(), software: true }
}

/// An adapter in a few words.
pub(crate) fn describe(info: &AdapterInfo) -> String {
    let driver = format!("{} {}", info.driver, info.driver_info);
    let comma = if driver.trim().is_empty() { "" } else { ", " };
    format!("{} ({}, {}{comma}{})", info.name, info.backend, kind(info), driver.trim())
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
