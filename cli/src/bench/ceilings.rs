//! An adapter's peaks, measured: multiply-adds in registers, and copying between buffers.

use super::device::Device;
use super::processor::{self, Processor};
use super::rate::{REPEATS, compile, dispatch, rate, threads};
use wgpu_attention::{Error, Matrices};

/// Rates of one adapter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Ceilings {
    /// Multiplications and additions a second, in f32.
    pub(super) f32: f64,
    /// In f16, if shaders have it.
    pub(super) f16: Option<f64>,
    /// Of cooperative matrices, f16 in and f32 out, if there are any.
    pub(super) matrix: Option<f64>,
    /// Bytes a second, read and written.
    pub(super) copy: f64,
    /// The same of the processor itself, if it plays the adapter.
    pub(super) processor: Option<Processor>,
}

const MULTIPLY_ADD: &str = include_str!("multiply_add.wgsl");
const MATRIX: &str = include_str!("matrix.wgsl");
const COPY: &str = include_str!("copy.wgsl");

/// Independent sums, and whether a multiply-add is one function: drivers differ in what they like.
const SHAPES: [(u32, bool); 4] = [(2, true), (4, true), (8, true), (8, false)];
const TURNS: u32 = 4;
/// Of a workgroup that multiplies matrices.
const SUBGROUPS: u32 = 4;

/// Measures them; `step` is told what comes next.
pub(super) fn measure(device: &Device<'_>, step: &mut dyn FnMut(&str)) -> Result<Ceilings, Error> {
    let capabilities = *device.gpu.capabilities();
    step("f32 multiply-add");
    let f32 = multiply_add(device, "f32")?;
    let f16 = capabilities.shader_f16.then(|| {
        step("f16 multiply-add");
        multiply_add(device, "f16")
    });
    step("cooperative matrices");
    // What cannot be measured is no ceiling: the bench goes on without.
    let matrix = matrix(device).unwrap_or_default();
    step("copying");
    let copy = copy(device)?;
    let processor = capabilities.is_software().then(|| {
        step("the processor's own multiply-add");
        processor::measure()
    });
    Ok(Ceilings { f32, f16: f16.transpose()?, matrix, copy, processor })
}

/// The best rate of any shape. Seen: lavapipe 26, f32 with 2, 4 and 8 vectors 97, 120 and 127
/// GFLOP/s, fused by neither way of writing it; f16 21, 21 and 16.
fn multiply_add(device: &Device<'_>, number: &str) -> Result<f64, Error> {
    let groups = if device.gpu.capabilities().is_software() { 64 } else { 8192 };
    let enable = if number == "f16" { "enable f16;\n" } else { "" };
    let shaders = SHAPES.map(|(sums, fused)| {
        let text = MULTIPLY_ADD
            .replace("alias Number = f32;", &format!("alias Number = {number};"))
            .replace("const SUMS = 4u;", &format!("const SUMS = {sums}u;"))
            .replace("const FUSED = true;", &format!("const FUSED = {fused};"));
        (
            format!("{enable}{text}"),
            2.0 * 4.0 * f64::from(groups * threads(MULTIPLY_ADD) * TURNS * sums),
        )
    });
    // Sums stay near 1, far from `never` and from numbers that are slow.
    let [factor, term, never] = [0.9990_f32, 0.001, -1e6].map(f32::to_bits);
    rate(device, "multiply_add", groups, 16, &shaders, |rounds| [factor, term, never, rounds])
}

/// Of cooperative matrices, f16 in and f32 out, if the adapter has them.
fn matrix(device: &Device<'_>) -> Result<Option<f64>, Error> {
    let capabilities = device.gpu.capabilities();
    let Some(Matrices { size, subgroup }) = capabilities.matrices else { return Ok(None) };
    // Of a subgroup that may have several sizes nobody knows how many make a workgroup.
    let info = device.gpu.adapter_info();
    if info.subgroup_min_size != info.subgroup_max_size {
        return Ok(None);
    }
    let threads = subgroup * SUBGROUPS;
    let groups = if capabilities.is_software() { 16 } else { 4096 };
    let shaders = [1, 2, 4].map(|sums: u32| {
        let text = MATRIX
            .replace("coop_mat8x8", &format!("coop_mat{size}x{size}"))
            .replace("const SIZE = 8u;", &format!("const SIZE = {size}u;"))
            .replace("const SUMS = 4u;", &format!("const SUMS = {sums}u;"))
            .replace("const THREADS = 32u;", &format!("const THREADS = {threads}u;"));
        (text, 2.0 * f64::from(size).powi(3) * f64::from(groups * SUBGROUPS * sums))
    });
    let out = u64::from(4 * size * size) * 4;
    rate(device, "matrix", groups, out, &shaders, |rounds| [rounds, 0, 0, 0]).map(Some)
}

/// Bytes read and written a second, at best.
fn copy(device: &Device<'_>) -> Result<f64, Error> {
    let capabilities = device.gpu.capabilities();
    // Beyond any cache, but a software adapter takes long to clear it.
    let wanted: u64 = if capabilities.is_software() { 64 << 20 } else { 256 << 20 };
    let size = wanted.min(capabilities.binding_size).min(capabilities.buffer_size);
    let mut best: f64 = 0.0;
    for each in [1_u32, 4, 16] {
        let text = COPY.replace("const EACH = 4u;", &format!("const EACH = {each}u;"));
        let pipeline = compile(device, "copy", &text)?;
        let group = u64::from(each * threads(COPY)) * 16;
        let groups = (size / group).min(capabilities.workgroups_per_axis.into());
        let size = groups * group;
        let [source, copy] = [device.buffer("source", size)?, device.buffer("copy", size)?];
        let mut seconds = f64::INFINITY;
        for _ in 0..2 + REPEATS {
            let groups = u32::try_from(groups).unwrap_or(u32::MAX);
            seconds = seconds.min(dispatch(device, &pipeline, [&source, &copy], groups)?);
        }
        best = best.max(2.0 * size as f64 / seconds);
    }
    Ok(best)
}
