// Fused attention: softmax(scale * Q K^T) V without ever storing the q_len x kv_len matrix.
//
// An invocation owns ROWS_EACH rows: their queries and outputs stay in its registers. A workgroup
// stages a tile of keys and values, and every invocation walks over it, KEYS_EACH keys at a time.
// All of them read the same key at the same time, a broadcast, and one read serves ROWS_EACH rows.
// Source: Milakov and Gimelshein 2018, arXiv 1805.02867 (online softmax); Dao 2023, arXiv
// 2307.08691, algorithm 1 (loop over keys inside, division at the end).

const HEAD_DIM = 64u;
const VALUE_DIM = 64u;
// Columns come in parts of vectors of four, each part an unrolled loop. At most 4 parts.
const HEAD_PARTS = 2u;
const HEAD_PART = 8u;
const VALUE_PARTS = 2u;
const VALUE_PART = 8u;
// Invocations of a workgroup; keys of a tile, at most 32: their visibility is one word.
const THREADS = 64u;
const KEYS = 32u;
const ROWS_EACH = 1u;
const KEYS_EACH = 4u;
// Whether each tile is loaded into registers while the one before it is computed.
const AHEAD = false;
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

// use params, rows, row_block, tile, finite, visibility, transform, softmax_state, finish, lockstep
// use queries, outs, key_products, value_sums, row_totals, next_tile, columns, key_bits, settle
// use staged(value)

const VALUE_VECTORS = VALUE_PARTS * VALUE_PART;
const ROWS = THREADS * ROWS_EACH;
const WORD_KEYS = KEYS;

var<workgroup> value_tile: array<array<vec4<f32>, VALUE_STRIDE>, KEYS>;

// Whether a value that is infinite or NaN has been staged.
var<workgroup> has_nonfinite: atomic<u32>;

// Per row: [vector or key, row]. Indices must be constants once loops are unrolled: an array that
// is indexed at run time leaves the registers. At the end `queries` takes the outputs.
var<private> queries: array<vec4<f32>, max(HEAD_VECTORS, VALUE_VECTORS) * ROWS_EACH>;
var<private> biases: array<f32, KEYS_EACH * ROWS_EACH>;
var<private> visible: array<u32, ROWS_EACH>;
var<private> seen: array<u32, ROWS_EACH>;
// Located once: it takes divisions.
var<private> rows: array<Row, ROWS_EACH>;
var<private> slopes: array<f32, ROWS_EACH>;
var<private> m: array<f32, ROWS_EACH>;
// The running sum of weights. It and the outputs cover the last few tiles: row_totals.wgsl has the
// totals of all before.
var<private> l: array<f32, ROWS_EACH>;

@compute @workgroup_size(THREADS)
fn attention_forward(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let block = locate_block(workgroup, 1u);
    let near = skipping_together(block, lane);

    for (var r = 0u; r < ROWS_EACH; r++) {
        let row = block_row(block, lane * ROWS_EACH + r);
        rows[r] = row;
        slopes[r] = alibi_slope(row);
        load_own_query(r, row_start(params.query, row));
        for (var d = 0u; d < VALUE_VECTORS; d++) {
            outs[d * ROWS_EACH + r] = vec4(0.0);
            settled_outs[d * ROWS_EACH + r] = vec4(0.0);
        }
        m[r] = LOWEST;
        l[r] = 0.0;
        settled_l[r] = 0.0;
        settled_m[r] = LOWEST;
        seen[r] = 0u;
    }

    if lane == 0u {
        atomicStore(&has_nonfinite, 0u);
    }
    workgroupBarrier();
    let keys = block_keys(block);
    if AHEAD && keys.begin < keys.end {
        fetch_next(block, key_at(keys, keys.begin), lane);
    }
    for (var at = keys.begin; at < keys.end; at += KEYS) {
        add_tile(block, near, keys, at, lane);
        // A running sum takes the keys that are computed at a time as one term.
        if settles_after(at / KEYS_EACH, KEYS / KEYS_EACH) {
            settle_sums();
        }
        workgroupBarrier();
    }

    for (var r = 0u; r < ROWS_EACH; r++) {
        let row = rows[r];
        let since = since_settled(r);
        let finish = finish_row(row, m[r], since * settled_l[r] + l[r], seen[r] == 0u);
        for (var d = 0u; d < VALUE_VECTORS; d++) {
            let sum = since * settled_outs[d * ROWS_EACH + r] + outs[d * ROWS_EACH + r];
            queries[d * ROWS_EACH + r] = finish_columns(finish, sum);
        }
        finish_lse(finish, row, block.split);
    }
    // A loop of its own, for compilers that unroll no longer one.
    for (var r = 0u; r < ROWS_EACH; r++) {
        let start = row_start(params.out, rows[r]) + block.split * params.out_split;
        store_own_out(r, start, rows[r].live);
    }
}

// One tile of keys, from a place in the range on. Call in uniform control flow, with the tiles free
// for use.
fn add_tile(block: RowBlock, near: QuerySpan, keys: KeyRange, at: u32, lane: u32) {
    let sequence = block.sequence;
    let first_key = key_at(keys, at);
    if AHEAD {
        stage_next(lane);
    } else {
        stage(locate_tile(sequence, first_key), block.kv_head, sequence.seen_len - 1u - first_key, lane);
    }
    workgroupBarrier();
    if AHEAD && at + KEYS < keys.end {
        fetch_next(block, key_at(keys, at + KEYS), lane);
    }
    let all_finite = atomicLoad(&has_nonfinite) == 0u;
    let whole = sees_whole_tile(sequence, near.first, near.last, first_key);
    var some = 0u;
    for (var r = 0u; r < ROWS_EACH; r++) {
        visible[r] = select(0u, 0xffffffffu, whole && rows[r].live);
        if !whole && rows[r].live && sees_some(sequence, near.first, near.last, first_key) {
            visible[r] = visible_keys(sequence, rows[r], first_key);
        }
        seen[r] |= visible[r];
        some |= visible[r];
    }
    // The loop ends at the last key that one of its rows sees.
    let end = min(visible_end(some), KEYS);
    for (var j = 0u; j < end; j += KEYS_EACH) {
        for (var r = 0u; r < ROWS_EACH; r++) {
            for (var c = 0u; c < KEYS_EACH; c++) {
                biases[c * ROWS_EACH + r] = bias_at(rows[r], first_key + j + c);
            }
        }
        multiply(j);
        for (var r = 0u; r < ROWS_EACH; r++) {
            for (var c = 0u; c < KEYS_EACH; c++) {
                let slot = c * ROWS_EACH + r;
                let score = transform_score(rows[r], slopes[r], first_key + j + c, terms[slot], biases[slot]);
                terms[slot] = score;
                if !whole {
                    terms[slot] = select(LOWEST, score, is_visible(visible[r], j + c));
                }
            }
        }
        raise_maximum();
        for (var r = 0u; r < ROWS_EACH; r++) {
            var sum = 0.0;
            for (var c = 0u; c < KEYS_EACH; c++) {
                var weight = exponential(terms[c * ROWS_EACH + r] - m[r]);
                if !whole {
                    weight = select(0.0, weight, is_visible(visible[r], j + c));
                }
                terms[c * ROWS_EACH + r] = weight;
                sum += weight;
            }
            l[r] += sum;
        }
        if whole || all_finite {
            add_values(j);
        } else {
            add_visible_values(j);
        }
    }
}

fn stage(place: TilePlace, kv_head: u32, last: u32, lane: u32) {
    stage_keys(tile_start(params.key, place, kv_head), last, lane);
    let start = tile_start(params.value, place, kv_head);
    let slots = slots_of(lane, KEYS * VALUE_VECTORS);
    for (var slot = slots.begin; slot < slots.end; slot += SLOT_STEP) {
        stage_value(slot, value_columns(start, last, slot));
    }
}

fn stage_value(slot: u32, columns: vec4<f32>) {
    value_tile[slot / VALUE_VECTORS][slot % VALUE_VECTORS] = columns;
    if !are_finite(columns) {
        atomicStore(&has_nonfinite, 1u);
    }
}

fn value_columns(start: u32, last: u32, slot: u32) -> vec4<f32> {
    let column = slot % VALUE_VECTORS * 4u;
    return staged_value(start, slot / VALUE_VECTORS, last, column, columns_left(VALUE_DIM, column));
}

// Rescales sums under the old maximum to the new one, but only if it has grown so much that weights
// could overflow later: most steps skip this.
fn raise_maximum() {
    var grows = false;
    for (var r = 0u; r < ROWS_EACH; r++) {
        grows = grows || highest(r) > m[r] + MOST_GROWTH;
    }
    if grows {
        for (var r = 0u; r < ROWS_EACH; r++) {
            let new_m = max(m[r], highest(r));
            let rescale = exponential(m[r] - new_m);
            m[r] = new_m;
            l[r] *= rescale;
            for (var d = 0u; d < VALUE_VECTORS; d++) {
                outs[d * ROWS_EACH + r] *= rescale;
            }
        }
    }
}

fn highest(r: u32) -> f32 {
    var result = terms[r];
    for (var c = 1u; c < KEYS_EACH; c++) {
        result = max(result, terms[c * ROWS_EACH + r]);
    }
    return result;
}
