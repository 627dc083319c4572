// From one buffer to another, 16 bytes at a time.

/// Vectors that an invocation copies; its neighbour's lie beside each.
const EACH = 4u;
const THREADS = 256u;

@group(0) @binding(0) var<storage, read> source: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read_write> copy_of_it: array<vec4<u32>>;

@compute @workgroup_size(THREADS)
fn copy(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let first = group.x * EACH * THREADS + thread;
    for (var each = 0u; each < EACH; each += 1u) {
        let at = first + each * THREADS;
        copy_of_it[at] = source[at];
    }
}
