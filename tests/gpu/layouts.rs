//! However tensors lie in their buffers, nothing beside them is read or written.

use crate::case::{Case, PLAIN, shape};
use crate::device::gpu;
use wgpu_attention::internal::View;
use wgpu_attention::{AttentionOptions, AttentionShape, Kernel, Layout, Strides};

const CAUSAL: AttentionOptions = AttentionOptions { causal: true, ..PLAIN };

/// Fills what `view` does not reach with NaN.
fn poison_gaps(data: &mut [f32], view: &View, sizes: [usize; 4]) {
    let mut reached = vec![false; data.len()];
    let [batch, heads, rows, columns] = sizes;
    for n in 0..batch * heads * rows {
        let start = view.index(n / (heads * rows), n / rows % heads, n % rows, 0);
        reached[start..][..columns].fill(true);
    }
    for (x, reached) in data.iter_mut().zip(reached) {
        if !reached {
            *x = f32::NAN;
        }
    }
}

/// The case with NaN in all that its layouts skip.
fn with_poisoned_gaps(mut case: Case) -> Case {
    let p = case.problem();
    let AttentionShape {
        batch, num_heads, num_kv_heads, q_len, kv_len, head_dim, value_dim, ..
    } = case.shape;
    poison_gaps(&mut case.tensors.query, &p.query(), [batch, num_heads, q_len, head_dim]);
    poison_gaps(&mut case.tensors.key, &p.key(), [batch, num_kv_heads, kv_len, head_dim]);
    poison_gaps(&mut case.tensors.value, &p.value(), [batch, num_kv_heads, kv_len, value_dim]);
    case
}

/// `[batch, heads, len, dim]` with a gap after each row, head and sequence.
fn gaps(heads: usize, len: usize, dim: usize, unit: usize, offset: usize) -> Layout {
    let row = dim + unit;
    let head = len * row + 3 * unit;
    Layout::Strided(Strides { offset, row, head, batch: heads * head + 5 * unit })
}

#[test]
fn batch_seq_heads_dim_needs_no_copy() {
    for (seed, len) in (0..).zip([1, 33, 70]) {
        let grouped = AttentionShape { num_kv_heads: 2, ..shape(2, 4, len, len, 8) };
        Case::new(grouped.clone().with_layout(Layout::Bshd), CAUSAL, seed).check();
        let mixed = AttentionShape { key: Layout::Bshd, out: Layout::Bshd, ..grouped };
        Case::new(mixed, CAUSAL, seed).check();
    }
}

#[test]
fn strides_and_offsets_reach_the_right_elements() {
    // Multiples of four take loads of four at a time; the others one at a time. Offsets are below, at
    // and past the alignment of a binding, also as the portable tier has it.
    for (unit, offset) in [(4, 0), (4, 4), (4, 64), (4, 100), (1, 0), (3, 1), (1, 63), (1, 131)] {
        let plain = AttentionShape { num_kv_heads: 2, ..shape(2, 4, 35, 67, 8) };
        let strided = AttentionShape {
            query: gaps(4, 35, 8, unit, offset),
            key: gaps(2, 67, 8, unit, offset + unit),
            value: gaps(2, 67, 8, unit, 2 * offset),
            out: gaps(4, 35, 8, unit, offset),
            lse: Some(gaps(4, 35, 1, unit, offset)),
            ..plain
        };
        with_poisoned_gaps(Case::new(strided, CAUSAL, offset as u64)).check();
    }
}

#[test]
fn stored_scores_and_weights_may_be_strided() {
    let layout = |unit| Some(gaps(2, 35, 37, unit, 7));
    let shape = AttentionShape {
        weights: layout(1),
        raw_scores: layout(2),
        capped_scores: layout(3),
        masked_scores: layout(5),
        ..shape(2, 2, 35, 37, 8)
    };
    Case::new(shape, AttentionOptions { softcap: Some(4.0), ..CAUSAL }, 1).check();
}

#[test]
fn a_stride_of_zero_repeats() {
    let repeated = |row| Layout::Strided(Strides { offset: 8, batch: 0, head: 0, row });
    let shape = shape(2, 3, 35, 37, 8);
    let all_heads_alike = AttentionShape { key: repeated(8), value: repeated(8), ..shape.clone() };
    Case::new(all_heads_alike, CAUSAL, 1).check();
    let all_keys_alike = AttentionShape { query: repeated(0), key: repeated(0), ..shape };
    Case::new(all_keys_alike, CAUSAL, 2).check();
}

#[test]
fn inputs_may_overlap_themselves() {
    // Overlapping inputs: each key starts one element after the one before it.
    let sliding = Layout::Strided(Strides { offset: 0, batch: 2, head: 5, row: 1 });
    let shape =
        AttentionShape { query: sliding, key: sliding, value: sliding, ..shape(2, 3, 35, 37, 8) };
    Case::new(shape, CAUSAL, 1).check();
}

#[test]
fn a_layout_changes_no_bit_of_the_answer() {
    let plain = Case::new(shape(2, 3, 40, 70, 8), CAUSAL, 1);
    let mut bshd = plain.clone();
    bshd.shape.out = Layout::Bshd;
    for kernel in Kernel::PORTABLE {
        let expected = plain.run(gpu(), Some(kernel)).out;
        let found = bshd.run(gpu(), Some(kernel)).out;
        for (n, row) in expected.chunks(8).enumerate() {
            let (b, h, i) = (n / 120, n / 40 % 3, n % 40);
            assert_eq!(&found[((b * 40 + i) * 3 + h) * 8..][..8], row, "{plain}: row {n}");
        }
    }
}
