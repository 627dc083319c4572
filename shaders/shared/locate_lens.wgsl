// All sequences are alike, but for their lengths if those are in a buffer.
// use params, sequence
// needs aux

fn locate_sequence(workgroup: vec3<u32>) -> Sequence {
    var sequence = planned_sequence(workgroup);
    if is_set(HAS_LENS) {
        let len = min(aux[params.lens.offset + workgroup.z], params.lens.most);
        let moved = i32(len * params.lens.moves);
        // Bounds past open ones are as good as open, and sums with them fit.
        let least = -i32(params.q_len);
        let most = i32(params.kv_len);
        sequence.seen_len = min(max(len, params.lens.before) - params.lens.before, params.kv_len);
        sequence.band_lower = clamp(params.band_lower + moved, least, most);
        sequence.band_upper = clamp(params.band_upper + moved, least, most);
        sequence.offset = params.offset + moved;
    }
    return sequence;
}
