// Adds the weighted values of KEYS_EACH keys, from j on, to the outputs of this invocation's rows.
// use key_bits, key_products
// needs KEYS_EACH, ROWS_EACH, VALUE_PART, VALUE_PARTS, VALUE_VECTORS, value_tile, visible

// Per row: [vector, row].
var<private> outs: array<vec4<f32>, VALUE_VECTORS * ROWS_EACH>;

// Values are in `value_tile`, weights in `terms`. A hidden key has weight 0.
fn add_values(j: u32) {
    add_part(j, 0u);
    if VALUE_PARTS > 1u {
        add_part(j, VALUE_PART);
    }
    if VALUE_PARTS > 2u {
        add_part(j, 2u * VALUE_PART);
    }
    if VALUE_PARTS > 3u {
        add_part(j, 3u * VALUE_PART);
    }
}

fn add_part(j: u32, first: u32) {
    for (var step = 0u; step < VALUE_PART; step++) {
        let d = min(first + step, VALUE_VECTORS - 1u);
        for (var r = 0u; r < ROWS_EACH; r++) {
            var sum = terms[r] * value_tile[j][d];
            for (var c = 1u; c < KEYS_EACH; c++) {
                sum += terms[c * ROWS_EACH + r] * value_tile[j + c][d];
            }
            outs[d * ROWS_EACH + r] += sum;
        }
    }
}

// The same where a hidden value may be infinite or NaN: 0 * NaN is NaN. This is rare, so it takes
// one key at a time.
fn add_visible_values(j: u32) {
    for (var c = 0u; c < KEYS_EACH; c++) {
        add_visible_part(j + c, 0u);
        if VALUE_PARTS > 1u {
            add_visible_part(j + c, VALUE_PART);
        }
        if VALUE_PARTS > 2u {
            add_visible_part(j + c, 2u * VALUE_PART);
        }
        if VALUE_PARTS > 3u {
            add_visible_part(j + c, 3u * VALUE_PART);
        }
        // The next key's weights come first: this loop is not unrolled, and indices stay constants.
        for (var slot = ROWS_EACH; slot < KEYS_EACH * ROWS_EACH; slot++) {
            terms[slot - ROWS_EACH] = terms[slot];
        }
    }
}

fn add_visible_part(j: u32, first: u32) {
    for (var step = 0u; step < VALUE_PART; step++) {
        let d = min(first + step, VALUE_VECTORS - 1u);
        let columns = value_tile[j][d];
        for (var r = 0u; r < ROWS_EACH; r++) {
            outs[d * ROWS_EACH + r] += select(vec4(0.0), terms[r] * columns, is_visible(visible[r], j));
        }
    }
}
