//! WHERE: what a device can do as plain data, and a way to open one.

use crate::error::Error;

/// The features and limits of a device that a plan depends on; plain data, so that every choice can
/// be tested on any machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Capabilities {
    /// Bytes of workgroup memory; wgpu itself does not check it.
    pub workgroup_memory: u32,
    /// Invocations in a workgroup, in all and along x.
    pub workgroup_invocations: u32,
    /// Workgroups along one axis of a dispatch.
    pub workgroups_per_axis: u32,
    /// Bytes one storage binding may span.
    pub binding_size: u64,
    /// Bytes of one buffer.
    pub buffer_size: u64,
    /// Storage buffers bound in one stage.
    pub storage_buffers: u32,
    /// Bytes one uniform binding may span.
    pub uniform_binding_size: u32,
    /// Uniform buffers with dynamic offsets in one pipeline layout.
    pub dynamic_uniform_buffers: u32,
    /// Bindings of one group; their numbers are below it.
    pub bindings_per_group: u32,
    /// Alignment of a storage binding's offset, in bytes.
    pub storage_alignment: u32,
    /// Alignment of a dynamic uniform offset, in bytes.
    pub uniform_alignment: u32,
    /// 16-bit floats in shaders.
    pub shader_f16: bool,
    /// Subgroup operations.
    pub subgroups: bool,
    /// Cooperative matrices. A device does not say which it has, so only [`Gpu::open`](crate::Gpu::open) knows of
    /// them by itself; for a device of yours, ask its adapter with [`Matrices::of`].
    pub matrices: Option<Matrices>,
    /// Timestamp queries.
    pub timestamps: bool,
    /// Multiply-adds of one dispatch: no limit that a device reports, but a dispatch that takes seconds is
    /// stopped by an operating system's watchdog. 2^36 unless you choose, with
    /// [`Attention::with_capabilities`](crate::Attention::with_capabilities) or
    /// [`Gpu::masked`](crate::Gpu::masked).
    pub dispatch_work: u64,
    /// Processors of a CPU that plays the GPU: what does not fit its registers is still in its nearest cache. 0 of a
    /// GPU, which does not tell how many it has.
    pub processors: u32,
    /// Turns that the loops of one invocation take together, at most: Mesa's software driver before version 25 stops
    /// them at 65,535, without a word. `u32::MAX` elsewhere.
    pub loop_turns: u32,
}

/// Square matrices that a subgroup multiplies together, f16 in and f32 out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Matrices {
    /// Rows and columns of each, 8 or 16.
    pub size: u32,
    /// Invocations of a subgroup, at most.
    pub subgroup: u32,
}

impl Matrices {
    /// What a device has to be opened with to use them, together with
    /// [`ExperimentalFeatures::enabled`](wgpu::ExperimentalFeatures::enabled).
    pub const FEATURES: wgpu::Features = wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX
        .union(wgpu::Features::SUBGROUP)
        .union(wgpu::Features::SHADER_F16);

    /// The largest that an adapter has.
    #[must_use]
    pub fn of(adapter: &wgpu::Adapter) -> Option<Self> {
        use wgpu::CooperativeScalarType::{F16, F32};
        if !adapter.features().contains(Self::FEATURES) {
            return None;
        }
        let info = adapter.get_info();
        // wgpu gives Metal's limits there; of the GPUs that have matrices all subgroups are of 32.
        let is_metal = info.backend == wgpu::Backend::Metal;
        let subgroup = if is_metal { 32 } else { info.subgroup_max_size };
        let fits = |matrix: &wgpu::CooperativeMatrixProperties| {
            [8, 16].contains(&matrix.m_size)
                && [matrix.n_size, matrix.k_size] == [matrix.m_size; 2]
                && (matrix.ab_type, matrix.cr_type) == (F16, F32)
                && subgroup.is_power_of_two()
                && subgroup >= matrix.m_size
        };
        let found = adapter.cooperative_matrix_properties().into_iter().filter(fits);
        Some(Self { size: found.map(|matrix| matrix.m_size).max()?, subgroup })
    }
}

/// Bytes of the largest uniform block of any shader: the table of sequences.
pub(crate) const MOST_UNIFORM: u32 = 16 << 10;
/// The highest number of a binding in any shader.
pub(crate) const HIGHEST_BINDING: u32 = 13;

/// About a second of an integrated GPU.
const DISPATCH_WORK: u64 = 1 << 36;

impl Capabilities {
    /// Core WebGPU's defaults: what every conforming browser and adapter has.
    pub const PORTABLE: Self = Self {
        workgroup_memory: 16 << 10,
        workgroup_invocations: 256,
        workgroups_per_axis: 65_535,
        binding_size: 128 << 20,
        buffer_size: 256 << 20,
        storage_buffers: 8,
        uniform_binding_size: 64 << 10,
        dynamic_uniform_buffers: 8,
        bindings_per_group: 1000,
        storage_alignment: 256,
        uniform_alignment: 256,
        shader_f16: false,
        subgroups: false,
        matrices: None,
        timestamps: false,
        dispatch_work: DISPATCH_WORK,
        processors: 0,
        loop_turns: u32::MAX,
    };

    /// Reads features and limits, which do not tell of matrices.
    #[must_use]
    pub fn new(info: &wgpu::AdapterInfo, features: wgpu::Features, limits: &wgpu::Limits) -> Self {
        Self {
            workgroup_memory: limits.max_compute_workgroup_storage_size,
            workgroup_invocations: limits
                .max_compute_invocations_per_workgroup
                .min(limits.max_compute_workgroup_size_x),
            workgroups_per_axis: limits.max_compute_workgroups_per_dimension,
            binding_size: limits.max_storage_buffer_binding_size,
            buffer_size: limits.max_buffer_size,
            storage_buffers: limits.max_storage_buffers_per_shader_stage,
            uniform_binding_size: u32::try_from(limits.max_uniform_buffer_binding_size)
                .unwrap_or(u32::MAX),
            dynamic_uniform_buffers: limits.max_dynamic_uniform_buffers_per_pipeline_layout,
            bindings_per_group: limits.max_bindings_per_bind_group,
            storage_alignment: limits.min_storage_buffer_offset_alignment,
            uniform_alignment: limits.min_uniform_buffer_offset_alignment,
            shader_f16: features.contains(wgpu::Features::SHADER_F16),
            subgroups: features.contains(wgpu::Features::SUBGROUP),
            matrices: None,
            timestamps: features.contains(wgpu::Features::TIMESTAMP_QUERY),
            dispatch_work: DISPATCH_WORK,
            processors: if info.device_type == wgpu::DeviceType::Cpu { processors() } else { 0 },
            loop_turns: if stops_loops(info) { 65_535 } else { u32::MAX },
        }
    }

    /// What a device was opened with.
    #[must_use]
    pub fn of(device: &wgpu::Device) -> Self {
        Self::new(&device.adapter_info(), device.features(), &device.limits())
    }

    /// As much of it as `device` has.
    pub(crate) fn granted(&self, device: &wgpu::Device) -> Self {
        let matrices = self.matrices.filter(|_| device.features().contains(Matrices::FEATURES));
        self.masked(&Self { matrices, ..Self::of(device) })
    }

    /// Refuses a device on which no shader's bindings fit: only one that was opened with less than WebGPU's defaults.
    pub(crate) fn check_bindings(&self) -> Result<(), Error> {
        for (what, expected, found) in [
            ("storage buffers per shader stage", 8, self.storage_buffers),
            ("bytes of one uniform binding", MOST_UNIFORM, self.uniform_binding_size),
            ("dynamic uniform buffers per pipeline layout", 2, self.dynamic_uniform_buffers),
            ("bindings of a group", HIGHEST_BINDING + 1, self.bindings_per_group),
        ] {
            if found < expected {
                let (expected, found) = (format!("at least {expected}"), found.to_string());
                return Err(Error::Unsupported { what, expected, found });
            }
        }
        Ok(())
    }

    /// Whether a CPU plays the GPU.
    #[must_use]
    pub fn is_software(&self) -> bool {
        self.processors > 0
    }

    /// The lesser of both in every respect: how a lower tier is tested on a better adapter.
    #[must_use]
    pub fn masked(&self, other: &Self) -> Self {
        Self {
            workgroup_memory: self.workgroup_memory.min(other.workgroup_memory),
            workgroup_invocations: self.workgroup_invocations.min(other.workgroup_invocations),
            workgroups_per_axis: self.workgroups_per_axis.min(other.workgroups_per_axis),
            binding_size: self.binding_size.min(other.binding_size),
            buffer_size: self.buffer_size.min(other.buffer_size),
            storage_buffers: self.storage_buffers.min(other.storage_buffers),
            uniform_binding_size: self.uniform_binding_size.min(other.uniform_binding_size),
            dynamic_uniform_buffers: self
                .dynamic_uniform_buffers
                .min(other.dynamic_uniform_buffers),
            bindings_per_group: self.bindings_per_group.min(other.bindings_per_group),
            storage_alignment: self.storage_alignment.max(other.storage_alignment),
            uniform_alignment: self.uniform_alignment.max(other.uniform_alignment),
            shader_f16: self.shader_f16 && other.shader_f16,
            subgroups: self.subgroups && other.subgroups,
            matrices: self.matrices.filter(|_| self.matrices == other.matrices),
            timestamps: self.timestamps && other.timestamps,
            dispatch_work: self.dispatch_work.min(other.dispatch_work),
            processors: self.processors.min(other.processors),
            loop_turns: self.loop_turns.min(other.loop_turns),
        }
    }
}

/// Whether the driver is Mesa's llvmpipe from before version 25: 22.3 stops long loops, 25.0 does not.
fn stops_loops(info: &wgpu::AdapterInfo) -> bool {
    let version = info.driver_info.split_once("Mesa ").map_or("", |(_, rest)| rest);
    let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    info.device_type == wgpu::DeviceType::Cpu && major.is_some_and(|major| major < 25)
}

/// Of this machine.
fn processors() -> u32 {
    let count = std::thread::available_parallelism().map_or(1, usize::from);
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// Which adapter to open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuOptions {
    /// Backends to look at; `None` looks at Vulkan, Metal, DX12 and WebGPU, and at GL only if those
    /// have no adapter.
    pub backends: Option<wgpu::Backends>,
    /// Part of the adapter's name, in any case of letters.
    pub adapter: Option<String>,
    /// Whether a software adapter will do.
    pub software: bool,
}

impl Default for GpuOptions {
    /// Any backend, any name, software allowed.
    fn default() -> Self {
        Self { backends: None, adapter: None, software: true }
    }
}

/// One adapter of this machine.
#[derive(Clone, Debug)]
pub struct AdapterSummary {
    /// Name, backend, driver, kind.
    pub info: wgpu::AdapterInfo,
    /// What a device opened on it could do.
    pub capabilities: Capabilities,
}

/// The adapters that match `options` and can run compute shaders, best first: discrete, integrated,
/// virtual, unknown, software.
pub async fn adapters(options: &GpuOptions) -> Vec<AdapterSummary> {
    find(options).await.iter().map(summary).collect()
}

/// As [`adapters`], blocking.
#[must_use]
pub fn adapters_blocking(options: &GpuOptions) -> Vec<AdapterSummary> {
    pollster::block_on(adapters(options))
}

/// A device with all that its adapter can do.
pub(crate) struct Opened {
    pub(crate) device: wgpu::Device,
    pub(crate) queue: wgpu::Queue,
    pub(crate) capabilities: Capabilities,
}

/// The best adapter that matches.
pub(crate) async fn adapter(options: &GpuOptions) -> Result<wgpu::Adapter, Error> {
    match find(options).await.into_iter().next() {
        Some(adapter) => Ok(adapter),
        None => Err(Error::NoAdapter { wanted: wanted(options), found: others(options).await }),
    }
}

/// Opens an adapter with all its limits and the features kernels can use, and says what it can do.
pub(crate) async fn open(adapter: &wgpu::Adapter) -> Result<Opened, Error> {
    let useful = wgpu::Features::SHADER_F16
        | wgpu::Features::SUBGROUP
        | wgpu::Features::TIMESTAMP_QUERY
        | wgpu::Features::PIPELINE_CACHE;
    let descriptor = wgpu::DeviceDescriptor {
        label: Some("wgpu-attention"),
        required_features: adapter.features() & useful,
        required_limits: adapter.limits(),
        ..Default::default()
    };
    let known = summary(adapter).capabilities;
    if known.matrices.is_some() {
        let with_matrices = wgpu::DeviceDescriptor {
            required_features: descriptor.required_features | Matrices::FEATURES,
            // SAFETY: the feature may have bugs that are undefined behaviour. Only attention_forward_matrix.wgsl
            // uses it, within its own arrays of workgroup memory.
            experimental_features: unsafe { wgpu::ExperimentalFeatures::enabled() },
            ..descriptor.clone()
        };
        // A driver that promises matrices and refuses them is as good as one without.
        if let Ok((device, queue)) = adapter.request_device(&with_matrices).await {
            return Ok(Opened { capabilities: known.granted(&device), device, queue });
        }
    }
    match adapter.request_device(&descriptor).await {
        Ok((device, queue)) => Ok(Opened { capabilities: known.granted(&device), device, queue }),
        Err(error) => Err(Error::Device { action: "opening a device", message: error.to_string() }),
    }
}

async fn find(options: &GpuOptions) -> Vec<wgpu::Adapter> {
    match options.backends {
        Some(backends) => find_in(backends, options).await,
        None => {
            let found = find_in(wgpu::Backends::PRIMARY, options).await;
            if found.is_empty() { find_in(wgpu::Backends::GL, options).await } else { found }
        }
    }
}

async fn find_in(backends: wgpu::Backends, options: &GpuOptions) -> Vec<wgpu::Adapter> {
    let descriptor = wgpu::InstanceDescriptor {
        backends,
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    };
    let instance = wgpu::Instance::new(descriptor);
    let name = options.adapter.as_ref().map(|name| name.to_lowercase());
    let mut found = instance.enumerate_adapters(backends).await;
    found.retain(|adapter| {
        let info = adapter.get_info();
        let limits = summary(adapter).capabilities;
        (options.software || info.device_type != wgpu::DeviceType::Cpu)
            && name.as_ref().is_none_or(|name| info.name.to_lowercase().contains(name))
            && limits.storage_buffers >= Capabilities::PORTABLE.storage_buffers
            && limits.workgroups_per_axis > 0
    });
    found.sort_by_key(|adapter| rank(adapter.get_info().device_type));
    found
}

fn rank(device_type: wgpu::DeviceType) -> u8 {
    match device_type {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::VirtualGpu => 2,
        wgpu::DeviceType::Other => 3,
        wgpu::DeviceType::Cpu => 4,
    }
}

fn summary(adapter: &wgpu::Adapter) -> AdapterSummary {
    let info = adapter.get_info();
    let capabilities = Capabilities {
        matrices: Matrices::of(adapter),
        ..Capabilities::new(&info, adapter.features(), &adapter.limits())
    };
    AdapterSummary { info, capabilities }
}

fn wanted(options: &GpuOptions) -> String {
    let kind = if options.software { "an adapter" } else { "a hardware adapter" };
    let name = options.adapter.as_ref().map(|name| format!(" named like \"{name}\""));
    let backends = options.backends.map(|backends| format!(" on {backends:?}"));
    format!("{kind}{}{}", name.unwrap_or_default(), backends.unwrap_or_default())
}

/// What there is if one asks for nothing in particular, for the error message.
async fn others(options: &GpuOptions) -> String {
    if *options == GpuOptions::default() {
        return "none".to_owned();
    }
    let names: Vec<String> =
        find(&GpuOptions::default()).await.iter().map(|adapter| adapter.get_info().name).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
