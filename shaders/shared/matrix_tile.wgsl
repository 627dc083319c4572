// Queries, keys and values as f16 in workgroup memory, from which matrices are loaded. A matrix
// load knows neither strides between heads nor the end of a tensor, so it reads nothing else.
// use params, rows, row_block, block_key, columns, finite, load(query), load(key), load(value)
// needs GROUPS, HEAD_DIM, HEAD_TILES, KEYS, KEY_GROUPS, KEY_TILES, MATRIX_SIZE, NOT_FINITE, ROWS
// needs STRIDE, THREADS, VALUE_DIM, Left, queries, reasons, tile, weights

// Groups of eight numbers of a tile that an invocation stages: columns of a key, or four columns of
// the values of two keys.
const KEY_SLOTS = (KEYS * HEAD_DIM / 8u + THREADS - 1u) / THREADS;
const VALUE_SLOTS = (KEYS * VALUE_DIM / 8u + THREADS - 1u) / THREADS;
// Vectors of four columns of the queries that it stages.
const QUERY_SLOTS = (ROWS * KEYS / 4u + THREADS - 1u) / THREADS;

var<private> fetched_keys: array<vec4<f32>, 2u * KEY_SLOTS>;
var<private> fetched_values: array<vec4<f32>, 2u * VALUE_SLOTS>;

// Where the rows begin of which an invocation stages four columns.
var<private> query_starts: array<u32, QUERY_SLOTS>;

fn find_queries(block: RowBlock, lane: u32) {
    for (var t = 0u; t < QUERY_SLOTS; t++) {
        let row = block_row(block, query_slot(lane, t) / (KEYS / 4u));
        query_starts[t] = row_start(params.query, row);
    }
}

fn query_slot(lane: u32, t: u32) -> u32 {
    return min(lane + t * THREADS, ROWS * KEYS / 4u - 1u);
}

// Puts as many columns of the workgroup's queries as a tile has keys into `weights`. Call in uniform
// control flow.
fn stage_queries(first_column: u32, lane: u32) {
    workgroupBarrier();
    for (var t = 0u; t < QUERY_SLOTS; t++) {
        let slot = query_slot(lane, t);
        let at = slot % (KEYS / 4u) * 4u;
        let column = first_column + at;
        let left = columns_left(HEAD_DIM, column);
        let four = vec4<f16>(load_query(query_starts[t] + column, left));
        let group = slot / (KEYS / 4u) * GROUPS + at / 8u;
        weights[group][at % 8u] = four.x;
        weights[group][at % 8u + 1u] = four.y;
        weights[group][at % 8u + 2u] = four.z;
        weights[group][at % 8u + 3u] = four.w;
    }
    workgroupBarrier();
}

fn load_queries(part: u32, base: u32, lane: u32) {
    stage_queries(part * KEYS, lane);
    let first = part * KEY_TILES;
    for (var t = 0u; t < min(KEY_TILES, HEAD_TILES - first); t++) {
        let group = base * GROUPS + t * MATRIX_SIZE / 8u;
        queries[first + t] = coopLoadT<Left>(&weights[group][0u], STRIDE);
    }
}

// The slots that an invocation stages. Those past the last one repeat it.
fn key_slot(lane: u32, t: u32) -> u32 {
    return min(lane + t * THREADS, KEYS * HEAD_DIM / 8u - 1u);
}

fn value_slot(lane: u32, t: u32) -> u32 {
    return min(lane + t * THREADS, KEYS * VALUE_DIM / 8u - 1u);
}

// Loads the keys and values of a tile. Invocations side by side have columns of a key, but values of
// several keys: they store those transposed.
fn fetch(block: RowBlock, first_key: u32, lane: u32) {
    for (var t = 0u; t < KEY_SLOTS; t++) {
        let slot = key_slot(lane, t);
        let start = key_start(block, params.key, first_key + slot / (HEAD_DIM / 8u));
        let column = slot % (HEAD_DIM / 8u) * 8u;
        fetched_keys[2u * t] = load_key(start + column, 4u);
        fetched_keys[2u * t + 1u] = load_key(start + column + 4u, 4u);
    }
    for (var t = 0u; t < VALUE_SLOTS; t++) {
        let slot = value_slot(lane, t);
        let number = first_key + slot % (KEYS / 2u) * 2u;
        let column = slot / (KEYS / 2u) * 4u;
        fetched_values[2u * t] = load_value(key_start(block, params.value, number) + column, 4u);
        fetched_values[2u * t + 1u] = load_value(key_start(block, params.value, number + 1u) + column, 4u);
    }
}

fn stage_keys(lane: u32) {
    for (var t = 0u; t < KEY_SLOTS; t++) {
        let slot = key_slot(lane, t);
        let group = slot / (HEAD_DIM / 8u) * KEY_GROUPS + slot % (HEAD_DIM / 8u);
        let first = vec4<f16>(fetched_keys[2u * t]);
        let second = vec4<f16>(fetched_keys[2u * t + 1u]);
        tile[group][0u][0u] = first.x;
        tile[group][0u][1u] = first.y;
        tile[group][1u][0u] = first.z;
        tile[group][1u][1u] = first.w;
        tile[group][2u][0u] = second.x;
        tile[group][2u][1u] = second.y;
        tile[group][3u][0u] = second.z;
        tile[group][3u][1u] = second.w;
    }
}

// Notes whether all are finite, unless all are visible.
fn stage_values(whole: bool, lane: u32) {
    for (var t = 0u; t < VALUE_SLOTS; t++) {
        let slot = value_slot(lane, t);
        let pair = slot % (KEYS / 2u);
        let group = slot / (KEYS / 2u) * 4u * GROUPS + pair / 4u;
        let first = vec4<f16>(fetched_values[2u * t]);
        let second = vec4<f16>(fetched_values[2u * t + 1u]);
        tile[group][pair % 4u][0u] = first.x;
        tile[group][pair % 4u][1u] = second.x;
        tile[group + GROUPS][pair % 4u][0u] = first.y;
        tile[group + GROUPS][pair % 4u][1u] = second.y;
        tile[group + 2u * GROUPS][pair % 4u][0u] = first.z;
        tile[group + 2u * GROUPS][pair % 4u][1u] = second.z;
        tile[group + 3u * GROUPS][pair % 4u][0u] = first.w;
        tile[group + 3u * GROUPS][pair % 4u][1u] = second.w;
        if !whole && !(are_finite(fetched_values[2u * t]) && are_finite(fetched_values[2u * t + 1u])) {
            atomicOr(&reasons, NOT_FINITE);
        }
    }
}
