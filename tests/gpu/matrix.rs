//! The kernel of cooperative matrices: `cargo test --test gpu -- --ignored matrix::` on an adapter that has them. The newest
//! Mesa's software adapter does, and `LAVAPIPE=newest` brings it.

use crate::case::{Case, PLAIN, full, shape};
use crate::device::{gpu, sixteen};
use half::f16;
use wgpu_attention::check::{Bounds, compare};
use wgpu_attention::{
    AlibiLayout, Align, AttentionOptions, AttentionShape, Capabilities, CuSeqlens, ElementType,
    Error, Gpu, Inputs, Kernel, Layout, Outputs, PagedKeys, Plan, SegmentLayout, Strides, cpu,
};

const CAUSAL: AttentionOptions = AttentionOptions { causal: true, ..PLAIN };
const POISONS: [f32; 3] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY];

/// 32 columns of a key and 16 of a value: of all options one shader is compiled for all lengths and bands.
fn small(num_heads: usize, q_len: usize, kv_len: usize) -> AttentionShape {
    AttentionShape { value_dim: 16, ..shape(1, num_heads, q_len, kv_len, 32) }
}

/// The inputs of a case in f16.
struct Halves<'a> {
    shape: AttentionShape,
    case: &'a Case,
    tensors: [Vec<f16>; 3],
}

impl<'a> Halves<'a> {
    fn new(case: &'a Case) -> Self {
        let shape = AttentionShape { element: ElementType::F16, ..case.shape.clone() };
        let tensors = [&case.tensors.query, &case.tensors.key, &case.tensors.value]
            .map(|tensor| tensor.iter().map(|x| f16::from_f32(*x)).collect());
        Self { shape, case, tensors }
    }

    fn inputs(&self) -> Inputs<'_, f16> {
        let [query, key, value] = &self.tensors;
        let Inputs { mask, bias, alibi_slopes, segments, lens, pages, sinks, .. } =
            self.case.inputs();
        Inputs { query, key, value, mask, bias, alibi_slopes, segments, lens, pages, sinks }
    }

    fn run(&self, gpu: &Gpu) -> Result<Outputs<f16, f32>, Error> {
        let (inputs, kernel) = (self.inputs(), Some(Kernel::ForwardMatrix));
        pollster::block_on(gpu.attention_with(&self.shape, &self.case.options, &inputs, kernel))
    }
}

/// Whether matrices give what the reference gives.
fn verdict(case: &Case, gpu: &Gpu) -> Result<(), String> {
    let halves = Halves::new(case);
    let found = halves.run(gpu).map_err(|error| error.to_string())?;
    let expected = cpu::attention(&halves.shape, &case.options, &halves.inputs()).unwrap();
    let out: Vec<f32> = found.out.iter().map(|x| x.to_f32()).collect();
    let within = |name, found: &[f32], expected: &[f64], bounds: &Bounds| {
        let accuracy = compare(found, expected).map_err(|error| error.to_string())?;
        let is_within = accuracy.within(bounds);
        if is_within { Ok(()) } else { Err(format!("{name}: {accuracy}, {case}")) }
    };
    within("out", &out, &expected.out, &Bounds::F16)?;
    match (found.lse, expected.lse) {
        (Some(found), Some(expected)) => within("lse", &found, &expected, &Bounds::F32),
        (None, None) => Ok(()),
        _ => Err(format!("lse: in one of two, {case}")),
    }
}

/// With the adapter's own matrices, and with larger ones.
fn check(case: &Case) {
    check_on(case, gpu());
    check_on(case, sixteen());
}

fn check_on(case: &Case, gpu: &Gpu) {
    verdict(case, gpu).unwrap_or_else(|message| panic!("{message}"));
}

/// One key far above the others, which weigh about as much together, and whose weights are below the normal f16.
#[test]
#[ignore = "needs cooperative matrices"]
fn rows_of_65536_keys_are_right() {
    for first in [6.0_f32, 3.0, 0.17] {
        let mut case = Case::new(small(1, 9, 65_536), PLAIN, 1);
        case.tensors.query.fill(1.0);
        case.tensors.key.fill(0.0);
        // Of 32 columns, a score of about twice as much.
        case.tensors.key[..32].fill(first * 0.35);
        case.tensors.value.iter_mut().for_each(|x| *x = 1.0 + *x / 2.0);
        check_on(&case, gpu());
    }
}

#[test]
#[ignore = "needs cooperative matrices"]
fn lengths_around_the_edges_of_tiles_are_right() {
    for (q_len, kv_len) in
        [(1, 1), (8, 33), (9, 1), (31, 31), (32, 32), (33, 65), (70, 97), (5, 0), (0, 5)]
    {
        check(&Case::new(small(2, q_len, kv_len), PLAIN, 1));
    }
}

#[test]
#[ignore = "needs cooperative matrices"]
fn dims_of_models_are_right() {
    for dim in [64, 128] {
        check(&Case::new(shape(1, 1, 70, 90, dim), CAUSAL, 1));
    }
}

#[test]
#[ignore = "needs cooperative matrices"]
fn bands_are_right_wherever_they_lie() {
    for align in [Align::TopLeft, Align::BottomRight, Align::Offset(-5), Align::Offset(40)] {
        for (q_len, kv_len) in [(65, 127), (90, 40)] {
            let causal = AttentionOptions { align, ..CAUSAL };
            let window = AttentionOptions { window_left: Some(17), ..causal };
            let both = AttentionOptions { window_right: Some(3), causal: false, ..window };
            let keeps = AttentionOptions { window_keeps: 5, ..window };
            for options in [causal, window, both, keeps] {
                check(&Case::new(small(2, q_len, kv_len), options, 1));
            }
        }
    }
}

#[test]
#[ignore = "needs cooperative matrices"]
fn heads_that_share_keys_share_tiles() {
    for group in [2, 7, 8] {
        let shape = AttentionShape { batch: 2, num_kv_heads: 2, ..small(2 * group, 33, 70) };
        check(&Case::new(shape, CAUSAL, 1));
    }
}

#[test]
#[ignore = "needs cooperative matrices"]
fn every_option_is_right() {
    let plain = AttentionShape { batch: 2, num_kv_heads: 2, ..small(4, 40, 101) };
    let options = AttentionOptions {
        softcap: Some(5.0),
        window_left: Some(70),
        align: Align::BottomRight,
        ..CAUSAL
    };
    let all = AttentionShape {
        mask: Some(full(&plain)),
        bias: Some(full(&plain)),
        alibi: Some(AlibiLayout::PerHead),
        segments: Some(SegmentLayout::PerSide),
        sinks: true,
        ..plain.clone()
    };
    check(&Case::new(all.clone(), options, 1));
    check(&Case::new(AttentionShape { kv_lens: Some(vec![101, 37]), ..all }, options, 2));
    // Rows that begin anywhere, and nothing asked for but out.
    let layout = Layout::Strided(Strides { offset: 3, batch: 20_011, head: 5_003, row: 35 });
    check(&Case::new(AttentionShape { lse: None, ..plain.with_layout(layout) }, PLAIN, 3));
}

#[test]
#[ignore = "needs cooperative matrices"]
fn keys_in_pages_are_read_where_they_lie() {
    for page_len in [16, 64] {
        let pages = Some(PagedKeys::new(page_len, 15, 7));
        let base = AttentionShape { batch: 2, num_kv_heads: 2, pages, ..small(4, 40, 101) };
        let all = AttentionShape { mask: Some(full(&base)), ..base.clone() };
        let options = AttentionOptions { align: Align::BottomRight, ..CAUSAL };
        check(&Case::new(AttentionShape { kv_lens: Some(vec![101, 33]), ..base }, options, 1));
        check(&Case::new(all, PLAIN, 2));
    }
}

#[test]
#[ignore = "needs cooperative matrices"]
fn sinks_of_any_size_are_right_beside_rows_that_see_no_key() {
    let shape = AttentionShape { sinks: true, ..small(4, 40, 33) };
    for sinks in [[1e4, -1e4, 0.0, f32::NEG_INFINITY], [2.0, f32::NAN, f32::INFINITY, -2.0]] {
        let mut case =
            Case::new(shape.clone(), AttentionOptions { align: Align::BottomRight, ..CAUSAL }, 1);
        case.sinks = Some(sinks.to_vec());
        check(&case);
    }
}

#[test]
#[ignore = "needs cooperative matrices"]
fn sequences_that_differ_share_a_dispatch() {
    let cu_seqlens =
        CuSeqlens { query: vec![0, 33, 33, 40, 105, 106], key: vec![0, 65, 70, 70, 100, 197] };
    let packed = AttentionShape { cu_seqlens: Some(cu_seqlens), ..small(2, 106, 197) };
    for align in [Align::TopLeft, Align::BottomRight] {
        let options = AttentionOptions { align, ..CAUSAL };
        check(&Case::new(packed.clone().with_layout(Layout::Bshd), options, 1));
        let lens = AttentionShape { batch: 3, kv_lens: Some(vec![97, 0, 17]), ..small(2, 40, 97) };
        check(&Case::new(lens, options, 2));
    }
}

#[test]
#[ignore = "needs cooperative matrices"]
fn keys_past_a_binding_come_in_parts_that_are_merged() {
    let device = gpu();
    let less = device.masked(&Capabilities { binding_size: 8 << 10, ..*device.capabilities() });
    let case = Case::new(small(1, 40, 700), CAUSAL, 1);
    let shape = Halves::new(&case).shape;
    let problem = wgpu_attention::Problem::new(&shape, &case.options).unwrap();
    let plan = Plan::new(problem, less.capabilities(), Some(Kernel::ForwardMatrix)).unwrap();
    assert!(plan.dispatches().len() > 3, "{plan}");
    check_on(&case, &less);
}

/// Weights of f16 keep few digits, so what is divided by has to be their sum and not that of others.
#[test]
#[ignore = "needs cooperative matrices"]
fn maxima_that_grow_step_by_step_or_at_once_are_followed() {
    for step in [0.05, 0.3, 3.0] {
        let mut case = Case::new(small(1, 40, 70), PLAIN, 1);
        case.tensors.query.fill(1.0);
        for (j, key) in case.tensors.key.chunks_mut(32).enumerate() {
            key.fill(j as f32 * step);
        }
        check(&case);
        case.tensors.key.reverse();
        check(&case);
        // Of large scores, those of whole numbers alone are the same in every order of addition.
        for (tensor, size) in [(&mut case.tensors.query, 40.0), (&mut case.tensors.key, 40.0)] {
            for (n, x) in tensor.iter_mut().enumerate() {
                *x = (((n * 7919) % 101) as f32 / 101.0 * size).round();
            }
        }
        case.options.scale = Some(0.0625);
        check(&case);
    }
}

/// Makes key and value `j` of every head hold `poison`.
fn poison(case: &mut Case, j: usize, poison: f32) {
    let AttentionShape { kv_len, head_dim, value_dim, .. } = case.shape;
    for (tensor, dim) in [(&mut case.tensors.key, head_dim), (&mut case.tensors.value, value_dim)] {
        tensor.chunks_mut(kv_len * dim).for_each(|head| head[j * dim..][..dim].fill(poison));
    }
}

#[test]
#[ignore = "needs cooperative matrices"]
fn hidden_poison_does_not_leak_and_visible_poison_shows() {
    let masked = AttentionShape { mask: Some(full(&small(2, 40, 70))), ..small(2, 40, 70) };
    for (bad, hidden) in POISONS.into_iter().flat_map(|bad| [0, 20, 32, 69].map(|j| (bad, j))) {
        let mut by_mask = Case::new(masked.clone(), PLAIN, 1);
        let mask = by_mask.mask.as_mut().unwrap();
        mask.iter_mut().skip(hidden).step_by(70).for_each(|seen| *seen = false);
        // Causal rows before the poison do not see it, those after it do.
        let by_causality = Case::new(small(2, 40, 70), CAUSAL, 2);
        let window = AttentionOptions { window_left: Some(9), ..PLAIN };
        let by_window = Case::new(small(2, 40, 70), window, 3);
        for mut case in [by_mask, by_causality.clone(), by_window] {
            poison(&mut case, hidden, bad);
            check(&case);
        }
        // One element of a query, a key, a value.
        for at in [60, 100, 639] {
            let mut cases = [(); 3].map(|()| by_causality.clone());
            cases[0].tensors.query[at] = bad;
            cases[1].tensors.key[at] = bad;
            cases[2].tensors.value[at] = bad;
            cases.iter().for_each(check);
        }
    }
}

#[test]
#[ignore = "needs cooperative matrices"]
fn a_row_that_sees_only_minus_infinity_is_nan() {
    let mut case = Case::new(small(2, 40, 70), CAUSAL, 1);
    case.shape.lse = None;
    case.tensors.query.fill(1.0);
    for head in case.tensors.key.chunks_mut(70 * 32) {
        head[..3 * 32].fill(f32::NEG_INFINITY);
    }
    check(&case);
}

#[test]
#[ignore = "needs cooperative matrices"]
fn the_same_call_gives_the_same_bits() {
    let case = Case::new(small(2, 70, 97), CAUSAL, 1);
    let [first, second] = [(); 2].map(|()| Halves::new(&case).run(gpu()).unwrap());
    assert_eq!(first.out, second.out);
    assert_eq!(first.lse, second.lse);
}

/// Fails unless the case is right, and wrong once `find` in the shader's text is `replacement`.
fn finds(case: &Case, find: &str, replacement: &str) {
    check(case);
    let verdict = verdict(case, &gpu().broken(find, replacement));
    let message = verdict.expect_err(&format!("not found out: `{find}` as `{replacement}`"));
    // Found out by its numbers, not by a compiler.
    assert!(message.contains("relative error"), "{message}");
}

#[test]
#[ignore = "needs cooperative matrices"]
fn faults_of_the_running_sums_are_found() {
    let mut rising = Case::new(small(1, 40, 70), PLAIN, 1);
    rising.tensors.query.fill(1.0);
    for (j, key) in rising.tensors.key.chunks_mut(32).enumerate() {
        key.fill(j as f32 * 0.1);
    }
    finds(&rising, "[column % 8u] * factors[r]", "[column % 8u]");
    finds(&rising, "rounded_l *= rescale", "rounded_l *= 1.0");
    finds(&rising, "atomicOr(&reasons, GROWN)", "");
}

#[test]
#[ignore = "needs cooperative matrices"]
fn faults_of_tiles_heads_and_bands_are_found() {
    let grouped = AttentionShape { num_kv_heads: 2, ..small(4, 20, 70) };
    let grouped = Case::new(grouped, CAUSAL, 1);
    finds(&grouped, "kv_head * params.group", "(1u - kv_head) * params.group");
    finds(&grouped, "sequence.band_upper + 1", "sequence.band_upper");
    let plain = Case::new(small(2, 40, 70), PLAIN, 1);
    finds(&plain, "at < range.end", "at + KEYS < range.end");
    finds(&plain, "seen_len - 1u", "seen_len - 2u");
}

#[test]
#[ignore = "needs cooperative matrices"]
fn faults_of_larger_matrices_are_found() {
    let case = Case::new(small(2, 70, 90), CAUSAL, 1);
    check(&case);
    for (find, replacement) in [
        ("subgroup_id % SUBGROUPS * MATRIX_SIZE", "subgroup_id % SUBGROUPS * 8u"),
        ("subgroup_id / SUBGROUPS % share.parts", "0u"),
        ("part < share.parts; part++", "part < 1u; part++"),
        ("slot / (KEYS / 2u) * 4u * GROUPS", "slot / (KEYS / 2u) * 4u"),
        ("let j = t * MATRIX_SIZE", "let j = t * 8u"),
    ] {
        let message = verdict(&case, &sixteen().broken(find, replacement)).expect_err(find);
        assert!(message.contains("relative error"), "{message}");
    }
}

#[test]
#[ignore = "needs cooperative matrices"]
fn leaks_are_found() {
    let mut case = Case::new(small(2, 40, 70), CAUSAL, 1);
    poison(&mut case, 20, f32::NAN);
    finds(&case, "atomicOr(&reasons, NOT_FINITE)", "");
    finds(&case, "select(0.0, term, is_visible(visible[r], j))", "term");
}

#[test]
fn what_matrices_cannot_take_is_refused_by_name() {
    let refused = |shape: &AttentionShape, expected: &str| {
        let operator = gpu().attention_operator(&PLAIN).unwrap();
        let error = operator.plan_kernel(shape, Some(Kernel::ForwardMatrix)).unwrap_err();
        assert!(error.is_invalid() && error.to_string().contains(expected), "{error}");
    };
    refused(&small(2, 9, 9), "elements of f16, found forward-matrix of f32");
    let f16 = AttentionShape { element: ElementType::F16, ..small(2, 9, 9) };
    refused(&AttentionShape { weights: Some(Layout::Bhsd), ..f16.clone() }, "three-stage");
    let operator = gpu().masked(&Capabilities::PORTABLE).attention_operator(&PLAIN).unwrap();
    let error = operator.plan_kernel(&f16, Some(Kernel::ForwardMatrix)).unwrap_err();
    assert!(error.to_string().contains("cooperative matrices: expected"), "{error}");
}
