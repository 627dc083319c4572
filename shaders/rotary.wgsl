// Rotary encoding: pairs of columns are rotated by the angles of a table, the other columns copied.
//
// An invocation owns both halves of up to four pairs, so that it can rotate in place.
// Source: Su et al. 2021, arXiv 2104.09864, equation 34; halves in place of neighbours as in
// GPT-NeoX.

const INTERLEAVED = false;
const IN_PLACE = false;
const HAS_POSITIONS = false;
// Whether positions are lengths of sequences, from which tokens count.
const FROM_LENS = false;
// Whether a token goes to a row of out: the one that stands beside its position, or, where
// positions are lengths, the one that it counts to.
const TO_PLACE = false;
const THREADS = 64u;
alias X = f32;
alias Out = f32;

@group(0) @binding(1) var<storage, read> x: array<X>;
@group(0) @binding(4) var<storage, read_write> out: array<Out>;
@group(0) @binding(6) var<storage, read> cosine: array<f32>;
@group(0) @binding(7) var<storage, read> sine: array<f32>;
@group(0) @binding(8) var<storage, read> positions: array<u32>;

// use tokens, store(out)

@compute @workgroup_size(THREADS)
fn rotary(
    @builtin(global_invocation_id) invocation: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
) {
    let index = invocation.y * grid.x * THREADS + invocation.x;
    if index >= params.count {
        return;
    }
    let token = locate_token(index / params.per_row);
    if !token.live {
        return;
    }
    let part = index % params.per_row;
    if part >= params.rotating {
        copy(token, params.rotary_dim + (part - params.rotating) * 4u);
    } else if INTERLEAVED {
        rotate_neighbours(token, part * 4u);
    } else {
        rotate_halves(token, part * 4u);
    }
}

fn copy(token: Token, column: u32) {
    let left = params.dim - column;
    store_out(token.out + column, left, load_token(token, column, left));
}

fn rotate_halves(token: Token, column: u32) {
    let half = params.rotary_dim / 2u;
    let left = half - column;
    let at = token.table + column;
    let cosines = vec4(cosine[at], cosine[at + 1u], cosine[at + 2u], cosine[at + 3u]);
    let sines = vec4(sine[at], sine[at + 1u], sine[at + 2u], sine[at + 3u]);
    let first = load_token(token, column, left);
    let second = load_token(token, half + column, left);
    store_out(token.out + column, left, first * cosines - second * sines);
    store_out(token.out + half + column, left, first * sines + second * cosines);
}

fn rotate_neighbours(token: Token, column: u32) {
    let left = params.rotary_dim - column;
    let at = token.table + column / 2u;
    let cosines = vec2(cosine[at], cosine[at + 1u]);
    let sines = vec2(sine[at], sine[at + 1u]);
    let four = load_token(token, column, left);
    let first = four.xz * cosines - four.yw * sines;
    let second = four.xz * sines + four.yw * cosines;
    store_out(token.out + column, left, vec4(first.x, second.x, first.y, second.y));
}
