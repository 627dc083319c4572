// The keys of a sequence follow one another.
fn locate_tile(sequence: Sequence, first_key: u32) -> TilePlace {
    return TilePlace(sequence.batch, sequence.first_key + first_key);
}
