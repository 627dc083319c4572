//! Problems at random, cut down to the last query: the parts are the problem.

use crate::plan::PORTABLE;
use crate::replay::assert_covers_its_problem;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::RngSeed;
use wgpu_attention::internal::{Pages, Tensor, View};
use wgpu_attention::{
    AlibiLayout, Align, AttentionOptions, AttentionShape, BroadcastLayout, Capabilities, CuSeqlens,
    ElementType, Kernel, Layout, PagedKeys, Plan, Problem, SegmentLayout, Strides,
};

/// Outputs need not be contiguous, only free of overlap.
fn any_layout(shape: [usize; 4]) -> impl Strategy<Value = Layout> {
    let [_, heads, len, dim] = shape;
    let (head, row, gap) = (dim, heads * dim + 4, 3);
    let strides = Strides { offset: 5, batch: len * row + gap, head, row };
    let aligned = Strides { offset: 8, batch: len * dim * 4, head: len * dim * 4, row: dim * 4 };
    let aligned = Strides { batch: heads * aligned.head, ..aligned };
    select(vec![Layout::Bhsd, Layout::Bshd, Layout::Strided(strides), Layout::Strided(aligned)])
}

fn any_broadcast(sizes: [usize; 4]) -> impl Strategy<Value = Option<BroadcastLayout>> {
    (0..17_usize).prop_map(move |kept| {
        let own = [0, 1, 2, 3].map(|axis| if kept >> axis & 1 == 1 { sizes[axis] } else { 1 });
        (kept < 16).then_some(BroadcastLayout::Sizes(own))
    })
}

fn any_shape() -> impl Strategy<Value = AttentionShape> {
    // Batch, key/value heads, query heads of each, queries: few enough rows to cut down to single ones.
    let rows = select(vec![
        [1, 1, 3, 600],
        [1, 1, 1, 1_030],
        [1, 2, 3, 130],
        [3, 1, 2, 65],
        [2, 2, 1, 64],
        [3, 2, 3, 7],
        [2, 1, 7, 2],
        [1, 3, 2, 1],
    ]);
    let kv_len = select(vec![0_usize, 1, 5, 32, 33, 70]);
    let dims = (select(vec![1_usize, 3, 4, 8]), select(vec![1_usize, 4, 130]));
    (rows, kv_len, dims).prop_flat_map(|(rows, kv_len, (dim, value_dim))| {
        let [batch, kv_heads, group, q_len] = rows;
        let heads = kv_heads * group;
        let scores = [batch, heads, q_len, kv_len];
        let layouts = (
            any_layout([batch, heads, q_len, dim]),
            any_layout([batch, kv_heads, kv_len, dim]),
            any_layout([batch, kv_heads, kv_len, value_dim]),
            any_layout([batch, heads, q_len, value_dim]),
            any_layout([batch, heads, q_len, 1]),
            any_layout(scores),
        );
        let asked = prop::array::uniform7(any::<bool>());
        let extras = (any_broadcast(scores), any_broadcast(scores), 0..3_usize, asked);
        let element = select(vec![ElementType::F32, ElementType::F16, ElementType::Bf16]);
        let kv_lens = prop::option::of(prop::collection::vec(0..=kv_len, batch));
        let kv_lens = (kv_lens, any::<bool>());
        let starts = |total: usize| prop::collection::vec(0..=total, 3);
        let cu_seqlens = prop::option::of((starts(q_len), starts(kv_len)));
        let kinds = (element, kv_lens, cu_seqlens);
        (layouts, extras, kinds).prop_map(move |(layouts, (mask, bias, alibi, asked), kinds)| {
            let (element, (kv_lens, lens), cu_seqlens) = kinds;
            let (query, key, value, out, lse, matrix) = layouts;
            let [has_lse, weights, raw, capped, masked, segments, sinks] = asked;
            // Most problems keep nothing, so that both kernels have their share.
            let matrix = |asked: bool| (asked && has_lse).then_some(matrix);
            let shape = AttentionShape {
                num_kv_heads: kv_heads,
                kv_len,
                lens: lens && kv_lens.is_none(),
                kv_lens,
                element,
                value_dim,
                query,
                key,
                value,
                out,
                mask,
                bias,
                alibi: [None, Some(AlibiLayout::PerHead), Some(AlibiLayout::PerBatchAndHead)]
                    [alibi],
                segments: segments.then_some(SegmentLayout::PerSide),
                sinks,
                lse: has_lse.then_some(lse),
                weights: matrix(weights),
                raw_scores: matrix(raw),
                capped_scores: matrix(capped),
                masked_scores: matrix(masked),
                ..AttentionShape::new(batch, heads, q_len, dim)
            };
            match cu_seqlens {
                Some((query, key)) if batch == 1 => without_padding(shape, query, key),
                _ => shape,
            }
        })
    })
}

/// The same sizes as sequences one after the other, which begin at these queries and keys.
fn without_padding(
    shape: AttentionShape,
    mut query: Vec<usize>,
    mut key: Vec<usize>,
) -> AttentionShape {
    for (starts, total) in [(&mut query, shape.q_len), (&mut key, shape.kv_len)] {
        starts.extend([0, total]);
        starts.sort_unstable();
    }
    AttentionShape {
        cu_seqlens: Some(CuSeqlens { query, key }),
        kv_lens: None,
        lens: false,
        mask: None,
        bias: None,
        segments: None,
        weights: None,
        raw_scores: None,
        capped_scores: None,
        masked_scores: None,
        ..shape
    }
}

/// The same with keys in pages, or as it is where there can be none; each head's pages or each page's heads lie together.
fn in_pages(
    shape: AttentionShape,
    (page_len, spare, by_head): (usize, usize, bool),
) -> AttentionShape {
    let matrix = [shape.weights, shape.raw_scores, shape.capped_scores, shape.masked_scores];
    if shape.cu_seqlens.is_some() || matrix.iter().any(Option::is_some) {
        return shape;
    }
    let pages_per_sequence = shape.kv_len.div_ceil(page_len) + spare;
    let pages = pages_per_sequence + 2;
    let layout = |dim: usize| {
        let [page, own] = [page_len * dim, page_len * dim * pages];
        let by_head = Strides { batch: page, head: own, row: dim, ..Strides::default() };
        Layout::Strided(by_head)
    };
    let place = |dim| if by_head { layout(dim) } else { Layout::Bshd };
    AttentionShape {
        key: place(shape.head_dim),
        value: place(shape.value_dim),
        pages: Some(PagedKeys::new(page_len, pages, pages_per_sequence)),
        ..shape
    }
}

fn any_options() -> impl Strategy<Value = AttentionOptions> {
    let window = || prop::option::of(0..80_usize);
    let align =
        select(vec![Align::TopLeft, Align::BottomRight, Align::Offset(-40), Align::Offset(7)]);
    let keeps = prop_oneof![Just(0), 0..90_usize];
    (any::<bool>(), window(), keeps, window(), align, any::<bool>()).prop_map(
        |(causal, window_left, window_keeps, window_right, align, capped)| AttentionOptions {
            causal,
            window_left,
            window_keeps,
            window_right,
            align,
            softcap: capped.then_some(3.0),
            ..AttentionOptions::default()
        },
    )
}

/// The largest binding of the smallest part: one query of one head, with all the head's keys.
fn least_binding(p: &Problem, alignment: u32) -> u64 {
    let row = |view: View, columns: u32| (view.column * columns.saturating_sub(1) + 1).max(1);
    // A head's keys, or its part of every page.
    let keys = |view: View, dim: u32| match p.pages {
        Some(Pages { page_len, count, .. }) => {
            view.batch * count.saturating_sub(1) + view.row * (page_len - 1) + dim
        }
        None => view.row * p.kv_len.saturating_sub(1) + dim,
    };
    let matrix = [
        p.view(Tensor::Weights),
        p.view(Tensor::RawScores),
        p.view(Tensor::CappedScores),
        p.view(Tensor::MaskedScores),
    ];
    let elements = [
        p.head_dim,
        p.value_dim,
        p.kv_len,
        keys(p.key(), p.head_dim),
        keys(p.value(), p.value_dim),
    ];
    // Small tensors may be bound as one.
    let elements =
        elements.into_iter().chain([Tensor::SMALL.map(|small| p.small.len(small)).iter().sum()]);
    let elements = elements.chain(p.view(Tensor::Bias).map(|view| row(view, p.kv_len)));
    let most = elements.chain(matrix.into_iter().flatten().map(|view| row(view, p.kv_len))).max();
    // Elements of 16 bits are unpacked into twice as many bytes, with what lies before them.
    u64::from(most.unwrap() + alignment) * 4
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, rng_seed: RngSeed::Fixed(7), ..ProptestConfig::with_cases(200) })]

    #[test]
    fn the_parts_of_any_problem_are_the_problem(
        shape in any_shape(),
        paged in prop::option::of((select(vec![16_usize, 64]), 0..3_usize, any::<bool>())),
        options in any_options(),
        three_stage in any::<bool>(),
        workgroups_per_axis in 3..20_u32,
        spare in select(vec![0_u64, 300, 5_000, 1 << 20]),
        storage_alignment in select(vec![16_u32, 32, 256]),
        processors in select(vec![0_u32, 1, 2]),
        shader_f16 in any::<bool>(),
    ) {
        let shape = paged.map_or(shape.clone(), |paged| in_pages(shape, paged));
        let problem = Problem::new(&shape, &options).unwrap();
        let binding_size = least_binding(&problem, storage_alignment) + spare;
        let kernel = (three_stage && shape.pages.is_none()).then_some(Kernel::ThreeStage);
        // Columns of out are not cut: of three-stage 32 of them have a workgroup.
        let workgroups_per_axis = workgroups_per_axis.max(problem.value_dim.div_ceil(32));
        let capabilities =
            Capabilities { workgroups_per_axis, binding_size, storage_alignment, processors, shader_f16, ..PORTABLE };
        let plan = Plan::new(problem, &capabilities, kernel).unwrap();
        assert_covers_its_problem(&plan);
    }
}
