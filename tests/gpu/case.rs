//! One call with all its tensors, run on the GPU and compared with the f64 reference.

use crate::common::data::{Tensors, attend, numbers};
use crate::device::{gpu, portable};
use std::fmt;
use wgpu_attention::check::{Bounds, compare};
use wgpu_attention::cpu::stages::{ScoreStage, scores, softmax, weighted_sum};
use wgpu_attention::internal::Tensor;
use wgpu_attention::{
    AttentionOptions, AttentionShape, BroadcastLayout, Gpu, Inputs, Kernel, Layout, Outputs,
    Problem,
};

/// A call and its inputs, all from one seed unless a test changes them.
#[derive(Clone)]
pub(crate) struct Case {
    pub(crate) shape: AttentionShape,
    pub(crate) options: AttentionOptions,
    pub(crate) seed: u64,
    pub(crate) tensors: Tensors,
    pub(crate) mask: Option<Vec<bool>>,
    pub(crate) bias: Option<Vec<f32>>,
    pub(crate) slopes: Option<Vec<f32>>,
    pub(crate) segments: Option<Vec<u32>>,
    pub(crate) lens: Option<Vec<u32>>,
    pub(crate) pages: Option<Vec<u32>>,
    pub(crate) sinks: Option<Vec<f32>>,
}

/// What a failure says of a call: all but its numbers, which come from the seed.
impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {}, {:?}, {:?}", self.seed, self.shape, self.options)
    }
}

/// Options without any.
pub(crate) const PLAIN: AttentionOptions = AttentionOptions {
    scale: None,
    softcap: None,
    causal: false,
    window_left: None,
    window_keeps: 0,
    window_right: None,
    align: wgpu_attention::Align::TopLeft,
};

/// A shape whose sizes need no names: `batch x num_heads x len x head_dim`, with lse.
pub(crate) fn shape(
    batch: usize,
    num_heads: usize,
    q_len: usize,
    kv_len: usize,
    head_dim: usize,
) -> AttentionShape {
    AttentionShape {
        kv_len,
        lse: Some(Layout::Bhsd),
        ..AttentionShape::new(batch, num_heads, q_len, head_dim)
    }
}

/// A mask or bias that is not broadcast.
pub(crate) fn full(shape: &AttentionShape) -> BroadcastLayout {
    BroadcastLayout::Sizes([shape.batch, shape.num_heads, shape.q_len, shape.kv_len])
}

impl Case {
    pub(crate) fn new(shape: AttentionShape, options: AttentionOptions, seed: u64) -> Self {
        let problem = Problem::new(&shape, &options)
            .unwrap_or_else(|error| panic!("{shape:?}, {options:?}: {error}"));
        let mut tensors = Tensors::random(&shape, seed);
        // Scores of some size, so that the weights differ.
        tensors.query.iter_mut().for_each(|x| *x *= 4.0);
        let other = |n: u64, view: Option<wgpu_attention::internal::View>| {
            view.map(|view| numbers(seed.wrapping_add(n << 32), view.extent as usize))
        };
        let mask =
            other(1, problem.view(Tensor::Mask)).map(|xs| xs.iter().map(|&x| x < 0.4).collect());
        let bias = other(2, problem.view(Tensor::Bias));
        let slopes = other(3, problem.view(Tensor::AlibiSlopes))
            .map(|xs| xs.iter().map(|x| x * 0.2).collect());
        let given = |tensor| {
            let len = problem.small.len(tensor);
            problem.view(tensor).map(|view| wgpu_attention::internal::View { extent: len, ..view })
        };
        // Three documents, in runs of a few.
        let segments = other(4, given(Tensor::Segments)).map(|xs| {
            xs.chunks(5).flat_map(|run| run.iter().map(|_| run[0].to_bits() % 3)).collect()
        });
        let lens = other(5, problem.view(Tensor::Lens))
            .map(|xs| xs.iter().map(|x| x.to_bits() % (problem.kv_len + 1)).collect());
        // Backwards, from the last page on.
        let pages = problem.pages.zip(problem.view(Tensor::Pages)).map(|(pages, table)| {
            (0..table.extent).map(|at| (pages.count - 1).saturating_sub(at)).collect()
        });
        let sinks =
            other(6, problem.view(Tensor::Sinks)).map(|xs| xs.iter().map(|x| x * 3.0).collect());
        Self { shape, options, seed, tensors, mask, bias, slopes, segments, lens, pages, sinks }
    }

    pub(crate) fn inputs(&self) -> Inputs<'_> {
        Inputs {
            mask: self.mask.as_deref(),
            bias: self.bias.as_deref(),
            alibi_slopes: self.slopes.as_deref(),
            segments: self.segments.as_deref(),
            lens: self.lens.as_deref(),
            pages: self.pages.as_deref(),
            sinks: self.sinks.as_deref(),
            ..self.tensors.inputs()
        }
    }

    pub(crate) fn expected(&self) -> Outputs<f64> {
        attend(&self.shape, &self.options, &self.inputs())
    }

    pub(crate) fn problem(&self) -> Problem {
        Problem::new(&self.shape, &self.options).unwrap_or_else(|error| panic!("{self}: {error}"))
    }

    pub(crate) fn run(&self, gpu: &Gpu, kernel: Option<Kernel>) -> Outputs {
        pollster::block_on(gpu.attention_with(&self.shape, &self.options, &self.inputs(), kernel))
            .unwrap_or_else(|error| panic!("{self}: {error}"))
    }

    /// The kernels that have to run it; none is the plan's choice.
    fn kernels(&self) -> Vec<Option<Kernel>> {
        let AttentionShape { head_dim, value_dim, .. } = self.shape;
        let problem = self.problem();
        let is_wide = head_dim.max(value_dim) > 128;
        let kernels = if problem.stores_scores() {
            vec![Kernel::ThreeStage]
        } else if problem.stores_weights() && is_wide {
            return vec![None, Some(Kernel::ThreeStage)];
        } else if problem.stores_weights() {
            vec![Kernel::Forward, Kernel::Tiled, Kernel::Decode, Kernel::ThreeStage]
        } else if is_wide {
            vec![Kernel::ForwardWide, Kernel::Tiled, Kernel::Decode, Kernel::ThreeStage]
        } else {
            Kernel::PORTABLE.to_vec()
        };
        let has_pages = self.shape.pages.is_some();
        let reads = |kernel: &Kernel| !has_pages || *kernel != Kernel::ThreeStage;
        kernels.into_iter().filter(reads).map(Some).collect()
    }

    /// Compares the plan's choice with the reference, here and on the portable tier. Every kernel is tried by
    /// tests/gpu/kernels.rs: each costs a test the compilation of its own pipelines.
    pub(crate) fn check(&self) {
        self.verdict().unwrap_or_else(|message| panic!("{message}"));
    }

    /// As [`Case::check`], returning the failure.
    pub(crate) fn verdict(&self) -> Result<(), String> {
        let expected = self.expected();
        [("this adapter", gpu()), ("portable tier", portable())].into_iter().try_for_each(
            |(name, gpu)| self.differs(name, &self.run(gpu, None), &expected, &Bounds::F32),
        )
    }

    /// Compares every kernel with the reference, and the choice of the portable tier.
    pub(crate) fn check_every_kernel(&self) {
        self.check_on(gpu());
        let found = self.run(portable(), None);
        self.compare("portable tier", &found, &self.expected(), &Bounds::F32);
    }

    /// Compares every kernel of one device with the reference.
    pub(crate) fn check_on(&self, gpu: &Gpu) {
        self.verdict_of(gpu).unwrap_or_else(|message| panic!("{message}"));
    }

    /// As [`Case::check_on`], returning the failure.
    pub(crate) fn verdict_of(&self, gpu: &Gpu) -> Result<(), String> {
        let expected = self.expected();
        // Tiled is for GPUs, none of which has less than 16 KiB of workgroup memory.
        let is_gpu = gpu.capabilities().workgroup_memory >= 16 << 10;
        let kernels = self.kernels().into_iter();
        kernels.filter(|kernel| is_gpu || *kernel != Some(Kernel::Tiled)).try_for_each(|kernel| {
            let found = self.run(gpu, kernel);
            self.differs(name(kernel), &found, &expected, &Bounds::F32)
        })
    }

    /// Compares with the reference within twice the error of a plain f32 computation: for inputs on
    /// which f32 itself is inaccurate.
    pub(crate) fn check_as_naive(&self) {
        let expected = self.expected();
        let naive = naive(self);
        let accuracy =
            compare(&naive, &expected.out).unwrap_or_else(|error| panic!("{self}: {error}"));
        // A plain run that happens to be exact asks too much.
        let twice = |error: f64| (2.0 * error).max(1e-6);
        let bounds = Bounds {
            max_relative: twice(accuracy.max_relative),
            frobenius: twice(accuracy.frobenius),
        };
        for kernel in self.kernels() {
            let found = self.run(gpu(), kernel);
            check_tensor(
                &format!("{} out, {self}", name(kernel)),
                &found.out,
                &expected.out,
                &bounds,
            );
        }
    }

    /// Fails unless all outputs are as expected.
    pub(crate) fn compare(
        &self,
        name: &str,
        found: &Outputs,
        expected: &Outputs<f64>,
        bounds: &Bounds,
    ) {
        let verdict = self.differs(name, found, expected, bounds);
        verdict.unwrap_or_else(|message| panic!("{message}"));
    }

    pub(crate) fn differs(
        &self,
        name: &str,
        found: &Outputs,
        expected: &Outputs<f64>,
        bounds: &Bounds,
    ) -> Result<(), String> {
        for (tensor, found, expected) in pairs(found, expected) {
            let what = format!("{name}: {tensor}, {self}");
            match (found, expected) {
                (Some(found), Some(expected)) => tensor_differs(&what, found, expected, bounds)?,
                (None, None) => {}
                _ => return Err(format!("{what}: found {found:?}, expected {expected:?}")),
            }
        }
        Ok(())
    }
}

fn name(kernel: Option<Kernel>) -> &'static str {
    kernel.map_or("the plan's kernel", Kernel::name)
}

type Pair<'a> = (&'static str, Option<&'a [f32]>, Option<&'a [f64]>);

fn pairs<'a>(found: &'a Outputs, expected: &'a Outputs<f64>) -> [Pair<'a>; 6] {
    [
        ("out", Some(&found.out), Some(&expected.out)),
        ("lse", found.lse.as_deref(), expected.lse.as_deref()),
        ("weights", found.weights.as_deref(), expected.weights.as_deref()),
        ("raw_scores", found.raw_scores.as_deref(), expected.raw_scores.as_deref()),
        ("capped_scores", found.capped_scores.as_deref(), expected.capped_scores.as_deref()),
        ("masked_scores", found.masked_scores.as_deref(), expected.masked_scores.as_deref()),
    ]
}

/// Fails unless `found` is within `bounds` of `expected`.
pub(crate) fn check_tensor(what: &str, found: &[f32], expected: &[f64], bounds: &Bounds) {
    let verdict = tensor_differs(what, found, expected, bounds);
    verdict.unwrap_or_else(|message| panic!("{message}"));
}

fn tensor_differs(
    what: &str,
    found: &[f32],
    expected: &[f64],
    bounds: &Bounds,
) -> Result<(), String> {
    let accuracy = compare(found, expected).map_err(|error| format!("{what}: {error}"))?;
    let finite = expected.iter().filter(|x| x.is_finite()).count();
    if accuracy.compared != finite {
        return Err(format!("{what}: {} of {finite} were compared", accuracy.compared));
    }
    if !accuracy.within(bounds) {
        return Err(format!("{what}: {accuracy}; {bounds:?}"));
    }
    Ok(())
}

/// The textbook in f32.
fn naive(case: &Case) -> Vec<f32> {
    let problem = case.problem();
    let steps = || {
        let scores = scores(&problem, &case.inputs(), ScoreStage::Masked)?;
        weighted_sum(
            &problem,
            &softmax(&problem, &scores, &case.inputs())?.weights,
            &case.tensors.value,
        )
    };
    steps().unwrap_or_else(|error| panic!("{case}: {error}"))
}
