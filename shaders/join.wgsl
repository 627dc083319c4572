// Copies a small tensor into a buffer behind others: kernels have one binding for all of them.

const THREADS = 64u;

struct Params {
    // First elements in x and in out.
    first: u32,
    first_out: u32,
    count: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<u32>;
@group(0) @binding(4) var<storage, read_write> out: array<u32>;

@compute @workgroup_size(THREADS)
fn join(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let at = (workgroup.y * workgroups.x + workgroup.x) * THREADS + lane;
    if at < params.count {
        out[params.first_out + at] = x[params.first + at];
    }
}
