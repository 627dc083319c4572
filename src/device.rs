//! WHERE: what a device can do as plain data, and a way to open one.

use crate::error::Error;

/// Lists the fields of [`Capabilities`] once: of each its type, the value that every device has,
/// how a device is asked for it (of its adapter's info, features and limits, here named), and which
/// of two values is the lesser.
macro_rules! capabilities {
    (|$info:ident, $features:ident, $limits:ident| $(
        $(#[$doc:meta])*
        $field:ident: $type:ty = { $portable:expr, $ask:expr, $lesser:expr }
    )*) => {
        /// The features and limits of a device that a plan depends on; plain data, so that every
        /// choice can be tested on any machine.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub struct Capabilities {
            $($(#[$doc])* pub $field: $type,)*
        }

        impl Capabilities {
            /// Core WebGPU's defaults: what every conforming browser and adapter has.
            pub const PORTABLE: Self = Self { $($field: $portable,)* };

            /// Reads features and limits, which do not tell of matrices.
            #[must_use]
            pub fn new(
                $info: &wgpu::AdapterInfo,
                $features: wgpu::Features,
                $limits: &wgpu::Limits,
            ) -> Self {
                Self { $($field: $ask,)* }
            }

            /// The lesser of both in every respect: how a lower tier is tested on a better adapter.
            #[must_use]
            pub fn masked(&self, other: &Self) -> Self {
                Self { $($field: $lesser(self.$field, other.$field),)* }
            }
        }
    };
}

capabilities! { |info, features, limits|
    /// Bytes of workgroup memory; wgpu itself does not check it.
    workgroup_memory: u32 = { 16 << 10, limits.max_compute_workgroup_storage_size, u32::min }
    /// Invocations in a workgroup, in all and along x.
    workgroup_invocations: u32 = {
        256,
        limits.max_compute_invocations_per_workgroup.min(limits.max_compute_workgroup_size_x),
        u32::min
    }
    /// Workgroups along one axis of a dispatch.
    workgroups_per_axis: u32 = {
        65_535, limits.max_compute_workgroups_per_dimension, u32::min
    }
    /// Bytes one storage binding may span.
    binding_size: u64 = { 128 << 20, limits.max_storage_buffer_binding_size, u64::min }
    /// Bytes of one buffer.
    buffer_size: u64 = { 256 << 20, limits.max_buffer_size, u64::min }
    /// Storage buffers bound in one stage.
    storage_buffers: u32 = { 8, limits.max_storage_buffers_per_shader_stage, u32::min }
    /// Bytes one uniform binding may span.
    uniform_binding_size: u32 = {
        64 << 10,
        u32::try_from(limits.max_uniform_buffer_binding_size).unwrap_or(u32::MAX),
        u32::min
    }
    /// Uniform buffers with dynamic offsets in one pipeline layout.
    dynamic_uniform_buffers: u32 = {
        8, limits.max_dynamic_uniform_buffers_per_pipeline_layout, u32::min
    }
    /// Bindings of one group; their numbers are below it.
    bindings_per_group: u32 = { 1000, limits.max_bindings_per_bind_group, u32::min }
    /// Alignment of a storage binding's offset, in bytes.
    storage_alignment: u32 = { 256, limits.min_storage_buffer_offset_alignment, u32::max }
    /// Alignment of a dynamic uniform offset, in bytes.
    uniform_alignment: u32 = { 256, limits.min_uniform_buffer_offset_alignment, u32::max }
    /// 16-bit floats in shaders.
    shader_f16: bool = { false, features.contains(wgpu::Features::SHADER_F16), bool::min }
    /// Invocations of a subgroup, at least; 0 without subgroup operations, and in a browser, whose
    /// WGSL enables them by a line that naga refuses.
    subgroup: u32 = { 0, subgroup_of(info, features), u32::min }
    /// Cooperative matrices. A device does not say which it has, so only
    /// [`Gpu::open`](crate::Gpu::open) knows of them by itself; for a device of yours, ask its
    /// adapter with [`Matrices::of`].
    matrices: Option<Matrices> = { None, None, if_same }
    /// Timestamp queries.
    timestamps: bool = { false, features.contains(wgpu::Features::TIMESTAMP_QUERY), bool::min }
    /// Multiply-adds of one dispatch: no limit that a device reports, but a dispatch that takes
    /// seconds is stopped by an operating system's watchdog. 2^36 unless you choose, with
    /// [`Attention::with_capabilities`](crate::Attention::with_capabilities) or
    /// [`Gpu::masked`](crate::Gpu::masked).
    dispatch_work: u64 = { DISPATCH_WORK, DISPATCH_WORK, u64::min }
    /// Processors of a software adapter: workgroups are chosen so that each of them has work. 0 of
    /// a GPU, which does not tell how many it has.
    processors: u32 = { 0, processors_of(info), u32::min }
    /// Turns that the loops of one invocation take together, at most: Mesa's software driver before
    /// version 25 stops them at 65,535, without a word. `u32::MAX` elsewhere.
    loop_turns: u32 = { u32::MAX, if stops_loops(info) { 65_535 } else { u32::MAX }, u32::min }
}

/// The matrices that both have, if they are the same.
fn if_same(one: Option<Matrices>, other: Option<Matrices>) -> Option<Matrices> {
    one.filter(|_| one == other)
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
    /// The features to open a device with, together with
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
    /// The capabilities that a device was opened with.
    #[must_use]
    pub fn of(device: &wgpu::Device) -> Self {
        Self::new(&device.adapter_info(), device.features(), &device.limits())
    }

    /// The part of them that `device` has.
    pub(crate) fn granted(&self, device: &wgpu::Device) -> Self {
        let matrices = self.matrices.filter(|_| device.features().contains(Matrices::FEATURES));
        self.masked(&Self { matrices, ..Self::of(device) })
    }

    /// Refuses a device on which no shader's bindings fit: only one that was opened with less than
    /// WebGPU's defaults.
    pub(crate) fn check_bindings(&self) -> Result<(), Error> {
        check_limits([
            ("storage buffers per shader stage", 8, self.storage_buffers),
            ("bytes of one uniform binding", MOST_UNIFORM, self.uniform_binding_size),
            ("dynamic uniform buffers per pipeline layout", 2, self.dynamic_uniform_buffers),
            ("bindings of a group", HIGHEST_BINDING + 1, self.bindings_per_group),
        ])
    }

    /// Whether it is a software adapter, which runs shaders on the CPU.
    #[must_use]
    pub fn is_software(&self) -> bool {
        self.processors > 0
    }
}

/// Refuses the first need, as (name, needed, limit), that exceeds its limit.
pub(crate) fn check_limits<const N: usize>(
    needs: [(&'static str, u32, u32); N],
) -> Result<(), Error> {
    match needs.into_iter().find(|&(_, expected, found)| expected > found) {
        Some((what, expected, found)) => Err(Error::unsupported(what, expected, found)),
        None => Ok(()),
    }
}

/// Whether the driver is Mesa's llvmpipe from before version 25: 22.3 stops long loops, 25.0 does
/// not.
fn stops_loops(info: &wgpu::AdapterInfo) -> bool {
    let version = info.driver_info.split_once("Mesa ").map_or("", |(_, rest)| rest);
    let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    info.device_type == wgpu::DeviceType::Cpu && major.is_some_and(|major| major < 25)
}

fn subgroup_of(info: &wgpu::AdapterInfo, features: wgpu::Features) -> u32 {
    let is_usable = features.contains(wgpu::Features::SUBGROUP) && !cfg!(target_arch = "wasm32");
    if is_usable { info.subgroup_min_size } else { 0 }
}

/// The number of processors of this machine, for a software adapter.
fn processors_of(info: &wgpu::AdapterInfo) -> u32 {
    if info.device_type != wgpu::DeviceType::Cpu {
        return 0;
    }
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
    /// The capabilities of a device opened on it.
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

/// The best adapter that matches.
pub(crate) async fn adapter(options: &GpuOptions) -> Result<wgpu::Adapter, Error> {
    match find(options).await.into_iter().next() {
        Some(adapter) => Ok(adapter),
        None => Err(Error::NoAdapter { wanted: wanted(options), found: others(options).await }),
    }
}

/// Opens an adapter with all its limits and the features kernels can use, and says what it can do.
pub(crate) async fn open(
    adapter: &wgpu::Adapter,
) -> Result<(wgpu::Device, wgpu::Queue, Capabilities), Error> {
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
    let mut opened = None;
    if known.matrices.is_some() {
        let with_matrices = wgpu::DeviceDescriptor {
            required_features: descriptor.required_features | Matrices::FEATURES,
            // SAFETY: the feature may have bugs that are undefined behaviour. Only
            // attention_forward_matrix.wgsl uses it, within its own arrays of workgroup memory.
            experimental_features: unsafe { wgpu::ExperimentalFeatures::enabled() },
            ..descriptor.clone()
        };
        // A driver that promises matrices and refuses them is as good as one without.
        opened = adapter.request_device(&with_matrices).await.ok();
    }
    let (device, queue) = match opened {
        Some(opened) => opened,
        None => adapter.request_device(&descriptor).await.map_err(|error| Error::Device {
            action: "opening a device",
            message: error.to_string(),
        })?,
    };
    let capabilities = known.granted(&device);
    Ok((device, queue, capabilities))
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
    found.sort_by_key(|adapter| {
        let device_type = adapter.get_info().device_type;
        BEST_FIRST.iter().position(|kind| *kind == device_type)
    });
    found
}

const BEST_FIRST: [wgpu::DeviceType; 5] = [
    wgpu::DeviceType::DiscreteGpu,
    wgpu::DeviceType::IntegratedGpu,
    wgpu::DeviceType::VirtualGpu,
    wgpu::DeviceType::Other,
    wgpu::DeviceType::Cpu,
];

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

/// The names of all adapters, for the error message.
async fn others(options: &GpuOptions) -> String {
    let all = GpuOptions::default();
    let found = if *options == all { Vec::new() } else { find(&all).await };
    let names: Vec<String> = found.iter().map(|adapter| adapter.get_info().name).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
