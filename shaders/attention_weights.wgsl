// Attention weights, softmax(scale * Q K^T), in a second pass over the keys: it uses each row's
// maximum and sum, which attention_forward.wgsl has found. Each weight is written once, and no
// score is stored.
//
// An invocation owns ROWS_EACH rows, with their queries in its registers. Tiles do not depend on
// each other, so workgroups share the keys of a row. A tile that no row sees is all zeros, and its
// keys are not read.

const HEAD_DIM = 64u;
// As in attention_forward.wgsl.
const HEAD_PARTS = 2u;
const HEAD_PART = 8u;
const THREADS = 64u;
const KEYS = 32u;
const ROWS_EACH = 1u;
// 2 or 4.
const KEYS_EACH = 4u;
// Whether the scale is subnormal, which a device may take for 0.
const HAS_TINY_SCALE = false;
const HAS_SOFTCAP = false;
const HAS_BIAS = false;
const HAS_ALIBI = false;
alias Query = f32;
alias Key = f32;
alias Weights = f32;

@group(0) @binding(1) var<storage, read> query: array<Query>;
@group(0) @binding(2) var<storage, read> key: array<Key>;
@group(0) @binding(5) var<storage, read_write> lse: array<u32>;
@group(0) @binding(6) var<storage, read> mask: array<u32>;
@group(0) @binding(7) var<storage, read> bias: array<f32>;
@group(0) @binding(8) var<storage, read> aux: array<u32>;
@group(0) @binding(9) var<storage, read_write> weights: array<Weights>;
@group(0) @binding(13) var<storage, read> partial_lse: array<u32>;

// use params, rows, row_block, tile, visibility, transform, softmax_state, finish, queries
// use key_products, key_bits, store(weights)

const ROWS = THREADS * ROWS_EACH;
const WORD_KEYS = KEYS;

// Per row, as in attention_forward.wgsl.
var<private> queries: array<vec4<f32>, HEAD_VECTORS * ROWS_EACH>;
var<private> biases: array<f32, KEYS_EACH * ROWS_EACH>;
// Scores of four keys, whose weights are stored at once. An array, as FXC takes only constant
// indices where it writes to a vector.
var<private> scores: array<f32, 4u * ROWS_EACH>;
var<private> visible: array<u32, ROWS_EACH>;
var<private> rows: array<Row, ROWS_EACH>;
var<private> slopes: array<f32, ROWS_EACH>;
var<private> m: array<f32, ROWS_EACH>;
var<private> factors: array<f32, ROWS_EACH>;

@compute @workgroup_size(THREADS)
fn attention_weights(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let block = locate_block(workgroup, 1u);
    let sequence = block.sequence;

    for (var r = 0u; r < ROWS_EACH; r++) {
        let row = block_row(block, lane * ROWS_EACH + r);
        rows[r] = row;
        slopes[r] = alibi_slope(row);
        load_own_query(r, row_start(params.query, row));
        let sums = row_start(params.partial_lse, row);
        let l = bitcast<f32>(partial_lse[sums + 1u]);
        m[r] = bitcast<f32>(partial_lse[sums]);
        factors[r] = inverse_sum(m[r], l);
        if is_set(HAS_LSE) && block.split == 0u && row.live {
            lse[row_start(params.lse, row)] = lse_bits(m[r], l, partial_lse[sums] == MINUS_INFINITY_BITS);
        }
    }

    let tiles = (params.kv_len + KEYS - 1u) / KEYS;
    let end = tiles * (block.split + 1u) / params.splits * KEYS;
    for (var first_key = tiles * block.split / params.splits * KEYS; first_key < end; first_key += KEYS) {
        let is_seen = first_key < sequence.seen_len && block_sees_some(block, first_key);
        if is_seen {
            let start = tile_start(params.key, locate_tile(sequence, first_key), block.kv_head);
            stage_keys(start, sequence.seen_len - 1u - first_key, lane);
        }
        workgroupBarrier();
        let whole = block_sees_whole_tile(block, first_key);
        var some = 0u;
        for (var r = 0u; r < ROWS_EACH; r++) {
            visible[r] = select(0u, 0xffffffffu, whole && rows[r].live);
            if is_seen && !whole && rows[r].live {
                visible[r] = visible_keys(sequence, rows[r], first_key);
            }
            some |= visible[r];
        }
        let count = min(KEYS, params.kv_len - first_key);
        for (var j = 0u; j < count; j += 4u) {
            if (some >> j) != 0u {
                score_keys(first_key, j, 0u);
                if KEYS_EACH == 2u {
                    score_keys(first_key, j + 2u, 2u);
                }
            }
            for (var r = 0u; r < ROWS_EACH; r++) {
                let at = row_start(params.scores, rows[r]) + first_key + j;
                store_weights(at, select(0u, count - j, rows[r].live), four_weights(r, j));
            }
        }
        workgroupBarrier();
    }
}

// Scores of KEYS_EACH keys from j on, into `scores` as those of keys `first` on.
fn score_keys(first_key: u32, j: u32, first: u32) {
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
            scores[(first + c) * ROWS_EACH + r] = score;
        }
    }
}

fn four_weights(r: u32, j: u32) -> vec4<f32> {
    let four = vec4(scores[r], scores[ROWS_EACH + r], scores[2u * ROWS_EACH + r], scores[3u * ROWS_EACH + r]);
    let found = exp2((four - m[r]) * LOG2_E) * factors[r];
    return select(vec4(0.0), found, four_visible(visible[r], j / 4u));
}
