// x = x * the share of a normal distribution below x, in place; one workgroup a row.

@group(0) @binding(0) var<storage, read_write> x: array<f32>;

@compute @workgroup_size(128)
fn gelu(
    @builtin(workgroup_id) row: vec3<u32>,
    @builtin(num_workgroups) rows: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let width = arrayLength(&x) / rows.x;
    for (var at = thread; at < width; at += 128u) {
        let value = x[row.x * width + at];
        x[row.x * width + at] = 0.5 * value * (1.0 + erf(value * 0.70710678));
    }
}

// Within 1.5e-7: Abramowitz and Stegun 1964, 7.1.26.
fn erf(x: f32) -> f32 {
    let t = 1.0 / (1.0 + 0.3275911 * abs(x));
    let sum = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t;
    return sign(x) * (1.0 - sum * exp(-x * x));
}
