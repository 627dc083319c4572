// Which keys of a tile are visible to the rows of a workgroup.
// use row_block, visibility, key_bits, register_tile
// needs KEYS_EACH, KEY_LANES, ROWS, ROWS_EACH, ROW_LANES, THREADS, scores

// [row / ROW_LANES][row % ROW_LANES], a bit a key.
var<workgroup> visible: array<array<vec2<u32>, ROW_LANES>, ROWS_EACH>;

// Finds the keys that each row sees, a word of 32 keys at a time.
fn see_keys(block: RowBlock, first_key: u32, lane: u32) {
    for (var slot = lane; slot < ROWS * 2u; slot += THREADS) {
        let number = slot / 2u;
        let row = block_row(block, number);
        let first = first_key + slot % 2u * 32u;
        var bits = 0u;
        if row.live && first < block.sequence.seen_len {
            bits = visible_keys(block.sequence, row, first);
        }
        // By name: not every compiler takes a component that is picked at run time.
        if slot % 2u == 0u {
            visible[number / ROW_LANES][number % ROW_LANES].x = bits;
        } else {
            visible[number / ROW_LANES][number % ROW_LANES].y = bits;
        }
    }
}

// Whether row i of an invocation sees its key j.
fn sees_key(i: u32, j: u32, place: TilePosition) -> bool {
    return is_visible(visible[i][place.row][j * KEY_LANES / 32u], (place.key + j * KEY_LANES) % 32u);
}

// Puts `mark` in place of what belongs to keys that a row does not see.
fn hide(mark: f32, place: TilePosition) {
    for (var i = 0u; i < ROWS_EACH; i++) {
        for (var j = 0u; j < KEYS_EACH; j++) {
            let slot = i * KEYS_EACH + j;
            scores[slot] = select(mark, scores[slot], sees_key(i, j, place));
        }
    }
}
