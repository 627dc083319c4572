// Sums over the columns of a key, of which COLUMN_LANES invocations side by side, all of one
// subgroup, have some each.
// use lane_states
// needs COLUMN_LANES, KEYS_EACH, ROWS, scores

// Sums the scores of all invocations of a group. Call in uniform control flow.
fn sum_over_columns(place: LanePosition) {
    for (var slot = 0u; slot < ROWS * KEYS_EACH; slot++) {
        for (var step = 1u; step < COLUMN_LANES; step *= 2u) {
            scores[slot] += subgroupShuffleXor(scores[slot], step);
        }
    }
}
