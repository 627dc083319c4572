//! What an adapter's cooperative matrices can do, f16 in and f32 out.

use super::device::Device;
use super::rate::{compile, dispatch, quickest};
use wgpu_attention::{Error, Matrices};

const TEXT: &str = include_str!("matrix.wgsl");
const SUMS: [u32; 3] = [1, 2, 4];
const SUBGROUPS: u32 = 4;

/// Multiplications and additions a second; none if the adapter has no such matrices.
pub(super) fn measure(device: &Device<'_>) -> Result<Option<f64>, Error> {
    let Some(Matrices { size, subgroup }) = device.gpu.capabilities().matrices else {
        return Ok(None);
    };
    // Of a subgroup that may have several sizes nobody knows how many make a workgroup.
    let info = device.gpu.adapter_info();
    if info.subgroup_min_size != info.subgroup_max_size {
        return Ok(None);
    }
    let threads = subgroup * SUBGROUPS;
    let out = device.storage("sums", u64::from(4 * size * size) * 4)?;
    let groups = if device.gpu.capabilities().is_software() { 16 } else { 4096 };
    let mut best: f64 = 0.0;
    for sums in SUMS {
        let text = TEXT
            .replace("coop_mat8x8", &format!("coop_mat{size}x{size}"))
            .replace("const SIZE = 8u;", &format!("const SIZE = {size}u;"))
            .replace("const SUMS = 4u;", &format!("const SUMS = {sums}u;"))
            .replace("const THREADS = 32u;", &format!("const THREADS = {threads}u;"));
        let pipeline = compile(device, "matrix", &text)?;
        let rate = quickest(|rounds| {
            let params = [rounds, 0, 0, 0].map(u32::to_le_bytes).concat();
            let params = device.upload("rounds", &params)?;
            dispatch(device, &pipeline, [&params, &out], groups)
        })?;
        let flops = 2.0 * f64::from(size).powi(3) * f64::from(groups * SUBGROUPS * sums);
        best = best.max(flops * rate);
    }
    Ok(Some(best))
}
