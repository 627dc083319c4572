// The mean of the weights over the heads. A workgroup owns one query.

const THREADS = 64u;

@group(0) @binding(4) var<storage, read_write> out: array<f32>;
@group(0) @binding(9) var<storage, read> weights: array<f32>;

// use params

@compute @workgroup_size(THREADS)
fn head_mean(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let start = params.scores.offset + workgroup.z * params.scores.batch + workgroup.x * params.scores.row;
    let out_start = params.out.offset + workgroup.z * params.out.batch + workgroup.x * params.out.row;
    for (var j = lane; j < params.kv_len; j += THREADS) {
        var sum = 0.0;
        for (var head = 0u; head < params.group; head++) {
            sum += weights[start + head * params.scores.head + j];
        }
        out[out_start + j] = sum / f32(params.group);
    }
}
