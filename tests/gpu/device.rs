//! The adapter under test: one device for all tests of this binary.

use std::io::Write;
use std::sync::OnceLock;
use wgpu_attention::{Capabilities, Gpu, GpuOptions, adapters_blocking, wgpu};

/// The shared device.
///
/// # Panics
/// If no adapter opens: a GPU test without a GPU has failed.
pub(crate) fn gpu() -> &'static Gpu {
    static GPU: OnceLock<Result<Gpu, String>> = OnceLock::new();
    match GPU.get_or_init(open) {
        Ok(gpu) => gpu,
        Err(message) => panic!("{message}"),
    }
}

/// The same device, as if it could do no more than core WebGPU.
pub(crate) fn portable() -> &'static Gpu {
    static PORTABLE: OnceLock<Gpu> = OnceLock::new();
    PORTABLE.get_or_init(|| gpu().masked(&Capabilities::PORTABLE))
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
