// Third of the three stages: out = weights V.
//
// Visibility is decided anew, not read from the weights: a hidden value must not leak, while a visible
// NaN shows even where its weight has vanished.

const VALUE_DIM = 64u;
const VALUE_CHUNK = 64u;
const VALUE_STEP = 16u;
const ROWS = 64u;
const KEYS = 32u;
const HAS_BIAS = false;
const HAS_MASK = false;
const HAS_SEGMENTS = false;
// Whether lengths come from a buffer: locate_device.wgsl then takes the place of locate_same.wgsl.
const HAS_LENS = false;
alias Stored = f32;
alias StoredOut = f32;

var<workgroup> tile: array<vec4<f32>, KEYS * VALUE_CHUNK / 4u>;

@group(0) @binding(3) var<storage, read> value: array<Stored>;
@group(0) @binding(4) var<storage, read_write> out: array<StoredOut>;
@group(0) @binding(6) var<storage, read> mask: array<u32>;
@group(0) @binding(7) var<storage, read> bias: array<f32>;
@group(0) @binding(8) var<storage, read> aux: array<u32>;
@group(0) @binding(9) var<storage, read> weights: array<f32>;

// use params, sequence, rows, tile, visibility, value_tile, store(out)

const VALUE_CHUNKS = (VALUE_DIM + VALUE_CHUNK - 1u) / VALUE_CHUNK;

@compute @workgroup_size(ROWS)
fn weighted_sum(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let sequence = locate_sequence(workgroup);
    let kv_head = workgroup.y / VALUE_CHUNKS;
    let first_column = workgroup.y % VALUE_CHUNKS * VALUE_CHUNK;
    let row = locate_row(workgroup.x * ROWS + lane, sequence, kv_head);
    let first_query = locate_row(workgroup.x * ROWS, sequence, kv_head).query;
    let last_query = locate_row(workgroup.x * ROWS + ROWS - 1u, sequence, kv_head).query;
    let weights_start = row_start(params.scores, row);

    for (var d = 0u; d < VALUE_CHUNK / 4u; d++) {
        acc[d] = vec4(0.0);
    }
    let keys = key_range(sequence, first_query, last_query);
    for (var at = keys.begin; at < keys.end; at += KEYS) {
        let first_key = key_at(keys, at);
        let value_start = tile_start(params.value, locate_tile(sequence, first_key), kv_head);
        stage_values(value_start, sequence.seen_len - 1u - first_key, first_column, lane);
        workgroupBarrier();
        let whole = sees_whole_tile(sequence, first_query, last_query, first_key);
        let start = weights_start + first_key;
        if whole {
            for (var slot = 0u; slot < KEYS / 4u; slot++) {
                add_values(slot, four_weights(start + slot * 4u));
            }
        } else {
            let visible = visible_keys(sequence, row, first_key);
            for (var slot = 0u; slot < KEYS / 4u; slot++) {
                add_visible_values(slot, four_weights(start + slot * 4u), four_visible(visible, slot));
            }
        }
        workgroupBarrier();
    }

    if !row.live {
        return;
    }
    let out_start = row_start(params.out, row);
    for (var d = 0u; d < VALUE_CHUNK / 4u; d++) {
        let column = first_column + d * 4u;
        store_out(out_start + column, columns_left(VALUE_DIM, column), acc[d]);
    }
}

// Past the row's end this reads other weights, of keys that are hidden.
fn four_weights(start: u32) -> vec4<f32> {
    return vec4(weights[start], weights[start + 1u], weights[start + 2u], weights[start + 3u]);
}
