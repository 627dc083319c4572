// Totals of this invocation's rows, into which their sums of weights and their outputs settle.
// use softmax_state, settle, value_sums
// needs ROWS_EACH, VALUE_PART, VALUE_PARTS, VALUE_VECTORS, l, m

// The maximum at the time when they settled; the sum of weights.
var<private> settled_m: array<f32, ROWS_EACH>;
var<private> settled_l: array<f32, ROWS_EACH>;
// Indexed as `outs`.
var<private> settled_outs: array<vec4<f32>, VALUE_VECTORS * ROWS_EACH>;

// The factor that brings a row's totals under its present maximum: they follow it only when sums
// settle.
fn since_settled(r: u32) -> f32 {
    return exponential(settled_m[r] - m[r]);
}

fn settle_sums() {
    settle_part(0u);
    if VALUE_PARTS > 1u {
        settle_part(VALUE_PART);
    }
    if VALUE_PARTS > 2u {
        settle_part(2u * VALUE_PART);
    }
    if VALUE_PARTS > 3u {
        settle_part(3u * VALUE_PART);
    }
    for (var r = 0u; r < ROWS_EACH; r++) {
        let sum = settle(since_settled(r) * settled_l[r], l[r]);
        settled_l[r] = sum.total;
        settled_m[r] = m[r];
        l[r] = sum.rest;
    }
}

fn settle_part(first: u32) {
    for (var step = 0u; step < VALUE_PART; step++) {
        let d = min(first + step, VALUE_VECTORS - 1u);
        for (var r = 0u; r < ROWS_EACH; r++) {
            let slot = d * ROWS_EACH + r;
            let columns = settle_columns(since_settled(r) * settled_outs[slot], outs[slot]);
            settled_outs[slot] = columns.total;
            outs[slot] = columns.rest;
        }
    }
}
