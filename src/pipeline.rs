//! COMPILE: a pipeline per variant, under an error scope, once.

mod cache;

use crate::error::Error;
use crate::lost;
use crate::plan::{Access, Variant};
use crate::scope::{if_ready, lock, scoped};
use crate::shader;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};

/// The action that [`Error::Device`] names.
const COMPILING: &str = "compiling";

/// Binding of the table of sequences.
pub(crate) const TABLE: u32 = 11;

/// A compiled variant.
#[derive(Debug)]
pub(crate) struct Pipeline {
    pub(crate) layout: wgpu::BindGroupLayout,
    pub(crate) compute: wgpu::ComputePipeline,
}

/// A change to every shader's text: how a test breaks a kernel on purpose.
#[derive(Clone)]
pub(crate) struct Edit(pub(crate) Arc<dyn Fn(String) -> String + Send + Sync>);

impl fmt::Debug for Edit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Edit")
    }
}

/// The pipelines of one device; they depend on its capabilities only through their variants.
#[derive(Debug)]
pub(crate) struct Pipelines {
    device: wgpu::Device,
    /// A change to the texts, and the pipelines of those that it leaves as they are.
    edited: Option<(Edit, Arc<Pipelines>)>,
    /// The driver's own, where it has one.
    cache: Option<wgpu::PipelineCache>,
    places: Mutex<HashMap<Variant, Place>>,
}

/// Where a pipeline is, or is being compiled: locked meanwhile, so that other threads that need it
/// wait.
type Place = Arc<Mutex<Option<Arc<Pipeline>>>>;

impl Pipelines {
    pub(crate) fn new(device: &wgpu::Device) -> Self {
        Self::with(device, None, cache::create(device, None))
    }

    fn with(
        device: &wgpu::Device,
        edited: Option<(Edit, Arc<Self>)>,
        cache: Option<wgpu::PipelineCache>,
    ) -> Self {
        Self { device: device.clone(), edited, cache, places: Mutex::default() }
    }

    /// The same with every text changed, once more if it has been already. A text that stays as it
    /// is keeps its pipeline.
    pub(crate) fn edited(self: &Arc<Self>, edit: Edit) -> Arc<Self> {
        let edited = match self.edited.clone() {
            Some((before, plain)) => {
                (Edit(Arc::new(move |text| (before.0)((edit.0)(text)))), plain)
            }
            None => (edit, self.clone()),
        };
        Arc::new(Self::with(&self.device, Some(edited), self.cache.clone()))
    }

    /// All that has been compiled so far, if this device can tell.
    pub(crate) fn cache_data(&self) -> Option<Vec<u8>> {
        let data = self.cache.as_ref()?.get_data()?;
        Some(cache::seal(&self.device.adapter_info(), &data))
    }

    /// The same texts, of which none is compiled yet, starting from what was compiled before.
    pub(crate) fn started_from(&self, sealed: &[u8]) -> Result<Arc<Self>, Error> {
        if self.cache.is_none() {
            let [expected, found] =
                ["Vulkan, and Features::PIPELINE_CACHE", "none"].map(str::to_owned);
            return Err(Error::Unsupported { what: "pipeline cache", expected, found });
        }
        let Some(data) = cache::unseal(&self.device.adapter_info(), sealed) else {
            let expected = "what pipeline_cache_data gave on this adapter and driver";
            return Err(Error::invalid("data", expected, format!("{} other bytes", sealed.len())));
        };
        let cache = cache::create(&self.device, Some(data));
        let edited = match &self.edited {
            Some((edit, plain)) => Some((edit.clone(), plain.started_from(sealed)?)),
            None => None,
        };
        Ok(Arc::new(Self::with(&self.device, edited, cache)))
    }

    pub(crate) fn are_edited(&self) -> bool {
        self.edited.is_some()
    }

    /// The pipelines of `variants`, compiled now where they are new. Where errors arrive later
    /// (browsers) only [`Pipelines::prepare`] reports them.
    pub(crate) fn get<'a>(
        &self,
        variants: impl Iterator<Item = &'a Variant> + Clone,
    ) -> Result<Vec<Arc<Pipeline>>, Error> {
        self.compile_in_parallel(variants.clone());
        variants.map(|variant| self.get_one(variant)).collect()
    }

    fn get_one(&self, variant: &Variant) -> Result<Arc<Pipeline>, Error> {
        let place = self.place(variant);
        let mut held = lock(&place);
        if let Some(pipeline) = &*held {
            return Ok(pipeline.clone());
        }
        let (pipeline, error) = scoped(&self.device, || self.compile(variant));
        self.refuse(variant, if_ready(error).flatten())?;
        Ok(held.insert(Arc::new(pipeline)).clone())
    }

    /// Compiles what is new among `variants`, and waits for the compilers' errors.
    pub(crate) async fn prepare(&self, variants: &[Variant]) -> Result<(), Error> {
        self.compile_in_parallel(variants.iter());
        for variant in variants.iter().filter(|variant| self.is_new(variant)) {
            let (pipeline, error) = scoped(&self.device, || self.compile(variant));
            self.refuse(variant, error.await)?;
            lock(&self.place(variant)).get_or_insert_with(|| Arc::new(pipeline));
        }
        lost::check(&self.device, COMPILING)
    }

    /// Compiles the new ones among `variants`, if there are several. A variant that does not
    /// compile is left out: the caller that asks for it gets the error.
    #[cfg(not(target_arch = "wasm32"))]
    fn compile_in_parallel<'a>(&self, variants: impl Iterator<Item = &'a Variant>) {
        use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
        use std::thread;

        let mut new: Vec<&Variant> = Vec::new();
        for variant in variants.filter(|variant| self.is_new(variant)) {
            if !new.contains(&variant) {
                new.push(variant);
            }
        }
        // OpenGL has one context, and wgpu panics where a thread waits too long for it.
        if new.len() < 2 || self.device.adapter_info().backend == wgpu::Backend::Gl {
            return;
        }
        let next = AtomicUsize::new(0);
        let compile = || {
            while let Some(variant) = new.get(next.fetch_add(1, Relaxed)) {
                // wgpu keeps error scopes by thread: this one's do not mix with another's.
                let _: Result<_, _> = self.get_one(variant);
            }
        };
        let threads = thread::available_parallelism().map_or(1, usize::from).min(new.len());
        thread::scope(|scope| {
            for _ in 1..threads {
                // If there are no more threads to be had, those there are do the work.
                let _: Result<_, _> = thread::Builder::new().spawn_scoped(scope, compile);
            }
            compile();
        });
    }

    /// A browser compiles in processes of its own.
    #[cfg(target_arch = "wasm32")]
    fn compile_in_parallel<'a>(&self, _variants: impl Iterator<Item = &'a Variant>) {}

    /// How many pipelines there are.
    pub(crate) fn len(&self) -> usize {
        let places: Vec<Place> = lock(&self.places).values().cloned().collect();
        places.iter().filter(|place| lock(place).is_some()).count()
    }

    fn place(&self, variant: &Variant) -> Place {
        let mut places = lock(&self.places);
        if let Some(place) = places.get(variant) {
            return place.clone();
        }
        let place = match &self.edited {
            Some((_, plain)) if self.text(variant) == shader::assemble(variant) => {
                plain.place(variant)
            }
            _ => Place::default(),
        };
        places.insert(variant.clone(), place.clone());
        place
    }

    fn text(&self, variant: &Variant) -> String {
        let text = shader::assemble(variant);
        match &self.edited {
            Some((edit, _)) => (edit.0)(text),
            None => text,
        }
    }

    fn is_new(&self, variant: &Variant) -> bool {
        lock(&self.place(variant)).is_none()
    }

    /// Returns a compiler's message as an error, or that the device is lost: then nothing is
    /// compiled, and no compiler says so.
    fn refuse(&self, variant: &Variant, error: Option<String>) -> Result<(), Error> {
        lost::check(&self.device, COMPILING)?;
        match error {
            None => Ok(()),
            Some(message) => Err(Error::Shader { pipeline: variant.to_string(), message }),
        }
    }

    fn compile(&self, variant: &Variant) -> Pipeline {
        let device = &self.device;
        let name = variant.to_string();
        let descriptor = wgpu::ShaderModuleDescriptor {
            label: Some(&name),
            source: wgpu::ShaderSource::Wgsl(self.text(variant).into()),
        };
        let checks = wgpu::ShaderRuntimeChecks {
            force_loop_bounding: false,
            ..wgpu::ShaderRuntimeChecks::checked()
        };
        // SAFETY: without loop bounding every loop has to end by itself. All of ours count up to a
        // constant or to kv_len, which is below 2^31, in steps of at least one, or halve a range.
        // Bounds checks stay on.
        let module = unsafe { device.create_shader_module_trusted(descriptor, checks) };
        let layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: Some(&name),
            entries: &layout_entries(variant),
        });
        let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(&name),
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        });
        let compute = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(&name),
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some(variant.entry.name()),
            compilation_options: wgpu::PipelineCompilationOptions {
                // Every kernel writes its tile before it reads it.
                zero_initialize_workgroup_memory: false,
                ..Default::default()
            },
            cache: self.cache.as_ref(),
        });
        Pipeline { layout, compute }
    }
}

fn layout_entries(variant: &Variant) -> Vec<wgpu::BindGroupLayoutEntry> {
    let layout_entry = |binding, ty, has_dynamic_offset| wgpu::BindGroupLayoutEntry {
        binding,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset, min_binding_size: None },
        count: None,
    };
    let storage = shader::bindings(variant.entry).map(|binding| {
        let read_only = binding.access == Access::Read;
        layout_entry(binding.number, wgpu::BufferBindingType::Storage { read_only }, false)
    });
    let uniform = |binding| layout_entry(binding, wgpu::BufferBindingType::Uniform, true);
    let table = variant.is_ragged().then(|| uniform(TABLE));
    std::iter::once(uniform(0)).chain(storage).chain(table).collect()
}
