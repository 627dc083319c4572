// Totals of long rows, which out itself keeps: a running sum of more terms would lose digits. Each
// invocation reads and writes its own columns alone.
// use params, rows, row_block, columns, register_tile, softmax_state, load(out), store(out)
// needs ROWS_EACH, ROW_LANES, VALUE_VECTORS, m, out_column, outs, row_sums

// Keys after which sums go into the totals.
const SETTLE_KEYS = 8192u;

// Of each row, the maximum and the sum of weights under it when its sums were last settled.
var<workgroup> settled: array<array<vec2<f32>, ROW_LANES>, ROWS_EACH>;

// Whether `settled` and out hold sums over earlier keys.
var<private> has_settled: bool;

// The total of a row up to now, from what was settled.
struct Total {
    l: f32,
    // What outputs in out are multiplied by under the present maximum.
    factor: f32,
}

fn total_of(i: u32, sum: f32, place: TilePosition) -> Total {
    var total = Total(sum, 0.0);
    if has_settled {
        let before = settled[i][place.row];
        total.factor = exponential(before.x - m[i]);
        total.l += total.factor * before.y;
    }
    return total;
}

fn total_columns(i: u32, c: u32, total: Total, at: u32, left: u32) -> vec4<f32> {
    var columns = outs[i * VALUE_VECTORS + c];
    if has_settled {
        columns += total.factor * load_out(at, left);
    }
    return columns;
}

// Puts the outputs of all keys up to now into out, where each invocation has its own columns.
// Registers start again.
fn settle_rows(block: RowBlock, place: TilePosition) {
    let sums = row_sums(place);
    var totals: array<f32, ROWS_EACH>;
    for (var i = 0u; i < ROWS_EACH; i++) {
        let row = block_row(block, place.row + i * ROW_LANES);
        let start = row_start(params.out, row) + block.split * params.out_split;
        let total = total_of(i, sums[i], place);
        for (var c = 0u; c < VALUE_VECTORS; c++) {
            let column = out_column(block, c, place);
            let left = columns_left(params.value_dim, column);
            let columns = total_columns(i, c, total, start + column, left);
            store_out(start + column, select(0u, left, row.live), columns);
            outs[i * VALUE_VECTORS + c] = vec4(0.0);
        }
        totals[i] = total.l;
        l[i] = 0.0;
    }
    // All have read what is written now.
    workgroupBarrier();
    if place.key == 0u {
        for (var i = 0u; i < ROWS_EACH; i++) {
            settled[i][place.row] = vec2(m[i], totals[i]);
        }
    }
    has_settled = true;
}
