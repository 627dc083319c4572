// From the product of a query and a key to their score: scale, softcap, bias, ALiBi, in this order.
// use params, rows

fn transform_score(row: Row, j: u32, product: f32) -> f32 {
    var score = product * params.scale;
    if HAS_SOFTCAP {
        score = cap_score(score);
    }
    if HAS_BIAS {
        score += bias[row_start(params.bias, row) + j * params.bias_column];
    }
    if HAS_ALIBI {
        let slope = bitcast<f32>(aux[params.alibi_offset + row.batch * params.alibi_batch + row.head]);
        score -= slope * f32(abs(row.place - i32(j)));
    }
    return score;
}

// Near 0, 1 - exp cancels: there the series of tanh(x) / x multiplies the score itself, which also keeps
// a score that a huge softcap would scale down into the denormals.
fn cap_score(score: f32) -> f32 {
    let x = score / params.softcap;
    let y = min(x * x, 0.3);
    var series = -929569.0 / 638512875.0;
    series = series * y + 21844.0 / 6081075.0;
    series = series * y - 1382.0 / 155925.0;
    series = series * y + 62.0 / 2835.0;
    series = series * y - 17.0 / 315.0;
    series = series * y + 2.0 / 15.0;
    series = series * y - 1.0 / 3.0;
    series = series * y + 1.0;
    let decay = exp(-2.0 * abs(x));
    let far = params.softcap * sign(x) * (1.0 - decay) / (1.0 + decay);
    return select(far, score * series, abs(x) < 0.5);
}
