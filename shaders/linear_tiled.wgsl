// A linear layer for GPUs: out = x W^T + bias, the product of tiles in registers.
//
// Features of out are what keys are in attention. An invocation has ROWS_EACH rows, ROW_LANES apart,
// and KEYS_EACH features side by side.
// Source: Volkov and Demmel 2008, "Benchmarking GPUs to tune dense linear algebra".

// 4 or 8.
const ROWS_EACH = 8u;
const HAS_BIAS = false;
alias X = f32;
alias Weight = f32;
alias Bias = f32;
alias Out = f32;

@group(0) @binding(1) var<storage, read> x: array<X>;
@group(0) @binding(2) var<storage, read> weight: array<Weight>;
@group(0) @binding(3) var<storage, read> bias: array<Bias>;
@group(0) @binding(4) var<storage, read_write> out: array<Out>;

// use linear_params, columns, fixed_tile, register_tile, load(x), load(weight), load(bias), store(out)

var<private> scores: array<f32, ROWS_EACH * KEYS_EACH>;
// Where the rows begin that this invocation stages.
var<private> x_starts: array<u32, QUERY_SLOTS>;
var<private> weight_starts: array<u32, KEY_SLOTS>;

@compute @workgroup_size(THREADS)
fn linear_tiled(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let place = TilePosition(lane, lane / KEY_LANES, lane % KEY_LANES);
    let first_row = workgroup.y * ROWS;
    let first_feature = workgroup.x * KEYS;
    for (var t = 0u; t < QUERY_SLOTS; t++) {
        // Rows past the end repeat the last one; they are not stored.
        x_starts[t] = x_start(min(first_row + staged_row(lane, t), params.rows - 1u));
    }
    for (var t = 0u; t < KEY_SLOTS; t++) {
        let feature = min(first_feature + staged_row(lane, t), params.out_features - 1u);
        weight_starts[t] = params.weight_offset + feature * params.in_features;
    }
    for (var s = 0u; s < ROWS_EACH * KEYS_EACH; s++) {
        scores[s] = 0.0;
    }
    for (var feature = 0u; feature < params.in_features; feature += CHUNK) {
        stage(feature, lane);
        multiply_chunk(place);
    }
    store_rows(first_row, first_feature, place);
}

fn stage(feature: u32, lane: u32) {
    let own = feature + lane % VECTORS * 4u;
    let left = columns_left(params.in_features, own);
    var rows: array<vec4<f32>, QUERY_SLOTS>;
    var weights: array<vec4<f32>, KEY_SLOTS>;
    for (var t = 0u; t < QUERY_SLOTS; t++) {
        rows[t] = load_x(x_starts[t] + own, left);
    }
    for (var t = 0u; t < KEY_SLOTS; t++) {
        weights[t] = load_weight(weight_starts[t] + own, left);
    }
    workgroupBarrier();
    for (var t = 0u; t < QUERY_SLOTS; t++) {
        stage_left(staged_row(lane, t), lane % VECTORS, rows[t]);
    }
    for (var t = 0u; t < KEY_SLOTS; t++) {
        stage_right_beside(staged_row(lane, t), lane % VECTORS, weights[t]);
    }
    workgroupBarrier();
}

fn store_rows(first_row: u32, first_feature: u32, place: TilePosition) {
    let feature = first_feature + place.key * KEYS_EACH;
    let left = columns_left(params.out_features, feature);
    var added = vec4(0.0);
    if HAS_BIAS {
        added = load_bias(params.bias_offset + feature, left);
    }
    for (var i = 0u; i < ROWS_EACH; i++) {
        let row = first_row + place.row + i * ROW_LANES;
        let s = i * KEYS_EACH;
        let sums = vec4(scores[s], scores[s + 1u], scores[s + 2u], scores[s + 3u]);
        store_out(out_start(row) + feature, select(0u, left, row < params.rows), sums + added);
    }
}
