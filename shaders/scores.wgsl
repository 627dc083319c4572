// First of the three stages: a score for every query and key of a chunk.
//
// An invocation owns ROWS_EACH rows and all keys of a tile. It reads its queries four columns at a
// time. All of them read the same key at the same time, a broadcast, from a tile that they staged
// together: one read serves ROWS_EACH rows. Without transforms and masks it stores raw, capped or
// masked scores.
// Source: Vaswani et al. 2017, arXiv 1706.03762, equation 1.

// Vectors of four columns of a key that are staged at once.
const STEP = 16u;
// Invocations of a workgroup; rows of each; keys of a tile, a multiple of 4.
const THREADS = 64u;
const ROWS_EACH = 2u;
const KEYS = 32u;
// Whether the scale is subnormal, which a device may take for 0.
const HAS_TINY_SCALE = false;
const HAS_SOFTCAP = false;
const HAS_BIAS = false;
const HAS_ALIBI = false;
alias Query = f32;
alias Key = f32;

@group(0) @binding(1) var<storage, read> query: array<Query>;
@group(0) @binding(2) var<storage, read> key: array<Key>;
@group(0) @binding(6) var<storage, read> mask: array<u32>;
@group(0) @binding(7) var<storage, read> bias: array<f32>;
@group(0) @binding(8) var<storage, read> aux: array<u32>;
@group(0) @binding(9) var<storage, read_write> weights: array<u32>;

// use params, locate, sequence, rows, tile, transform, visibility, marked_scores, columns, key_bits
// use load(query), staged(key)

const FOURS = KEYS / 4u;
const WORD_KEYS = KEYS;

var<workgroup> tile: array<array<vec4<f32>, KEYS>, STEP>;
// Four keys to a vector.
var<private> products: array<array<vec4<f32>, FOURS>, ROWS_EACH>;
var<private> starts: array<u32, ROWS_EACH>;

@compute @workgroup_size(THREADS)
fn scores(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let sequence = locate_sequence(workgroup);
    let tiles = (params.kv_len + KEYS - 1u) / KEYS;
    let kv_head = workgroup.y / tiles;
    let first_key = workgroup.y % tiles * KEYS;
    let own_row = (workgroup.x * THREADS + lane) * ROWS_EACH;
    for (var r = 0u; r < ROWS_EACH; r++) {
        starts[r] = row_start(params.query, locate_row(own_row + r, sequence, kv_head));
        for (var four = 0u; four < FOURS; four++) {
            products[r][four] = vec4(0.0);
        }
    }
    let key_start = tile_start(params.key, locate_tile(sequence, first_key), kv_head);
    for (var first = 0u; first < head_vectors(); first += STEP) {
        stage(key_start, params.kv_len - 1u - first_key, first, lane);
        workgroupBarrier();
        multiply(first);
        workgroupBarrier();
    }
    for (var r = 0u; r < ROWS_EACH; r++) {
        store(locate_row(own_row + r, sequence, kv_head), first_key, r, sequence);
    }
}

fn head_vectors() -> u32 {
    return (params.head_dim + 3u) / 4u;
}

fn stage(key_start: u32, last: u32, first: u32, lane: u32) {
    for (var slot = lane; slot < STEP * KEYS; slot += THREADS) {
        let j = slot / STEP;
        let column = (first + slot % STEP) * 4u;
        let left = columns_left(params.head_dim, column);
        tile[slot % STEP][j] = staged_key(key_start, j, last, column, left);
    }
}

// Adds the products of the staged columns, from vector `first` on.
fn multiply(first: u32) {
    let end = min(STEP, head_vectors() - first);
    for (var step = 0u; step < end; step++) {
        let column = (first + step) * 4u;
        var queries: array<vec4<f32>, ROWS_EACH>;
        for (var r = 0u; r < ROWS_EACH; r++) {
            queries[r] = load_query(starts[r] + column, columns_left(params.head_dim, column));
        }
        for (var four = 0u; four < FOURS; four++) {
            let j = four * 4u;
            let keys = mat4x4(tile[step][j], tile[step][j + 1u], tile[step][j + 2u], tile[step][j + 3u]);
            for (var r = 0u; r < ROWS_EACH; r++) {
                products[r][four] += queries[r] * keys;
            }
        }
    }
}

fn store(row: Row, first_key: u32, r: u32, sequence: Sequence) {
    var visible = 0xffffffffu;
    if is_set(MARKS_HIDDEN) {
        visible = visible_keys(sequence, row, first_key);
    }
    let slope = alibi_slope(row);
    let start = row_start(params.scores, row) + first_key;
    let count = select(0u, min(KEYS, params.kv_len - first_key), row.live);
    for (var four = 0u; four < FOURS; four++) {
        let j = first_key + four * 4u;
        let product = products[r][four];
        let score = vec4(
            transform_score(row, slope, j, product.x, bias_at(row, j)),
            transform_score(row, slope, j + 1u, product.y, bias_at(row, j + 1u)),
            transform_score(row, slope, j + 2u, product.z, bias_at(row, j + 2u)),
            transform_score(row, slope, j + 3u, product.w, bias_at(row, j + 3u)),
        );
        let stored = marked_scores(score, four_visible(visible, four));
        for (var c = 0u; c < 4u; c++) {
            if four * 4u + c < count {
                weights[start + four * 4u + c] = stored[c];
            }
        }
    }
}
