// What the LANES invocations that share a row make of one number of each, put together in workgroup memory. Call in
// uniform control flow.

var<workgroup> partials: array<f32, THREADS>;

fn highest_of_row(own: f32, lane: u32) -> f32 {
    share(own, lane);
    var highest = own;
    for (var each = 0u; each < LANES; each++) {
        highest = max(highest, partials[lane / LANES * LANES + each]);
    }
    return highest;
}

fn sum_of_row(own: f32, lane: u32) -> f32 {
    share(own, lane);
    var sum = 0.0;
    for (var each = 0u; each < LANES; each++) {
        sum += partials[lane / LANES * LANES + each];
    }
    return sum;
}

// The first barrier is for those that still read what came before.
fn share(own: f32, lane: u32) {
    workgroupBarrier();
    partials[lane] = own;
    workgroupBarrier();
}
