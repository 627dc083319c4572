// From four dot products to four scores: scale, softcap, bias, ALiBi, in this order.
// use params, rows

fn transform_scores(row: Row, first_key: u32, products: vec4<f32>) -> vec4<f32> {
    return add_position_terms(row, first_key, cap_scores(products * params.scale));
}

fn cap_scores(scores: vec4<f32>) -> vec4<f32> {
    if !HAS_SOFTCAP {
        return scores;
    }
    let x = scores / params.softcap;
    let magnitude = abs(x);
    // Near 0, 1 - exp cancels: there the series of tanh(x) / x multiplies the score itself, which also
    // keeps a score that a huge softcap would scale down into the denormals.
    let y = min(x * x, vec4(0.3));
    var series = vec4(-929569.0 / 638512875.0);
    series = series * y + 21844.0 / 6081075.0;
    series = series * y - 1382.0 / 155925.0;
    series = series * y + 62.0 / 2835.0;
    series = series * y - 17.0 / 315.0;
    series = series * y + 2.0 / 15.0;
    series = series * y - 1.0 / 3.0;
    series = series * y + 1.0;
    let decay = exp(-2.0 * magnitude);
    let far = params.softcap * sign(x) * (1.0 - decay) / (1.0 + decay);
    return select(far, scores * series, magnitude < vec4(0.5));
}

fn add_position_terms(row: Row, first_key: u32, scores: vec4<f32>) -> vec4<f32> {
    var result = scores;
    if HAS_BIAS {
        let step = params.bias_column;
        let start = row_start(params.bias, row) + first_key * step;
        result += vec4(bias[start], bias[start + step], bias[start + 2u * step], bias[start + 3u * step]);
    }
    if HAS_ALIBI {
        let slope = bitcast<f32>(aux[params.alibi_offset + row.batch * params.alibi_batch + row.head]);
        let keys = vec4(i32(first_key)) + vec4(0, 1, 2, 3);
        result -= slope * vec4<f32>(abs(vec4(i32(row.query) + params.offset) - keys));
    }
    return result;
}
