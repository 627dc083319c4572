// The next tile, which is loaded into registers while this one is computed. That hides its latency.
// use params, row_block, tile, lockstep, key_products
// needs KEYS, THREADS, VALUE_VECTORS, stage_value, value_columns

const KEY_SLOTS = (KEYS * HEAD_VECTORS + THREADS - 1u) / THREADS;
const VALUE_SLOTS = (KEYS * VALUE_VECTORS + THREADS - 1u) / THREADS;

var<private> next_keys: array<vec4<f32>, KEY_SLOTS>;
var<private> next_values: array<vec4<f32>, VALUE_SLOTS>;

// Places past the end of the tile repeat its last key.
fn fetch_next(block: RowBlock, first_key: u32, lane: u32) {
    let place = locate_tile(block.sequence, first_key);
    let last = min(block.sequence.seen_len - 1u - first_key, KEYS - 1u);
    let key_start = tile_start(params.key, place, block.kv_head);
    let key_slots = slots_of(lane, KEYS * HEAD_VECTORS);
    for (var n = 0u; n < KEY_SLOTS; n++) {
        next_keys[n] = key_columns(key_start, last, key_slots.begin + n * SLOT_STEP);
    }
    let value_start = tile_start(params.value, place, block.kv_head);
    let value_slots = slots_of(lane, KEYS * VALUE_VECTORS);
    for (var n = 0u; n < VALUE_SLOTS; n++) {
        next_values[n] = value_columns(value_start, last, value_slots.begin + n * SLOT_STEP);
    }
}

fn stage_next(lane: u32) {
    let key_slots = slots_of(lane, KEYS * HEAD_VECTORS);
    for (var n = 0u; n < KEY_SLOTS; n++) {
        let slot = key_slots.begin + n * SLOT_STEP;
        if slot < key_slots.end {
            key_tile[slot / HEAD_VECTORS][slot % HEAD_VECTORS] = next_keys[n];
        }
    }
    let value_slots = slots_of(lane, KEYS * VALUE_VECTORS);
    for (var n = 0u; n < VALUE_SLOTS; n++) {
        let slot = value_slots.begin + n * SLOT_STEP;
        if slot < value_slots.end {
            stage_value(slot, next_values[n]);
        }
    }
}
