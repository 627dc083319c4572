// Reductions over the LANES invocations that share a row, in workgroup memory. Call in uniform
// control flow.
// needs LANES, THREADS

var<workgroup> shared_in_row: array<f32, THREADS>;

fn highest_of_row(own: f32, lane: u32) -> f32 {
    share_in_row(own, lane);
    var highest = own;
    for (var each = 0u; each < LANES; each++) {
        highest = max(highest, shared_in_row[lane / LANES * LANES + each]);
    }
    return highest;
}

fn sum_of_row(own: f32, lane: u32) -> f32 {
    share_in_row(own, lane);
    var sum = 0.0;
    for (var each = 0u; each < LANES; each++) {
        sum += shared_in_row[lane / LANES * LANES + each];
    }
    return sum;
}

// The first barrier waits for invocations that still read the numbers of before.
fn share_in_row(own: f32, lane: u32) {
    workgroupBarrier();
    shared_in_row[lane] = own;
    workgroupBarrier();
}
