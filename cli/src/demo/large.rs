//! A shape large enough to time.

use crate::adapter::Machine;
use crate::failure::Failure;
use crate::noise::noise;
use std::io::Write;
use std::time::{Duration, Instant};
use wgpu_attention::{AttentionOptions, AttentionShape, Inputs, check, cpu, wgpu};

/// Computes one large attention, compares it with the CPU reference, and times both.
pub(super) fn run(machine: &Machine, out: &mut impl Write) -> Result<(), Failure> {
    // A processor, as software adapter or as the reference, gets what it does within seconds.
    let len = match machine {
        Machine::Gpu { gpu, .. } if gpu.adapter_info().device_type != wgpu::DeviceType::Cpu => 1024,
        Machine::Gpu { .. } => 512,
        Machine::Cpu => 256,
    };
    let shape = AttentionShape::new(1, 8, len, 64);
    let options = AttentionOptions { causal: true, ..AttentionOptions::default() };
    let count = shape.num_heads * len * shape.head_dim;
    let [query, key, value] = [1, 2, 3].map(|seed| noise(seed, count));
    let inputs = Inputs { query: &query, key: &key, value: &value, ..Inputs::default() };
    writeln!(out, "Causal attention, 8 heads, {len} queries and keys of 64 elements:")?;
    if let Machine::Gpu { gpu, .. } = machine {
        for line in gpu.operator(&options)?.plan(&shape)?.to_string().lines() {
            writeln!(out, "  {line}")?;
        }
    }
    out.flush()?;

    let start = Instant::now();
    let expected = cpu::attention(&shape, &options, &inputs)?.out;
    let cpu_time = start.elapsed();
    let Machine::Gpu { gpu, .. } = machine else {
        writeln!(out, "  CPU         {} (the reference, in f64)", milliseconds(cpu_time))?;
        return Ok(());
    };

    // The first call compiles.
    let start = Instant::now();
    let found = gpu.attention_blocking(&shape, &options, &inputs)?.out;
    let first = start.elapsed();
    let mut best = first;
    for _ in 0..3 {
        let start = Instant::now();
        gpu.attention_blocking(&shape, &options, &inputs)?;
        best = best.min(start.elapsed());
    }
    let accuracy = check::compare(&found, &expected)?;
    let largest = expected.iter().fold(0.0, |largest: f64, one| largest.max(one.abs()));
    let ratio = cpu_time.as_secs_f64() / best.as_secs_f64();
    writeln!(
        out,
        "  time        {} with upload and download, {} the first time, with compiling",
        milliseconds(best),
        milliseconds(first)
    )?;
    writeln!(
        out,
        "  CPU         {} (the reference, in f64): {ratio:.1} times as long",
        milliseconds(cpu_time)
    )?;
    writeln!(
        out,
        "  difference  {:.1e} at most, of values up to {largest:.1}",
        accuracy.max_relative * largest
    )?;
    Ok(())
}

fn milliseconds(time: Duration) -> String {
    format!("{:.1} ms", 1e3 * time.as_secs_f64())
}
