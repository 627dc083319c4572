// tanh(x) / x by its series, of y = x * x up to 0.25: near 0, what exponentials give cancels.
fn tanh_over_x(y: vec4<f32>) -> vec4<f32> {
    var series = vec4(-929569.0 / 638512875.0);
    series = series * y + 21844.0 / 6081075.0;
    series = series * y - 1382.0 / 155925.0;
    series = series * y + 62.0 / 2835.0;
    series = series * y - 17.0 / 315.0;
    series = series * y + 2.0 / 15.0;
    series = series * y - 1.0 / 3.0;
    return series * y + 1.0;
}
