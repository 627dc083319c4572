// Weighted values of a tile of keys, 16 keys at a time. Weights and values lie in the two tiles of
// register_tile.wgsl.
// use params, row_block, block_key, columns, finite, key_bits, register_tile, tile_visibility
// use load(value)
// needs KEYS_EACH, KEY_LANES, ROWS_EACH, ROW_LANES, VALUE_VECTORS, outs, scores

// Vectors that an invocation stages.
const VALUE_SLOTS = CHUNK / ROW_LANES;

// Whether a value that is infinite or NaN has been staged. Four, as AMD's compiler reads other
// arrays four numbers at a time only if all start on a multiple of 16 bytes.
var<workgroup> has_nonfinite: array<atomic<u32>, 4>;

fn note_all_finite(lane: u32) {
    if lane == 0u {
        atomicStore(&has_nonfinite[0], 0u);
    }
}

// Adds the values of 16 keys of the tile, by their weights, to all columns.
fn add_keys(block: RowBlock, first_key: u32, whole: bool, chunk: u32, place: TilePosition) {
    add_values(block, first_key, whole, chunk, 0u, place);
    if VALUE_VECTORS > 1u {
        add_values(block, first_key, whole, chunk, 1u, place);
    }
    if VALUE_VECTORS > 2u {
        add_values(block, first_key, whole, chunk, 2u, place);
    }
    if VALUE_VECTORS > 3u {
        add_values(block, first_key, whole, chunk, 3u, place);
    }
}

fn add_values(
    block: RowBlock,
    first_key: u32,
    whole: bool,
    chunk: u32,
    c: u32,
    place: TilePosition,
) {
    let column = out_column(block, c, place);
    let left = columns_left(params.value_dim, column);
    var values: array<vec4<f32>, VALUE_SLOTS>;
    for (var t = 0u; t < VALUE_SLOTS; t++) {
        let number = first_key + chunk * CHUNK + place.row + t * ROW_LANES;
        values[t] = load_value(key_start(block, params.value, number) + column, left);
    }
    workgroupBarrier();
    if c == 0u {
        stage_weights(chunk, place);
    }
    for (var t = 0u; t < VALUE_SLOTS; t++) {
        stage_value(place.row + t * ROW_LANES, values[t], place);
        // Where all keys are visible, it is of no account.
        if !whole && !are_finite(values[t]) {
            atomicStore(&has_nonfinite[0], 1u);
        }
    }
    workgroupBarrier();
    if whole || atomicLoad(&has_nonfinite[0]) == 0u {
        multiply_values(c, place);
    } else {
        multiply_visible_values(chunk, c, place);
    }
}

// The column of vector `c` of this invocation.
fn out_column(block: RowBlock, c: u32, place: TilePosition) -> u32 {
    return ((block.chunk * VALUE_VECTORS + c) * KEY_LANES + place.key) * 4u;
}

// Puts a number of each row where the other invocations of the row find it.
fn share_rows(numbers: ptr<function, array<f32, ROWS_EACH>>, place: TilePosition) {
    workgroupBarrier();
    for (var h = 0u; h < ROW_VECTORS; h++) {
        left_tile[place.key][place.row * ROW_VECTORS + h] = vec4(
            (*numbers)[4u * h],
            (*numbers)[4u * h + 1u],
            (*numbers)[4u * h + 2u],
            (*numbers)[4u * h + 3u],
        );
    }
    workgroupBarrier();
}

// Numbers of four rows from invocation `x` of these rows, or their weights of key `x`.
fn shared_rows(x: u32, h: u32, place: TilePosition) -> vec4<f32> {
    return left_tile[x][place.row * ROW_VECTORS + h];
}

// The weights of a chunk of keys, which each invocation has some of.
fn stage_weights(chunk: u32, place: TilePosition) {
    const EACH = CHUNK / KEY_LANES;
    for (var step = 0u; step < EACH; step++) {
        let j = chunk * EACH + step;
        for (var h = 0u; h < ROW_VECTORS; h++) {
            left_tile[step * KEY_LANES + place.key][place.row * ROW_VECTORS + h] = vec4(
                scores[4u * h * KEYS_EACH + j],
                scores[(4u * h + 1u) * KEYS_EACH + j],
                scores[(4u * h + 2u) * KEYS_EACH + j],
                scores[(4u * h + 3u) * KEYS_EACH + j],
            );
        }
    }
}

fn stage_value(key: u32, columns: vec4<f32>, place: TilePosition) {
    right_tile[key / 4u][place.key][key % 4u] = columns;
}

// Adds a chunk of weighted values to vector `c` of the outputs. The chunk has a sum of its own: a
// long row's outputs take a sixteenth as many terms, and lose as many bits less.
fn multiply_values(c: u32, place: TilePosition) {
    var sums: array<vec4<f32>, ROWS_EACH>;
    for (var k = 0u; k < CHUNK; k++) {
        let b = right_tile[k / 4u][place.key][k % 4u];
        for (var h = 0u; h < ROW_VECTORS; h++) {
            let weights = shared_rows(k, h, place);
            sums[4u * h] = fma(vec4(weights.x), b, sums[4u * h]);
            sums[4u * h + 1u] = fma(vec4(weights.y), b, sums[4u * h + 1u]);
            sums[4u * h + 2u] = fma(vec4(weights.z), b, sums[4u * h + 2u]);
            sums[4u * h + 3u] = fma(vec4(weights.w), b, sums[4u * h + 3u]);
        }
    }
    for (var i = 0u; i < ROWS_EACH; i++) {
        outs[i * VALUE_VECTORS + c] += sums[i];
    }
}

// The same of keys of which only the visible ones count, whatever the others hold: 0 * NaN is NaN.
// It is rare, so its code is short: the bound is one that no compiler knows.
fn multiply_visible_values(chunk: u32, c: u32, place: TilePosition) {
    for (var k = 0u; k < min(CHUNK, params.kv_len); k++) {
        let b = right_tile[k / 4u][place.key][k % 4u];
        let at = chunk * CHUNK + k;
        for (var h = 0u; h < ROW_VECTORS; h++) {
            let weights = shared_rows(k, h, place);
            add_if_visible(4u * h, c, weights.x * b, at, place);
            add_if_visible(4u * h + 1u, c, weights.y * b, at, place);
            add_if_visible(4u * h + 2u, c, weights.z * b, at, place);
            add_if_visible(4u * h + 3u, c, weights.w * b, at, place);
        }
    }
}

fn add_if_visible(i: u32, c: u32, term: vec4<f32>, at: u32, place: TilePosition) {
    let word = visible[i][place.row][at / 32u];
    outs[i * VALUE_VECTORS + c] += select(vec4(0.0), term, is_visible(word, at % 32u));
}
