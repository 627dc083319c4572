// Fused attention for few rows of many keys, as when one token is decoded. A workgroup reads each key
// and value once, straight from memory.
//
// COLUMN_LANES invocations side by side share a key: each has some columns of it, and the same
// columns of all rows' queries and outputs in registers. They add up their parts of the scores.
// KEY_LANES such groups go through the keys, each with sums of its own, and join them at the end.
// Source: Dao et al. 2023, "Flash-Decoding for long-context inference"; Milakov and Gimelshein 2018,
// arXiv 1805.02867 (online softmax).

// The invocations of a workgroup: KEY_LANES x COLUMN_LANES.
const KEY_LANES = 8u;
const COLUMN_LANES = 16u;
// Rows of a workgroup, and keys of an invocation whose loads are on their way at a time.
const ROWS = 1u;
const KEYS_EACH = 2u;
// Vectors of a row, of a query and of out, that an invocation has, COLUMN_LANES apart.
const HEAD_VECTORS = 1u;
const VALUE_VECTORS = 1u;
// Whether some of them lie past the end of a query.
const PADS_HEAD = true;
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

// use params, rows, row_block, block_key, visibility, transform, finish, columns, key_bits, lane_sums
// use lane_states, load(query), load(key), load(value), store(out)

const THREADS = KEY_LANES * COLUMN_LANES;
const KEYS = KEY_LANES * KEYS_EACH;
// Each invocation sees which of its own keys are visible.
const WORD_KEYS = 1u;
const SCORE_VECTORS = (ROWS * KEYS_EACH + 3u) / 4u;

// Indices of private arrays must be constants once loops are unrolled: an array that is indexed at
// run time leaves the registers.
var<private> queries: array<vec4<f32>, ROWS * HEAD_VECTORS>;
// [row][key], and what fills the last vector.
var<private> scores: array<f32, 4u * SCORE_VECTORS>;

@compute @workgroup_size(THREADS)
fn attention_decode(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let place = LanePosition(lane, lane / COLUMN_LANES, lane % COLUMN_LANES);
    let block = locate_block(workgroup, 1u);
    for (var i = 0u; i < ROWS; i++) {
        let start = row_start(params.query, block_row(block, i));
        for (var v = 0u; v < HEAD_VECTORS; v++) {
            let column = own_column(v, place);
            queries[i * HEAD_VECTORS + v] = load_query(start + column, head_left(column));
        }
    }
    start_states();
    let keys = block_keys(block);
    for (var at = keys.begin; at < keys.end; at += KEYS) {
        let first_key = key_at(keys, at);
        // Calls of their own, each compiled without branches: loads would wait behind them.
        if block_sees_whole_tile(block, first_key) {
            add_keys(block, first_key, true, place);
        } else {
            add_keys(block, first_key, false, place);
        }
    }
    join_states(place);
    if place.key == 0u {
        finish_rows(block, place);
    }
}

// The first column of an invocation's vector.
fn own_column(v: u32, place: LanePosition) -> u32 {
    return (v * COLUMN_LANES + place.column) * 4u;
}

fn head_left(column: u32) -> u32 {
    if PADS_HEAD {
        return columns_left(params.head_dim, column);
    }
    return 4u;
}

// Some keys of each invocation. All it loads is under way before any of it is used.
fn add_keys(block: RowBlock, first_key: u32, whole: bool, place: LanePosition) {
    var keys: array<vec4<f32>, KEYS_EACH * HEAD_VECTORS>;
    var values: array<vec4<f32>, KEYS_EACH * VALUE_VECTORS>;
    for (var j = 0u; j < KEYS_EACH; j++) {
        let number = key_number(first_key, j, place);
        let start_of_key = key_start(block, params.key, number);
        let start_of_value = key_start(block, params.value, number);
        for (var v = 0u; v < HEAD_VECTORS; v++) {
            let column = own_column(v, place);
            keys[j * HEAD_VECTORS + v] = load_key(start_of_key + column, head_left(column));
        }
        for (var v = 0u; v < VALUE_VECTORS; v++) {
            // What lies past the end of a row goes to columns that nobody stores.
            values[j * VALUE_VECTORS + v] = load_value(start_of_value + own_column(v, place), 4u);
        }
    }
    for (var i = 0u; i < ROWS; i++) {
        for (var j = 0u; j < KEYS_EACH; j++) {
            var sum = 0.0;
            for (var v = 0u; v < HEAD_VECTORS; v++) {
                let a = queries[i * HEAD_VECTORS + v];
                let b = keys[j * HEAD_VECTORS + v];
                sum = fma(a.x, b.x, sum);
                sum = fma(a.y, b.y, sum);
                sum = fma(a.z, b.z, sum);
                sum = fma(a.w, b.w, sum);
            }
            scores[i * KEYS_EACH + j] = sum;
        }
    }
    sum_over_columns(place);
    for (var i = 0u; i < ROWS; i++) {
        let row = block_row(block, i);
        let slope = alibi_slope(row);
        for (var j = 0u; j < KEYS_EACH; j++) {
            let slot = i * KEYS_EACH + j;
            let number = key_number(first_key, j, place);
            scores[slot] = transform_score(row, slope, number, scores[slot], bias_at(row, number));
        }
    }
    var visible = 0xffffffffu;
    if !whole {
        visible = see_keys(block, first_key, place);
        hide(visible, LOWEST);
    }
    weigh();
    if !whole {
        hide(visible, 0.0);
    }
    note_seen(visible);
    add_weights();
    for (var slot = 0u; slot < ROWS * KEYS_EACH; slot++) {
        for (var v = 0u; v < VALUE_VECTORS; v++) {
            let sum = slot / KEYS_EACH * VALUE_VECTORS + v;
            var columns = values[slot % KEYS_EACH * VALUE_VECTORS + v];
            if !whole {
                // What is hidden may be anything, and 0 * NaN is NaN.
                columns = select(vec4(0.0), columns, is_visible(visible, slot));
            }
            outs[sum] = fma(vec4(scores[slot]), columns, outs[sum]);
        }
    }
}

fn key_number(first_key: u32, j: u32, place: LanePosition) -> u32 {
    return first_key + j * KEY_LANES + place.key;
}

// Which of an invocation's keys are visible: bit i * KEYS_EACH + j is key j of row i.
fn see_keys(block: RowBlock, first_key: u32, place: LanePosition) -> u32 {
    var visible = 0u;
    for (var i = 0u; i < ROWS; i++) {
        let row = block_row(block, i);
        for (var j = 0u; j < KEYS_EACH; j++) {
            let bits = visible_keys(block.sequence, row, key_number(first_key, j, place));
            visible |= (bits & 1u) << (i * KEYS_EACH + j);
        }
    }
    return visible;
}

// Puts `mark` in place of what belongs to keys that a row does not see.
fn hide(visible: u32, mark: f32) {
    for (var slot = 0u; slot < ROWS * KEYS_EACH; slot++) {
        scores[slot] = select(mark, scores[slot], is_visible(visible, slot));
    }
}

fn finish_rows(block: RowBlock, place: LanePosition) {
    for (var i = 0u; i < ROWS; i++) {
        let row = block_row(block, i);
        let finish = finish_row(row, m[i], l[i], !is_visible(seen, i));
        let start = row_start(params.out, row) + block.split * params.out_split;
        for (var v = 0u; v < VALUE_VECTORS; v++) {
            let column = own_column(v, place);
            let left = columns_left(params.value_dim, column);
            let columns = finish_columns(finish, outs[i * VALUE_VECTORS + v]);
            store_out(start + column, select(0u, left, row.live), columns);
        }
        if place.column == 0u {
            finish_lse(finish, row, block.split);
        }
    }
}
