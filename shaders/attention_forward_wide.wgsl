// Fused attention for long heads. As attention_forward.wgsl, but keys and values share one tile and
// go through it in chunks of columns, and a workgroup computes one chunk of the output's columns.

const HEAD_DIM = 64u;
const VALUE_DIM = 64u;
// Columns of a key staged at once; columns of the output that a workgroup computes. Multiples of 4.
const HEAD_CHUNK = 64u;
const VALUE_CHUNK = 64u;
// Vectors of four columns that an inner loop goes through; divides the chunk.
const HEAD_STEP = 16u;
const VALUE_STEP = 16u;
// Rows of a workgroup; keys of a tile, at most 32: their visibility is one word.
const ROWS = 64u;
const KEYS = 32u;
// Whether the scale is subnormal, which a device may take for 0.
const HAS_TINY_SCALE = false;
const HAS_SOFTCAP = false;
const HAS_BIAS = false;
const HAS_ALIBI = false;
alias Query = f32;
alias Key = f32;
alias Value = f32;
alias Out = f32;

var<workgroup> tile: array<vec4<f32>, KEYS * max(HEAD_CHUNK, VALUE_CHUNK) / 4u>;

@group(0) @binding(1) var<storage, read> query: array<Query>;
@group(0) @binding(2) var<storage, read> key: array<Key>;
@group(0) @binding(3) var<storage, read> value: array<Value>;
@group(0) @binding(4) var<storage, read_write> out: array<Out>;
@group(0) @binding(5) var<storage, read_write> lse: array<u32>;
@group(0) @binding(6) var<storage, read> mask: array<u32>;
@group(0) @binding(7) var<storage, read> bias: array<f32>;
@group(0) @binding(8) var<storage, read> aux: array<u32>;

// use params, rows, row_block, tile, visibility, softmax_state, finish, settle, score_tile
// use value_tile, transform, columns, key_bits, store(out)

const VALUE_CHUNKS = (VALUE_DIM + VALUE_CHUNK - 1u) / VALUE_CHUNK;
const WORD_KEYS = KEYS;

@compute @workgroup_size(ROWS)
fn attention_forward_wide(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let block = locate_block(workgroup, VALUE_CHUNKS);
    let sequence = block.sequence;
    let first_column = block.chunk * VALUE_CHUNK;
    let row = block_row(block, lane);
    let slope = alibi_slope(row);
    let query_start = row_start(params.query, row);

    load_query_chunk(query_start, 0u);
    for (var d = 0u; d < VALUE_CHUNK / 4u; d++) {
        acc[d] = vec4(0.0);
        settled_acc[d] = vec4(0.0);
    }
    var m = LOWEST;
    var l = 0.0;
    var settled_l = 0.0;
    var seen = 0u;

    let keys = block_keys(block);
    for (var at = keys.begin; at < keys.end; at += KEYS) {
        let first_key = key_at(keys, at);
        let place = locate_tile(sequence, first_key);
        let last = sequence.seen_len - 1u - first_key;
        score_tile(query_start, tile_start(params.key, place, block.kv_head), last, lane);
        stage_values(tile_start(params.value, place, block.kv_head), last, first_column, lane);

        // Scores, and the maximum of those that are visible.
        let whole = block_sees_whole_tile(block, first_key);
        var visible = 0xffffffffu;
        if !whole {
            visible = visible_keys(sequence, row, first_key);
        }
        seen |= visible;
        var highest = vec4(m);
        for (var slot = 0u; slot < KEYS / 4u; slot++) {
            var s = transform_scores(row, slope, first_key + slot * 4u, slot);
            if !whole {
                s = select(vec4(LOWEST), s, four_visible(visible, slot));
            }
            products[slot] = s;
            highest = max(highest, s);
        }

        // Sums under the old maximum are rescaled to the new one, but only if weights could
        // overflow later.
        let new_m = max(max(highest.x, highest.y), max(highest.z, highest.w));
        if new_m > m + MOST_GROWTH {
            let rescale = exponential(m - new_m);
            m = new_m;
            l *= rescale;
            settled_l *= rescale;
            for (var d = 0u; d < VALUE_CHUNK / 4u; d++) {
                acc[d] *= rescale;
                settled_acc[d] *= rescale;
            }
        }

        workgroupBarrier();
        if whole {
            for (var slot = 0u; slot < KEYS / 4u; slot++) {
                let weights = four_exponentials(products[slot] - m);
                l += dot(weights, vec4(1.0));
                add_values(slot, weights);
            }
        } else {
            for (var slot = 0u; slot < KEYS / 4u; slot++) {
                let shown = four_visible(visible, slot);
                let weights = select(vec4(0.0), four_exponentials(products[slot] - m), shown);
                l += dot(weights, vec4(1.0));
                add_visible_values(slot, weights, shown);
            }
        }
        // A running sum takes four keys as one term.
        if settles_after(at / 4u, KEYS / 4u) {
            let sum = settle(settled_l, l);
            settled_l = sum.total;
            l = sum.rest;
            settle_values();
        }
        workgroupBarrier();
    }

    if !row.live {
        return;
    }
    let finish = finish_row(row, m, settled_l + l, seen == 0u);
    let out_start = row_start(params.out, row) + block.split * params.out_split;
    for (var d = 0u; d < VALUE_CHUNK / 4u; d++) {
        let column = first_column + d * 4u;
        let columns = finish_columns(finish, settled_acc[d] + acc[d]);
        store_out(out_start + column, columns_left(VALUE_DIM, column), columns);
    }
    if first_column == 0u {
        finish_lse(finish, row, block.split);
    }
}

fn four_exponentials(x: vec4<f32>) -> vec4<f32> {
    return vec4(exponential(x.x), exponential(x.y), exponential(x.z), exponential(x.w));
}
