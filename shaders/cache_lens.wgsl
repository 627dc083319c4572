// Sets the number of tokens that some sequences of a cache hold, or advances it for all.
// Mirrored by `CacheLensParams` in src/cache/step.rs.

const THREADS = 64u;

struct Params {
    // The sequences that change.
    first: u32,
    count: u32,
    // The new length is the old one times `kept`, 0 or 1, plus `added`, at most `capacity`.
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
