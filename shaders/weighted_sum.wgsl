// Third of the three stages: out = weights V.
//
// An invocation owns ROWS_EACH rows and COLUMNS columns of out. It reads its weights four keys at a
// time. All of them read the same value at the same time, a broadcast, from a tile that they staged
// together.
//
// Visibility is decided anew, not read from the weights: a hidden value must not leak, while a
// visible NaN shows even where its weight has vanished.

// Columns of a tile, a multiple of 4.
const COLUMNS = 32u;
// Invocations of a workgroup; rows of each; keys of a tile, a multiple of 4.
const THREADS = 64u;
const ROWS_EACH = 2u;
const KEYS = 32u;
const HAS_BIAS = false;
alias Value = f32;
alias Out = f32;

@group(0) @binding(3) var<storage, read> value: array<Value>;
@group(0) @binding(4) var<storage, read_write> out: array<Out>;
@group(0) @binding(6) var<storage, read> mask: array<u32>;
@group(0) @binding(7) var<storage, read> bias: array<f32>;
@group(0) @binding(8) var<storage, read> aux: array<u32>;
@group(0) @binding(9) var<storage, read> weights: array<f32>;

// use params, rows, row_block, tile, finite, visibility, settle, columns, key_bits, staged(value)
// use store(out)

const FOURS = COLUMNS / 4u;
const ROWS = THREADS * ROWS_EACH;
const WORD_KEYS = KEYS;

var<workgroup> tile: array<array<vec4<f32>, FOURS>, KEYS>;
// Whether a value that is infinite or NaN has been staged.
var<workgroup> has_nonfinite: atomic<u32>;
// Four columns to a vector: running sums over the last few tiles, and totals over all before.
var<private> sums: array<array<vec4<f32>, FOURS>, ROWS_EACH>;
var<private> settled_sums: array<array<vec4<f32>, FOURS>, ROWS_EACH>;
var<private> starts: array<u32, ROWS_EACH>;
var<private> visible: array<u32, ROWS_EACH>;

@compute @workgroup_size(THREADS)
fn weighted_sum(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let block = locate_block(workgroup, (params.value_dim + COLUMNS - 1u) / COLUMNS);
    let sequence = block.sequence;
    let first_column = block.chunk * COLUMNS;
    let own_row = lane * ROWS_EACH;
    for (var r = 0u; r < ROWS_EACH; r++) {
        starts[r] = row_start(params.scores, block_row(block, own_row + r));
        for (var four = 0u; four < FOURS; four++) {
            sums[r][four] = vec4(0.0);
            settled_sums[r][four] = vec4(0.0);
        }
    }
    if lane == 0u {
        atomicStore(&has_nonfinite, 0u);
    }
    workgroupBarrier();
    let keys = block_keys(block);
    for (var at = keys.begin; at < keys.end; at += KEYS) {
        let first_key = key_at(keys, at);
        let value_start = tile_start(params.value, locate_tile(sequence, first_key), block.kv_head);
        stage(value_start, sequence.seen_len - 1u - first_key, first_column, lane);
        workgroupBarrier();
        let all_finite = atomicLoad(&has_nonfinite) == 0u;
        let whole = block_sees_whole_tile(block, first_key);
        var some = 0u;
        for (var r = 0u; r < ROWS_EACH; r++) {
            visible[r] = 0xffffffffu;
            if !whole {
                visible[r] = visible_keys(sequence, block_row(block, own_row + r), first_key);
            }
            some |= visible[r];
        }
        // The loop ends at the last key that one of its rows sees.
        let end = min(visible_end(some), KEYS);
        for (var j = 0u; j < end; j += 4u) {
            if whole || all_finite {
                add_values(first_key, j);
            } else {
                add_visible_values(first_key, j);
            }
        }
        // A running sum takes four keys as one term.
        if settles_after(at / 4u, KEYS / 4u) {
            settle_sums();
        }
        workgroupBarrier();
    }
    for (var r = 0u; r < ROWS_EACH; r++) {
        let row = block_row(block, own_row + r);
        let start = row_start(params.out, row);
        for (var four = 0u; four < FOURS; four++) {
            let column = first_column + four * 4u;
            let columns = settled_sums[r][four] + sums[r][four];
            store_out(start + column, select(0u, columns_left(params.value_dim, column), row.live), columns);
        }
    }
}

fn settle_sums() {
    for (var r = 0u; r < ROWS_EACH; r++) {
        for (var four = 0u; four < FOURS; four++) {
            let columns = settle_columns(settled_sums[r][four], sums[r][four]);
            settled_sums[r][four] = columns.total;
            sums[r][four] = columns.rest;
        }
    }
}

fn stage(value_start: u32, last: u32, first_column: u32, lane: u32) {
    for (var slot = lane; slot < KEYS * FOURS; slot += THREADS) {
        let j = slot / FOURS;
        let column = first_column + slot % FOURS * 4u;
        let left = columns_left(params.value_dim, column);
        let columns = staged_value(value_start, j, last, column, left);
        tile[j][slot % FOURS] = columns;
        if !are_finite(columns) {
            atomicStore(&has_nonfinite, 1u);
        }
    }
}

// The weights of four keys, 0 where they are hidden: past the row's end stand those of another row.
fn four_weights(first_key: u32, j: u32, r: u32) -> vec4<f32> {
    let at = starts[r] + first_key + j;
    let found = vec4(weights[at], weights[at + 1u], weights[at + 2u], weights[at + 3u]);
    return select(vec4(0.0), found, four_visible(visible[r], j / 4u));
}

fn add_values(first_key: u32, j: u32) {
    var four_keys: array<vec4<f32>, ROWS_EACH>;
    for (var r = 0u; r < ROWS_EACH; r++) {
        four_keys[r] = four_weights(first_key, j, r);
    }
    for (var four = 0u; four < FOURS; four++) {
        let values = mat4x4(tile[j][four], tile[j + 1u][four], tile[j + 2u][four], tile[j + 3u][four]);
        for (var r = 0u; r < ROWS_EACH; r++) {
            sums[r][four] += values * four_keys[r];
        }
    }
}

// The same where a hidden value may be infinite or NaN: 0 * NaN is NaN. This is rare, so it takes
// one key at a time.
fn add_visible_values(first_key: u32, j: u32) {
    for (var c = 0u; c < 4u; c++) {
        for (var r = 0u; r < ROWS_EACH; r++) {
            let shown = is_visible(visible[r], j + c);
            let weight = weights[starts[r] + first_key + j + c];
            for (var four = 0u; four < FOURS; four++) {
                sums[r][four] += select(vec4(0.0), weight * tile[j + c][four], shown);
            }
        }
    }
}
