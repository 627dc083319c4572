//! A shape large enough to time.

use crate::adapter::{Machine, describe};
use crate::failure::Failure;
use std::io::{self, Write};
use std::time::{Duration, Instant};
use wgpu_attention::wgpu::{self, AdapterInfo};
use wgpu_attention::{
    AttentionOptions, AttentionShape, GpuOptions, Inputs, adapters_blocking, check, cpu,
};

/// Computes one large attention, compares it with the CPU reference, and times both.
pub(super) fn run(machine: &Machine, out: &mut dyn Write) -> Result<(), Failure> {
    // A processor, as software adapter or as the reference, gets what it does within seconds.
    let len = match machine.gpu.as_ref().map(|gpu| gpu.adapter_info().device_type) {
        None => 256,
        Some(wgpu::DeviceType::Cpu) => 512,
        Some(_) => 1024,
    };
    let shape = AttentionShape::new(1, 8, len, 64);
    let options = AttentionOptions { causal: true, ..AttentionOptions::default() };
    let count = shape.num_heads * len * shape.head_dim;
    let [query, key, value] = [1, 2, 3].map(|seed| check::uniform(seed, count));
    let inputs = Inputs { query: &query, key: &key, value: &value, ..Inputs::default() };
    writeln!(out, "Causal attention, 8 heads, {len} queries and keys of 64 elements:")?;
    if let Some(gpu) = &machine.gpu {
        for line in gpu.attention_operator(&options)?.plan(&shape)?.to_string().lines() {
            writeln!(out, "  {line}")?;
        }
    }
    out.flush()?;

    let start = Instant::now();
    let expected = cpu::attention(&shape, &options, &inputs)?.out;
    let cpu_time = start.elapsed();
    let Some(gpu) = &machine.gpu else {
        writeln!(out, "  CPU         {} (the reference, in f64)", milliseconds(cpu_time))?;
        return Ok(());
    };

    let mut found = Vec::new();
    let mut times = Vec::new();
    for _ in 0..4 {
        let start = Instant::now();
        found = gpu.attention_blocking(&shape, &options, &inputs)?.out;
        times.push(start.elapsed());
    }
    // The first call compiles.
    let first = milliseconds(times[0]);
    let best = times.into_iter().min().unwrap_or_default();
    let largest = expected.iter().fold(0.0, |largest: f64, one| largest.max(one.abs()));
    let difference = check::compare(&found, &expected)?.max_relative * largest;
    let (time, compared) = (milliseconds(best), compared(cpu_time, best));
    let cpu_time = milliseconds(cpu_time);
    writeln!(
        out,
        "  time        {time} with upload and download, {first} the first time, with compiling\n  \
           CPU         {cpu_time} by the reference, in f64 on this processor: {compared}\n  \
           difference  {difference:.1e} at most, of values up to {largest:.1}"
    )?;
    software(&gpu.adapter_info(), out)?;
    Ok(())
}

/// How the reference's time stands beside the adapter's.
fn compared(cpu: Duration, adapter: Duration) -> String {
    let ratio = cpu.as_secs_f64() / adapter.as_secs_f64();
    match ratio {
        // As one would say it, if in digits that are told apart.
        0.95..1.05 => "as long as this adapter takes".to_owned(),
        1.05.. => format!("{ratio:.1} times as long as this adapter takes"),
        _ => format!("this adapter takes {:.1} times as long", 1.0 / ratio),
    }
}

/// What a software adapter's times are worth, and which adapter of the machine would be better.
fn software(used: &AdapterInfo, out: &mut dyn Write) -> io::Result<()> {
    if used.device_type != wgpu::DeviceType::Cpu {
        return Ok(());
    }
    let words = "this processor stands in for a GPU, so its times say nothing about one";
    writeln!(out, "  adapter     software: {words}")?;
    let all = GpuOptions { backends: Some(wgpu::Backends::all()), ..GpuOptions::default() };
    let kind = |info: &AdapterInfo| (info.device_type, info.backend);
    let mut found = adapters_blocking(&all).into_iter().map(|one| one.info);
    let Some(better) = found.find(|one| is_better(kind(one), kind(used))) else { return Ok(()) };
    let (name, backend) = (describe(&better), better.backend);
    writeln!(out, "  better      {name}, on this machine too: --backend {backend}")
}

type Kind = (wgpu::DeviceType, wgpu::Backend);

/// Whether an adapter beats the software adapter in use: hardware, or software without GL.
fn is_better((device_type, backend): Kind, (_, used): Kind) -> bool {
    let is_gl = |backend| backend == wgpu::Backend::Gl;
    device_type != wgpu::DeviceType::Cpu || (is_gl(used) && !is_gl(backend))
}

fn milliseconds(time: Duration) -> String {
    format!("{:.1} ms", 1e3 * time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::{compared, is_better};
    use std::time::Duration;
    use wgpu_attention::wgpu::{Backend, DeviceType};

    #[test]
    fn times_are_compared_in_words_that_say_which_is_longer() {
        for (cpu, adapter, words) in [
            (350, 10, "35.0 times as long as this adapter takes"),
            (12, 10, "1.2 times as long as this adapter takes"),
            (102, 100, "as long as this adapter takes"),
            (98, 100, "as long as this adapter takes"),
            (80, 100, "this adapter takes 1.2 times as long"),
        ] {
            assert_eq!(compared(Duration::from_millis(cpu), Duration::from_millis(adapter)), words);
        }
    }

    #[test]
    fn hardware_and_vulkan_are_better_than_software_gl() {
        use DeviceType::{Cpu, IntegratedGpu};
        let (gl, vulkan) = ((Cpu, Backend::Gl), (Cpu, Backend::Vulkan));
        assert!(is_better(vulkan, gl) && is_better((IntegratedGpu, Backend::Gl), gl));
        assert!(!is_better(gl, gl) && !is_better(gl, vulkan) && !is_better(vulkan, vulkan));
        assert!(is_better((IntegratedGpu, Backend::Vulkan), vulkan));
    }
}
