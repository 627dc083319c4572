// A linear layer: out = x W^T + bias.
//
// A workgroup computes a tile of out from tiles of x and of W that it stages together, some features at a time; an
// invocation owns four rows and four neighbouring columns.

// Rows and columns of a tile, multiples of 4.
const TILE_ROWS = 64u;
const TILE_COLUMNS = 64u;
const HAS_BIAS = false;
alias Stored = f32;
alias StoredOut = f32;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<Stored>;
@group(0) @binding(2) var<storage, read> weight: array<Stored>;
@group(0) @binding(3) var<storage, read> bias: array<Stored>;
@group(0) @binding(4) var<storage, read_write> out: array<StoredOut>;

// Mirrored by `LinearParams` in src/plan/linear.rs.
struct Params {
    x_offset: u32,
    x_batch: u32,
    x_row: u32,
    out_offset: u32,
    out_batch: u32,
    out_row: u32,
    weight_offset: u32,
    bias_offset: u32,
    // Rows of a batch, and of all.
    len: u32,
    rows: u32,
    in_features: u32,
    out_features: u32,
}

const ROW_LANES = TILE_ROWS / 4u;
const COLUMN_LANES = TILE_COLUMNS / 4u;
const THREADS = ROW_LANES * COLUMN_LANES;
// Vectors of four features that are staged at once.
const STEP = 4u;

// Vector `step` of each row, then vector `step + 1`: neighbours read from neighbouring places.
var<workgroup> x_tile: array<vec4<f32>, STEP * TILE_ROWS>;
var<workgroup> weight_tile: array<vec4<f32>, STEP * TILE_COLUMNS>;

// use load(x), load(weight), load(bias), store(out)

@compute @workgroup_size(THREADS)
fn linear(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let first_row = workgroup.y * TILE_ROWS;
    let first_column = workgroup.x * TILE_COLUMNS;
    let row_lane = lane / COLUMN_LANES;
    let column_lane = lane % COLUMN_LANES;

    var first = vec4(0.0);
    var second = vec4(0.0);
    var third = vec4(0.0);
    var fourth = vec4(0.0);
    for (var feature = 0u; feature < params.in_features; feature += STEP * 4u) {
        stage_rows(first_row, feature, lane);
        stage_weights(first_column, feature, lane);
        workgroupBarrier();
        for (var step = 0u; step < STEP; step++) {
            let at = step * TILE_COLUMNS + column_lane;
            let columns = mat4x4(
                weight_tile[at],
                weight_tile[at + COLUMN_LANES],
                weight_tile[at + 2u * COLUMN_LANES],
                weight_tile[at + 3u * COLUMN_LANES],
            );
            let row = step * TILE_ROWS + row_lane;
            first += x_tile[row] * columns;
            second += x_tile[row + ROW_LANES] * columns;
            third += x_tile[row + 2u * ROW_LANES] * columns;
            fourth += x_tile[row + 3u * ROW_LANES] * columns;
        }
        workgroupBarrier();
    }

    let column = first_column + column_lane * 4u;
    let left = columns_left(params.out_features, column);
    var added = vec4(0.0);
    if HAS_BIAS {
        added = load_bias(params.bias_offset + column, left);
    }
    let row = first_row + row_lane;
    store_row(row, column, left, first + added);
    store_row(row + ROW_LANES, column, left, second + added);
    store_row(row + 2u * ROW_LANES, column, left, third + added);
    store_row(row + 3u * ROW_LANES, column, left, fourth + added);
}

// Rows past the end repeat the last one; they are not stored.
fn stage_rows(first_row: u32, feature: u32, lane: u32) {
    for (var slot = lane; slot < STEP * TILE_ROWS; slot += THREADS) {
        let row = min(first_row + slot / STEP, params.rows - 1u);
        let start = params.x_offset + row / params.len * params.x_batch + row % params.len * params.x_row;
        let at = feature + slot % STEP * 4u;
        x_tile[slot % STEP * TILE_ROWS + slot / STEP] =
            load_x(start + at, columns_left(params.in_features, at));
    }
}

// As the rows; of four neighbouring columns each goes to its own quarter.
fn stage_weights(first_column: u32, feature: u32, lane: u32) {
    for (var slot = lane; slot < STEP * TILE_COLUMNS; slot += THREADS) {
        let index = slot / STEP;
        let column = min(first_column + index, params.out_features - 1u);
        let start = params.weight_offset + column * params.in_features;
        let at = feature + slot % STEP * 4u;
        weight_tile[slot % STEP * TILE_COLUMNS + index % 4u * COLUMN_LANES + index / 4u] =
            load_weight(start + at, columns_left(params.in_features, at));
    }
}

fn store_row(row: u32, column: u32, left: u32, columns: vec4<f32>) {
    if row < params.rows {
        let start = params.out_offset + row / params.len * params.out_batch + row % params.len * params.out_row;
        store_out(start + column, left, columns);
    }
}
