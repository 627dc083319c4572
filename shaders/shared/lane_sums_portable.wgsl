// Sums over the columns of a key, of which COLUMN_LANES invocations side by side have some each.
// use lane_states
// needs COLUMN_LANES, KEY_LANES, SCORE_VECTORS, scores

var<workgroup> partial_scores: array<array<array<vec4<f32>, COLUMN_LANES>, KEY_LANES>, SCORE_VECTORS>;

// Sums the scores of all invocations of a group. Call in uniform control flow.
fn sum_over_columns(place: LanePosition) {
    workgroupBarrier();
    for (var s = 0u; s < SCORE_VECTORS; s++) {
        partial_scores[s][place.key][place.column] =
            vec4(scores[4u * s], scores[4u * s + 1u], scores[4u * s + 2u], scores[4u * s + 3u]);
    }
    workgroupBarrier();
    for (var s = 0u; s < SCORE_VECTORS; s++) {
        var sum = vec4(0.0);
        for (var x = 0u; x < COLUMN_LANES; x++) {
            sum += partial_scores[s][place.key][x];
        }
        scores[4u * s] = sum.x;
        scores[4u * s + 1u] = sum.y;
        scores[4u * s + 2u] = sum.z;
        scores[4u * s + 3u] = sum.w;
    }
}
