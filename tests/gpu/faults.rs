//! These tests can fail: a kernel with a fault in its text is found out. They guard the tests, not the code, so they run by
//! `cargo test --test gpu -- --ignored faults`.

use crate::case::{Case, PLAIN, full, shape};
use crate::device::{gpu, portable};
use wgpu_attention::check::Bounds;
use wgpu_attention::{AlibiLayout, Align, AttentionOptions, AttentionShape, Gpu, Kernel, Layout};

const CAUSAL: AttentionOptions = AttentionOptions { causal: true, ..PLAIN };

/// Fails unless the case is right, and wrong once `find` in the shaders' text is `replacement`.
fn finds(case: &Case, find: &str, replacement: &str) {
    assert_eq!(case.verdict_of(gpu()), Ok(()));
    let broken: Gpu = gpu().broken(find, replacement);
    let verdict = case.verdict_of(&broken);
    let message = verdict.expect_err(&format!("not found out: `{find}` as `{replacement}`"));
    // Found out by its numbers, not by a compiler.
    assert!(message.contains("relative error"), "{message}");
}

/// As [`finds`], in the kernel for GPUs alone, which settles its sums after `stretch` keys.
fn finds_in_tiled(case: &Case, stretch: u32, find: &str, replacement: &str) {
    let stretch = format!("SETTLE_KEYS = {stretch}u");
    let gpu = gpu().broken("SETTLE_KEYS = 8192u", &stretch);
    let verdict = |gpu: &Gpu| {
        let found = case.run(gpu, Some(Kernel::Tiled));
        case.differs("tiled", &found, &case.expected(), &Bounds::F32)
    };
    assert_eq!(verdict(&gpu), Ok(()), "{stretch}");
    let found = verdict(&gpu.broken(find, replacement));
    let message = found.expect_err(&format!("not found out: `{find}` as `{replacement}`"));
    assert!(message.contains("relative error"), "{message}");
}

/// Scores that grow from key to key, so that maxima follow.
fn rising(len: usize) -> Case {
    let mut case = Case::new(shape(1, 2, 40, len, 8), PLAIN, 1);
    case.tensors.query.fill(1.0);
    for (j, key) in case.tensors.key.chunks_mut(8).enumerate() {
        key.fill(j as f32 * 0.1);
    }
    case
}

/// One key is hidden, and its value is NaN.
fn leaking() -> Case {
    let shape = shape(1, 1, 9, 40, 8);
    let masked = AttentionShape { mask: Some(full(&shape)), ..shape };
    let mut case = Case::new(masked, PLAIN, 1);
    case.mask.iter_mut().flatten().skip(20).step_by(40).for_each(|seen| *seen = false);
    case.tensors.value[20 * 8..][..8].fill(f32::NAN);
    case
}

fn plain(options: AttentionOptions) -> Case {
    Case::new(shape(1, 2, 40, 70, 8), options, 1)
}

/// As [`finds`], in the kernels of the portable tier, which are those of GPUs.
fn finds_on_portable(case: &Case, find: &str, replacement: &str) {
    assert_eq!(case.verdict_of(portable()), Ok(()));
    let verdict = case.verdict_of(&portable().broken(find, replacement));
    let message = verdict.expect_err(&format!("not found out: `{find}` as `{replacement}`"));
    assert!(message.contains("relative error"), "{message}");
}

#[test]
#[ignore = "planted faults: tests of the tests"]
fn faults_of_scores_and_weights_on_gpus_are_found() {
    let asked = Some(Layout::Bhsd);
    let shape = AttentionShape { weights: asked, ..shape(1, 2, 40, 70, 8) };
    let causal = Case::new(shape.clone(), CAUSAL, 1);
    finds_on_portable(&causal, "* factors[i], sees)", "* factors[i], true)");
    finds_on_portable(&causal, "whole || (some && sees_key(i, j, place))", "whole");
    let open = Case::new(shape.clone(), PLAIN, 1);
    finds_on_portable(&open, "starts[i] + first_key + place.key", "starts[i] + place.key");
    let shown = AttentionShape { raw_scores: asked, masked_scores: asked, ..shape };
    let shown = Case::new(shown, CAUSAL, 1);
    finds_on_portable(
        &shown,
        "marked_scores(vec4(score), vec4(sees))",
        "bitcast<vec4<u32>>(vec4(score))",
    );
    finds_on_portable(&shown, "open.band_upper = i32(params.kv_len)", "open.band_upper = 0");
    finds_on_portable(&shown, "block.sequence = without_hidden_keys(block.sequence);", "");
}

#[test]
#[ignore = "planted faults: tests of the tests"]
fn faults_of_the_running_sums_are_found() {
    finds(&rising(70), "*= rescale", "*= 1.0");
    let factor = "inverse_sum(finish.m, finish.l)";
    finds(&plain(PLAIN), factor, &format!("0.9999 * {factor}"));
}

#[test]
#[ignore = "planted faults: tests of the tests"]
fn faults_of_the_band_are_found() {
    finds(&plain(CAUSAL), "sequence.band_upper + 1", "sequence.band_upper");
    finds(&plain(PLAIN), "seen_len - 1u", "seen_len - 2u");
    let window = AttentionOptions { window_left: Some(3), ..PLAIN };
    finds(&plain(window), "diagonal + sequence.band_lower", "diagonal + sequence.band_lower + 1");
    let keeps = AttentionOptions { window_keeps: 5, align: Align::Offset(100), ..window };
    let far = Case::new(shape(1, 2, 9, 150, 8), keeps, 1);
    finds(&far, "max(params.kept, first_key) - first_key", "0u");
    finds(&far, "(params.kept + KEYS - 1u) / KEYS * KEYS", "0u");
    finds(&far, "select(range.skipped, 0u, place < range.gap)", "range.skipped");
    finds(&far, "|| last_key < params.kept", "|| first_key < params.kept");
}

#[test]
#[ignore = "planted faults: tests of the tests"]
fn faults_of_rows_that_skip_tiles_together_are_found() {
    let options = AttentionOptions { align: Align::BottomRight, window_left: Some(40), ..CAUSAL };
    let case = Case::new(shape(1, 1, 300, 333, 8), options, 1);
    finds(&case, "some |= visible[r]", "some = visible[0]");
    finds(&case, "row + LOCKSTEP * ROWS_EACH - 1u).", "row).");
    finds(&case, "(block_row(block, row).", "(block_row(block, ROWS).");
}

#[test]
#[ignore = "planted faults: tests of the tests"]
fn faults_of_staging_are_found() {
    // Not as many slots as invocations, and one and a half for each.
    for dim in [4, 12] {
        let case = Case::new(shape(1, 1, 100, 70, dim), PLAIN, 1);
        finds(&case, "(count + THREADS - 1u) / THREADS", "count / THREADS");
        finds(&case, "first + lane % LOCKSTEP", "first");
    }
}

#[test]
#[ignore = "planted faults: tests of the tests"]
fn faults_of_heads_and_rows_are_found() {
    let grouped = AttentionShape { num_kv_heads: 2, ..shape(2, 4, 9, 40, 8) };
    let case = Case::new(grouped, PLAIN, 1);
    finds(&case, "kv_head * params.group", "(1u - kv_head) * params.group");
    finds(&case, "row.batch * view.batch", "0u * view.batch");
}

#[test]
#[ignore = "planted faults: tests of the tests"]
fn faults_of_the_transforms_are_found() {
    let shape = AttentionShape { alibi: Some(AlibiLayout::PerHead), ..shape(1, 2, 9, 40, 8) };
    let options = AttentionOptions { softcap: Some(2.0), align: Align::BottomRight, ..PLAIN };
    let case = Case::new(shape, options, 1);
    finds(&case, "- 1.0 / 3.0", "- 1.01 / 3.0");
    finds(&case, "row.place - i32(j)", "i32(row.query) - i32(j)");
    finds(&case, "* params.scale", "* params.scale * 1.0001");
}

#[test]
#[ignore = "planted faults: tests of the tests"]
fn faults_of_the_sinks_are_found() {
    let shape = AttentionShape { sinks: true, ..shape(1, 3, 9, 40, 8) };
    let mut case = Case::new(shape, CAUSAL, 1);
    case.sinks = Some(vec![0.5, f32::NEG_INFINITY, 12.0]);
    finds(&case, "params.sinks_offset + row.head", "params.sinks_offset");
    finds(&case, "exponential(sink - new_m)", "1.0");
    finds(&case, "l * rescale + select", "l + select");
    finds(&case, "select(term, 0.0, absent)", "term");
    finds(&case, "1.0, rescale, keys", "1.0, 1.0, keys");
    // Of no keys at all only the sink is left.
    case = Case::new(AttentionShape { kv_len: 0, ..case.shape }, PLAIN, 1);
    finds(&case, "keys.no_keys && absent", "keys.no_keys");
}

#[test]
#[ignore = "planted faults: tests of the tests"]
fn leaks_are_found() {
    let case = leaking();
    finds(
        &case,
        "select(vec4(0.0), terms[r] * columns, is_visible(visible[r], j))",
        "terms[r] * columns",
    );
    finds(&case, "if !are_finite(columns)", "if false");
    finds(&case, "visible &= mask_bits(row, first_key);", "");
}

#[test]
#[ignore = "planted faults: tests of the tests"]
fn faults_of_tiles_in_registers_are_found() {
    let long = 8192;
    let rising = rising(200);
    for (find, replacement) in
        [("+ c] *= rescale", "+ c] *= 1.0"), ("l[i] *= rescale", "l[i] *= 1.0")]
    {
        finds_in_tiled(&rising, long, find, replacement);
    }
    for (find, replacement) in [
        ("let four = shared_rows(x, h, place)", "let four = shared_rows(place.key, h, place)"),
        ("sums[4u * h + 1u] += four.y", "sums[4u * h + 1u] += four.x"),
        ("stage_left(staged_row(place.lane, t)", "stage_left(staged_row(place.lane, 0u)"),
        ("+ place.row + t * ROW_LANES;", "+ place.row;"),
        ("fma(a.w, b[j].w, sum)", "sum"),
    ] {
        finds_in_tiled(&plain(PLAIN), long, find, replacement);
    }
    // More queries than keys: some rows see none, and all others a part of a tile.
    let causal = AttentionOptions { align: Align::BottomRight, ..CAUSAL };
    let uneven = Case::new(shape(1, 1, 90, 70, 8), causal, 1);
    for (find, replacement) in [
        ("seen |= 1u << i", "seen |= 0xffffffffu"),
        ("% ROW_LANES].y = bits", "% ROW_LANES].x = bits"),
        ("hide(0.0, place)", "hide(1.0, place)"),
    ] {
        finds_in_tiled(&uneven, long, find, replacement);
    }
    for (find, replacement) in [
        ("if !whole && !are_finite(values[t])", "if false"),
        ("select(vec4(0.0), term, is_visible(word, at % 32u))", "term"),
    ] {
        finds_in_tiled(&leaking(), long, find, replacement);
    }
    for (find, replacement) in [
        ("total.factor = exponential(before.x - m[i])", "total.factor = 1.0"),
        ("total.l += total.factor * before.y", "total.l += 0.0"),
        ("columns += total.factor * load_out(at, left)", "columns += vec4(0.0)"),
        ("vec2(m[i], totals[i])", "vec2(m[i], 0.0)"),
    ] {
        finds_in_tiled(&rising, 64, find, replacement);
    }
}
