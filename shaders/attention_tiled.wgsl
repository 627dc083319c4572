// Fused attention for GPUs: softmax(scale * Q K^T) V without ever storing the q_len x kv_len matrix.
//
// Both products are of tiles in registers. An invocation has ROWS_EACH rows, ROW_LANES apart, and
// KEYS_EACH keys of a tile, KEY_LANES apart, so that a number read from workgroup memory takes part
// in as many products. Scores need 16 columns of queries and keys at a time, outputs 16 weights and
// values: both fit two small tiles, however long the columns are.
// Source: Milakov and Gimelshein 2018, arXiv 1805.02867 (online softmax); Dao 2023, arXiv
// 2307.08691, algorithm 1 (loop over keys inside, division at the end); Volkov and Demmel 2008,
// "Benchmarking GPUs to tune dense linear algebra" (tiles in registers).

// The invocations of a workgroup: ROW_LANES x KEY_LANES.
const ROW_LANES = 8u;
const KEY_LANES = 16u;
// 4 or 8 each. A tile has 64 keys.
const ROWS_EACH = 8u;
const KEYS_EACH = 4u;
// Vectors of a row of out that an invocation has, KEY_LANES apart: at most 4.
const VALUE_VECTORS = 1u;
// Workgroups that share the columns of a row of out.
const VALUE_CHUNKS = 1u;
// Whether the scale is subnormal, which a device may take for 0.
const HAS_TINY_SCALE = false;
const HAS_SOFTCAP = false;
const HAS_BIAS = false;
const HAS_ALIBI = false;
alias Query = f32;
alias Key = f32;
alias Value = f32;
alias Out = f32;

@group(0) @binding(1) var<storage, read> query: array<Query>;
@group(0) @binding(2) var<storage, read> key: array<Key>;
@group(0) @binding(3) var<storage, read> value: array<Value>;
@group(0) @binding(4) var<storage, read_write> out: array<Out>;
@group(0) @binding(5) var<storage, read_write> lse: array<u32>;
@group(0) @binding(6) var<storage, read> mask: array<u32>;
@group(0) @binding(7) var<storage, read> bias: array<f32>;
@group(0) @binding(8) var<storage, read> aux: array<u32>;

// use params, rows, row_block, block_key, finite, visibility, transform, softmax_state, finish
// use columns, finite, key_bits, register_tile, register_values, out_totals, load(query), load(key), load(value)
// use store(out)

const THREADS = ROW_LANES * KEY_LANES;
const ROWS = ROW_LANES * ROWS_EACH;
const KEYS = KEY_LANES * KEYS_EACH;
const WORD_KEYS = 32u;

// The visibility of a tile's keys for each row: [row / ROW_LANES][row % ROW_LANES], a bit a key.
var<workgroup> visible: array<array<vec2<u32>, ROW_LANES>, ROWS_EACH>;
// Whether a value that is infinite or NaN has been staged. Four, as AMD's compiler reads other
// arrays four numbers at a time only if all start on a multiple of 16 bytes.
var<workgroup> has_nonfinite: array<atomic<u32>, 4>;

// Indices of private arrays must be constants once loops are unrolled: an array that is indexed at
// run time leaves the registers.
var<private> scores: array<f32, ROWS_EACH * KEYS_EACH>;
var<private> outs: array<vec4<f32>, ROWS_EACH * VALUE_VECTORS>;
var<private> m: array<f32, ROWS_EACH>;
var<private> l: array<f32, ROWS_EACH>;
// Located once: it takes divisions. Which are live is found anew at the end: a flag of each would
// take two of the registers that a wave has for all its lanes.
var<private> rows: array<Row, ROWS_EACH>;
var<private> slopes: array<f32, ROWS_EACH>;
// Which of its rows have seen a key, one bit a row.
var<private> seen: u32;
// Where the rows begin that this invocation stages.
var<private> query_starts: array<u32, QUERY_SLOTS>;
var<private> key_starts: array<u32, KEY_SLOTS>;

@compute @workgroup_size(THREADS)
fn attention_tiled(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let place = TilePosition(lane, lane / KEY_LANES, lane % KEY_LANES);
    let block = locate_block(workgroup, VALUE_CHUNKS);
    for (var t = 0u; t < QUERY_SLOTS; t++) {
        query_starts[t] = row_start(params.query, block_row(block, staged_row(lane, t)));
    }
    for (var i = 0u; i < ROWS_EACH; i++) {
        m[i] = LOWEST;
        l[i] = 0.0;
        rows[i] = block_row(block, place.row + i * ROW_LANES);
        slopes[i] = alibi_slope(rows[i]);
        for (var c = 0u; c < VALUE_VECTORS; c++) {
            outs[i * VALUE_VECTORS + c] = vec4(0.0);
        }
    }
    if lane == 0u {
        atomicStore(&has_nonfinite[0], 0u);
    }
    let keys = block_keys(block);
    var at = keys.begin;
    while at < keys.end {
        let end = min(at + SETTLE_KEYS, keys.end);
        for (; at < end; at += KEYS) {
            add_tile(block, key_at(keys, at), place);
        }
        if at < keys.end && is_set(SETTLES) {
            settle_rows(block, place);
        }
    }
    finish_rows(block, place);
}

fn add_tile(block: RowBlock, first_key: u32, place: TilePosition) {
    let whole = block_sees_whole_tile(block, first_key);
    for (var t = 0u; t < KEY_SLOTS; t++) {
        key_starts[t] = key_start(block, params.key, first_key + staged_row(place.lane, t));
    }
    for (var s = 0u; s < ROWS_EACH * KEYS_EACH; s++) {
        scores[s] = 0.0;
    }
    // The bound is one that no compiler knows, so that none unrolls the loop.
    for (var column = 0u; column < params.head_dim; column += CHUNK) {
        stage_chunk(block, first_key, column, !whole && column == 0u, place);
        multiply_chunk(place);
    }
    weigh(block, first_key, whole, place);
    // Not a loop: scores are picked by constants.
    add_keys(block, first_key, whole, 0u, place);
    add_keys(block, first_key, whole, 1u, place);
    add_keys(block, first_key, whole, 2u, place);
    add_keys(block, first_key, whole, 3u, place);
}

// Some columns of queries and keys, and, if asked for, which of the keys are visible.
fn stage_chunk(block: RowBlock, first_key: u32, column: u32, sees: bool, place: TilePosition) {
    let own = column + place.lane % VECTORS * 4u;
    let left = columns_left(params.head_dim, own);
    var queries: array<vec4<f32>, QUERY_SLOTS>;
    var keys: array<vec4<f32>, KEY_SLOTS>;
    for (var t = 0u; t < QUERY_SLOTS; t++) {
        queries[t] = load_query(query_starts[t] + own, left);
    }
    for (var t = 0u; t < KEY_SLOTS; t++) {
        keys[t] = load_key(key_starts[t] + own, left);
    }
    workgroupBarrier();
    for (var t = 0u; t < QUERY_SLOTS; t++) {
        stage_left(staged_row(place.lane, t), place.lane % VECTORS, queries[t]);
    }
    for (var t = 0u; t < KEY_SLOTS; t++) {
        stage_right(staged_row(place.lane, t), place.lane % VECTORS, keys[t]);
    }
    if sees {
        see_keys(block, first_key, place.lane);
    }
    workgroupBarrier();
}

// Finds the keys that each row sees, a word of 32 keys at a time.
fn see_keys(block: RowBlock, first_key: u32, lane: u32) {
    for (var slot = lane; slot < ROWS * 2u; slot += THREADS) {
        let number = slot / 2u;
        let row = block_row(block, number);
        let first = first_key + slot % 2u * 32u;
        var bits = 0u;
        if row.live && first < block.sequence.seen_len {
            bits = visible_keys(block.sequence, row, first);
        }
        // By name: not every compiler takes a component that is picked at run time.
        if slot % 2u == 0u {
            visible[number / ROW_LANES][number % ROW_LANES].x = bits;
        } else {
            visible[number / ROW_LANES][number % ROW_LANES].y = bits;
        }
    }
}

// Scores into weights under the new maximum, to which sums and outputs are rescaled.
fn weigh(block: RowBlock, first_key: u32, whole: bool, place: TilePosition) {
    for (var i = 0u; i < ROWS_EACH; i++) {
        let row = rows[i];
        for (var j = 0u; j < KEYS_EACH; j++) {
            let slot = i * KEYS_EACH + j;
            let number = first_key + place.key + j * KEY_LANES;
            scores[slot] = transform_score(row, slopes[i], number, scores[slot], bias_at(row, number));
        }
    }
    // Blocks of their own, which tiles that are seen whole jump over.
    if whole {
        seen = 0xffffffffu;
    } else {
        hide(LOWEST, place);
        note_seen(place);
    }
    var highest = m;
    for (var i = 0u; i < ROWS_EACH; i++) {
        for (var j = 0u; j < KEYS_EACH; j++) {
            highest[i] = max(highest[i], scores[i * KEYS_EACH + j]);
        }
    }
    share_rows(&highest, place);
    for (var x = 0u; x < KEY_LANES; x++) {
        for (var h = 0u; h < ROW_VECTORS; h++) {
            let four = shared_rows(x, h, place);
            highest[4u * h] = max(highest[4u * h], four.x);
            highest[4u * h + 1u] = max(highest[4u * h + 1u], four.y);
            highest[4u * h + 2u] = max(highest[4u * h + 2u], four.z);
            highest[4u * h + 3u] = max(highest[4u * h + 3u], four.w);
        }
    }
    for (var i = 0u; i < ROWS_EACH; i++) {
        let rescale = exponential(m[i] - highest[i]);
        m[i] = highest[i];
        l[i] *= rescale;
        for (var c = 0u; c < VALUE_VECTORS; c++) {
            outs[i * VALUE_VECTORS + c] *= rescale;
        }
        for (var j = 0u; j < KEYS_EACH; j++) {
            scores[i * KEYS_EACH + j] = exponential(scores[i * KEYS_EACH + j] - m[i]);
        }
    }
    if !whole {
        hide(0.0, place);
    }
    for (var i = 0u; i < ROWS_EACH; i++) {
        var sum = 0.0;
        for (var j = 0u; j < KEYS_EACH; j++) {
            sum += scores[i * KEYS_EACH + j];
        }
        l[i] += sum;
    }
}

// Puts `mark` in place of what belongs to keys that a row does not see.
fn hide(mark: f32, place: TilePosition) {
    for (var i = 0u; i < ROWS_EACH; i++) {
        let bits = visible[i][place.row];
        for (var j = 0u; j < KEYS_EACH; j++) {
            let at = place.key + j * KEY_LANES;
            let is_seen = is_visible(bits[j * KEY_LANES / 32u], at % 32u);
            scores[i * KEYS_EACH + j] = select(mark, scores[i * KEYS_EACH + j], is_seen);
        }
    }
}

fn note_seen(place: TilePosition) {
    for (var i = 0u; i < ROWS_EACH; i++) {
        if any(visible[i][place.row] != vec2(0u)) {
            seen |= 1u << i;
        }
    }
}

// Adds the values of 16 keys of the tile, by their weights, to all columns.
fn add_keys(block: RowBlock, first_key: u32, whole: bool, chunk: u32, place: TilePosition) {
    add_values(block, first_key, whole, chunk, 0u, place);
    if VALUE_VECTORS > 1u {
        add_values(block, first_key, whole, chunk, 1u, place);
    }
    if VALUE_VECTORS > 2u {
        add_values(block, first_key, whole, chunk, 2u, place);
    }
    if VALUE_VECTORS > 3u {
        add_values(block, first_key, whole, chunk, 3u, place);
    }
}

fn add_values(
    block: RowBlock,
    first_key: u32,
    whole: bool,
    chunk: u32,
    c: u32,
    place: TilePosition,
) {
    let column = out_column(block, c, place);
    let left = columns_left(params.value_dim, column);
    var values: array<vec4<f32>, VALUE_SLOTS>;
    for (var t = 0u; t < VALUE_SLOTS; t++) {
        let number = first_key + chunk * CHUNK + place.row + t * ROW_LANES;
        values[t] = load_value(key_start(block, params.value, number) + column, left);
    }
    workgroupBarrier();
    if c == 0u {
        stage_weights(chunk, place);
    }
    for (var t = 0u; t < VALUE_SLOTS; t++) {
        stage_value(place.row + t * ROW_LANES, values[t], place);
        // Where all keys are visible, it is of no account.
        if !whole && !are_finite(values[t]) {
            atomicStore(&has_nonfinite[0], 1u);
        }
    }
    workgroupBarrier();
    if whole || atomicLoad(&has_nonfinite[0]) == 0u {
        multiply_values(c, place);
    } else {
        multiply_visible_values(chunk, c, place);
    }
}

// The column of vector `c` of this invocation.
fn out_column(block: RowBlock, c: u32, place: TilePosition) -> u32 {
    return ((block.chunk * VALUE_VECTORS + c) * KEY_LANES + place.key) * 4u;
}

// Sums of a row's weights, each invocation's own into all of theirs.
fn row_sums(place: TilePosition) -> array<f32, ROWS_EACH> {
    var own = l;
    share_rows(&own, place);
    var sums: array<f32, ROWS_EACH>;
    for (var x = 0u; x < KEY_LANES; x++) {
        for (var h = 0u; h < ROW_VECTORS; h++) {
            let four = shared_rows(x, h, place);
            sums[4u * h] += four.x;
            sums[4u * h + 1u] += four.y;
            sums[4u * h + 2u] += four.z;
            sums[4u * h + 3u] += four.w;
        }
    }
    return sums;
}

fn finish_rows(block: RowBlock, place: TilePosition) {
    let sums = row_sums(place);
    for (var i = 0u; i < ROWS_EACH; i++) {
        let row = block_row(block, place.row + i * ROW_LANES);
        let total = total_of(i, sums[i], place);
        let finish = finish_row(row, m[i], total.l, (seen & (1u << i)) == 0u);
        let start = row_start(params.out, row) + block.split * params.out_split;
        for (var c = 0u; c < VALUE_VECTORS; c++) {
            let column = out_column(block, c, place);
            let left = columns_left(params.value_dim, column);
            let columns = total_columns(i, c, total, start + column, left);
            store_out(start + column, select(0u, left, row.live), finish_columns(finish, columns));
        }
        if place.key == 0u && block.chunk == 0u {
            finish_lse(finish, row, block.split);
        }
    }
}
