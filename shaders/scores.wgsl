// First of the three stages: a score for every query and key of a chunk.
//
// A workgroup computes ROWS x KEYS scores. With the transforms and masks switched off it stores the
// earlier forms of a score, which people ask to see.
// Source: Vaswani et al. 2017, arXiv 1706.03762, equation 1.

const HEAD_DIM = 64u;
const HEAD_CHUNK = 64u;
const HEAD_STEP = 16u;
const ROWS = 64u;
const KEYS = 32u;
const HAS_SOFTCAP = false;
const HAS_BIAS = false;
const HAS_ALIBI = false;
const HAS_MASK = false;
const HAS_SEGMENTS = false;
// Whether lengths come from a buffer: locate_device.wgsl then takes the place of locate_same.wgsl.
const HAS_LENS = false;
// Whether hidden keys are marked, and by which bits.
const MARKS_HIDDEN = true;
const HIDDEN_BITS = 0xff800000u;
alias Stored = f32;

var<workgroup> tile: array<vec4<f32>, KEYS * HEAD_CHUNK / 4u>;

@group(0) @binding(1) var<storage, read> query: array<Stored>;
@group(0) @binding(2) var<storage, read> key: array<Stored>;
@group(0) @binding(6) var<storage, read> mask: array<u32>;
@group(0) @binding(7) var<storage, read> bias: array<f32>;
@group(0) @binding(8) var<storage, read> aux: array<u32>;
@group(0) @binding(9) var<storage, read_write> weights: array<u32>;

// use params, sequence, rows, tile, visibility, score_tile

@compute @workgroup_size(ROWS)
fn scores(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let sequence = locate_sequence(workgroup);
    let tiles = (params.kv_len + KEYS - 1u) / KEYS;
    let kv_head = workgroup.y / tiles;
    let first_key = workgroup.y % tiles * KEYS;
    let row = locate_row(workgroup.x * ROWS + lane, sequence, kv_head);
    let slope = alibi_slope(row);
    let query_start = row_start(params.query, row);

    load_query_chunk(query_start, 0u);
    let key_start = tile_start(params.key, locate_tile(sequence, first_key), kv_head);
    score_tile(query_start, key_start, params.kv_len - 1u - first_key, lane);

    if !row.live {
        return;
    }
    var visible = 0xffffffffu;
    if MARKS_HIDDEN {
        visible = visible_keys(sequence, row, first_key);
    }
    let start = row_start(params.scores, row) + first_key;
    let count = min(KEYS, params.kv_len - first_key);
    for (var slot = 0u; slot < KEYS / 4u; slot++) {
        let s = transform_scores(row, slope, first_key + slot * 4u, slot);
        // No visible score may look like the mark of a hidden one.
        let is_nan = (bitcast<vec4<u32>>(s) & vec4(0x7fffffffu)) > vec4(INFINITY_BITS);
        let bits = select(bitcast<vec4<u32>>(s), vec4(NAN_BITS), is_nan);
        let stored = select(vec4(HIDDEN_BITS), bits, four_visible(visible, slot));
        for (var j = 0u; j < 4u; j++) {
            if slot * 4u + j < count {
                weights[start + slot * 4u + j] = stored[j];
            }
        }
    }
}
