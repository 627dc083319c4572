//! A call of attention under the clock.

use super::case::Case;
use super::device::Device;
use super::trial::{Effort, Measured, Trial, Tuned};
use super::verify::{Fault, Tensors, verify};
use std::time::Duration;
use wgpu_attention::wgpu::CommandEncoder;
use wgpu_attention::{AttentionBuffers, Element, Error, ForwardTile, Kernel, Outputs, Tiles};

/// What a case reads beyond any cache: each step of a decoder finds other layers' keys and values there.
const BEYOND_CACHES: usize = 256 << 20;

pub(super) fn time<T: Element>(
    device: &Device<'_>,
    case: &Case,
    effort: Effort,
) -> Result<Measured, Fault> {
    let operator = device.gpu.operator(&case.options())?;
    let mut plan = operator.plan_kernel(&case.shape(), case.kernel)?;
    let tensors = Tensors::<T>::new(case);
    let upload = |label, elements: &[T]| device.upload(label, bytemuck::cast_slice(elements));
    let query = upload("query", &tensors.query)?;
    // A software adapter shares its caches with everything else, and its peers are timed as they are.
    let copies = match case.is_decode() && !device.gpu.capabilities().is_software() {
        true => BEYOND_CACHES.div_ceil(2 * size_of_val(&tensors.key[..])).min(64),
        false => 1,
    };
    let pairs = (0..copies)
        .map(|_| Ok([upload("key", &tensors.key)?, upload("value", &tensors.value)?]))
        .collect::<Result<Vec<_>, Error>>()?;
    let bias = tensors.bias.as_ref().map(|bias| device.upload("bias", bytemuck::cast_slice(bias)));
    let bias = bias.transpose()?;
    let out_size = size_of_val(&tensors.query[..]);
    let out = device.unwritten("out", out_size)?;
    let weights = case.weights().map(|count| device.unwritten("weights", 4 * count)).transpose()?;
    let buffers = |turn: usize| {
        let [key, value] = &pairs[turn % copies];
        AttentionBuffers {
            bias: bias.as_ref(),
            weights: weights.as_ref(),
            ..AttentionBuffers::new(&query, key, value, &out)
        }
    };
    let mut tuned = None;
    if effort.tunes && matches!(plan.kernel, Kernel::Forward | Kernel::Decode) {
        let other = device.unwritten("out", out_size)?;
        let buffers = AttentionBuffers { out: &other, ..buffers(0) };
        let found = operator.tune_blocking(&case.shape(), &buffers)?;
        tuned = gain(&found, plan.tiles);
        plan = operator.plan_kernel(&case.shape(), case.kernel)?;
    }
    let trial = Trial {
        kernel: plan.kernel.name(),
        prepare: &|| operator.prepare_blocking(&plan),
        record: &mut |encoder: &mut CommandEncoder, turn| {
            operator.encode(encoder, &plan, &buffers(turn))
        },
        out: &out,
        verify: &|bytes| {
            let out: Vec<T> = bytemuck::pod_collect_to_vec(&bytes[..out_size]);
            let weights = weights.as_ref().map(|weights| device.download(weights)).transpose()?;
            let weights = weights.map(|bytes| bytemuck::pod_collect_to_vec(&bytes));
            verify(case, &tensors, &Outputs { out, weights, ..Outputs::default() })
        },
    };
    Ok(Measured { tuned, ..trial.run(device, effort.seconds)? })
}

/// What the fastest of the measured tiles is worth, those that were planned being among them.
fn gain(found: &[(ForwardTile, Duration)], planned: Tiles) -> Option<Tuned> {
    let (_, before) = found.iter().find(|(tile, _)| Some(*tile) == planned.forward_tile())?;
    let (tile, least) = found.first()?;
    Some(Tuned { tile: *tile, gain: before.as_secs_f64() / least.as_secs_f64() })
}
