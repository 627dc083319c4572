//! Seeded tensors.

use wgpu_attention::{AttentionOptions, AttentionShape, Inputs, Outputs, Problem, cpu};

/// `count` numbers in -1..1, the same for the same seed (SplitMix64).
pub(crate) fn numbers(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed;
    std::iter::repeat_with(|| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1_u32 << 23) as f32 - 1.0
    })
    .take(count)
    .collect()
}

/// Query, key and value of one call.
#[derive(Clone)]
pub(crate) struct Tensors {
    pub(crate) query: Vec<f32>,
    pub(crate) key: Vec<f32>,
    pub(crate) value: Vec<f32>,
}

impl Tensors {
    pub(crate) fn random(shape: &AttentionShape, seed: u64) -> Self {
        let problem = Problem::new(shape, &AttentionOptions::default()).unwrap();
        let tensor = |n, extent| numbers(seed.wrapping_mul(3).wrapping_add(n), extent as usize);
        Self {
            query: tensor(0, problem.query().extent),
            key: tensor(1, problem.key().extent),
            value: tensor(2, problem.value().extent),
        }
    }

    pub(crate) fn inputs(&self) -> Inputs<'_> {
        Inputs { query: &self.query, key: &self.key, value: &self.value, ..Inputs::default() }
    }
}

/// The reference's answer to a call that is right.
pub(crate) fn attend(
    shape: &AttentionShape,
    options: &AttentionOptions,
    inputs: &Inputs<'_>,
) -> Outputs<f64> {
    cpu::attention(shape, options, inputs).unwrap()
}
