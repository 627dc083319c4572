//! Options, shapes and slices that cannot be: an error that names argument, expected and found, no panic, and a
//! device that goes on working.

use crate::cache::{app, cache_shape};
use crate::case::{Case, PLAIN, shape};
use crate::device::gpu;
use crate::paged_cache::pool;
use wgpu_attention::{
    AlibiLayout, Align, Attention, AttentionOptions, AttentionShape, BroadcastLayout, Capabilities,
    Error, Inputs, Kernel, Layout, Strides,
};

pub(crate) fn text<T>(result: Result<T, Error>) -> String {
    match result {
        Ok(_) => "no error".to_owned(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn operators_refuse_options_that_no_shape_makes_valid() {
    let number = |scale| AttentionOptions { scale: Some(scale), ..PLAIN };
    let cap = |softcap| AttentionOptions { softcap: Some(softcap), ..PLAIN };
    for (options, expected) in [
        (number(f32::NAN), "scale: expected a finite number, found NaN"),
        (number(f32::INFINITY), "scale: expected a finite number, found inf"),
        (cap(0.0), "softcap: expected a finite number above 0, found 0"),
        (cap(-1.0), "softcap: expected a finite number above 0, found -1"),
        (cap(f32::NAN), "softcap: expected a finite number above 0, found NaN"),
        (
            AttentionOptions { align: Align::Offset(1 << 31), ..PLAIN },
            "align: expected an offset within 2^30 of 0, found 2147483648",
        ),
    ] {
        assert_eq!(text(gpu().attention_operator(&options)), expected);
        assert_eq!(text(Attention::new(gpu().device(), gpu().queue(), &options)), expected);
    }
}

#[test]
fn plans_refuse_shapes_that_cannot_be() {
    let operator = gpu().attention_operator(&PLAIN).unwrap();
    let good = AttentionShape::new(1, 4, 8, 8);
    let stored = AttentionShape { weights: Some(Layout::Bhsd), ..good.clone() };
    for (shape, kernel, expected) in [
        (
            AttentionShape { num_kv_heads: 3, ..good.clone() },
            None,
            "num_kv_heads: expected a divisor of num_heads = 4, found 3",
        ),
        (
            AttentionShape { head_dim: 0, ..good.clone() },
            None,
            "head_dim: expected at least 1, found 0",
        ),
        (
            AttentionShape { mask: Some(BroadcastLayout::Sizes([1, 3, 8, 8])), ..good.clone() },
            None,
            "mask: expected a shape that broadcasts to [1, 4, 8, 8], found [1, 3, 8, 8]",
        ),
        (
            AttentionShape { out: Layout::Strided(Strides::default()), ..good.clone() },
            None,
            "out: expected strides that give each element of [1, 4, 8, 8] a place of its own, found \
             Strided(Strides { offset: 0, batch: 0, head: 0, row: 0 })",
        ),
        (
            AttentionShape { kv_len: (1 << 30) + 1, ..good.clone() },
            None,
            "kv_len: expected at most 2^30, found 1073741825",
        ),
        (
            stored,
            Some(Kernel::ForwardWide),
            "kernel: expected forward, tiled, decode or three-stage, as weights are asked for, found forward-wide",
        ),
    ] {
        let error = operator.plan_kernel(&shape, kernel);
        assert!(error.as_ref().is_err_and(Error::is_invalid), "{shape:?}");
        assert_eq!(text(error), expected);
    }
}

#[test]
fn plans_say_what_the_device_lacks() {
    let good = AttentionShape::new(2, 2, 200, 300);
    let most = *gpu().capabilities();
    for (capabilities, expected) in [
        (
            Capabilities { storage_buffers: 4, ..most },
            "this device's storage buffers per shader stage: expected at least 8, found 4",
        ),
        (
            Capabilities { workgroup_memory: 512, ..most },
            "this device's bytes of workgroup memory: expected at least 1664, found 512",
        ),
        (
            Capabilities { workgroup_invocations: 32, ..most },
            "this device's invocations per workgroup: expected at least 64, found 32",
        ),
        (
            Capabilities { binding_size: 256, ..most },
            "this device's bytes of one storage binding: expected at least 1200, found 256",
        ),
        (
            Capabilities { workgroups_per_axis: 1, ..most },
            "this device's workgroups along one axis of a dispatch: expected at least 3, found 1",
        ),
    ] {
        let operator = gpu().masked(&capabilities).attention_operator(&PLAIN).unwrap();
        let error = operator.plan(&good);
        assert!(error.as_ref().is_err_and(|error| !error.is_invalid()), "{capabilities:?}");
        assert_eq!(text(error), expected);
    }
}

#[test]
fn one_shots_refuse_slices_of_the_wrong_length() {
    let plain = shape(1, 2, 3, 5, 8);
    let all = AttentionShape {
        mask: Some(BroadcastLayout::Sizes([1, 1, 3, 5])),
        bias: Some(BroadcastLayout::Sizes([1, 2, 1, 5])),
        alibi: Some(AlibiLayout::PerHead),
        ..plain.clone()
    };
    let case = Case::new(all, PLAIN, 1);
    let good = case.inputs();
    let bare = Case::new(plain, PLAIN, 1);
    let refused = |case: &Case, inputs: &Inputs<'_>, expected: &str| {
        let found = gpu().attention_blocking(&case.shape, &case.options, inputs);
        assert_eq!(text(found), expected);
    };
    for (inputs, expected) in [
        (Inputs { query: &good.query[1..], ..good }, "query: expected 48 elements, found 47"),
        (Inputs { key: &[], ..good }, "key: expected 80 elements, found 0"),
        (Inputs { value: &[0.0; 81], ..good }, "value: expected 80 elements, found 81"),
        (Inputs { mask: Some(&[true; 14]), ..good }, "mask: expected 15 elements, found 14"),
        (Inputs { bias: Some(&[0.0; 9]), ..good }, "bias: expected 10 elements, found 9"),
        (
            Inputs { alibi_slopes: Some(&[0.0]), ..good },
            "alibi_slopes: expected 2 elements, found 1",
        ),
        (Inputs { mask: None, ..good }, "mask: expected a slice, as the shape has one, found none"),
        (Inputs { bias: None, ..good }, "bias: expected a slice, as the shape has one, found none"),
    ] {
        refused(&case, &inputs, expected);
        case.check();
    }
    refused(
        &bare,
        &Inputs { mask: good.mask, ..bare.inputs() },
        "mask: expected none, as the shape has none, found 15 elements",
    );
    let strided = Layout::Strided(Strides { offset: 2, batch: 0, head: 40, row: 8 });
    let strided = Case { shape: AttentionShape { key: strided, ..bare.shape.clone() }, ..bare };
    refused(&strided, &strided.inputs(), "key: expected at least 82 elements, found 80");
}

/// The last tokens of a cache, counted from its first key, would not see their past.
#[test]
fn options_that_count_from_the_first_key_are_refused_for_the_shapes_of_caches() {
    let cache = gpu().kv_cache(&cache_shape([2, 2, 8, 8]), None).unwrap();
    let mut paged = gpu().paged_kv_cache(&pool([2, 16, 4, 8]), None).unwrap();
    let sequence = paged.add();
    let mut encoder = app(gpu()).encoder();
    let batch = paged.batch(&mut encoder, &[sequence]).unwrap();
    let alibi = |shape| AttentionShape { alibi: Some(AlibiLayout::PerHead), ..shape };
    let shapes = [cache.shape(2, 1), cache.step_shape(2, 1), batch.shape(2, 1)];
    let causal = AttentionOptions { causal: true, ..PLAIN };
    let counting = [
        causal,
        AttentionOptions { window_left: Some(3), ..PLAIN },
        AttentionOptions { window_right: Some(3), ..PLAIN },
    ];
    let plan = |shape: &AttentionShape, options: &AttentionOptions| {
        gpu().attention_operator(options).unwrap().plan(shape)
    };
    let says = "align: expected Align::BottomRight, as the queries are the last tokens of a cache, found Align::TopLeft";
    for shape in shapes {
        for options in counting {
            assert_eq!(text(plan(&shape, &options)), says);
            for align in [Align::BottomRight, Align::Offset(0)] {
                assert!(plan(&shape, &AttentionOptions { align, ..options }).is_ok());
            }
        }
        assert!(plan(&shape, &PLAIN).is_ok());
        assert_eq!(text(plan(&alibi(shape), &PLAIN)), says);
    }
    assert!(plan(&shape(1, 2, 1, 5, 8), &causal).is_ok());
}
