// Online softmax whose sums are those of one of KEY_LANES groups of invocations, until the groups
// join them. Invocations of a group have the same weights, and each some columns of the outputs.
// use params, softmax_state, key_bits
// needs COLUMN_LANES, KEYS_EACH, KEY_LANES, ROWS, VALUE_VECTORS, scores

// An invocation, its group and its place in that.
struct LanePosition {
    lane: u32,
    key: u32,
    column: u32,
}

const HALF = KEY_LANES / 2u;

var<private> outs: array<vec4<f32>, ROWS * VALUE_VECTORS>;
var<private> m: array<f32, ROWS>;
var<private> l: array<f32, ROWS>;
// Which rows have seen a key, one bit a row.
var<private> seen: u32;

// What half of the groups give to the others: outputs; and of each row maximum, sum, and whether it
// has seen a key.
var<workgroup> given_outs: array<array<vec4<f32>, HALF * COLUMN_LANES>, ROWS * VALUE_VECTORS>;
var<workgroup> given_states: array<array<vec4<f32>, HALF>, ROWS>;

fn start_states() {
    for (var i = 0u; i < ROWS; i++) {
        m[i] = LOWEST;
        l[i] = 0.0;
        for (var v = 0u; v < VALUE_VECTORS; v++) {
            outs[i * VALUE_VECTORS + v] = vec4(0.0);
        }
    }
}

// Notes the rows that see a key: bit i * KEYS_EACH + j is key j of row i.
fn note_seen(visible: u32) {
    for (var i = 0u; i < ROWS; i++) {
        if ((visible >> (i * KEYS_EACH)) & lowest_bits(KEYS_EACH)) != 0u {
            seen |= 1u << i;
        }
    }
}

// Scores into weights under the new maximum, to which sums and outputs are rescaled.
fn weigh() {
    for (var i = 0u; i < ROWS; i++) {
        var highest = m[i];
        for (var j = 0u; j < KEYS_EACH; j++) {
            highest = max(highest, scores[i * KEYS_EACH + j]);
        }
        rescale_row(i, highest);
        for (var j = 0u; j < KEYS_EACH; j++) {
            scores[i * KEYS_EACH + j] = exponential(scores[i * KEYS_EACH + j] - m[i]);
        }
    }
}

// Sums and outputs of a row under another maximum.
fn rescale_row(i: u32, highest: f32) {
    let factor = exponential(m[i] - highest);
    m[i] = highest;
    l[i] *= factor;
    for (var v = 0u; v < VALUE_VECTORS; v++) {
        outs[i * VALUE_VECTORS + v] *= factor;
    }
}

fn add_weights() {
    for (var i = 0u; i < ROWS; i++) {
        var sum = 0.0;
        for (var j = 0u; j < KEYS_EACH; j++) {
            sum += scores[i * KEYS_EACH + j];
        }
        l[i] += sum;
    }
}

// Joins the sums of all groups into those of the first: half of the groups give theirs to the other
// half, and half of those again. Call in uniform control flow.
fn join_states(place: LanePosition) {
    for (var half = HALF; half > 0u; half /= 2u) {
        workgroupBarrier();
        if place.key >= half && place.key < 2u * half {
            give_state(place.key - half, place);
        }
        workgroupBarrier();
        if place.key < half {
            take_state(place);
        }
    }
}

fn give_state(to: u32, place: LanePosition) {
    for (var i = 0u; i < ROWS; i++) {
        let has_seen = select(0.0, 1.0, is_visible(seen, i));
        given_states[i][to] = vec4(m[i], l[i], has_seen, 0.0);
        for (var v = 0u; v < VALUE_VECTORS; v++) {
            let slot = i * VALUE_VECTORS + v;
            given_outs[slot][to * COLUMN_LANES + place.column] = outs[slot];
        }
    }
}

fn take_state(place: LanePosition) {
    for (var i = 0u; i < ROWS; i++) {
        let given = given_states[i][place.key];
        rescale_row(i, max(m[i], given.x));
        let factor = exponential(given.x - m[i]);
        l[i] += given.y * factor;
        seen |= select(0u, 1u << i, given.z > 0.0);
        for (var v = 0u; v < VALUE_VECTORS; v++) {
            let slot = i * VALUE_VECTORS + v;
            outs[slot] += factor * given_outs[slot][place.lane];
        }
    }
}
