// out = layer_norm(x + y) * weight + bias, one workgroup a row.

const EPSILON = 1e-12;

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> y: array<f32>;
@group(0) @binding(2) var<storage, read> weight: array<f32>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(THREADS)
fn add_norm(@builtin(workgroup_id) row: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let width = arrayLength(&weight);
    let start = row.x * width;
    var sum = 0.0;
    for (var at = thread; at < width; at += THREADS) {
        sum += x[start + at] + y[start + at];
    }
    let mean = total(thread, sum) / f32(width);
    var squares = 0.0;
    for (var at = thread; at < width; at += THREADS) {
        let difference = x[start + at] + y[start + at] - mean;
        squares += difference * difference;
    }
    let deviation = sqrt(total(thread, squares) / f32(width) + EPSILON);
    for (var at = thread; at < width; at += THREADS) {
        let normal = (x[start + at] + y[start + at] - mean) / deviation;
        out[start + at] = normal * weight[at] + bias[at];
    }
}
