//! Few rows whose keys come straight from memory, as a GPU has it, with subgroups where the adapter has them and without.

use crate::case::{Case, PLAIN, check_tensor, full, shape};
use crate::device::gpu;
use half::{bf16, f16};
use wgpu_attention::check::Bounds;
use wgpu_attention::internal::{Constant, Entry};
use wgpu_attention::{
    AlibiLayout, Align, AttentionOptions, AttentionShape, Capabilities, CuSeqlens, Gpu, Inputs,
    Kernel, Layout, PagedKeys, Plan, Strides,
};

const AT_THE_END: AttentionOptions =
    AttentionOptions { causal: true, align: Align::BottomRight, ..PLAIN };
const KEEPS: AttentionOptions =
    AttentionOptions { window_left: Some(20), window_keeps: 5, ..AT_THE_END };

/// The adapter as if it were a GPU: without subgroups, and with those that it has.
fn plays_gpu() -> [Gpu; 2] {
    let own = Capabilities { processors: 0, ..*gpu().capabilities() };
    [Capabilities { subgroup: 0, ..own }, own].map(|capabilities| gpu().masked(&capabilities))
}

/// The plan, which runs the kernel.
fn plan(case: &Case, gpu: &Gpu) -> Plan {
    let plan = Plan::new(case.problem(), gpu.capabilities(), None).unwrap();
    let entry = plan.dispatches().iter().any(|d| d.variant.entry == Entry::AttentionDecode);
    assert!(plan.kernel == Kernel::Decode && entry, "{case}: {plan}");
    plan
}

fn check(cases: impl IntoIterator<Item = (AttentionShape, AttentionOptions)>) {
    let gpus = plays_gpu();
    for (seed, (shape, options)) in (0..).zip(cases) {
        let case = Case::new(shape, options, seed);
        for gpu in &gpus {
            plan(&case, gpu);
            case.compare("decode", &case.run(gpu, None), &case.expected(), &Bounds::F32);
        }
    }
}

fn grouped(group: usize, q_len: usize, kv_len: usize, dim: usize) -> AttentionShape {
    AttentionShape { num_kv_heads: 2, ..shape(2, 2 * group, q_len, kv_len, dim) }
}

#[test]
fn subgroups_share_a_key_where_they_are_large_enough() {
    let case = Case::new(shape(1, 1, 1, 40, 16), PLAIN, 1);
    let [portable, own] = plays_gpu();
    for (gpu, expected) in [(&portable, false), (&own, gpu().capabilities().subgroup >= 2)] {
        let plan = plan(&case, gpu);
        let uses = plan.dispatches()[0].variant.constants["SUBGROUP"];
        assert_eq!(uses, Constant::Flag(expected));
    }
}

/// Around the edges of tiles, and of what workgroups share.
#[test]
fn any_number_of_keys_and_rows_is_right() {
    let lens = [0, 1, 2, 15, 16, 17, 63, 64, 65, 127, 128, 129, 700];
    check(lens.map(|len| (grouped(1, 1, len, 16), PLAIN)));
    let rows = [(1, 2), (1, 3), (1, 8), (2, 1), (3, 1), (4, 1), (4, 2), (8, 1), (5, 1), (7, 1)];
    check(rows.map(|(group, q_len)| (grouped(group, q_len, 200, 16), AT_THE_END)));
}

#[test]
fn any_width_is_right() {
    let dims = [1, 3, 4, 5, 8, 12, 20, 32, 48, 64, 72, 80, 96, 128, 130, 192, 256, 512];
    check(dims.map(|dim| (grouped(3, 1, 50, dim), PLAIN)));
    let apart = [(64, 8), (8, 64), (5, 130), (192, 128)];
    check(apart.map(|(head_dim, value_dim)| {
        (AttentionShape { value_dim, ..grouped(2, 1, 50, head_dim) }, PLAIN)
    }));
    let gaps = Layout::Strided(Strides { offset: 3, batch: 20_011, head: 5_003, row: 17 });
    check([(grouped(2, 2, 40, 16).with_layout(gaps), PLAIN)]);
}

#[test]
fn every_option_is_right() {
    let base = || grouped(4, 2, 300, 8);
    let all = AttentionShape {
        mask: Some(full(&base())),
        bias: Some(full(&base())),
        alibi: Some(AlibiLayout::PerHead),
        sinks: true,
        ..base()
    };
    let options = AttentionOptions { softcap: Some(5.0), scale: Some(0.7), ..KEEPS };
    check([
        (AttentionShape { mask: Some(full(&base())), ..base() }, PLAIN),
        (AttentionShape { bias: Some(full(&base())), ..base() }, AT_THE_END),
        (AttentionShape { alibi: Some(AlibiLayout::PerHead), ..base() }, KEEPS),
        (AttentionShape { weights: Some(Layout::Bhsd), ..base() }, AT_THE_END),
        (AttentionShape { lse: None, sinks: true, ..base() }, PLAIN),
        (all, options),
        (base(), AttentionOptions { scale: Some(1e-39), ..PLAIN }),
    ]);
}

#[test]
fn sequences_that_differ_and_pages_are_right() {
    let base = || AttentionShape { batch: 3, ..grouped(4, 1, 200, 8) };
    let cu_seqlens = CuSeqlens { query: vec![0, 1, 1, 4, 6], key: vec![0, 65, 70, 70, 300] };
    let packed = AttentionShape { cu_seqlens: Some(cu_seqlens), ..shape(1, 2, 6, 300, 8) };
    let pages = |page_len: usize, kv_len: usize| {
        let each = kv_len.div_ceil(page_len);
        let pages = Some(PagedKeys::new(page_len, 3 * each + 1, each));
        AttentionShape { kv_len, pages, ..base() }
    };
    check([
        (AttentionShape { kv_lens: Some(vec![200, 0, 17]), ..base() }, AT_THE_END),
        (AttentionShape { lens: true, ..base() }, AT_THE_END),
        (packed.with_layout(Layout::Bshd), AT_THE_END),
        (pages(16, 9), PLAIN),
        (pages(16, 200), KEEPS),
        (AttentionShape { lens: true, ..pages(64, 200) }, AT_THE_END),
    ]);
}

#[test]
fn hidden_poison_does_not_leak_and_visible_poison_shows() {
    let base = shape(1, 4, 2, 100, 8);
    let masked = AttentionShape { mask: Some(full(&base)), num_kv_heads: 1, ..base };
    for poison in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut case = Case::new(masked.clone(), PLAIN, 3);
        case.tensors.value[20 * 8..][..8].fill(poison);
        case.tensors.key[50 * 8..][..8].fill(f32::NAN);
        // Row 1 sees the value alone.
        for (row, seen) in case.mask.as_mut().unwrap().chunks_mut(100).enumerate() {
            (seen[20], seen[50]) = (row == 1, false);
        }
        for gpu in &plays_gpu() {
            plan(&case, gpu);
            case.compare("decode", &case.run(gpu, None), &case.expected(), &Bounds::F32);
        }
    }
}

/// Each row sees one key, whose score is -inf, and so has no weights.
fn undefined() -> Case {
    let base = grouped(4, 1, 40, 8);
    let mut case = Case::new(AttentionShape { mask: Some(full(&base)), ..base }, PLAIN, 1);
    case.tensors.query.fill(1.0);
    case.tensors.key.chunks_mut(40 * 8).for_each(|head| head[9 * 8..][..8].fill(f32::NEG_INFINITY));
    let mask = case.mask.as_mut().unwrap();
    mask.chunks_mut(40)
        .for_each(|row| row.iter_mut().enumerate().for_each(|(j, sees)| *sees = j == 9));
    case
}

#[test]
fn a_row_that_sees_only_minus_infinity_is_nan() {
    let case = undefined();
    assert!(case.expected().out.iter().all(|x| x.is_nan()));
    for gpu in &plays_gpu() {
        plan(&case, gpu);
        case.compare("decode", &case.run(gpu, None), &case.expected(), &Bounds::F32);
    }
}

/// Equal terms lose the same bits each time.
#[test]
fn long_rows_are_exact() {
    let exact = Bounds { max_relative: 2e-6, frobenius: 2e-6 };
    for (batch, kv_len) in [(1, 262_144), (40, 16_384)] {
        let mut case = Case::new(shape(batch, 1, 1, kv_len, 4), PLAIN, 1);
        case.tensors.query.fill(1.0);
        case.tensors.key.fill(0.0);
        case.tensors.key.chunks_mut(kv_len * 4).for_each(|head| head[..4].fill(0.17));
        case.tensors.value.iter_mut().for_each(|x| *x = 1.0 + *x / 2.0);
        for gpu in &plays_gpu() {
            plan(&case, gpu);
            case.compare("decode", &case.run(gpu, None), &case.expected(), &exact);
        }
    }
}

/// A sequence has about the same result alone and among others, which leave it fewer workgroups.
#[test]
fn a_batch_changes_no_more_than_rounding() {
    for gpu in &plays_gpu() {
        let many = Case::new(shape(600, 1, 1, 500, 8), PLAIN, 1);
        let one = AttentionShape { batch: 1, ..many.shape.clone() };
        let mut alone = Case::new(one, PLAIN, 1);
        alone.tensors.query = many.tensors.query[..8].to_vec();
        alone.tensors.key = many.tensors.key[..500 * 8].to_vec();
        alone.tensors.value = many.tensors.value[..500 * 8].to_vec();
        assert!(plan(&many, gpu).dispatches().len() < plan(&alone, gpu).dispatches().len());
        let [many, alone] = [many, alone].map(|case| case.run(gpu, None).out);
        let alone: Vec<f64> = alone.iter().map(|&x| x.into()).collect();
        check_tensor("out", &many[..8], &alone, &Bounds::F32);
    }
}

#[test]
fn sixteen_bits_are_right() {
    for gpu in &plays_gpu() {
        for shader_f16 in [false, true] {
            let capabilities = Capabilities { shader_f16, ..*gpu.capabilities() };
            let gpu = gpu.masked(&capabilities);
            for dim in [5, 6, 16, 64] {
                let case = Case::new(grouped(4, 1, 200, dim), AT_THE_END, 1);
                sixteen::<f16>(&case, &gpu, &Bounds::F16);
                sixteen::<bf16>(&case, &gpu, &Bounds::BF16);
            }
        }
    }
}

fn sixteen<E: wgpu_attention::Element>(case: &Case, gpu: &Gpu, bounds: &Bounds) {
    let all = |xs: &[f32]| -> Vec<E> { xs.iter().map(|&x| E::from_f64(x.into())).collect() };
    let (query, key, value) =
        (all(&case.tensors.query), all(&case.tensors.key), all(&case.tensors.value));
    let inputs = Inputs { query: &query, key: &key, value: &value, ..Inputs::default() };
    let shape = AttentionShape { element: E::TYPE, ..case.shape.clone() };
    let expected = wgpu_attention::cpu::attention(&shape, &case.options, &inputs).unwrap();
    let found =
        pollster::block_on(gpu.attention_with(&shape, &case.options, &inputs, None)).unwrap();
    let out: Vec<f32> = found.out.iter().map(|x| x.to_f32()).collect();
    check_tensor(&format!("out, {}, {case}", E::TYPE), &out, &expected.out, bounds);
}

#[test]
#[ignore = "planted faults: tests of the tests"]
fn faults_of_decode_from_memory_are_found() {
    let plain = Case::new(grouped(4, 1, 200, 16), PLAIN, 1);
    let masked = AttentionShape { mask: Some(full(&plain.shape)), ..plain.shape.clone() };
    let masked = Case::new(masked, PLAIN, 1);
    let paged = AttentionShape {
        pages: Some(PagedKeys::new(16, 40, 13)),
        key: Layout::Bshd,
        value: Layout::Bshd,
        ..plain.shape.clone()
    };
    let paged = Case::new(paged, PLAIN, 1);
    let padded = Case::new(grouped(4, 1, 200, 12), PLAIN, 1);
    let mut rising = plain.clone();
    rising.tensors.query.fill(1.0);
    for (j, key) in rising.tensors.key.chunks_mut(16).enumerate() {
        key.fill((j % 200) as f32 * 0.02);
    }
    // A hidden key's score is far above all others.
    let mut outshone = masked.clone();
    outshone.tensors.query.fill(1.0);
    outshone.tensors.key.chunks_mut(200 * 16).for_each(|head| head[9 * 16..][..16].fill(1e3));
    outshone.mask.as_mut().unwrap().iter_mut().skip(9).step_by(200).for_each(|sees| *sees = false);
    let [portable, own] = plays_gpu();
    for (case, find, replacement) in [
        (&plain, "min(number, sequence.seen_len - 1u)", "min(number, sequence.seen_len - 9u)"),
        (&plain, "v * COLUMN_LANES + place.column", "place.column"),
        (&padded, "return columns_left(params.head_dim, column)", "return 4u"),
        (&plain, "j * KEY_LANES + place.key", "place.key"),
        (&undefined(), "hide(visible, 0.0);", ""),
        (&outshone, "hide(visible, LOWEST);", ""),
        (&masked, "<< (i * KEYS_EACH + j)", "<< (i * KEYS_EACH)"),
        (&rising, "outs[i * VALUE_VECTORS + v] *= factor", "outs[i * VALUE_VECTORS + v] *= 1.0"),
        (&rising, "l[i] *= factor", "l[i] *= 1.0"),
        (&plain, "half = HALF; half > 0u", "half = HALF; half > 1u"),
        (&plain, "+= factor * given_outs", "+= given_outs"),
        (&plain, "given.y * factor", "given.y"),
        (&plain, "sequence.first_key + seen", "seen + 1u"),
        (&paged, "locate_tile(sequence, seen)", "locate_tile(sequence, 0u)"),
    ] {
        finds(case, &own, find, replacement);
    }
    finds(&plain, &portable, "x < COLUMN_LANES; x++", "x < COLUMN_LANES - 1u; x++");
    if gpu().capabilities().subgroup >= 4 {
        finds(&plain, &own, "step < COLUMN_LANES; step", "step < COLUMN_LANES / 2u; step");
    }
}

fn finds(case: &Case, gpu: &Gpu, find: &str, replacement: &str) {
    let verdict = |gpu: &Gpu| {
        plan(case, gpu);
        case.differs("decode", &case.run(gpu, None), &case.expected(), &Bounds::F32)
    };
    assert_eq!(verdict(gpu), Ok(()));
    let found = verdict(&gpu.broken(find, replacement));
    let message = found.expect_err(&format!("not found out: `{find}` as `{replacement}`"));
    assert!(message.contains("relative error"), "{message}");
}
