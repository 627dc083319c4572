// Fused attention on cooperative matrices: factors in f16, sums in f32.
//
// Each subgroup multiplies the rows of one matrix: their queries and outputs stay in its registers.
// Invocations do the rest in workgroup memory, where LANES of them share a row. Each iteration
// takes a tile of keys through five steps, with barriers between:
//   1. Invocations stage the keys.
//   2. Subgroups multiply queries and keys into `scores`.
//   3. Invocations turn scores into weights, and stage the values where the keys were.
//   4. If a row's maximum has grown, its outputs go through memory to be rescaled.
//   5. Subgroups multiply weights and values into outputs.
// Source: Dao 2023, arXiv 2307.08691, algorithm 1, with f16 weights and f32 sums as there.

// Rows and columns of a matrix, 8 or 16, which divide both dims.
const MATRIX_SIZE = 8u;
const HEAD_DIM = 64u;
const VALUE_DIM = 64u;
// Matrices of rows in a workgroup; its invocations, a multiple of its rows; keys of a tile, at most
// 32: their visibility is one word.
const SUBGROUPS = 4u;
const THREADS = 128u;
const KEYS = 32u;
// Whether the scale is subnormal, which a device may take for 0.
const HAS_TINY_SCALE = false;
const HAS_SOFTCAP = false;
const HAS_BIAS = false;
const HAS_ALIBI = false;
alias Query = f32;
alias Key = f32;
alias Value = f32;
alias Out = f32;
alias Left = coop_mat8x8<f16, A>;
alias Right = coop_mat8x8<f16, B>;
alias Sums = coop_mat8x8<f32, C>;

@group(0) @binding(1) var<storage, read> query: array<Query>;
@group(0) @binding(2) var<storage, read> key: array<Key>;
@group(0) @binding(3) var<storage, read> value: array<Value>;
@group(0) @binding(4) var<storage, read_write> out: array<Out>;
@group(0) @binding(5) var<storage, read_write> lse: array<u32>;
@group(0) @binding(6) var<storage, read> mask: array<u32>;
@group(0) @binding(7) var<storage, read> bias: array<f32>;
@group(0) @binding(8) var<storage, read> aux: array<u32>;

// use params, rows, row_block, tile, visibility, transform, softmax_state, settle, finish, lanes
// use matrix_tile, key_bits, store(out)

const HEAD_TILES = HEAD_DIM / MATRIX_SIZE;
const VALUE_TILES = VALUE_DIM / MATRIX_SIZE;
const ROWS = SUBGROUPS * MATRIX_SIZE;
const WORD_KEYS = KEYS;
const LANES = THREADS / ROWS;
// Weights are below e^MOST_GROWTH. Scaled by this, f16 still holds them all, and keeps 7 bits more
// of small ones.
const WEIGHT_SCALE = 128.0;
// Rows lie 16 bytes further apart than they are long, so that no column is in one bank.
const TILE_STRIDE = max(HEAD_DIM, VALUE_DIM) + 8u;
const SCORE_STRIDE = KEYS + 4u;
const WEIGHT_STRIDE = KEYS + 8u;

// [key, column] of keys, then of values.
var<workgroup> tile: array<f16, KEYS * TILE_STRIDE>;
// [row, key]; in between, some columns of the outputs and, in `weights`, of the queries.
var<workgroup> scores: array<f32, ROWS * SCORE_STRIDE>;
var<workgroup> weights: array<f16, ROWS * WEIGHT_STRIDE>;
// Per row: what its outputs are multiplied by, and which keys it sees.
var<workgroup> factors: array<f32, ROWS>;
var<workgroup> visible: array<u32, ROWS>;
var<workgroup> keys: KeyRange;
// Reasons why outputs have to go through memory, as bits.
var<workgroup> reasons: atomic<u32>;
const GROWN = 1u;
const NOT_FINITE = 2u;

var<private> queries: array<Left, HEAD_TILES>;
var<private> outs: array<Sums, VALUE_TILES>;

@compute @workgroup_size(THREADS)
fn attention_forward_matrix(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
    @builtin(subgroup_id) subgroup_id: u32,
) {
    let block = locate_block(workgroup, 1u);
    let sequence = block.sequence;
    // The subgroup's first row. If subgroups are smaller than planned, there are more: those repeat
    // the work.
    let base = subgroup_id % SUBGROUPS * MATRIX_SIZE;
    // The invocation's row, and its first key in a tile.
    let own = lane / LANES;
    let own_key = lane % LANES;
    let row = block_row(block, own);
    let slope = alibi_slope(row);
    // Sums over this invocation's keys: of exact weights, and of rounded ones.
    var m = LOWEST;
    var l = Settled(0.0, 0.0);
    var rounded_l = Settled(0.0, 0.0);
    var seen = 0u;

    load_queries(block, base, lane);
    for (var d = 0u; d < VALUE_TILES; d++) {
        outs[d] = Sums();
    }
    if lane == 0u {
        keys = block_keys(block);
    }
    // A compiler has to see that control flow around matrix operations is uniform.
    let range = workgroupUniformLoad(&keys);
    for (var at = range.begin; at < range.end; at += KEYS) {
        let first_key = key_at(range, at);
        let place = locate_tile(sequence, first_key);
        let last = sequence.seen_len - 1u - first_key;
        stage_keys(place, block.kv_head, last, lane);
        if lane == 0u {
            atomicStore(&reasons, 0u);
        }
        workgroupBarrier();
        multiply_keys(base);
        workgroupBarrier();

        stage_values(place, block.kv_head, last, lane);
        var sees = 0xffffffffu;
        if !block_sees_whole_tile(block, first_key) {
            sees = visible_keys(sequence, row, first_key);
        }
        var highest = LOWEST;
        for (var j = own_key; j < KEYS; j += LANES) {
            let at = own * SCORE_STRIDE + j;
            let added = bias_at(row, first_key + j);
            let score = transform_score(row, slope, first_key + j, scores[at], added);
            let shown = select(LOWEST, score, is_visible(sees, j));
            scores[at] = shown;
            highest = max(highest, shown);
        }
        highest = highest_of_row(highest, lane);

        // The maximum follows only when weights could overflow later: most iterations rescale
        // nothing.
        var rescale = 1.0;
        if highest > m + MOST_GROWTH {
            rescale = exponential(m - highest);
            m = highest;
            l = Settled(l.total * rescale, l.rest * rescale);
            rounded_l = Settled(rounded_l.total * rescale, rounded_l.rest * rescale);
            // Outputs of a row that has seen no key are 0 under any maximum.
            if seen != 0u {
                atomicOr(&reasons, GROWN);
            }
        }
        seen |= sees;
        if own_key == 0u {
            factors[own] = rescale;
            visible[own] = sees;
        }
        for (var j = own_key; j < KEYS; j += LANES) {
            let weight = exponential(scores[own * SCORE_STRIDE + j] - m);
            let shown = select(0.0, weight, is_visible(sees, j));
            let rounded = f16(shown * WEIGHT_SCALE);
            weights[own * WEIGHT_STRIDE + j] = rounded;
            l.rest += shown;
            rounded_l.rest += f32(rounded) / WEIGHT_SCALE;
        }
        if settles_after(at, KEYS) {
            l = settle(l.total, l.rest);
            rounded_l = settle(rounded_l.total, rounded_l.rest);
        }

        let why = workgroupUniformLoad(&reasons);
        if why != 0u {
            revise_outs(base, why, lane);
        }
        if (why & NOT_FINITE) == 0u {
            multiply_values(base);
        }
        workgroupBarrier();
    }

    let no_keys = seen == 0u;
    let exact = finish_row(row, m, sum_of_row(l.total + l.rest, lane), no_keys);
    // Divided by what values were multiplied with, a row that sees one key is that key's value.
    let rounded = finish_row(row, m, sum_of_row(rounded_l.total + rounded_l.rest, lane), no_keys);
    if own_key == 0u {
        factors[own] = rounded.factor / WEIGHT_SCALE;
        visible[own] = seen;
        finish_lse(exact, row, block.split);
    }
    store_outs(block, base, lane);
}

// A key of NaN spoils its own column of the scores alone, a query its row.
fn multiply_keys(base: u32) {
    for (var j = 0u; j < KEYS; j += MATRIX_SIZE) {
        var products = Sums();
        for (var d = 0u; d < HEAD_TILES; d++) {
            // Loaded by columns, keys are transposed.
            let right = coopLoad<Right>(&tile[j * TILE_STRIDE + d * MATRIX_SIZE], TILE_STRIDE);
            products = coopMultiplyAdd(queries[d], right, products);
        }
        coopStoreT(products, &scores[base * SCORE_STRIDE + j], SCORE_STRIDE);
    }
}

fn multiply_values(base: u32) {
    for (var j = 0u; j < KEYS; j += MATRIX_SIZE) {
        let left = coopLoadT<Left>(&weights[base * WEIGHT_STRIDE + j], WEIGHT_STRIDE);
        for (var d = 0u; d < VALUE_TILES; d++) {
            let right = coopLoadT<Right>(&tile[j * TILE_STRIDE + d * MATRIX_SIZE], TILE_STRIDE);
            outs[d] = coopMultiplyAdd(left, right, outs[d]);
        }
    }
}

// Rescales outputs. If some value of the tile is not finite, adds all of its values too, in place
// of multiply_values: a matrix multiplies them with rows that do not see them, and 0 * NaN is NaN.
fn revise_outs(base: u32, why: u32, lane: u32) {
    for (var d = 0u; d < VALUE_TILES; d++) {
        workgroupBarrier();
        coopStoreT(outs[d], &scores[base * SCORE_STRIDE], SCORE_STRIDE);
        workgroupBarrier();
        for (var slot = lane; slot < ROWS * MATRIX_SIZE; slot += THREADS) {
            let r = slot / MATRIX_SIZE;
            let at = r * SCORE_STRIDE + slot % MATRIX_SIZE;
            var sum = scores[at] * factors[r];
            if (why & NOT_FINITE) != 0u {
                sum += visible_sum(r, d * MATRIX_SIZE + slot % MATRIX_SIZE);
            }
            scores[at] = sum;
        }
        workgroupBarrier();
        outs[d] = coopLoadT<Sums>(&scores[base * SCORE_STRIDE], SCORE_STRIDE);
    }
}

fn visible_sum(r: u32, column: u32) -> f32 {
    var sum = 0.0;
    for (var j = 0u; j < KEYS; j++) {
        let term = f32(weights[r * WEIGHT_STRIDE + j]) * f32(tile[j * TILE_STRIDE + column]);
        sum += select(0.0, term, is_visible(visible[r], j));
    }
    return sum;
}

fn store_outs(block: RowBlock, base: u32, lane: u32) {
    for (var d = 0u; d < VALUE_TILES; d++) {
        workgroupBarrier();
        coopStoreT(outs[d], &scores[base * SCORE_STRIDE], SCORE_STRIDE);
        workgroupBarrier();
        for (var slot = lane; slot < ROWS * MATRIX_SIZE / 4u; slot += THREADS) {
            let r = slot / (MATRIX_SIZE / 4u);
            let column = slot % (MATRIX_SIZE / 4u) * 4u;
            let row = block_row(block, r);
            let start = row_start(params.out, row) + block.split * params.out_split;
            let at = r * SCORE_STRIDE + column;
            let four = vec4(scores[at], scores[at + 1u], scores[at + 2u], scores[at + 3u]);
            let columns = select(four * factors[r], vec4(0.0), visible[r] == 0u);
            store_out(start + d * MATRIX_SIZE + column, select(0u, 4u, row.live), columns);
        }
    }
}
