//! The best rate of a shader that goes through something so many times.

use super::device::Device;
use wgpu_attention::{Error, wgpu};

/// Long enough to be timed, short enough for a watchdog.
const LONG_ENOUGH: f64 = 0.02;
const MOST_ROUNDS: u32 = 1 << 24;
pub(super) const REPEATS: usize = 5;

/// Invocations of a workgroup, as a shader of ours says.
pub(super) fn threads(text: &str) -> u32 {
    let declared = text.split_once("const THREADS = ").and_then(|(_, rest)| rest.split_once('u'));
    declared.and_then(|(count, _)| count.parse().ok()).expect("a count in our own text")
}

/// Operations a second of the best shader, each given with its operations a round.
pub(super) fn rate(
    device: &Device<'_>,
    name: &str,
    groups: u32,
    out: u64,
    shaders: &[(String, f64)],
    words: impl Fn(u32) -> [u32; 4],
) -> Result<f64, Error> {
    let (params, out) = (device.buffer("params", 16)?, device.buffer("sums", out)?);
    let mut best: f64 = 0.0;
    for (text, operations) in shaders {
        let pipeline = compile(device, name, text)?;
        let rounds = quickest(|rounds| {
            device.gpu.queue().write_buffer(&params, 0, bytemuck::bytes_of(&words(rounds)));
            dispatch(device, &pipeline, [&params, &out], groups)
        })?;
        best = best.max(operations * rounds);
    }
    Ok(best)
}

/// Rounds a second at best, from the seconds that some number of rounds takes.
pub(super) fn quickest<E>(mut seconds_of: impl FnMut(u32) -> Result<f64, E>) -> Result<f64, E> {
    let mut rounds = 64;
    // The first run compiles, too.
    seconds_of(rounds)?;
    let mut seconds = seconds_of(rounds)?;
    while seconds < LONG_ENOUGH && rounds < MOST_ROUNDS {
        rounds *= 2;
        seconds = seconds_of(rounds)?;
    }
    for _ in 0..REPEATS {
        seconds = seconds.min(seconds_of(rounds)?);
    }
    Ok(f64::from(rounds) / seconds)
}

pub(super) fn compile(
    device: &Device<'_>,
    name: &str,
    text: &str,
) -> Result<wgpu::ComputePipeline, Error> {
    let gpu = device.gpu.device();
    let descriptor = wgpu::ShaderModuleDescriptor {
        label: Some(name),
        source: wgpu::ShaderSource::Wgsl(text.into()),
    };
    let checks = wgpu::ShaderRuntimeChecks {
        force_loop_bounding: false,
        ..wgpu::ShaderRuntimeChecks::checked()
    };
    device.tried("compiling", || {
        // SAFETY: without loop bounding every loop has to end by itself: these count to a number
        // that the host chose, in steps of one. Bounds checks stay on.
        let module = unsafe { gpu.create_shader_module_trusted(descriptor, checks) };
        gpu.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(name),
            layout: None,
            module: &module,
            entry_point: Some(name),
            compilation_options: wgpu::PipelineCompilationOptions::default(),
            cache: None,
        })
    })
}

/// Seconds of one dispatch with these buffers, by the best clock there is.
pub(super) fn dispatch(
    device: &Device<'_>,
    pipeline: &wgpu::ComputePipeline,
    buffers: [&wgpu::Buffer; 2],
    groups: u32,
) -> Result<f64, Error> {
    let entries = [0, 1].map(|at| wgpu::BindGroupEntry {
        binding: at,
        resource: buffers[at as usize].as_entire_binding(),
    });
    let group = device.tried("binding buffers", || {
        device.gpu.device().create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &pipeline.get_bind_group_layout(0),
            entries: &entries,
        })
    })?;
    let lap = device.stopwatch.lap(|encoder| {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        pass.set_pipeline(pipeline);
        pass.set_bind_group(0, &group, &[]);
        pass.dispatch_workgroups(groups, 1, 1);
        Ok(())
    })?;
    Ok(lap.best())
}
