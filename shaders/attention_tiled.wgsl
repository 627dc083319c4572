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

// use params, rows, row_block, visibility, transform, softmax_state, finish, columns
// use register_tile, tile_visibility, tile_scores, tile_values, out_totals, store(out)

const THREADS = ROW_LANES * KEY_LANES;
const ROWS = ROW_LANES * ROWS_EACH;
const KEYS = KEY_LANES * KEYS_EACH;
const WORD_KEYS = 32u;

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

@compute @workgroup_size(THREADS)
fn attention_tiled(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let place = TilePosition(lane, lane / KEY_LANES, lane % KEY_LANES);
    let block = locate_block(workgroup, VALUE_CHUNKS);
    find_queries(block, lane);
    for (var i = 0u; i < ROWS_EACH; i++) {
        m[i] = LOWEST;
        l[i] = 0.0;
        rows[i] = block_row(block, place.row + i * ROW_LANES);
        slopes[i] = alibi_slope(rows[i]);
        for (var c = 0u; c < VALUE_VECTORS; c++) {
            outs[i * VALUE_VECTORS + c] = vec4(0.0);
        }
    }
    note_all_finite(lane);
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
    multiply_tile(block, first_key, !whole, place);
    weigh(block, first_key, whole, place);
    // Not a loop: scores are picked by constants.
    add_keys(block, first_key, whole, 0u, place);
    add_keys(block, first_key, whole, 1u, place);
    add_keys(block, first_key, whole, 2u, place);
    add_keys(block, first_key, whole, 3u, place);
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

fn note_seen(place: TilePosition) {
    for (var i = 0u; i < ROWS_EACH; i++) {
        if any(visible[i][place.row] != vec2(0u)) {
            seen |= 1u << i;
        }
    }
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
