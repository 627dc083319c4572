// Third of the three stages, for GPUs: out = weights V, the product of tiles in registers.
//
// Visibility is decided anew, not read from the weights: a hidden value must not leak, while a
// visible NaN shows even where its weight has vanished.

// 4 or 8.
const ROWS_EACH = 8u;
// Vectors of a row of out that an invocation has, KEY_LANES apart: at most 4.
const VALUE_VECTORS = 1u;
const HAS_BIAS = false;
alias Value = f32;
alias Out = f32;

@group(0) @binding(3) var<storage, read> value: array<Value>;
@group(0) @binding(4) var<storage, read_write> out: array<Out>;
@group(0) @binding(6) var<storage, read> mask: array<u32>;
@group(0) @binding(7) var<storage, read> bias: array<f32>;
@group(0) @binding(8) var<storage, read> aux: array<u32>;
@group(0) @binding(9) var<storage, read> weights: array<f32>;

// use params, rows, row_block, visibility, columns, fixed_tile, register_tile, tile_visibility
// use tile_values, load(out), store(out)

const WORD_KEYS = 32u;
// Keys after which sums go into out: a running sum of more terms would lose digits.
const SETTLE_KEYS = 8192u;

// What attention_tiled.wgsl has scores in: weights.
var<private> scores: array<f32, ROWS_EACH * KEYS_EACH>;
var<private> outs: array<vec4<f32>, ROWS_EACH * VALUE_VECTORS>;
// Where the rows of the weights begin.
var<private> starts: array<u32, ROWS_EACH>;

@compute @workgroup_size(THREADS)
fn weighted_sum_tiled(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let place = TilePosition(lane, lane / KEY_LANES, lane % KEY_LANES);
    let lane_columns = 4u * KEY_LANES * VALUE_VECTORS;
    let block = locate_block(workgroup, (params.value_dim + lane_columns - 1u) / lane_columns);
    for (var i = 0u; i < ROWS_EACH; i++) {
        starts[i] = row_start(params.scores, block_row(block, place.row + i * ROW_LANES));
        for (var c = 0u; c < VALUE_VECTORS; c++) {
            outs[i * VALUE_VECTORS + c] = vec4(0.0);
        }
    }
    note_all_finite(lane);
    let keys = block_keys(block);
    var settled = false;
    var at = keys.begin;
    while at < keys.end {
        let end = min(at + SETTLE_KEYS, keys.end);
        for (; at < end; at += KEYS) {
            add_tile(block, key_at(keys, at), place);
        }
        if at < keys.end && is_set(SETTLES) {
            store_rows(block, settled, place);
            settled = true;
        }
    }
    store_rows(block, settled, place);
}

fn add_tile(block: RowBlock, first_key: u32, place: TilePosition) {
    let whole = block_sees_whole_tile(block, first_key);
    if !whole {
        workgroupBarrier();
        see_keys(block, first_key, place.lane);
        workgroupBarrier();
    }
    for (var i = 0u; i < ROWS_EACH; i++) {
        for (var j = 0u; j < KEYS_EACH; j++) {
            scores[i * KEYS_EACH + j] = weights[starts[i] + first_key + place.key + j * KEY_LANES];
        }
    }
    if !whole {
        // Past the row's end stand weights of another row.
        hide(0.0, place);
    }
    // Not a loop: weights are picked by constants.
    add_keys(block, first_key, whole, 0u, place);
    add_keys(block, first_key, whole, 1u, place);
    add_keys(block, first_key, whole, 2u, place);
    add_keys(block, first_key, whole, 3u, place);
}

// Stores the outputs, with those that were stored before. Registers start again.
fn store_rows(block: RowBlock, settled: bool, place: TilePosition) {
    for (var i = 0u; i < ROWS_EACH; i++) {
        let row = block_row(block, place.row + i * ROW_LANES);
        let start = row_start(params.out, row);
        for (var c = 0u; c < VALUE_VECTORS; c++) {
            let column = out_column(block, c, place);
            let left = columns_left(params.value_dim, column);
            var columns = outs[i * VALUE_VECTORS + c];
            if settled {
                columns += load_out(start + column, left);
            }
            store_out(start + column, select(0u, left, row.live), columns);
            outs[i * VALUE_VECTORS + c] = vec4(0.0);
        }
    }
}
