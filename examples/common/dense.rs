//! A linear layer with its parameters on the device.

use super::{Checkpoint, Result, input};
use wgpu_attention::layers::{Linear, LinearBuffers, LinearShape};
use wgpu_attention::{Gpu, Layout, wgpu};

pub(crate) struct Dense {
    linear: Linear,
    weight: wgpu::Buffer,
    bias: Option<wgpu::Buffer>,
    /// From `[0]` to `[1]` features.
    features: [usize; 2],
}

impl Dense {
    /// From `<name>.weight` `[features[1], features[0]]`, and `<name>.bias` if there is one.
    pub(crate) fn load(
        gpu: &Gpu,
        tensors: &Checkpoint<'_>,
        name: &str,
        features: [usize; 2],
    ) -> Result<Self> {
        let [from, to] = features;
        let weight = tensors.floats(&format!("{name}.weight"), &[to, from])?;
        let bias = format!("{name}.bias");
        let bias = tensors.has(&bias).then(|| tensors.floats(&bias, &[to])).transpose()?;
        Ok(Self {
            linear: gpu.linear_operator(),
            weight: input(gpu.device(), &weight),
            bias: bias.map(|bias| input(gpu.device(), &bias)),
            features,
        })
    }

    /// Records `count` rows of x, which lie as `layout` says, into those of out.
    pub(crate) fn encode(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        count: usize,
        layout: Layout,
        [x, out]: [&wgpu::Buffer; 2],
    ) -> Result<()> {
        let [from, to] = self.features;
        let bias = self.bias.as_ref();
        let shape = LinearShape::new(count, from, to);
        let shape = LinearShape { x: layout, bias: bias.map(|_| 0), ..shape };
        let plan = self.linear.plan(&shape)?;
        let buffers = LinearBuffers {
            x: x.into(),
            weight: (&self.weight).into(),
            bias: bias.map(Into::into),
            out: out.into(),
        };
        Ok(self.linear.encode(encoder, &plan, &buffers)?)
    }
}
