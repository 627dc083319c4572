// Each sequence has its length in a buffer, and is planned for without it.

fn locate_sequence(workgroup: vec3<u32>) -> Sequence {
    let len = min(aux[params.lens.offset + workgroup.z], params.lens.most);
    let seen_len = min(max(len, params.lens.before) - params.lens.before, params.kv_len);
    let moved = i32(len * params.lens.moves);
    // Bounds past open ones are as good as open, and sums with them fit.
    let least = -i32(params.q_len);
    let most = i32(params.kv_len);
    return Sequence(
        workgroup.z,
        0u,
        0u,
        0u,
        params.q_len,
        seen_len,
        clamp(params.band_lower + moved, least, most),
        clamp(params.band_upper + moved, least, most),
        params.offset + moved,
    );
}
