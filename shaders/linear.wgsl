// A linear layer: out = x W^T + bias.
//
// An invocation owns some rows and all columns of a tile of out. It reads its rows from x. All of
// them read the same weight at the same time, a broadcast, from a tile that they staged together,
// some features at a time.

// Invocations of a workgroup; rows of each; columns of a tile, a multiple of 4.
const THREADS = 64u;
const ROWS_EACH = 2u;
const COLUMNS = 16u;
const HAS_BIAS = false;
alias X = f32;
alias Weight = f32;
alias Bias = f32;
alias Out = f32;

@group(0) @binding(1) var<storage, read> x: array<X>;
@group(0) @binding(2) var<storage, read> weight: array<Weight>;
@group(0) @binding(3) var<storage, read> bias: array<Bias>;
@group(0) @binding(4) var<storage, read_write> out: array<Out>;

// Vectors of four features that are staged at once.
const STEP = 32u;
const FOURS = COLUMNS / 4u;

var<workgroup> tile: array<vec4<f32>, STEP * COLUMNS>;
var<private> sums: array<vec4<f32>, ROWS_EACH * FOURS>;
var<private> starts: array<u32, ROWS_EACH>;

// use linear_params, columns, load(x), load(weight), load(bias), store(out)

@compute @workgroup_size(THREADS)
fn linear(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let first_row = (workgroup.y * THREADS + lane) * ROWS_EACH;
    let first_column = workgroup.x * COLUMNS;
    for (var each = 0u; each < ROWS_EACH; each++) {
        // Rows past the end repeat the last one; they are not stored.
        let row = min(first_row + each, params.rows - 1u);
        starts[each] = x_start(row);
        for (var four = 0u; four < FOURS; four++) {
            sums[each * FOURS + four] = vec4(0.0);
        }
    }
    for (var feature = 0u; feature < params.in_features; feature += STEP * 4u) {
        stage_weights(first_column, feature, lane);
        workgroupBarrier();
        for (var step = 0u; step < STEP; step++) {
            let at = feature + step * 4u;
            let left = columns_left(params.in_features, at);
            var rows: array<vec4<f32>, ROWS_EACH>;
            for (var each = 0u; each < ROWS_EACH; each++) {
                rows[each] = load_x(starts[each] + at, left);
            }
            for (var four = 0u; four < FOURS; four++) {
                let slot = step * COLUMNS + four * 4u;
                let columns = mat4x4(tile[slot], tile[slot + 1u], tile[slot + 2u], tile[slot + 3u]);
                for (var each = 0u; each < ROWS_EACH; each++) {
                    sums[each * FOURS + four] += rows[each] * columns;
                }
            }
        }
        workgroupBarrier();
    }

    for (var four = 0u; four < FOURS; four++) {
        let column = first_column + four * 4u;
        let left = columns_left(params.out_features, column);
        var added = vec4(0.0);
        if HAS_BIAS {
            added = load_bias(params.bias_offset + column, left);
        }
        for (var each = 0u; each < ROWS_EACH; each++) {
            let row = first_row + each;
            if row < params.rows {
                store_out(out_start(row) + column, left, sums[each * FOURS + four] + added);
            }
        }
    }
}

fn stage_weights(first_column: u32, feature: u32, lane: u32) {
    for (var slot = lane; slot < STEP * COLUMNS; slot += THREADS) {
        let column = min(first_column + slot / STEP, params.out_features - 1u);
        let start = params.weight_offset + column * params.in_features;
        let at = feature + slot % STEP * 4u;
        tile[slot % STEP * COLUMNS + slot / STEP] = load_weight(start + at, columns_left(params.in_features, at));
    }
}
