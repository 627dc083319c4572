//! Lengths that the GPU reads from a buffer are as those that the host knows.

use crate::app::App;
use crate::case::{Case, PLAIN, check_tensor, full, shape};
use crate::device::{gpu, portable};
use wgpu_attention::check::Bounds;
use wgpu_attention::{
    AlibiLayout, Align, Attention, AttentionBuffers, AttentionOptions, AttentionShape,
    Capabilities, Kernel, SegmentLayout, wgpu,
};

const CAUSAL: AttentionOptions = AttentionOptions { causal: true, ..PLAIN };
const ALIGNS: [Align; 4] =
    [Align::TopLeft, Align::BottomRight, Align::Offset(-7), Align::Offset(30)];

fn with_lens(shape: AttentionShape, options: AttentionOptions, lens: &[u32]) -> Case {
    let shape = AttentionShape { batch: lens.len(), lens: true, ..shape };
    Case { lens: Some(lens.to_vec()), ..Case::new(shape, options, 11) }
}

fn everything(shape: AttentionShape) -> AttentionShape {
    AttentionShape {
        num_kv_heads: 2,
        mask: Some(full(&shape)),
        bias: Some(full(&shape)),
        alibi: Some(AlibiLayout::PerBatchAndHead),
        segments: Some(SegmentLayout::PerSide),
        ..shape
    }
}

#[test]
fn causality_and_windows_count_from_each_sequences_end() {
    for align in ALIGNS {
        for (window_left, window_right) in
            [(None, None), (Some(20), None), (None, Some(3)), (Some(usize::MAX), Some(0))]
        {
            let options = AttentionOptions { align, window_left, window_right, ..CAUSAL };
            for q_len in [1, 40] {
                for options in [options, AttentionOptions { causal: false, ..options }] {
                    let shape = shape(1, 2, q_len, 97, 8);
                    with_lens(shape, options, &[97, 97, 0, 17, 33, 64, 1]).check();
                }
            }
        }
    }
}

#[test]
fn all_that_hides_and_shifts_applies_beside_lengths() {
    for align in ALIGNS {
        let options = AttentionOptions { align, window_left: Some(50), window_keeps: 4, ..CAUSAL };
        for q_len in [3, 40] {
            let shape = everything(shape(4, 4, q_len, 97, 8));
            with_lens(shape, options, &[97, 0, 18, 40]).check();
        }
    }
    let slopes = AttentionShape { alibi: Some(AlibiLayout::PerHead), ..shape(3, 2, 5, 70, 8) };
    let options = AttentionOptions { align: Align::BottomRight, ..PLAIN };
    with_lens(slopes, options, &[3, 70, 41]).check();
}

/// Shares of workgroups follow the length, and some have no key.
#[test]
fn few_queries_share_as_many_keys_as_there_are() {
    let options = AttentionOptions { align: Align::BottomRight, ..CAUSAL };
    for q_len in [1, 7] {
        let shape = AttentionShape { num_kv_heads: 1, ..shape(1, 3, q_len, 900, 8) };
        let case = with_lens(shape, options, &[900, 0, 40, 331, 1, 6]);
        let plan = gpu().attention_operator(&options).unwrap().plan(&case.shape).unwrap();
        assert_eq!(plan.kernel, Kernel::Decode);
        case.check();
    }
}

/// Along sequences, heads and queries by small bindings and grids, along the keys by smaller ones.
#[test]
fn calls_that_are_cut_find_their_lengths() {
    let options = AttentionOptions {
        align: Align::BottomRight,
        window_left: Some(260),
        window_keeps: 40,
        ..CAUSAL
    };
    for (binding_size, workgroups_per_axis) in [(40 << 10, 3), (2 << 10, 65_535)] {
        let least =
            Capabilities { binding_size, workgroups_per_axis, ..*portable().capabilities() };
        let gpu = gpu().masked(&least);
        for (q_len, kernel) in [(5, Kernel::Decode), (5, Kernel::Forward), (300, Kernel::Forward)] {
            let shape = AttentionShape { lse: None, ..shape(1, 2, q_len, 400, 3) };
            let case = with_lens(shape, options, &[400, 0, 131, 290, 7]);
            let plan =
                gpu.attention_operator(&options).unwrap().plan_kernel(&case.shape, Some(kernel));
            assert!(plan.unwrap().dispatches().len() > 1);
            let found = case.run(&gpu, Some(kernel));
            case.compare("cut", &found, &case.expected(), &Bounds::F32);
        }
    }
}

struct Bound {
    app: App,
    lens: wgpu::Buffer,
    out: wgpu::Buffer,
    call: wgpu_attention::Call,
}

fn bound(case: &Case, kernel: Kernel) -> Bound {
    let app = App::open();
    let attention = Attention::new(&app.device, &app.queue, &case.options).unwrap();
    let plan = attention.plan_kernel(&case.shape, Some(kernel)).unwrap();
    let tensors = &case.tensors;
    let inputs = [&tensors.query, &tensors.key, &tensors.value].map(|xs| app.buffer(xs));
    let [query, key, value] = &inputs;
    let out = app.output(case.problem().out().extent as usize);
    let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST;
    let lens = app.buffer_with(&vec![0.0; case.shape.batch], usage);
    let buffers = AttentionBuffers {
        lens: Some((&lens).into()),
        ..AttentionBuffers::new(query, key, value, &out)
    };
    let call = attention.bind(&plan, &buffers).unwrap();
    Bound { app, lens, out, call }
}

impl Bound {
    fn set(&self, encoder: &mut wgpu::CommandEncoder, lens: &[u32]) {
        let lens: Vec<f32> = lens.iter().map(|&len| f32::from_bits(len)).collect();
        let size = self.lens.size();
        encoder.copy_buffer_to_buffer(&self.app.buffer(&lens), 0, &self.lens, 0, size);
    }
}

fn growing() -> Case {
    let shape = AttentionShape { lse: None, ..shape(3, 2, 2, 300, 8) };
    with_lens(shape, AttentionOptions { align: Align::BottomRight, ..CAUSAL }, &[0; 3])
}

/// In one encoder too: each call reads what the commands before it wrote.
#[test]
fn a_call_that_is_bound_once_follows_its_lengths() {
    for kernel in Kernel::PORTABLE {
        let mut case = growing();
        let bound = bound(&case, kernel);
        let app = &bound.app;
        let keep = app.buffer_with(&app.read(&bound.out), wgpu::BufferUsages::COPY_DST);
        for step in 0..20 {
            let lens = [step * 15, 300 - step, step % 3];
            let mut encoder = app.encoder();
            bound.set(&mut encoder, &[300, 1, 2]);
            bound.call.encode(&mut encoder);
            encoder.copy_buffer_to_buffer(&bound.out, 0, &keep, 0, keep.size());
            bound.set(&mut encoder, &lens);
            bound.call.encode(&mut encoder);
            app.submit(encoder);
            for (buffer, lens) in [(&keep, [300, 1, 2]), (&bound.out, lens)] {
                case.lens = Some(lens.to_vec());
                let what = format!("{}, {lens:?}", kernel.name());
                check_tensor(&what, &app.read(buffer), &case.expected().out, &Bounds::F32);
            }
        }
    }
}

#[test]
fn a_length_above_the_room_for_keys_counts_as_all_of_it() {
    let mut case = growing();
    case.lens = Some(vec![300, 300, 7]);
    for kernel in Kernel::PORTABLE {
        let bound = bound(&case, kernel);
        let mut encoder = bound.app.encoder();
        bound.set(&mut encoder, &[301, u32::MAX, 7]);
        bound.call.encode(&mut encoder);
        bound.app.submit(encoder);
        let found = bound.app.read(&bound.out);
        check_tensor(kernel.name(), &found, &case.expected().out, &Bounds::F32);
    }
}

#[test]
fn lengths_that_cannot_be_are_refused() {
    let mut case = growing();
    case.lens = Some(vec![1, 301, 0]);
    let refused = |case: &Case| {
        let found = gpu().attention_blocking(&case.shape, &case.options, &case.inputs());
        found.unwrap_err().to_string()
    };
    assert_eq!(refused(&case), "lens: expected at most kv_len = 300, found 301");
    case.lens = None;
    assert_eq!(refused(&case), "lens: expected a slice, as the shape has one, found none");
    case.lens = Some(vec![1; 2]);
    assert_eq!(refused(&case), "lens: expected 3 elements, found 2");
}
