// The keys of a sequence lie in pages, which a table names; a tile never reaches from one into the next. A number past
// the last page is taken for the last one.
// Source: Kwon et al. 2023, arXiv 2309.06180, section 4.1.
fn locate_tile(sequence: Sequence, first_key: u32) -> TilePlace {
    let entry = params.pages_offset + sequence.batch * params.pages_batch + first_key / params.page_len;
    return TilePlace(min(aux[entry], params.last_page), first_key % params.page_len);
}
