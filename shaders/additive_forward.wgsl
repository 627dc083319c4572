// Fused additive attention of projected queries and keys: online softmax, no tensor of hidden
// vectors.
//
// A workgroup owns a few queries and a chunk of out's columns. Its invocations share the scores of
// a tile of keys among them: that is most of the work. Then each owns four columns of out for all
// the queries.
// Source: Bahdanau et al. 2014, arXiv 1409.0473, appendix A.1.2; running maximum and sum as in
// Milakov and Gimelshein 2018, arXiv 1805.02867.

alias Value = f32;
alias Out = f32;
alias WV = f32;

@group(0) @binding(1) var<storage, read> query: array<f32>;
@group(0) @binding(2) var<storage, read> key: array<f32>;
@group(0) @binding(3) var<storage, read> value: array<Value>;
@group(0) @binding(4) var<storage, read_write> out: array<Out>;
@group(0) @binding(5) var<storage, read> w_v: array<WV>;
@group(0) @binding(6) var<storage, read> mask: array<u32>;
@group(0) @binding(9) var<storage, read_write> weights: array<u32>;

// use params, locate, sequence, rows, mask_bits, marked_scores, tanh, softmax_state, settle
// use columns, key_bits, load(query), staged(key), load(value), load(w_v), store(out)

const THREADS = 64u;
const ROWS = 8u;
const KEYS = 32u;
// Queries whose scores with one key an invocation computes at once.
const OWN_ROWS = ROWS * KEYS / THREADS;
// Vectors of four hidden columns that are staged at once. Keys lie one vector further apart, so
// that no column is in one memory bank.
const CHUNK = 16u;
const KEY_STRIDE = CHUNK + 1u;

var<workgroup> query_tile: array<vec4<f32>, ROWS * CHUNK>;
var<workgroup> key_tile: array<vec4<f32>, KEYS * KEY_STRIDE>;
var<workgroup> factor_tile: array<vec4<f32>, CHUNK>;
// Scores, then exponentials.
var<workgroup> scores: array<f32, ROWS * KEYS>;
var<workgroup> visible: array<u32, ROWS>;
var<workgroup> seen: array<u32, ROWS>;
var<workgroup> maxima: array<f32, ROWS>;
var<workgroup> sums: array<Settled, ROWS>;
var<workgroup> rescales: array<f32, ROWS>;

// Outputs: running sums over one tile, and totals over all before.
var<private> acc: array<vec4<f32>, ROWS>;
var<private> settled_acc: array<vec4<f32>, ROWS>;

@compute @workgroup_size(THREADS)
fn additive_forward(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let sequence = locate_sequence(workgroup);
    let first_row = workgroup.x * ROWS;
    let column = (workgroup.y * THREADS + lane) * 4u;
    let left = columns_left(params.value_dim, column);
    let value_start = head_start(params.value, sequence, 0u);
    if lane < ROWS {
        seen[lane] = 0u;
        maxima[lane] = LOWEST;
        sums[lane] = Settled(0.0, 0.0);
    }
    for (var r = 0u; r < ROWS; r++) {
        acc[r] = vec4(0.0);
        settled_acc[r] = vec4(0.0);
    }
    workgroupBarrier();

    for (var first_key = 0u; first_key < params.kv_len; first_key += KEYS) {
        if lane < ROWS {
            visible[lane] = visible_keys(locate_row(first_row + lane, sequence, 0u), first_key);
            seen[lane] |= visible[lane];
        }
        score_tile(sequence, first_row, first_key, lane);
        workgroupBarrier();
        if is_set(STORES_SCORES) && workgroup.y == 0u {
            store_scores(sequence, first_row, first_key, lane);
            workgroupBarrier();
        }
        if lane < ROWS {
            add_exponentials(lane);
        }
        workgroupBarrier();
        add_values(value_start + column, left, first_key);
        workgroupBarrier();
    }

    for (var r = 0u; r < ROWS; r++) {
        let row = locate_row(first_row + r, sequence, 0u);
        if row.live {
            let factor = inverse_sum(maxima[r], sums[r].total + sums[r].rest);
            let columns = select((settled_acc[r] + acc[r]) * factor, vec4(0.0), seen[r] == 0u);
            store_out(row_start(params.out, row) + column, left, columns);
        }
    }
}

fn visible_keys(row: Row, first_key: u32) -> u32 {
    var bits = lowest_bits(params.kv_len - first_key);
    if is_set(HAS_MASK) {
        bits &= mask_bits(row, first_key);
    }
    return bits;
}

// An invocation scores one key with OWN_ROWS queries. Columns past the end are 0 in all three
// tiles.
fn score_tile(sequence: Sequence, first_row: u32, first_key: u32, lane: u32) {
    let tile_start = head_start(params.key, sequence, 0u) + first_key * params.key.row;
    let last = params.kv_len - 1u - first_key;
    let own_key = lane % KEYS;
    let own_row = lane / KEYS * OWN_ROWS;
    var sums_of_rows = vec4(0.0);
    for (var column = 0u; column < params.head_dim; column += CHUNK * 4u) {
        for (var slot = lane; slot < KEYS * CHUNK; slot += THREADS) {
            let j = slot / CHUNK;
            let at = column + slot % CHUNK * 4u;
            let left = columns_left(params.head_dim, at);
            key_tile[j * KEY_STRIDE + slot % CHUNK] = staged_key(tile_start, j, last, at, left);
        }
        for (var slot = lane; slot < ROWS * CHUNK; slot += THREADS) {
            let row = locate_row(first_row + slot / CHUNK, sequence, 0u);
            let at = column + slot % CHUNK * 4u;
            query_tile[slot] = load_query(row_start(params.query, row) + at, columns_left(params.head_dim, at));
        }
        if lane < CHUNK {
            let at = column + lane * 4u;
            factor_tile[lane] = load_w_v(at, columns_left(params.head_dim, at));
        }
        workgroupBarrier();
        let count = min(CHUNK, (params.head_dim - column + 3u) / 4u);
        for (var d = 0u; d < count; d++) {
            let k = key_tile[own_key * KEY_STRIDE + d];
            let w = factor_tile[d];
            sums_of_rows += vec4(
                dot(w, four_tanh(query_tile[own_row * CHUNK + d] + k)),
                dot(w, four_tanh(query_tile[(own_row + 1u) * CHUNK + d] + k)),
                dot(w, four_tanh(query_tile[(own_row + 2u) * CHUNK + d] + k)),
                dot(w, four_tanh(query_tile[(own_row + 3u) * CHUNK + d] + k)),
            );
        }
        workgroupBarrier();
    }
    for (var r = 0u; r < OWN_ROWS; r++) {
        scores[(own_row + r) * KEYS + own_key] = sums_of_rows[r];
    }
}

// No exponential overflows: for large arguments it vanishes.
fn four_tanh(x: vec4<f32>) -> vec4<f32> {
    let near = x * tanh_over_x(min(x * x, vec4(0.3)));
    let decay = exp(-2.0 * abs(x));
    let far = sign(x) * (1.0 - decay) / (1.0 + decay);
    return select(far, near, abs(x) < vec4(0.5));
}

// Stores the scores of this tile's rows for the softmax.
fn store_scores(sequence: Sequence, first_row: u32, first_key: u32, lane: u32) {
    for (var slot = lane; slot < ROWS * KEYS; slot += THREADS) {
        let row = locate_row(first_row + slot / KEYS, sequence, 0u);
        let j = slot % KEYS;
        if row.live && first_key + j < params.kv_len {
            let shown = is_visible(visible[slot / KEYS], j);
            let marked = marked_scores(vec4(scores[slot]), vec4(shown));
            weights[row_start(params.scores, row) + first_key + j] = marked.x;
        }
    }
}

// Adds a tile to the row's sum, and notes the factor by which its sums so far are rescaled. The
// maximum follows only when weights could overflow later.
fn add_exponentials(r: u32) {
    var highest = maxima[r];
    for (var j = 0u; j < KEYS; j++) {
        let shown = is_visible(visible[r], j);
        highest = max(highest, select(LOWEST, scores[r * KEYS + j], shown));
    }
    var rescale = 1.0;
    if highest > maxima[r] + MOST_GROWTH {
        rescale = exponential(maxima[r] - highest);
        maxima[r] = highest;
    }
    let m = maxima[r];
    var sum = Settled(sums[r].total * rescale, sums[r].rest * rescale);
    for (var j = 0u; j < KEYS; j++) {
        let shown = is_visible(visible[r], j);
        let weight = select(0.0, exponential(scores[r * KEYS + j] - m), shown);
        scores[r * KEYS + j] = weight;
        sum.rest += weight;
    }
    rescales[r] = rescale;
    sums[r] = settle(sum.total, sum.rest);
}

// Adds only values of visible keys, whatever the others hold: 0 * NaN is NaN.
fn add_values(start: u32, left: u32, first_key: u32) {
    if left == 0u {
        return;
    }
    for (var r = 0u; r < ROWS; r++) {
        if rescales[r] != 1.0 {
            acc[r] *= rescales[r];
            settled_acc[r] *= rescales[r];
        }
    }
    let count = min(KEYS, params.kv_len - first_key);
    for (var j = 0u; j < count; j++) {
        let four = load_value(start + (first_key + j) * params.value.row, left);
        for (var r = 0u; r < ROWS; r++) {
            let shown = is_visible(visible[r], j);
            acc[r] += select(vec4(0.0), scores[r * KEYS + j] * four, shown);
        }
    }
    for (var r = 0u; r < ROWS; r++) {
        let columns = settle_columns(settled_acc[r], acc[r]);
        settled_acc[r] = columns.total;
        acc[r] = columns.rest;
    }
}
