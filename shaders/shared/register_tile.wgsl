// Two small tiles in workgroup memory and the products of what lies in them, for kernels whose
// invocations each have ROWS_EACH rows and KEYS_EACH keys. Every index of the tiles is a constant or
// the invocation's own, so that bounds checks cost nothing.
// needs KEYS, KEYS_EACH, KEY_LANES, ROWS, ROWS_EACH, ROW_LANES, THREADS, scores

// Columns of queries and keys, or keys of weights and values, that are staged at a time.
const CHUNK = 16u;
const VECTORS = CHUNK / 4u;
// Vectors of four of an invocation's rows.
const ROW_VECTORS = ROWS_EACH / 4u;
// Vectors that an invocation stages.
const QUERY_SLOTS = ROWS * VECTORS / THREADS;
const KEY_SLOTS = KEYS * VECTORS / THREADS;

// Queries, then weights. One vector more keeps lanes out of each other's banks.
// Queries: vector d of row i * ROW_LANES + r is number i * VECTORS + d of lane r.
// Weights: [key][r * ROW_VECTORS + h] has rows (4 h + 0, 1, 2, 3) * ROW_LANES + r.
var<workgroup> left_tile: array<array<vec4<f32>, ROW_LANES * ROW_VECTORS + 1u>, CHUNK>;
// Keys [key / KEY_LANES][key % KEY_LANES][vector], then values [key / 4][vector][key % 4].
var<workgroup> right_tile: array<array<array<vec4<f32>, VECTORS + 1u>, KEY_LANES>, KEYS_EACH>;

// An invocation and its place among rows and keys.
struct TilePosition {
    lane: u32,
    row: u32,
    key: u32,
}

// The row of a tile of which an invocation stages a vector.
fn staged_row(lane: u32, slot: u32) -> u32 {
    return (lane + slot * THREADS) / VECTORS;
}

fn stage_left(row: u32, d: u32, columns: vec4<f32>) {
    let slot = row / ROW_LANES * VECTORS + d;
    left_tile[slot / ROW_VECTORS][row % ROW_LANES * ROW_VECTORS + slot % ROW_VECTORS] = columns;
}

fn staged_left(i: u32, d: u32, place: TilePosition) -> vec4<f32> {
    let slot = i * VECTORS + d;
    return left_tile[slot / ROW_VECTORS][place.row * ROW_VECTORS + slot % ROW_VECTORS];
}

fn stage_right(row: u32, d: u32, columns: vec4<f32>) {
    right_tile[row / KEY_LANES][row % KEY_LANES][d] = columns;
}

// The same where an invocation's keys lie side by side, so that what it has of a row is a vector.
fn stage_right_beside(row: u32, d: u32, columns: vec4<f32>) {
    right_tile[row % KEYS_EACH][row / KEYS_EACH][d] = columns;
}

// Adds the products of a chunk of columns to the scores.
fn multiply_chunk(place: TilePosition) {
    for (var d = 0u; d < VECTORS; d++) {
        var b: array<vec4<f32>, KEYS_EACH>;
        for (var j = 0u; j < KEYS_EACH; j++) {
            b[j] = right_tile[j][place.key][d];
        }
        for (var i = 0u; i < ROWS_EACH; i++) {
            let a = staged_left(i, d, place);
            for (var j = 0u; j < KEYS_EACH; j++) {
                var sum = scores[i * KEYS_EACH + j];
                sum = fma(a.x, b[j].x, sum);
                sum = fma(a.y, b[j].y, sum);
                sum = fma(a.z, b[j].z, sum);
                scores[i * KEYS_EACH + j] = fma(a.w, b[j].w, sum);
            }
        }
    }
}
