//! The adapter under test: a few devices for all tests of this binary.

use crate::sixteen::with_sixteen;
use std::io::Write;
use std::sync::{LazyLock, Mutex, OnceLock, PoisonError};
use std::thread;
use wgpu_attention::{Capabilities, Gpu, GpuOptions, adapters_blocking, wgpu};

/// A device, and the same device masked.
struct Device {
    gpu: Gpu,
    portable: Gpu,
    sixteen: OnceLock<Gpu>,
}

/// Software adapters compile a shader at its first dispatch, on a thread of the device: with one device only one
/// core would. So there is one for each core; a real GPU has one.
static DEVICES: LazyLock<Result<Vec<Device>, String>> = LazyLock::new(|| {
    let first = open()?;
    let is_software = first.adapter_info().device_type == wgpu::DeviceType::Cpu;
    let is_vulkan = first.adapter_info().backend == wgpu::Backend::Vulkan;
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let count = if is_software && is_vulkan { cores } else { 1 };
    let mut gpus = vec![first];
    for _ in 1..count {
        gpus.push(Gpu::open_blocking(&GpuOptions::default()).map_err(|error| error.to_string())?);
    }
    let device = |gpu: Gpu| Device {
        portable: gpu.masked(&Capabilities::PORTABLE),
        gpu,
        sixteen: OnceLock::new(),
    };
    Ok(gpus.into_iter().map(device).collect())
});

/// The threads that hold each device.
static HOLDERS: Mutex<Vec<usize>> = Mutex::new(Vec::new());

/// The device of one thread. The test harness starts a thread for each test.
struct Lease {
    device: &'static Device,
    at: usize,
}

impl Lease {
    fn new() -> Self {
        let devices = DEVICES.as_ref().unwrap_or_else(|message| panic!("{message}"));
        let mut holders = HOLDERS.lock().unwrap_or_else(PoisonError::into_inner);
        holders.resize(devices.len(), 0);
        let at = (0..devices.len()).min_by_key(|&at| holders[at]).expect("a device");
        holders[at] += 1;
        Self { device: &devices[at], at }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        HOLDERS.lock().unwrap_or_else(PoisonError::into_inner)[self.at] -= 1;
    }
}

thread_local! {
    static LEASE: Lease = Lease::new();
}

/// The device of this thread.
///
/// # Panics
/// If no adapter opens: a GPU test without a GPU has failed.
pub(crate) fn gpu() -> &'static Gpu {
    &LEASE.with(|lease| lease.device).gpu
}

/// The same device, as if it could do no more than core WebGPU.
pub(crate) fn portable() -> &'static Gpu {
    &LEASE.with(|lease| lease.device).portable
}

/// The same device with matrices of 16 x 16, its own or emulated.
///
/// # Panics
/// If it has no cooperative matrices.
pub(crate) fn sixteen() -> &'static Gpu {
    let Device { gpu, sixteen, .. } = LEASE.with(|lease| lease.device);
    sixteen.get_or_init(|| with_sixteen(gpu))
}

fn open() -> Result<Gpu, String> {
    let gpu = Gpu::open_blocking(&GpuOptions::default()).map_err(|error| {
        format!("the GPU tests need an adapter ({error}); tools/with-adapter brings a software one")
    })?;
    let info = gpu.adapter_info();
    // Written past the test harness, which would keep it from the log of a run that passes.
    let _ = writeln!(
        std::io::stderr(),
        "adapter: {} ({:?}, {:?}), driver: {} {}",
        info.name,
        info.backend,
        info.device_type,
        info.driver,
        info.driver_info
    );
    if info.backend == wgpu::Backend::Gl {
        // wgpu gives up on a GL context that another thread holds for a second, compiling for one.
        let _ = writeln!(std::io::stderr(), "on GL these tests need --test-threads 1");
    }
    if cfg!(target_os = "linux") && info.backend != wgpu::Backend::Vulkan {
        let vulkan = GpuOptions { backends: Some(wgpu::Backends::VULKAN), ..Default::default() };
        if let Some(passed_over) = adapters_blocking(&vulkan).first() {
            let name = &passed_over.info.name;
            return Err(format!("{:?} was opened although Vulkan has {name}", info.backend));
        }
    }
    Ok(gpu)
}

#[test]
fn the_adapter_can_run_the_portable_tier() {
    let capabilities = gpu().capabilities();
    let portable = Capabilities::PORTABLE;
    assert!(capabilities.storage_buffers >= portable.storage_buffers, "{capabilities:?}");
    assert!(capabilities.workgroup_memory >= portable.workgroup_memory, "{capabilities:?}");
}
