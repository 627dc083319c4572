// Which tile of rows a workgroup takes: the last one first, as it sees the most keys under causality, so that the
// shortest are left for the end.
// use params, sequence

fn first_row_of(workgroup: vec3<u32>, sequence: Sequence) -> u32 {
    let last_tile = (sequence.q_len * params.group - 1u) / ROWS;
    return (last_tile - (workgroup.x - sequence.first_tile)) * ROWS;
}
