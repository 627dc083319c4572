//! ONE-SHOT: from slices to vectors.

mod additive;
mod encodings;
mod layers;
mod masks;
mod merge;
mod pipeline_cache;

use crate::buffer::{download, output, pack_bits, read, upload};
use crate::cache::{CacheRotary, KvCache, KvCacheShape, PagedCacheShape, PagedKvCache};
use crate::context::{Context, Footprint};
use crate::device::{self, Capabilities, GpuOptions};
use crate::error::Error;
use crate::lost;
use crate::ops::{Attention, AttentionBuffers};
use crate::pipeline::{Edit, Pipelines};
use crate::plan::{Kernel, Tensor};
use crate::problem::{AttentionOptions, AttentionShape, Element, Inputs, Outputs, Problem, View};
use std::sync::Arc;

/// A device and queue, with the pipelines compiled for them so far.
#[derive(Clone, Debug)]
pub struct Gpu {
    context: Arc<Context>,
    /// What the device was opened on, unless it is the caller's own.
    adapter: Option<wgpu::Adapter>,
}

impl Gpu {
    /// Opens the best adapter that matches.
    ///
    /// # Errors
    /// [`Error::NoAdapter`] if none matches, [`Error::Device`] if it does not open.
    pub async fn open(options: &GpuOptions) -> Result<Self, Error> {
        let adapter = device::adapter(options).await?;
        let opened = device::open(&adapter).await?;
        let context = Context::new(&opened.device, &opened.queue, opened.capabilities);
        Ok(Self { context: Arc::new(context), adapter: Some(adapter) })
    }

    /// As [`Gpu::open`], blocking.
    ///
    /// # Errors
    /// As [`Gpu::open`].
    pub fn open_blocking(options: &GpuOptions) -> Result<Self, Error> {
        pollster::block_on(Self::open(options))
    }

    /// Uses a device of yours. Operators and caches made by one `Gpu`, or by its clones, share pipelines, tuning and
    /// workspace: make one `Gpu` for your device and all operators from it.
    ///
    /// ```no_run
    /// # use wgpu_attention::{Attention, AttentionOptions, Error, Gpu, KvCache, KvCacheShape, wgpu};
    /// # fn make(device: &wgpu::Device, queue: &wgpu::Queue) -> Result<(Attention, KvCache), Error> {
    /// let gpu = Gpu::from_device(device, queue);
    /// let attention = gpu.operator(&AttentionOptions::default())?;
    /// let cache = gpu.kv_cache(&KvCacheShape::new(1, 8, 4096, 64), None)?;
    /// # Ok((attention, cache))
    /// # }
    /// ```
    #[must_use]
    pub fn from_device(device: &wgpu::Device, queue: &wgpu::Queue) -> Self {
        Self::with_capabilities(device, queue, Capabilities::of(device))
    }

    /// As [`Gpu::from_device`], on no more than `capabilities` of the device: how a device of yours is used with its
    /// [`Matrices`](crate::Matrices).
    #[must_use]
    pub fn with_capabilities(
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        capabilities: Capabilities,
    ) -> Self {
        let capabilities = capabilities.granted(device);
        Self { context: Arc::new(Context::new(device, queue, capabilities)), adapter: None }
    }

    /// The same device and pipelines, used as if it could do no more than `capabilities`.
    #[must_use]
    pub fn masked(&self, capabilities: &Capabilities) -> Self {
        let capabilities = self.context.capabilities.masked(capabilities);
        self.remade(capabilities, self.context.pipelines.clone())
    }

    /// The same device with every shader's text changed: how a test breaks a kernel on purpose.
    #[doc(hidden)]
    #[must_use]
    pub fn broken(&self, find: &str, replacement: &str) -> Self {
        let (find, replacement) = (find.to_owned(), replacement.to_owned());
        let edit = Edit(Arc::new(move |text: String| text.replace(&find, &replacement)));
        self.remade(self.context.capabilities, Arc::new(self.context.pipelines.edited(edit)))
    }

    /// The same device, used as if it could do as much as `capabilities` say, every shader's text changed by `rewrite`: how a
    /// test emulates what no adapter at hand has.
    #[doc(hidden)]
    #[must_use]
    pub fn emulating(&self, capabilities: Capabilities, rewrite: fn(String) -> String) -> Self {
        let edit = Edit(Arc::new(rewrite));
        self.remade(capabilities, Arc::new(self.context.pipelines.edited(edit)))
    }

    fn remade(&self, capabilities: Capabilities, pipelines: Arc<Pipelines>) -> Self {
        let Context { device, queue, .. } = &*self.context;
        let context = Context::with_pipelines(device, queue, capabilities, pipelines);
        Self { context: Arc::new(context), adapter: self.adapter.clone() }
    }

    /// Another device on the same adapter, used in the same way as far as it can; none where the adapter is not known or
    /// opens no other, or texts were changed.
    pub(crate) fn sibling(&self) -> Option<Self> {
        let adapter = self.adapter.as_ref().filter(|_| !self.context.pipelines.are_edited())?;
        let opened = pollster::block_on(device::open(adapter)).ok()?;
        let capabilities = self.context.capabilities.masked(&opened.capabilities);
        let context = Context::new(&opened.device, &opened.queue, capabilities);
        Some(Self { context: Arc::new(context), adapter: Some(adapter.clone()) })
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> &wgpu::Device {
        &self.context.device
    }

    /// Whether the device is lost: nothing works on it any more, and a new one has to be opened. It is asked by a buffer of
    /// some bytes; a browser tells nobody but the device's lost callback, which this library leaves to you.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        lost::is_lost(self.device())
    }

    /// The queue.
    #[must_use]
    pub fn queue(&self) -> &wgpu::Queue {
        &self.context.queue
    }

    /// What the device can do.
    #[must_use]
    pub fn capabilities(&self) -> &Capabilities {
        &self.context.capabilities
    }

    /// Name, backend and driver of the adapter.
    #[must_use]
    pub fn adapter_info(&self) -> wgpu::AdapterInfo {
        self.context.device.adapter_info()
    }

    /// What has been made so far for this `Gpu` and all that was made from it.
    #[must_use]
    pub fn footprint(&self) -> Footprint {
        self.context.footprint()
    }

    /// Gives back the workspace, which grows to what the largest call so far needed, of all operators and caches made from this
    /// `Gpu`. A call that is bound already, or that the GPU is still busy with, keeps its own until it is dropped and done.
    pub fn release_workspace(&self) {
        self.context.release_workspace();
    }

    /// An operator on this device that shares its pipelines.
    ///
    /// # Errors
    /// As [`Attention::new`].
    pub fn operator(&self, options: &AttentionOptions) -> Result<Attention, Error> {
        Attention::from_context(self.context.clone(), options)
    }

    /// An empty cache of keys and values on this device that shares its pipelines.
    ///
    /// # Errors
    /// As [`KvCache::new`].
    pub fn kv_cache(
        &self,
        shape: &KvCacheShape,
        rotary: Option<CacheRotary<'_>>,
    ) -> Result<KvCache, Error> {
        KvCache::from_context(self.context.clone(), shape, rotary)
    }

    /// A cache of keys and values in pages on this device that shares its pipelines.
    ///
    /// # Errors
    /// As [`PagedKvCache::new`].
    pub fn paged_kv_cache(
        &self,
        shape: &PagedCacheShape,
        rotary: Option<CacheRotary<'_>>,
    ) -> Result<PagedKvCache, Error> {
        PagedKvCache::from_context(self.context.clone(), shape, rotary)
    }

    /// Attention from slices: uploads, runs, reads back.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a call that makes no sense; the other kinds for what the device refuses.
    pub async fn attention<T: Element>(
        &self,
        shape: &AttentionShape,
        options: &AttentionOptions,
        inputs: &Inputs<'_, T>,
    ) -> Result<Outputs<T, f32>, Error> {
        self.attention_with(shape, options, inputs, None).await
    }

    /// As [`Gpu::attention`], blocking.
    ///
    /// # Errors
    /// As [`Gpu::attention`].
    pub fn attention_blocking<T: Element>(
        &self,
        shape: &AttentionShape,
        options: &AttentionOptions,
        inputs: &Inputs<'_, T>,
    ) -> Result<Outputs<T, f32>, Error> {
        pollster::block_on(self.attention(shape, options, inputs))
    }

    /// As [`Gpu::attention`]; `kernel` insists on one.
    ///
    /// # Errors
    /// As [`Gpu::attention`], and [`Error::Invalid`] if `kernel` cannot give what the shape asks for.
    pub async fn attention_with<T: Element>(
        &self,
        shape: &AttentionShape,
        options: &AttentionOptions,
        inputs: &Inputs<'_, T>,
        kernel: Option<Kernel>,
    ) -> Result<Outputs<T, f32>, Error> {
        let operator = self.operator(options)?;
        let plan = operator.plan_kernel(shape, kernel)?;
        inputs.validate(&plan.problem)?;
        operator.prepare(&plan).await?;

        let device = self.device();
        let floats = |label, slice: &[f32]| upload(device, label, bytemuck::cast_slice(slice));
        let query = upload(device, "query", bytemuck::cast_slice(inputs.query))?;
        let key = upload(device, "key", bytemuck::cast_slice(inputs.key))?;
        let value = upload(device, "value", bytemuck::cast_slice(inputs.value))?;
        let bits = inputs.mask.map(pack_bits);
        let mask =
            bits.map(|bits| upload(device, "mask", bytemuck::cast_slice(&bits))).transpose()?;
        let bias = inputs.bias.map(|bias| floats("bias", bias)).transpose()?;
        let slopes =
            inputs.alibi_slopes.map(|slopes| floats("alibi_slopes", slopes)).transpose()?;
        let segments =
            inputs.segments.map(|ids| upload(device, "segments", bytemuck::cast_slice(ids)));
        let segments = segments.transpose()?;
        let lens = inputs.lens.map(|lens| upload(device, "lens", bytemuck::cast_slice(lens)));
        let lens = lens.transpose()?;
        let pages = inputs.pages.map(|table| upload(device, "pages", bytemuck::cast_slice(table)));
        let pages = pages.transpose()?;
        let sinks = inputs.sinks.map(|sinks| floats("sinks", sinks)).transpose()?;
        let produced = Produced::allocate(device, &plan.problem)?;

        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let buffers = AttentionBuffers {
            mask: mask.as_ref(),
            bias: bias.as_ref(),
            alibi_slopes: slopes.as_ref(),
            segments: segments.as_ref(),
            lens: lens.as_ref(),
            pages: pages.as_ref(),
            sinks: sinks.as_ref(),
            ..produced.buffers(&query, &key, &value)
        };
        operator.encode(&mut encoder, &plan, &buffers)?;
        produced.download(device, self.queue(), encoder).await
    }
}

/// The buffers that a call writes: out, and the others in the order of [`Outputs`], each with its length
/// in elements.
struct Produced {
    out: (wgpu::Buffer, usize),
    others: [Option<(wgpu::Buffer, usize)>; 5],
}

impl Produced {
    fn allocate(device: &wgpu::Device, p: &Problem) -> Result<Self, Error> {
        let allocate = |label, tensor: Tensor, view: View| {
            let buffer = output(device, label, tensor.bytes(p.element, view.extent))?;
            Ok::<_, Error>((buffer, view.extent as usize))
        };
        let optional = |label, tensor, view: Option<View>| {
            view.map(|view| allocate(label, tensor, view)).transpose()
        };
        Ok(Self {
            out: allocate("out", Tensor::Out, p.out)?,
            others: [
                optional("lse", Tensor::Lse, p.lse)?,
                optional("weights", Tensor::Weights, p.weights)?,
                optional("raw_scores", Tensor::RawScores, p.raw_scores)?,
                optional("capped_scores", Tensor::CappedScores, p.capped_scores)?,
                optional("masked_scores", Tensor::MaskedScores, p.masked_scores)?,
            ],
        })
    }

    fn buffers<'a>(
        &'a self,
        query: &'a wgpu::Buffer,
        key: &'a wgpu::Buffer,
        value: &'a wgpu::Buffer,
    ) -> AttentionBuffers<'a> {
        let [lse, weights, raw_scores, capped_scores, masked_scores] =
            self.others.each_ref().map(|held| held.as_ref().map(|(buffer, _)| buffer));
        AttentionBuffers {
            lse,
            weights,
            raw_scores,
            capped_scores,
            masked_scores,
            ..AttentionBuffers::new(query, key, value, &self.out.0)
        }
    }

    async fn download<T: Element>(
        &self,
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        encoder: wgpu::CommandEncoder,
    ) -> Result<Outputs<T, f32>, Error> {
        let others = self.others.iter().flatten().map(|(buffer, _)| buffer);
        let all: Vec<_> = std::iter::once(&self.out.0).chain(others).collect();
        let mut mapped = download(device, queue, encoder, &all).await?.into_iter();
        let out = mapped.next().map(|copy| read(&copy, self.out.1)).transpose()?;
        let mut next = |at: usize| {
            let Some((_, len)) = &self.others[at] else { return Ok(None) };
            mapped.next().map(|copy| read(&copy, *len)).transpose()
        };
        Ok(Outputs {
            out: out.unwrap_or_default(),
            lse: next(0)?,
            weights: next(1)?,
            raw_scores: next(2)?,
            capped_scores: next(3)?,
            masked_scores: next(4)?,
        })
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::Gpu;
    use crate::device::{Capabilities, GpuOptions};

    /// As if the first device had been granted more.
    #[test]
    fn a_sibling_does_no_more_than_its_own_device_can() {
        let opened = Gpu::open_blocking(&GpuOptions::default()).unwrap();
        let more = Capabilities { buffer_size: u64::MAX, ..*opened.capabilities() };
        let gpu = opened.remade(more, opened.context.pipelines.clone());
        assert_eq!(gpu.sibling().unwrap().capabilities(), opened.capabilities());
    }
}
