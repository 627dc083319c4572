// x = x + change, then out = x / root mean square of x * weight, one workgroup a row.

const EPSILON = 1e-5;

@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@group(0) @binding(1) var<storage, read> change: array<f32>;
@group(0) @binding(2) var<storage, read> weight: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(THREADS)
fn add_norm(@builtin(workgroup_id) row: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let width = arrayLength(&weight);
    let start = row.x * width;
    var squares = 0.0;
    for (var at = thread; at < width; at += THREADS) {
        let sum = x[start + at] + change[start + at];
        x[start + at] = sum;
        squares += sum * sum;
    }
    let size = sqrt(total(thread, squares) / f32(width) + EPSILON);
    for (var at = thread; at < width; at += THREADS) {
        out[start + at] = x[start + at] / size * weight[at];
    }
}
