//! Linear layers agree with their definition, whatever the sizes, layouts, element types and limits.

use crate::case::check_tensor;
use crate::common::data::numbers;
use crate::device::{gpu, portable};
use half::{bf16, f16};
use wgpu_attention::check::Bounds;
use wgpu_attention::layers::{LinearInputs, LinearShape};
use wgpu_attention::{Capabilities, Element, Gpu, Layout, Strides, cpu};

fn check<T: Element>(gpu: &Gpu, shape: &LinearShape, bounds: &Bounds) {
    let shape = &LinearShape { element: T::TYPE, ..shape.clone() };
    let s = shape;
    let reach = |layout, width: usize| match layout {
        Layout::Strided(Strides { offset, batch, row, .. }) => {
            offset + s.batch.saturating_sub(1) * batch + s.len.saturating_sub(1) * row + width
        }
        _ => s.batch * s.len * width,
    };
    let round = |numbers: Vec<f32>| -> Vec<T> {
        numbers.into_iter().map(|x| T::from_f64(x.into())).collect()
    };
    let x = round(numbers(1, reach(s.x, s.in_features)));
    let weight = round(numbers(2, s.weight + s.out_features * s.in_features));
    let bias = s.bias.map(|start| round(numbers(3, start + s.out_features)));
    let inputs = LinearInputs { x: &x, weight: &weight, bias: bias.as_deref() };
    let expected = cpu::linear(shape, &inputs).unwrap_or_else(|error| panic!("{s:?}: {error}"));
    let found =
        gpu.linear_blocking(shape, &inputs).unwrap_or_else(|error| panic!("{s:?}: {error}"));
    let found: Vec<f32> = found.into_iter().map(T::to_f32).collect();
    check_tensor(&format!("{s:?}"), &found, &expected, bounds);
}

/// Around the edges of tiles and of what is staged at once.
#[test]
fn any_number_of_rows_and_features_will_do() {
    for rows in [0, 1, 3, 16, 17, 63, 64, 65, 130] {
        for (features, width) in [(1, 1), (4, 4), (15, 63), (16, 64), (17, 65), (36, 8), (0, 5)] {
            for bias in [None, Some(0)] {
                let shape = LinearShape { bias, ..LinearShape::new(rows, features, width) };
                check::<f32>(gpu(), &shape, &Bounds::F32);
                check::<f32>(portable(), &shape, &Bounds::F32);
            }
        }
    }
}

#[test]
#[ignore = "planted faults: tests of the tests"]
fn faults_of_the_tiles_of_gpus_are_found() {
    let shape = LinearShape { bias: Some(0), ..LinearShape::new(70, 36, 70) };
    check::<f32>(portable(), &shape, &Bounds::F32);
    for (find, replacement) in [
        ("place.key * KEYS_EACH", "place.key"),
        ("min(first_row + staged_row(lane, t), params.rows - 1u)", "first_row"),
        ("feature < params.in_features; feature", "feature + CHUNK < params.in_features; feature"),
        ("[row % KEYS_EACH][row / KEYS_EACH]", "[row / KEY_LANES][row % KEY_LANES]"),
        ("sums + added", "sums"),
    ] {
        let broken = portable().broken(find, replacement);
        let check = || check::<f32>(&broken, &shape, &Bounds::F32);
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(check)).unwrap_err();
        let message = found.downcast::<String>().unwrap();
        assert!(message.contains("relative error"), "{find}: {message}");
    }
}

/// `[len, batch, features]` in, `[batch, len + 1, features]` out, from the second of three matrices in one.
#[test]
fn strides_and_offsets_reach_into_larger_tensors() {
    for width in [6, 8] {
        let shape = LinearShape {
            batch: 3,
            x: Layout::Strided(Strides { offset: 4, batch: 12, row: 36, ..Strides::default() }),
            out: Layout::Strided(Strides { batch: 10 * width, row: width, ..Strides::default() }),
            weight: 12 * width,
            bias: Some(width),
            ..LinearShape::new(9, 12, width)
        };
        check::<f32>(gpu(), &shape, &Bounds::F32);
        check::<f32>(portable(), &shape, &Bounds::F32);
        check::<f16>(gpu(), &shape, &Bounds::F16);
    }
}

#[test]
fn sixteen_bit_elements_are_summed_in_f32() {
    for (features, width) in [(64, 64), (33, 7)] {
        let shape = LinearShape { bias: Some(0), ..LinearShape::new(20, features, width) };
        for gpu in [gpu(), portable()] {
            check::<f16>(gpu, &shape, &Bounds::F16);
            check::<bf16>(gpu, &shape, &Bounds::BF16);
        }
    }
}

/// Rows and columns are cut until bindings and grids are small enough.
#[test]
fn what_is_too_large_for_a_device_is_cut() {
    let small =
        Capabilities { binding_size: 16 << 10, workgroups_per_axis: 3, ..Capabilities::PORTABLE };
    let small = gpu().masked(&small);
    let shape = LinearShape { batch: 2, bias: Some(0), ..LinearShape::new(300, 20, 260) };
    let plan = small.linear_operator().plan(&shape).unwrap();
    assert!(plan.dispatches().len() > 8, "{plan:?}");
    check::<f32>(&small, &shape, &Bounds::F32);
    check::<f16>(&small, &LinearShape { out_features: 261, ..shape }, &Bounds::F16);
    let refused = small.linear_operator().plan(&LinearShape::new(1, 5000, 1)).unwrap_err();
    assert!(refused.to_string().contains("bytes of one storage binding"), "{refused}");
}

#[test]
fn slices_and_sizes_that_do_not_fit_are_refused() {
    let shape = LinearShape { bias: Some(0), ..LinearShape::new(2, 3, 4) };
    let (x, weight, bias) = ([0.0; 6], [0.0; 12], [0.0; 4]);
    let good = LinearInputs { x: &x[..], weight: &weight[..], bias: Some(&bias[..]) };
    for (inputs, says) in [
        (LinearInputs { x: &x[1..], ..good }, "x: expected 6 elements, found 5"),
        (LinearInputs { weight: &weight[1..], ..good }, "weight: expected 12 elements, found 11"),
        (
            LinearInputs { bias: None, ..good },
            "bias: expected a slice, as the shape has one, found none",
        ),
        (LinearInputs { bias: Some(&x), ..good }, "bias: expected 4 elements, found 6"),
    ] {
        assert_eq!(gpu().linear_blocking(&shape, &inputs).unwrap_err().to_string(), says);
        assert_eq!(cpu::linear(&shape, &inputs).unwrap_err().to_string(), says);
    }
    let none = LinearShape { out_features: 0, ..shape };
    let refused = gpu().linear_blocking(&none, &good).unwrap_err().to_string();
    assert_eq!(refused, "out_features: expected at least 1, found 0");
}
