// The sum of what each of a workgroup's threads brings.

const THREADS = 128u;

var<workgroup> partial: array<f32, THREADS>;

fn total(thread: u32, value: f32) -> f32 {
    partial[thread] = value;
    for (var half = THREADS / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if thread < half {
            partial[thread] += partial[thread + half];
        }
    }
    workgroupBarrier();
    let sum = partial[0];
    // Before the next call writes there.
    workgroupBarrier();
    return sum;
}
