//! Keys are rotated on their way into a cache, queries where they are: `cargo run --example rotary`.

use std::error::Error;
use wgpu_attention::check::{Bounds, compare};
use wgpu_attention::layers::{RotaryInputs, RotaryShape, RotaryTable, TableRows};
use wgpu_attention::{Gpu, GpuOptions, cpu};

fn main() -> Result<(), Box<dyn Error>> {
    let gpu = Gpu::open_blocking(&GpuOptions::default())?;
    println!("{}", gpu.adapter_info().name);

    // 8 heads of 64, of which the first 32 columns are rotated; 5 new tokens behind 100 that a cache holds.
    let rows = TableRows::From { start: 100, rows: 2048 };
    let shape = RotaryShape { rotary_dim: 32, rows, ..RotaryShape::new(1, 8, 5, 64) };
    // Once per model, in f64: cosines and sines of all positions.
    let table = RotaryTable::new(shape.rotary_dim, 10_000.0, 0..2048)?;

    let x: Vec<f32> = (0..8 * 5 * 64).map(|n| (n as f32 * 0.7).sin()).collect();
    let inputs = RotaryInputs { x: &x, cos: &table.cos, sin: &table.sin, positions: None };
    let found = gpu.rotary_blocking(&shape, &inputs)?;
    // In place, for buffers: a shape without an out.
    let in_place = gpu.rotary_blocking(&RotaryShape { out: None, ..shape }, &inputs)?;
    assert_eq!(found, in_place);

    let expected = cpu::rotary(&shape, &inputs)?;
    println!("GPU  {:?}", &found[..4]);
    println!("CPU  {:?}", &expected[..4]);
    let accuracy = compare(&found, &expected)?;
    println!("{accuracy}");
    if accuracy.within(&Bounds::F32) { Ok(()) } else { Err("they differ".into()) }
}
