// Fused attention on cooperative matrices: factors in f16, sums in f32.
//
// Each subgroup multiplies the rows of one matrix: their queries and outputs stay in its registers.
// Invocations do the rest in workgroup memory, where LANES of them share a row. Each iteration
// takes a tile of keys through five steps, with barriers between:
//   1. Invocations load keys and values, which are on their way together, and stage the keys.
//   2. Subgroups multiply queries and keys into `scores`.
//   3. Invocations turn scores into weights, and stage the values where the keys were.
//   4. If a row's maximum has grown, its outputs go through memory to be rescaled.
//   5. Subgroups multiply weights and values into outputs.
// Values are staged transposed, so that an operand's numbers lie side by side, as those of keys do.
// Source: Dao 2023, arXiv 2307.08691, algorithm 1, with f16 weights and f32 sums as there.

// Rows and columns of a matrix, 8 or 16, which divide both dims.
const MATRIX_SIZE = 8u;
const HEAD_DIM = 64u;
const VALUE_DIM = 64u;
// Matrices of rows in a workgroup; its invocations, a multiple of its rows.
const SUBGROUPS = 4u;
const THREADS = 128u;
// Whether queries stay in registers, which have room for few columns.
const KEEPS_QUERIES = true;
// Whether subgroups may be smaller than planned, so that several share a matrix of rows.
const HAS_PARTS = false;
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

// use params, row_block, visibility, transform, softmax_state, finish, matrix_tile
// use matrix_products, matrix_outs, key_bits

// Keys of a tile: their visibility is one word.
const KEYS = 32u;
const HEAD_TILES = HEAD_DIM / MATRIX_SIZE;
const VALUE_TILES = VALUE_DIM / MATRIX_SIZE;
const KEY_TILES = KEYS / MATRIX_SIZE;
const ROWS = SUBGROUPS * MATRIX_SIZE;
const WORD_KEYS = KEYS;
// Invocations side by side that share a row, and the keys that each has, side by side too.
const LANES = THREADS / ROWS;
const OWN_KEYS = KEYS / LANES;
// Weights are below e^MOST_GROWTH. Scaled by this, f16 still holds them all, and keeps 7 bits more
// of small ones.
const WEIGHT_SCALE = 128.0;
// Arrays are of groups of eight, so that compilers see that a group starts on a multiple of 16 bytes
// and is one read. Rows have a group more than they need, so that no column is in one bank.
const KEY_GROUPS = HEAD_DIM / 8u + 1u;
const GROUPS = KEYS / 8u + 1u;
const KEY_STRIDE = 8u * KEY_GROUPS;
const STRIDE = 8u * GROUPS;

// [key, column] of keys, then [column, key] of values.
var<workgroup> tile: array<array<array<f16, 2>, 4>, max(KEYS * KEY_GROUPS, VALUE_DIM * GROUPS)>;
// [row, key]; in between, some columns of the outputs and, in `weights`, of the queries.
var<workgroup> scores: array<array<f32, 8>, ROWS * GROUPS>;
var<workgroup> weights: array<array<f16, 8>, ROWS * GROUPS>;
// Per row: what its outputs are multiplied by, and which keys it sees.
var<workgroup> factors: array<f32, ROWS>;
var<workgroup> visible: array<u32, ROWS>;
var<workgroup> keys: KeyRange;
// Subgroups that share a matrix of rows. Each takes some of a tile's matrices of keys.
var<workgroup> part_count: u32;
// Reasons why outputs have to go through memory, as bits.
var<workgroup> reasons: atomic<u32>;
const GROWN = 1u;
const NOT_FINITE = 2u;

var<private> queries: array<Left, select(1u, HEAD_TILES, KEEPS_QUERIES)>;
var<private> outs: array<Sums, VALUE_TILES>;

@compute @workgroup_size(THREADS)
fn attention_forward_matrix(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
    @builtin(subgroup_id) subgroup_id: u32,
    @builtin(num_subgroups) num_subgroups: u32,
) {
    let block = locate_block(workgroup, 1u);
    if lane == 0u {
        keys = block_keys(block);
        part_count = clamp(num_subgroups / SUBGROUPS, 1u, KEY_TILES);
    }
    // A compiler has to see that control flow around matrix operations is uniform.
    let range = workgroupUniformLoad(&keys);
    var share = Share(subgroup_id % SUBGROUPS * MATRIX_SIZE, 0u, 1u);
    if HAS_PARTS {
        share.parts = workgroupUniformLoad(&part_count);
        share.part = subgroup_id / SUBGROUPS % share.parts;
    }
    // The invocation's row, and its first key in a tile.
    let own = lane / LANES;
    let own_key = lane % LANES * OWN_KEYS;
    let own_group = own * GROUPS + own_key / 8u;
    let row = block_row(block, own);
    let slope = alibi_slope(row);
    // Sums over this invocation's keys: of exact weights, and of rounded ones.
    var m = LOWEST;
    var l = 0.0;
    var rounded_l = 0.0;
    var seen = 0u;

    for (var d = 0u; d < VALUE_TILES; d++) {
        outs[d] = Sums();
    }
    find_queries(block, lane);
    if KEEPS_QUERIES {
        // Not a loop: matrices are picked by constants.
        load_queries(0u, share.base, lane);
        if HEAD_DIM > KEYS {
            load_queries(1u, share.base, lane);
        }
        if HEAD_DIM > 2u * KEYS {
            load_queries(2u, share.base, lane);
        }
        if HEAD_DIM > 3u * KEYS {
            load_queries(3u, share.base, lane);
        }
    }
    for (var at = range.begin; at < range.end; at += KEYS) {
        let first_key = key_at(range, at);
        let whole = block_sees_whole_tile(block, first_key);
        fetch(block, first_key, lane);
        if lane == 0u {
            atomicStore(&reasons, 0u);
        }
        workgroupBarrier();
        stage_keys(lane);
        workgroupBarrier();
        // A call of its own, whose loops compilers unroll.
        if share.parts == 1u {
            multiply_keys(Share(share.base, 0u, 1u), lane);
        } else {
            multiply_keys(share, lane);
        }
        workgroupBarrier();

        stage_values(whole, lane);
        var sees = 0xffffffffu;
        if !whole {
            sees = visible_keys(block.sequence, row, first_key);
        }
        var terms: array<f32, OWN_KEYS>;
        var highest = LOWEST;
        for (var i = 0u; i < OWN_KEYS; i++) {
            let j = own_key + i;
            let added = bias_at(row, first_key + j);
            let product = scores[own_group + i / 8u][i % 8u];
            terms[i] = transform_score(row, slope, first_key + j, product, added);
        }
        // Blocks of their own, which tiles that are seen whole jump over.
        if !whole {
            for (var i = 0u; i < OWN_KEYS; i++) {
                terms[i] = select(LOWEST, terms[i], is_visible(sees, own_key + i));
            }
        }
        for (var i = 0u; i < OWN_KEYS; i++) {
            highest = max(highest, terms[i]);
        }
        for (var step = 1u; step < LANES; step *= 2u) {
            highest = max(highest, subgroupShuffleXor(highest, step));
        }

        // The maximum follows only when weights could overflow later: most iterations rescale
        // nothing.
        var rescale = 1.0;
        if highest > m + MOST_GROWTH {
            rescale = exponential(m - highest);
            m = highest;
            l *= rescale;
            rounded_l *= rescale;
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
        var sum = 0.0;
        var rounded_sum = 0.0;
        for (var i = 0u; i < OWN_KEYS; i++) {
            terms[i] = exponential(terms[i] - m);
        }
        if !whole {
            for (var i = 0u; i < OWN_KEYS; i++) {
                terms[i] = select(0.0, terms[i], is_visible(sees, own_key + i));
            }
        }
        for (var i = 0u; i < OWN_KEYS; i++) {
            let rounded = f16(terms[i] * WEIGHT_SCALE);
            weights[own_group + i / 8u][i % 8u] = rounded;
            sum += terms[i];
            rounded_sum += f32(rounded);
        }
        l += sum;
        rounded_l += rounded_sum;

        let why = workgroupUniformLoad(&reasons);
        if why != 0u {
            revise_outs(share, why, lane);
        }
        if (why & NOT_FINITE) == 0u && share.parts == 1u {
            multiply_values(Share(share.base, 0u, 1u));
        } else if (why & NOT_FINITE) == 0u {
            multiply_values(share);
        }
    }

    for (var step = 1u; step < LANES; step *= 2u) {
        l += subgroupShuffleXor(l, step);
        rounded_l += subgroupShuffleXor(rounded_l, step);
    }
    let no_keys = seen == 0u;
    let exact = finish_row(row, m, l, no_keys);
    // Divided by what values were multiplied with, a row that sees one key is that key's value.
    let rounded = finish_row(row, m, rounded_l / WEIGHT_SCALE, no_keys);
    workgroupBarrier();
    if own_key == 0u {
        factors[own] = rounded.factor / WEIGHT_SCALE;
        visible[own] = seen;
        finish_lse(exact, row, block.split);
    }
    store_outs(block, share, lane);
}
