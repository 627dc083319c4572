//! Outputs of 16 bits in words that rows share with each other, and with what is not theirs.

use crate::common::data::numbers;
use crate::device::gpu;
use half::{bf16, f16};
use wgpu_attention::check::{Bounds, compare};
use wgpu_attention::{
    AttentionBuffers, AttentionOptions, AttentionShape, Capabilities, Element, Gpu, Inputs, Kernel,
    Layout, Strides, cpu, wgpu,
};

/// Rows of 3 elements with gaps of 2 between them, from the middle of a word on.
fn shape<T: Element>() -> AttentionShape {
    let gaps = Layout::Strided(Strides { offset: 3, batch: 131, head: 5, row: 10 });
    let base = AttentionShape::new(2, 2, 13, 3);
    AttentionShape { element: T::TYPE, out: gaps, ..base }
}

fn upload<T: Element>(gpu: &Gpu, elements: &[T]) -> wgpu::Buffer {
    let mut bytes = bytemuck::cast_slice(elements).to_vec();
    bytes.resize(bytes.len().next_multiple_of(4), 0_u8);
    let usage =
        wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
    let descriptor = wgpu::BufferDescriptor {
        label: None,
        size: bytes.len() as u64,
        usage,
        mapped_at_creation: false,
    };
    let buffer = gpu.device().create_buffer(&descriptor);
    gpu.queue().write_buffer(&buffer, 0, &bytes);
    buffer
}

fn download<T: Element>(gpu: &Gpu, buffer: &wgpu::Buffer, len: usize) -> Vec<T> {
    let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
    let descriptor = wgpu::BufferDescriptor {
        label: None,
        size: buffer.size(),
        usage,
        mapped_at_creation: false,
    };
    let copy = gpu.device().create_buffer(&descriptor);
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    encoder.copy_buffer_to_buffer(buffer, 0, &copy, 0, buffer.size());
    gpu.queue().submit([encoder.finish()]);
    copy.map_async(wgpu::MapMode::Read, .., |result| result.unwrap());
    gpu.device().poll(wgpu::PollType::wait_indefinitely()).unwrap();
    bytemuck::cast_slice(&copy.get_mapped_range(..).unwrap())[..len].to_vec()
}

fn gaps_stay<T: Element + PartialEq>(gpu: &Gpu, kernel: Kernel) {
    let (shape, options) = (shape::<T>(), AttentionOptions::default());
    let tensor = |seed| -> Vec<T> {
        numbers(seed, 2 * 2 * 13 * 3).into_iter().map(|x| T::from_f64(x.into())).collect()
    };
    let (query, key, value) = (tensor(1), tensor(2), tensor(3));
    let inputs = Inputs { query: &query, key: &key, value: &value, ..Inputs::default() };
    let expected = cpu::attention(&shape, &options, &inputs).unwrap().out;

    let operator = gpu.attention_operator(&options).unwrap();
    let plan = operator.plan_kernel(&shape, Some(kernel)).unwrap();
    let sevens = vec![T::from_f64(7.0); expected.len() + 5];
    let out = upload(gpu, &sevens);
    let [q, k, v] = [&query, &key, &value].map(|tensor| upload(gpu, tensor));
    // Twice: the second call finds what the first has left of the operator's own buffers.
    for _ in 0..2 {
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        operator.encode(&mut encoder, &plan, &AttentionBuffers::new(&q, &k, &v, &out)).unwrap();
        gpu.queue().submit([encoder.finish()]);
    }
    let found: Vec<T> = download(gpu, &out, sevens.len());

    let mut is_row = vec![false; sevens.len()];
    for (batch, head, row) in
        (0..2).flat_map(|b| (0..2).flat_map(move |h| (0..13).map(move |r| (b, h, r))))
    {
        let start = plan.problem.out().index(batch, head, row, 0);
        is_row[start..start + 3].fill(true);
    }
    let rows = |all: &[f32]| -> Vec<f32> {
        all.iter().zip(&is_row).filter(|(_, is_row)| **is_row).map(|(x, _)| *x).collect()
    };
    let wide: Vec<f32> = found.iter().map(|x| x.to_f32()).collect();
    let expected: Vec<f64> =
        expected.iter().zip(&is_row).filter(|(_, is_row)| **is_row).map(|(x, _)| *x).collect();
    let accuracy = compare(&rows(&wide), &expected).unwrap();
    assert!(accuracy.within(&Bounds::of(T::TYPE)), "{} {kernel:?}: {accuracy}", T::TYPE);
    let gaps = found.iter().zip(&is_row).filter(|(_, is_row)| !**is_row);
    assert!(gaps.clone().count() > 0 && gaps.clone().all(|(x, _)| *x == sevens[0]), "{kernel:?}");
}

#[test]
fn elements_between_rows_are_left_alone() {
    let portable = gpu().masked(&Capabilities::PORTABLE);
    for kernel in [Kernel::Forward, Kernel::ThreeStage] {
        gaps_stay::<f16>(gpu(), kernel);
        gaps_stay::<f16>(&portable, kernel);
        gaps_stay::<bf16>(gpu(), kernel);
    }
}

/// Halfway cases, the largest, the smallest, and what is out of range: one key, so that out is the value.
#[test]
fn out_rounds_to_the_nearest_even() {
    fn rounds<T: Element + PartialEq>(gpu: &Gpu, values: &[(f64, f64)]) {
        // Equal weights of two keys give the mean of their values, exactly in f32.
        let columns = values.len();
        let shape = AttentionShape {
            element: T::TYPE,
            q_len: 1,
            value_dim: columns,
            ..AttentionShape::new(1, 1, 2, 4)
        };
        let value: Vec<T> = values
            .iter()
            .map(|(a, _)| *a)
            .chain(values.iter().map(|(_, b)| *b))
            .map(T::from_f64)
            .collect();
        let zeros = [T::from_f64(0.0); 8];
        let inputs = Inputs { query: &zeros[..4], key: &zeros, value: &value, ..Inputs::default() };
        let found = gpu.attention_blocking(&shape, &AttentionOptions::default(), &inputs).unwrap();
        let expected: Vec<T> = values.iter().map(|(a, b)| T::from_f64((a + b) / 2.0)).collect();
        assert_eq!(found.out, expected, "{}", T::TYPE);
    }
    let portable = gpu().masked(&Capabilities::PORTABLE);
    let step = 2_f64.powi(-10);
    let least = 2_f64.powi(-24);
    let f16s = [
        (1.0, 1.0 + step),
        (1.0 + step, 1.0 + 2.0 * step),
        (-1.0, -1.0 - step),
        (65504.0, 65472.0),
        (least, 0.0),
        (least, 2.0 * least),
        (-3.0 * least, -2.0 * least),
        (2_f64.powi(-14), 2_f64.powi(-14) - least),
    ];
    rounds::<f16>(gpu(), &f16s);
    rounds::<f16>(&portable, &f16s);
    rounds::<f16>(&portable, &f16s[..7]);
    let step = 2_f64.powi(-7);
    let bf16s = [
        (1.0, 1.0 + step),
        (1.0 + step, 1.0 + 2.0 * step),
        (-1.0, -1.0 - step),
        (2_f64.powi(100), 2_f64.powi(101)),
        (3.0, -3.0),
    ];
    rounds::<bf16>(gpu(), &bf16s);
    rounds::<bf16>(gpu(), &bf16s[..4]);
}
