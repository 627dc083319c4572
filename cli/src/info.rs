//! `info`: the adapters of this machine, what they can do, and which of them would compute.

use crate::adapter::{self, DeviceArgs, DeviceChoice, kind};
use crate::failure::Failure;
use clap::Args;
use serde_json::{Value, json};
use std::io::{self, Write};
use wgpu_attention::{
    AdapterSummary, Align, AttentionOptions, AttentionShape, Capabilities, ElementType, Error,
    GpuOptions, Kernel, Layout, Plan, Problem, adapters_blocking, wgpu,
};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  wgpu-attention info
  wgpu-attention info --json --backend gl")]
pub(crate) struct InfoArgs {
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Lists all adapters, marks the one that the flags would open, and says what it would run.
pub(crate) fn info(args: &InfoArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let wanted = adapter::options(&args.device);
    let chosen = match args.device.device {
        DeviceChoice::Cpu => None,
        DeviceChoice::Auto | DeviceChoice::Gpu => adapters_blocking(&wanted).into_iter().next(),
    };
    if chosen.is_none() && args.device.device == DeviceChoice::Gpu {
        let expected = "an adapter that matches the flags and runs compute shaders";
        return Err(Failure::Device(format!("adapter: expected {expected}, found none")));
    }
    let all = adapters_blocking(&GpuOptions {
        backends: Some(wgpu::Backends::all()),
        ..GpuOptions::default()
    });
    let is_chosen = |one: &AdapterSummary| chosen.as_ref().is_some_and(|c| c.info == one.info);
    if args.json {
        let adapters: Vec<Value> = all.iter().map(|one| to_json(one, is_chosen(one))).collect();
        let plans =
            typical().map(|(name, shape)| match plan(&shape, &chosen.as_ref()?.capabilities) {
                Ok(plan) => Some(json!({
                    "shape": name,
                    "kernel": plan.kernel.name(),
                    "reason": plan.reason,
                    "plan": plan.to_string(),
                })),
                Err(error) => Some(json!({ "shape": name, "error": error.to_string() })),
            });
        let value = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "computes": if chosen.is_some() { "gpu" } else { "cpu" },
            "adapters": adapters,
            "kernels": Kernel::ALL.map(Kernel::name),
            "plans": plans.into_iter().flatten().collect::<Vec<_>>(),
        });
        writeln!(out, "{value:#}")?;
        return Ok(());
    }
    writeln!(out, "wgpu-attention {}", env!("CARGO_PKG_VERSION"))?;
    for one in &all {
        writeln!(out)?;
        print(out, one, is_chosen(one))?;
    }
    let Some(chosen) = chosen else {
        writeln!(out, "\nThe CPU reference would compute.")?;
        return Ok(());
    };
    writeln!(out, "\n{} would compute:", chosen.info.name)?;
    for (name, shape) in typical() {
        writeln!(out, "\n  {name}")?;
        // What one shape cannot have on this adapter is worth knowing too.
        let words = plan(&shape, &chosen.capabilities)
            .map_or_else(|error| error.to_string(), |plan| plan.to_string());
        for line in words.lines() {
            writeln!(out, "    {line}")?;
        }
    }
    Ok(())
}

/// Shapes that applications have.
fn typical() -> [(&'static str, AttentionShape); 4] {
    let prompt = AttentionShape { num_kv_heads: 8, ..AttentionShape::new(1, 32, 2048, 128) };
    let token = AttentionShape { q_len: 1, kv_len: 4096, ..prompt.clone() };
    let half = AttentionShape { element: ElementType::F16, ..prompt.clone() };
    let weights =
        AttentionShape { weights: Some(Layout::Bhsd), ..AttentionShape::new(1, 8, 512, 64) };
    [
        ("a prompt: 32 heads over 8, 2048 queries and keys of 128 elements", prompt),
        ("the same in f16", half),
        ("the next token: 32 heads over 8, 1 query, 4096 keys of 128 elements", token),
        ("with weights: 8 heads, 512 queries and keys of 64 elements", weights),
    ]
}

fn plan(shape: &AttentionShape, capabilities: &Capabilities) -> Result<Plan, Error> {
    let options =
        AttentionOptions { causal: true, align: Align::BottomRight, ..AttentionOptions::default() };
    Plan::new(Problem::new(shape, &options)?, capabilities, None)
}

fn print(out: &mut dyn Write, one: &AdapterSummary, chosen: bool) -> io::Result<()> {
    let mark = if chosen { '*' } else { ' ' };
    writeln!(out, "{mark} {}", adapter::describe(&one.info))?;
    let c = &one.capabilities;
    let features: Vec<&str> =
        features(c).into_iter().filter(|(_, has)| *has).map(|(name, _)| name).collect();
    let mut features = if features.is_empty() { "none".to_owned() } else { features.join(", ") };
    if c.subgroup > 0 {
        let [least, most] = [one.info.subgroup_min_size, one.info.subgroup_max_size];
        features += &format!(" ({least} to {most} invocations)");
    }
    let mut line = |name, text: String| writeln!(out, "    {name:<18} {text}");
    line("features", features)?;
    if let Some(matrices) = c.matrices {
        line("matrices", format!("{0} x {0} x {0}, f16 in and f32 out", matrices.size))?;
    }
    let memory = bytes(c.workgroup_memory.into());
    line("workgroup", format!("{} invocations, {memory} of memory", c.workgroup_invocations))?;
    line("dispatch", format!("{} workgroups along an axis", c.workgroups_per_axis))?;
    let bound = bytes(c.binding_size);
    line("buffer", format!("{}, {bound} bound at once", bytes(c.buffer_size)))?;
    let aligned = bytes(c.storage_alignment.into());
    let storage = format!("{} in a stage, offsets aligned to {aligned}", c.storage_buffers);
    line("storage buffers", storage)
}

fn to_json(one: &AdapterSummary, chosen: bool) -> Value {
    let c = &one.capabilities;
    let features: serde_json::Map<String, Value> =
        features(c).into_iter().map(|(name, has)| (name.to_owned(), has.into())).collect();
    json!({
        "name": one.info.name,
        "backend": one.info.backend.to_str(),
        "driver": one.info.driver,
        "driver_info": one.info.driver_info,
        "kind": kind(&one.info),
        "chosen": chosen,
        "features": features,
        "limits": {
            "workgroup_memory": c.workgroup_memory,
            "workgroup_invocations": c.workgroup_invocations,
            "workgroups_per_axis": c.workgroups_per_axis,
            "binding_size": c.binding_size,
            "buffer_size": c.buffer_size,
            "storage_buffers": c.storage_buffers,
            "storage_alignment": c.storage_alignment,
            "uniform_alignment": c.uniform_alignment,
        },
    })
}

/// The features by name, and whether they are there.
fn features(c: &Capabilities) -> [(&'static str, bool); 4] {
    [
        ("shader_f16", c.shader_f16),
        ("subgroups", c.subgroup > 0),
        ("matrices", c.matrices.is_some()),
        ("timestamps", c.timestamps),
    ]
}

/// Bytes in the largest unit that divides them.
fn bytes(count: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    match units.into_iter().find(|(shift, _)| count > 0 && count.trailing_zeros() >= *shift) {
        Some((shift, unit)) => format!("{} {unit}", count >> shift),
        None => format!("{count} B"),
    }
}
