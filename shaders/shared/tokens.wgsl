// Tokens, and the rows of a table that belong to them. Mirrored by `TokenParams` in
// src/layers/tokens.rs.
// use view, load(x), load(out)
// needs FROM_LENS, HAS_POSITIONS, IN_PLACE, TO_PLACE

struct Params {
    x: View,
    out: View,
    table: View,
    positions: View,
    num_heads: u32,
    len: u32,
    dim: u32,
    rotary_dim: u32,
    // Invocations of a row that rotate, all invocations of a row, and invocations in all.
    rotating: u32,
    per_row: u32,
    count: u32,
    last_row: u32,
    // The last row of out, for tokens that go to a row of their own.
    last_place: u32,
    // How many tokens before a sequence's end the first one stands, if positions are lengths.
    back: u32,
}

@group(0) @binding(0) var<uniform> params: Params;

// Elements where a token's vectors and its row of the table start.
struct Token {
    x: u32,
    out: u32,
    table: u32,
    // False for one that has no place in out.
    live: bool,
}

fn locate_token(row: u32) -> Token {
    let i = row % params.len;
    let head = row / params.len % params.num_heads;
    let batch = row / params.len / params.num_heads;
    var table_row = i;
    var place = i;
    if HAS_POSITIONS {
        let at = token_start(params.positions, batch, 0u, i);
        let position = positions[at];
        table_row = min(position, params.last_row);
        if TO_PLACE {
            place = positions[at + 1u];
        }
    }
    if FROM_LENS {
        let len = min(positions[token_start(params.positions, batch, 0u, 0u)], params.last_row + 1u);
        let behind = max(len + i, params.back) - params.back;
        table_row = min(behind, params.last_row);
        if TO_PLACE {
            place = behind;
        }
    }
    return Token(
        token_start(params.x, batch, head, i),
        token_start(params.out, batch, head, place),
        token_start(params.table, batch, 0u, table_row),
        !TO_PLACE || place <= params.last_place,
    );
}

fn token_start(view: View, batch: u32, head: u32, row: u32) -> u32 {
    return view.offset + batch * view.batch + head * view.head + row * view.row;
}

// Four columns of the token. Columns past the row's end belong to others, and are not used.
fn load_token(token: Token, column: u32, left: u32) -> vec4<f32> {
    if IN_PLACE {
        return load_out(token.out + column, left);
    }
    return load_x(token.x + column, left);
}
