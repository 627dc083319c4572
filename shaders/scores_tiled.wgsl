// Scores of queries and keys, or weights made of them, for GPUs: the product of tiles in registers.
//
// Tiles do not depend on each other, so workgroups share the keys of a row. Keys of a tile that no
// row sees are not read. Weights are softmax(scale * Q K^T) in a second pass over the keys: they use
// each row's maximum and sum, which attention_tiled.wgsl has found.
// Source: Vaswani et al. 2017, arXiv 1706.03762, equation 1.

// 4 or 8.
const ROWS_EACH = 8u;
// Whether weights are stored in place of scores.
const WEIGHS = false;
// Whether the scale is subnormal, which a device may take for 0.
const HAS_TINY_SCALE = false;
const HAS_SOFTCAP = false;
const HAS_BIAS = false;
const HAS_ALIBI = false;
alias Query = f32;
alias Key = f32;

@group(0) @binding(1) var<storage, read> query: array<Query>;
@group(0) @binding(2) var<storage, read> key: array<Key>;
@group(0) @binding(5) var<storage, read_write> lse: array<u32>;
@group(0) @binding(6) var<storage, read> mask: array<u32>;
@group(0) @binding(7) var<storage, read> bias: array<f32>;
@group(0) @binding(8) var<storage, read> aux: array<u32>;
@group(0) @binding(9) var<storage, read_write> weights: array<u32>;
@group(0) @binding(13) var<storage, read> partial_lse: array<u32>;

// use params, sequence, rows, row_block, transform, softmax_state, finish, marked_scores
// use fixed_tile, register_tile, tile_visibility, tile_scores

const WORD_KEYS = 32u;

var<private> scores: array<f32, ROWS_EACH * KEYS_EACH>;
var<private> rows: array<Row, ROWS_EACH>;
var<private> slopes: array<f32, ROWS_EACH>;
// Each row's maximum, and what turns exponentials under it into weights.
var<private> m: array<f32, ROWS_EACH>;
var<private> factors: array<f32, ROWS_EACH>;

@compute @workgroup_size(THREADS)
fn scores_tiled(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let place = TilePosition(lane, lane / KEY_LANES, lane % KEY_LANES);
    var block = locate_block(workgroup, 1u);
    if !WEIGHS && !is_set(MARKS_HIDDEN) {
        block.sequence = without_hidden_keys(block.sequence);
    }
    find_queries(block, lane);
    for (var i = 0u; i < ROWS_EACH; i++) {
        rows[i] = block_row(block, place.row + i * ROW_LANES);
        slopes[i] = alibi_slope(rows[i]);
    }
    if WEIGHS {
        read_sums();
    }
    let tiles = (params.kv_len + KEYS - 1u) / KEYS;
    let end = tiles * (block.split + 1u) / params.splits * KEYS;
    for (var first_key = tiles * block.split / params.splits * KEYS; first_key < end; first_key += KEYS) {
        let whole = block_sees_whole_tile(block, first_key);
        let some = first_key < block.sequence.seen_len && block_sees_some(block, first_key);
        if some {
            multiply_tile(block, first_key, !whole, place);
        }
        store_tile(block, first_key, whole, some, place);
    }
    if WEIGHS && is_set(HAS_LSE) && block.split == 0u {
        store_lse(block, lane);
    }
}

// Scores of all keys are asked for.
fn without_hidden_keys(sequence: Sequence) -> Sequence {
    var open = sequence;
    open.seen_len = params.kv_len;
    open.band_lower = -i32(params.q_len);
    open.band_upper = i32(params.kv_len);
    return open;
}

fn read_sums() {
    for (var i = 0u; i < ROWS_EACH; i++) {
        let at = row_start(params.partial_lse, rows[i]);
        let l = bitcast<f32>(partial_lse[at + 1u]);
        m[i] = bitcast<f32>(partial_lse[at]);
        factors[i] = inverse_sum(m[i], l);
    }
}

// The lse of each row, one to an invocation.
fn store_lse(block: RowBlock, lane: u32) {
    if lane < ROWS && has_row(block, lane) {
        let row = block_row(block, lane);
        let at = row_start(params.partial_lse, row);
        let bits = partial_lse[at];
        let l = bitcast<f32>(partial_lse[at + 1u]);
        lse[row_start(params.lse, row)] = lse_bits(bitcast<f32>(bits), l, bits == MINUS_INFINITY_BITS);
    }
}

fn store_tile(block: RowBlock, first_key: u32, whole: bool, some: bool, place: TilePosition) {
    for (var i = 0u; i < ROWS_EACH; i++) {
        let start = row_start(params.scores, rows[i]);
        // Found anew: a flag of each row would take two of the registers that a wave has for all
        // its lanes.
        let live = has_row(block, place.row + i * ROW_LANES);
        for (var j = 0u; j < KEYS_EACH; j++) {
            let number = first_key + place.key + j * KEY_LANES;
            let added = bias_at(rows[i], number);
            let score = transform_score(rows[i], slopes[i], number, scores[i * KEYS_EACH + j], added);
            let sees = whole || (some && sees_key(i, j, place));
            if live && number < params.kv_len {
                weights[start + number] = stored_bits(i, score, sees);
            }
        }
    }
}

fn stored_bits(i: u32, score: f32, sees: bool) -> u32 {
    if WEIGHS {
        return bitcast<u32>(select(0.0, exponential(score - m[i]) * factors[i], sees));
    }
    return marked_scores(vec4(score), vec4(sees)).x;
}
