// How many tokens each sequence of a cache holds: set for some of them, or taken further for all.
// Mirrored by `CacheLensParams` in src/plan/cache.rs.

const THREADS = 64u;

struct Params {
    // Which sequences.
    first: u32,
    count: u32,
    // What is left of their lengths, 0 or 1 times; what is added; what none exceeds.
    kept: u32,
    added: u32,
    capacity: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(4) var<storage, read_write> lens: array<u32>;

@compute @workgroup_size(THREADS)
fn cache_lens(
    @builtin(global_invocation_id) invocation: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
) {
    let index = invocation.y * grid.x * THREADS + invocation.x;
    if index < params.count {
        let at = params.first + index;
        lens[at] = min(lens[at] * params.kept + params.added, params.capacity);
    }
}
