//! What an adapter's cooperative matrices can do, f16 in and f32 out.

use super::ceilings::{compile, dispatch, quickest};
use super::device::Device;
use wgpu_attention::wgpu::{self, CooperativeScalarType as Scalar};
use wgpu_attention::{Error, Gpu};

const TEXT: &str = include_str!("matrix.wgsl");
const SUMS: [u32; 3] = [1, 2, 4];
const SUBGROUPS: u32 = 4;

/// Multiplications and additions a second; none if the adapter has no such matrices, or none whose work can be counted.
///
/// On a device of its own, as the library's does not ask for this feature, which wgpu calls experimental.
pub(super) fn measure(info: &wgpu::AdapterInfo) -> Result<Option<f64>, Error> {
    // Of a subgroup that may have several sizes nobody knows how many make a workgroup.
    let threads = info.subgroup_max_size * SUBGROUPS;
    if threads == 0 || info.subgroup_min_size != info.subgroup_max_size {
        return Ok(None);
    }
    let Some((gpu, size)) = pollster::block_on(open(info)) else { return Ok(None) };
    let device = Device::new(&gpu);
    let out = device.storage("sums", u64::from(4 * size * size) * 4)?;
    let groups = if gpu.capabilities().software { 16 } else { 4096 };
    let mut best: f64 = 0.0;
    for sums in SUMS {
        let text = TEXT
            .replace("coop_mat8x8", &format!("coop_mat{size}x{size}"))
            .replace("const SIZE = 8u;", &format!("const SIZE = {size}u;"))
            .replace("const SUMS = 4u;", &format!("const SUMS = {sums}u;"))
            .replace("const THREADS = 32u;", &format!("const THREADS = {threads}u;"));
        let pipeline = compile(&device, "matrix", &text)?;
        let rate = quickest(|rounds| {
            let params = [rounds, 0, 0, 0].map(u32::to_le_bytes).concat();
            let params = device.upload("rounds", &params, wgpu::BufferUsages::UNIFORM)?;
            dispatch(&device, &pipeline, [&params, &out], groups)
        })?;
        let flops = 2.0 * f64::from(size).powi(3) * f64::from(groups * SUBGROUPS * sums);
        best = best.max(flops * rate);
    }
    Ok(Some(best))
}

/// A device with the feature, and the side of its matrices.
async fn open(info: &wgpu::AdapterInfo) -> Option<(Gpu, u32)> {
    let backends = wgpu::Backends::from(info.backend);
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
        backends,
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    });
    let needed = wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX | wgpu::Features::SHADER_F16;
    let adapters = instance.enumerate_adapters(backends).await;
    let adapter = adapters.into_iter().find(|adapter| adapter.get_info() == *info)?;
    if !adapter.features().contains(needed) {
        return None;
    }
    let sizes = adapter.cooperative_matrix_properties().into_iter().filter(|matrix| {
        [8, 16].contains(&matrix.m_size)
            && matrix.n_size == matrix.m_size
            && matrix.k_size == matrix.m_size
            && (matrix.ab_type, matrix.cr_type) == (Scalar::F16, Scalar::F32)
    });
    let size = sizes.map(|matrix| matrix.m_size).max()?;
    let descriptor = wgpu::DeviceDescriptor {
        label: Some("cooperative matrices"),
        required_features: needed | adapter.features() & wgpu::Features::TIMESTAMP_QUERY,
        required_limits: adapter.limits(),
        // SAFETY: such a feature may have bugs that are undefined behaviour; one shader of ours uses it, which
        // reads and writes within its buffers, and nothing else runs on this device.
        experimental_features: unsafe { wgpu::ExperimentalFeatures::enabled() },
        ..Default::default()
    };
    let (device, queue) = adapter.request_device(&descriptor).await.ok()?;
    Some((Gpu::from_device(&device, &queue), size))
}
