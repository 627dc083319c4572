// Sums over keys in two steps, so that rows of any length are as exact as short ones. A running sum
// takes SETTLE_TERMS terms. Then it is added to the row's total and starts again.
//
// In one step, equal terms that are added to a large sum lose the same bits each time: 2e-3 over
// 262,144 keys.
// Source: Blanchard, Higham and Mary 2020, "A class of fast and accurate summation algorithms",
// SIAM J. Sci. Comput. 42 (sums of blocks); Dekker 1971 (the exact error of an addition).

// use params

// Terms that a running sum takes.
const SETTLE_TERMS = 128u;

// Whether running sums go into the totals after the `step` terms from this one on.
fn settles_after(first: u32, step: u32) -> bool {
    return first % SETTLE_TERMS + step >= SETTLE_TERMS;
}

// A total and its rounding error, with which the next running sum starts. An infinite or NaN total
// stays so.
struct Settled {
    total: f32,
    rest: f32,
}

fn settle(total: f32, running: f32) -> Settled {
    let columns = settle_columns(vec4(total), vec4(running));
    return Settled(columns.total.x, columns.rest.x);
}

struct SettledColumns {
    total: vec4<f32>,
    rest: vec4<f32>,
}

fn settle_columns(total: vec4<f32>, running: vec4<f32>) -> SettledColumns {
    // kv_len is below 2^31, so this changes nothing. It keeps compilers from simplifying `sum -
    // total` to `running`.
    let bits = bitcast<vec4<u32>>(total + running) ^ vec4(params.kv_len >> 31u);
    let sum = bitcast<vec4<f32>>(bits);
    let is_finite = (bits & vec4(INFINITY_BITS)) != vec4(INFINITY_BITS);
    return SettledColumns(sum, select(vec4(0.0), running - (sum - total), is_finite));
}
