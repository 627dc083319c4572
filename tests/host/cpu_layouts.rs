//! However tensors lie, and however masks are broadcast, the answer is the same.

use crate::common::data::{Tensors, attend, numbers};
use wgpu_attention::internal::{Tensor, View};
use wgpu_attention::{
    AttentionOptions, AttentionShape, BroadcastLayout, BroadcastStrides, Inputs, Layout, Outputs,
    Problem, Strides,
};

const PLAIN: AttentionOptions = AttentionOptions {
    scale: None,
    softcap: None,
    causal: false,
    window_left: None,
    window_keeps: 0,
    window_right: None,
    align: wgpu_attention::Align::TopLeft,
};

/// Two sequences, two heads, three queries, four keys.
fn small() -> AttentionShape {
    AttentionShape { kv_len: 4, ..AttentionShape::new(2, 2, 3, 4) }
}

fn indices(sizes: [usize; 4]) -> impl Iterator<Item = [usize; 4]> {
    let [_, heads, rows, columns] = sizes;
    (0..sizes.iter().product()).map(move |n| {
        [
            n / (heads * rows * columns),
            n / (rows * columns) % heads,
            n / columns % rows,
            n % columns,
        ]
    })
}

fn at(view: &View, [batch, head, row, column]: [usize; 4]) -> usize {
    view.index(batch, head, row, column)
}

#[test]
fn one_packed_buffer_of_query_key_and_value_needs_no_copy() {
    let (batch, heads, len, dim) = (2, 2, 3, 4);
    let contiguous = AttentionShape::new(batch, heads, len, dim);
    let tensors = Tensors::random(&contiguous, 1);
    // [batch, len, 3, heads, dim], as one linear layer projects it.
    let part = |n| {
        Layout::Strided(Strides {
            offset: n * heads * dim,
            batch: len * 3 * heads * dim,
            head: dim,
            row: 3 * heads * dim,
        })
    };
    let shape =
        AttentionShape { query: part(0), key: part(1), value: part(2), ..contiguous.clone() };
    let problem = Problem::new(&shape, &PLAIN).unwrap();
    let mut packed = vec![f32::NAN; batch * len * 3 * heads * dim];
    for (view, data) in [
        (problem.query(), &tensors.query),
        (problem.key(), &tensors.key),
        (problem.value(), &tensors.value),
    ] {
        for (element, &x) in indices([batch, heads, len, dim]).zip(data) {
            packed[at(&view, element)] = x;
        }
    }
    let inputs = Inputs { query: &packed, key: &packed, value: &packed, ..Inputs::default() };
    assert_eq!(attend(&shape, &PLAIN, &inputs), attend(&contiguous, &PLAIN, &tensors.inputs()));
}

#[test]
fn strided_outputs_are_the_contiguous_ones_spread_out() {
    let sizes = |columns| [2, 2, 3, columns];
    let asked = |layout: fn(usize) -> Layout| {
        let score = Some(layout(4));
        AttentionShape {
            out: layout(4),
            lse: Some(layout(1)),
            weights: score,
            raw_scores: score,
            capped_scores: score,
            masked_scores: score,
            ..small()
        }
    };
    let contiguous = asked(|_| Layout::Bhsd);
    // Rows before heads before sequences, each with a gap behind it.
    let spread = asked(|columns| {
        let row = columns + 1;
        Layout::Strided(Strides { offset: 5, batch: row, head: 2 * row + 2, row: 4 * row + 4 })
    });
    let tensors = Tensors::random(&contiguous, 2);
    let options = AttentionOptions { causal: true, softcap: Some(1.0), ..PLAIN };
    let expected = attend(&contiguous, &options, &tensors.inputs());
    let found = attend(&spread, &options, &tensors.inputs());
    let problem = Problem::new(&spread, &options).unwrap();

    let some = |x: &Option<Vec<f64>>| x.clone().unwrap();
    let list = |o: &Outputs<f64>| {
        [&o.lse, &o.weights, &o.raw_scores, &o.capped_scores, &o.masked_scores].map(some)
    };
    let views = [
        problem.view(Tensor::Lse),
        problem.view(Tensor::Weights),
        problem.view(Tensor::RawScores),
        problem.view(Tensor::CappedScores),
        problem.view(Tensor::MaskedScores),
    ];
    let mut all = vec![(problem.out(), found.out.clone(), expected.out.clone())];
    for ((view, found), expected) in views.into_iter().zip(list(&found)).zip(list(&expected)) {
        all.push((view.unwrap(), found, expected));
    }
    for (n, (view, found, expected)) in all.into_iter().enumerate() {
        let columns = if n == 1 { 1 } else { 4 };
        let mut spread_out = vec![0.0; view.extent as usize];
        for (element, x) in indices(sizes(columns)).zip(expected) {
            spread_out[at(&view, element)] = x;
        }
        assert_eq!(found, spread_out, "output {n}");
    }
}

#[test]
fn bshd_outputs_hold_the_same_rows() {
    let shape = small();
    let tensors = Tensors::random(&shape, 3);
    let expected = attend(&shape, &PLAIN, &tensors.inputs()).out;
    let found =
        attend(&AttentionShape { out: Layout::Bshd, ..shape }, &PLAIN, &tensors.inputs()).out;
    for (element, e) in indices([2, 2, 3, 4]).zip(expected) {
        let [b, h, i, d] = element;
        assert_eq!(found[((b * 3 + i) * 2 + h) * 4 + d], e, "{element:?}");
    }
}

#[test]
fn a_key_of_stride_0_is_every_key() {
    let shape = AttentionShape { key: Layout::Strided(Strides::default()), ..small() };
    let mut tensors = Tensors::random(&shape, 4);
    let repeated = attend(&shape, &PLAIN, &tensors.inputs());
    tensors.key = tensors.key.repeat(2 * 2 * 4);
    assert_eq!(repeated, attend(&small(), &PLAIN, &tensors.inputs()));
}

/// All the sizes that broadcast to a full mask, and the same as explicit strides.
#[test]
fn broadcast_masks_and_biases_equal_expanded_ones() {
    let full = [2, 2, 3, 4];
    let tensors = Tensors::random(&small(), 5);
    for pattern in 0..16 {
        let own: [usize; 4] =
            std::array::from_fn(|axis| if pattern >> axis & 1 == 1 { 1 } else { full[axis] });
        let count = own.iter().product();
        let bias = numbers(6, count);
        let mask: Vec<bool> = numbers(7, count).into_iter().map(|x| x < 0.3).collect();
        let place = |element: [usize; 4]| {
            (0..4).fold(0, |index, axis| index * own[axis] + element[axis] % own[axis])
        };
        let run = |layout, mask: &[bool], bias: &[f32]| {
            let shape = AttentionShape { mask: Some(layout), bias: Some(layout), ..small() };
            let inputs = Inputs { mask: Some(mask), bias: Some(bias), ..tensors.inputs() };
            attend(&shape, &PLAIN, &inputs)
        };
        let expected = run(
            BroadcastLayout::Sizes(full),
            &indices(full).map(|element| mask[place(element)]).collect::<Vec<_>>(),
            &indices(full).map(|element| bias[place(element)]).collect::<Vec<_>>(),
        );
        assert_eq!(run(BroadcastLayout::Sizes(own), &mask, &bias), expected, "{own:?}");
        let stride = |axis: usize| {
            if own[axis] == 1 { 0 } else { own[axis + 1..].iter().product() }
        };
        let strides = BroadcastStrides {
            offset: 0,
            batch: stride(0),
            head: stride(1),
            query: stride(2),
            key: stride(3),
        };
        assert_eq!(run(BroadcastLayout::Strided(strides), &mask, &bias), expected, "{own:?}");
    }
}

#[test]
fn fewer_dimensions_align_to_the_right() {
    for (dims, sizes) in [
        (&[4][..], [1, 1, 1, 4]),
        (&[3, 4], [1, 1, 3, 4]),
        (&[2, 3, 4], [1, 2, 3, 4]),
        (&[2, 2, 3, 4], [2, 2, 3, 4]),
    ] {
        assert_eq!(BroadcastLayout::from_dims("mask", dims), Ok(BroadcastLayout::Sizes(sizes)));
    }
}
