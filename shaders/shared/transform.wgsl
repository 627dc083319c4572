// Turns the product of a query and a key into their score: scale, softcap, bias, ALiBi, in this
// order.
// use params, rows, tanh
// needs HAS_ALIBI, HAS_BIAS, HAS_SOFTCAP, HAS_TINY_SCALE, aux, bias

// Read once for a row, before the loop over its keys.
fn alibi_slope(row: Row) -> f32 {
    if HAS_ALIBI {
        return bitcast<f32>(aux[params.alibi_offset + row.batch * params.alibi_batch + row.head]);
    }
    return 0.0;
}

// Call it before the products: on a software adapter each row's read is a branch, and products made
// before it would wait in memory.
fn bias_at(row: Row, j: u32) -> f32 {
    if HAS_BIAS {
        return bias[row_start(params.bias, row) + j * params.bias_column];
    }
    return 0.0;
}

fn transform_score(row: Row, slope: f32, j: u32, product: f32, added: f32) -> f32 {
    var score = product * params.scale;
    if HAS_TINY_SCALE {
        // 2^-63.
        score *= 1.0842021724855044e-19;
    }
    if HAS_SOFTCAP {
        score = cap_score(score);
    }
    if HAS_BIAS {
        score += added;
    }
    if HAS_ALIBI {
        score -= slope * f32(abs(row.place - i32(j)));
    }
    return score;
}

// Near 0 the series multiplies the score itself. That also keeps scores that a huge softcap would
// scale down into the denormals.
fn cap_score(score: f32) -> f32 {
    let x = score / params.softcap;
    let near = score * tanh_over_x(vec4(min(x * x, 0.3))).x;
    let decay = exp(-2.0 * abs(x));
    let far = params.softcap * sign(x) * (1.0 - decay) / (1.0 + decay);
    return select(far, near, abs(x) < 0.5);
}
