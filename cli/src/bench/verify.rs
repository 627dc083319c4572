//! Results against the reference, before anyone asks how fast they came.

use super::case::{Case, Extra};
use crate::noise::noise;
use wgpu_attention::check::{Bounds, compare};
use wgpu_attention::{
    Align, AttentionOptions, AttentionShape, BroadcastLayout, Element, ElementType, Error, Inputs,
    Outputs, cpu,
};

/// Why something has no times.
pub(super) type Fault = Box<dyn std::error::Error>;

/// The tensors of a case.
pub(super) struct Tensors<T> {
    pub(super) query: Vec<T>,
    pub(super) key: Vec<T>,
    pub(super) value: Vec<T>,
    pub(super) bias: Option<Vec<f32>>,
}

impl<T: Element> Tensors<T> {
    pub(super) fn new(case: &Case) -> Self {
        let [batch, num_heads, _, q_len, kv_len, head_dim] = case.sizes;
        let keys = case.kv_elements();
        let bias = (case.extra == Extra::Bias).then(|| repeated(4, q_len * kv_len));
        Self {
            query: repeated(1, batch * num_heads * q_len * head_dim),
            key: repeated(2, keys),
            value: repeated(3, keys),
            bias,
        }
    }
}

/// Noise of variance 1, that of scores too. It comes again after a prime number of elements, and so nowhere in
/// the same place of a row.
pub(super) fn repeated<T: Element>(seed: u64, count: usize) -> Vec<T> {
    let spread = 3_f64.sqrt();
    let noise = noise(seed, count.min(1_000_003)).into_iter();
    let block: Vec<T> = noise.map(|x| T::from_f64(f64::from(x) * spread)).collect();
    block.iter().copied().cycle().take(count).collect()
}

/// Rows of out that were compared with the reference, and how many there are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Checked {
    pub(super) rows: usize,
    pub(super) of: usize,
    /// Their largest error, relative to the largest expected element.
    pub(super) max_relative: f64,
}

/// Multiply-adds that the reference may take: a fraction of a second.
const WORK: usize = 1 << 28;
/// Rows that lie side by side in a sample, across the edge of a tile now and then.
const RUN: usize = 8;
const FEWEST_RUNS: usize = 6;

/// Consecutive queries of one head.
#[derive(Clone, Copy, Debug)]
struct Run {
    batch: usize,
    head: usize,
    first: usize,
    len: usize,
}

/// Compares what a kernel gave with the reference: all of it, or samples where that takes too long. Of what is not
/// compared every element must be finite and within the range of the values, of which it is a mean; a weight, of 0 to 1.
///
/// # Errors
/// What is wrong.
pub(super) fn verify<T: Element>(
    case: &Case,
    tensors: &Tensors<T>,
    found: &Outputs<T, f32>,
) -> Result<Checked, Fault> {
    let [batch, num_heads, num_kv_heads, q_len, kv_len, head_dim] = case.sizes;
    let largest = tensors.value.iter().fold(0.0, |largest: f32, x| largest.max(x.to_f32().abs()));
    bounded("out", &found.out, largest)?;
    let found_weights = found.weights.as_deref().unwrap_or_default();
    bounded("weights", found_weights, 1.0)?;
    let of = batch * num_heads * q_len;
    let runs = runs(case);
    let (mut expected, mut sampled): (Vec<f64>, Vec<f32>) = (Vec::new(), Vec::new());
    let (mut expected_weights, mut sampled_weights) = (Vec::new(), Vec::new());
    for run in &runs {
        let row = (run.batch * num_heads + run.head) * q_len + run.first;
        let rows = row * head_dim..(row + run.len) * head_dim;
        let weights = row * kv_len..(row + run.len) * kv_len;
        let kv_head = run.batch * num_kv_heads + run.head / (num_heads / num_kv_heads);
        let keys = kv_head * kv_len * head_dim..(kv_head + 1) * kv_len * head_dim;
        let biases = run.first * kv_len..(run.first + run.len) * kv_len;
        let inputs = Inputs {
            query: &tensors.query[rows.clone()],
            key: &tensors.key[keys.clone()],
            value: &tensors.value[keys],
            bias: tensors.bias.as_ref().map(|bias| &bias[biases]),
            ..Inputs::default()
        };
        let reference = reference(case, *run, &inputs)?;
        expected.extend(reference.out);
        sampled.extend(found.out[rows].iter().map(|x| x.to_f32()));
        if let Some(weights_of_run) = reference.weights {
            expected_weights.extend(weights_of_run);
            sampled_weights.extend_from_slice(found_weights.get(weights).unwrap_or_default());
        }
    }
    let rows = [runs.iter().map(|run| run.len).sum(), of];
    let out = Checked::new("out", &sampled, &expected, T::TYPE, rows)?;
    let weights = Checked::new("weights", &sampled_weights, &expected_weights, T::TYPE, rows)?;
    Ok(Checked { max_relative: out.max_relative.max(weights.max_relative), ..out })
}

/// Fails where an element is further from 0 than it may be, and a little more, for rounding.
fn bounded<T: Element>(name: &str, found: &[T], largest: f32) -> Result<(), Fault> {
    let inside = |x: &T| x.to_f32().abs() <= 1.01 * largest;
    match found.iter().position(|x| !inside(x)) {
        Some(at) => {
            let wrong = found[at].to_f32();
            Err(format!("{name}[{at}]: expected at most {largest}, found {wrong}").into())
        }
        None => Ok(()),
    }
}

impl Checked {
    /// Of so many rows of so many, if they are as expected.
    pub(super) fn new(
        name: &str,
        found: &[f32],
        expected: &[f64],
        element: ElementType,
        [rows, of]: [usize; 2],
    ) -> Result<Self, Fault> {
        let accuracy = compare(found, expected)?;
        if !accuracy.within(&Bounds::of(element)) {
            return Err(format!("{name}: {accuracy}, of {rows} rows of {of}").into());
        }
        Ok(Self { rows, of, max_relative: accuracy.max_relative })
    }
}

/// The reference's answer for some rows of one head.
fn reference<T: Element>(
    case: &Case,
    run: Run,
    inputs: &Inputs<'_, T>,
) -> Result<Outputs<f64>, Error> {
    let [.., q_len, kv_len, _] = case.sizes;
    let bias = BroadcastLayout::Sizes([1, 1, run.len, kv_len]);
    let shape = AttentionShape {
        batch: 1,
        num_heads: 1,
        num_kv_heads: 1,
        q_len: run.len,
        bias: inputs.bias.map(|_| bias),
        ..case.shape()
    };
    // As in the whole, the last query stands beside the last key.
    let offset = (kv_len + run.first) as i64 - q_len as i64;
    let options = AttentionOptions { align: Align::Offset(offset), ..case.options() };
    cpu::attention(&shape, &options, inputs)
}

/// All rows, or the first and the last ones and some in between.
fn runs(case: &Case) -> Vec<Run> {
    let [batch, num_heads, _, q_len, kv_len, head_dim] = case.sizes;
    let work_of_row = 2 * kv_len * head_dim;
    if batch * num_heads * q_len <= WORK / work_of_row {
        let heads = (0..batch).flat_map(|batch| (0..num_heads).map(move |head| (batch, head)));
        return heads.map(|(batch, head)| Run { batch, head, first: 0, len: q_len }).collect();
    }
    let len = RUN.min(q_len);
    let count = (WORK / (work_of_row * len)).max(FEWEST_RUNS);
    let last = Run { batch: batch - 1, head: num_heads - 1, first: q_len - len, len };
    let places = noise(5, 3 * count);
    let between = places.as_chunks().0.iter().map(|&[x, y, z]| Run {
        batch: pick(x, batch),
        head: pick(y, num_heads),
        first: pick(z, q_len - len + 1),
        len,
    });
    let ends = [Run { batch: 0, head: 0, first: 0, len }, last];
    ends.into_iter().chain(between).take(count).collect()
}

/// One of `count` places, by a number between -1 and 1.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place below count")]
fn pick(number: f32, count: usize) -> usize {
    let place = (f64::from(number) + 1.0) / 2.0 * count as f64;
    (place as usize).min(count - 1)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::{Run, Tensors, WORK, reference, runs, verify};
    use crate::bench::case::{Case, Extra};
    use half::bf16;
    use wgpu_attention::{Element, ElementType, Inputs, Outputs, cpu};

    fn case(sizes: [usize; 6], extra: Extra) -> Case {
        Case { sizes, element: ElementType::F32, causal: true, extra, kernel: None }
    }

    fn whole<T: Element>(case: &Case, tensors: &Tensors<T>) -> Outputs<T, f32> {
        let inputs = Inputs {
            query: &tensors.query,
            key: &tensors.key,
            value: &tensors.value,
            bias: tensors.bias.as_deref(),
            ..Inputs::default()
        };
        let Outputs { out, weights, .. } =
            cpu::attention(&case.shape(), &case.options(), &inputs).unwrap();
        let weights = weights.map(|weights| weights.into_iter().map(f32::from_f64).collect());
        Outputs { out: out.into_iter().map(T::from_f64).collect(), weights, ..Outputs::default() }
    }

    #[test]
    fn what_the_reference_gives_is_right_whatever_hides_keys() {
        for extra in [Extra::Nothing, Extra::Window(3), Extra::Bias, Extra::Weights] {
            for lens in [[5, 9], [9, 5], [1, 7]] {
                let case = case([2, 4, 2, lens[0], lens[1], 3], extra);
                let tensors = Tensors::<f32>::new(&case);
                let found = whole(&case, &tensors);
                let checked = verify(&case, &tensors, &found).unwrap();
                assert_eq!((checked.rows, checked.of), (8 * lens[0], 8 * lens[0]));
            }
        }
        let case = Case { element: ElementType::Bf16, ..case([1, 2, 1, 5, 5, 3], Extra::Nothing) };
        let tensors = Tensors::<bf16>::new(&case);
        verify(&case, &tensors, &whole(&case, &tensors)).unwrap();
    }

    #[test]
    fn a_sample_is_compared_with_its_own_rows() {
        let case = case([2, 4, 2, 9, 11, 3], Extra::Bias);
        let tensors = Tensors::<f32>::new(&case);
        let found = whole(&case, &tensors);
        let run = Run { batch: 1, head: 2, first: 4, len: 3 };
        let (head, rows) = (6 * 9 * 3, 4 * 3..7 * 3);
        let keys = 3 * 11 * 3..4 * 11 * 3;
        let inputs = Inputs {
            query: &tensors.query[head..][rows.clone()],
            key: &tensors.key[keys.clone()],
            value: &tensors.value[keys],
            bias: tensors.bias.as_ref().map(|bias| &bias[4 * 11..7 * 11]),
            ..Inputs::default()
        };
        let expected = reference(&case, run, &inputs).unwrap().out;
        let sampled = &found.out[head..][rows];
        assert!(sampled.iter().zip(&expected).all(|(f, e)| (f64::from(*f) - e).abs() < 1e-6));
    }

    #[test]
    fn one_wrong_element_is_found() {
        let case = case([1, 2, 1, 5, 5, 3], Extra::Weights);
        let tensors = Tensors::<f32>::new(&case);
        let right = whole(&case, &tensors);
        for (at, wrong) in [(0, 1.0), (29, right.out[29] + 1e-3), (7, f32::NAN), (8, 1e30)] {
            let mut found = right.clone();
            found.out[at] = wrong;
            assert!(verify(&case, &tensors, &found).is_err(), "{at} {wrong}");
        }
        for (at, wrong) in [(0, 0.5), (49, 1e-3), (7, f32::NAN), (8, 2.0)] {
            let mut found = right.clone();
            found.weights.as_mut().unwrap()[at] += wrong;
            assert!(verify(&case, &tensors, &found).is_err(), "{at} {wrong}");
        }
        let lost = Outputs { weights: None, ..right };
        assert!(verify(&case, &tensors, &lost).is_err());
    }

    #[test]
    fn a_sample_of_a_long_case_has_the_first_and_the_last_rows_and_costs_no_more_than_it_may() {
        for sizes in [
            [2, 16, 16, 16_384, 16_384, 64],
            [3, 8, 8, 4096, 4096, 128],
            [40, 32, 8, 1, 65_536, 128],
        ] {
            let [batch, heads, _, q_len, kv_len, head_dim] = sizes;
            let runs = runs(&case(sizes, Extra::Nothing));
            let ends = [runs[0], runs[1]];
            assert!(ends[0].batch == 0 && ends[0].head == 0 && ends[0].first == 0);
            assert!(ends[1].batch == batch - 1 && ends[1].head == heads - 1);
            assert_eq!(ends[1].first + ends[1].len, q_len);
            assert!(
                runs.iter().all(|run| run.batch < batch
                    && run.head < heads
                    && run.first + run.len <= q_len)
            );
            let rows: usize = runs.iter().map(|run| run.len).sum();
            assert!(
                rows < batch * heads * q_len && 2 * rows * kv_len * head_dim <= WORK,
                "{sizes:?}: {rows}"
            );
        }
    }
}
