// The place of a tile's keys and values.
// use params, sequence, view
// needs aux

// Index of the tile's first key along the tensor's first axis and along its rows. The others follow
// it.
struct TilePlace {
    batch: u32,
    row: u32,
}

// The keys of a sequence follow one another, or lie in pages that the page table names. A tile
// never reaches from one page into the next. An entry past the last page is taken for the last one.
// Source of pages: Kwon et al. 2023, arXiv 2309.06180, section 4.1.
fn locate_tile(sequence: Sequence, first_key: u32) -> TilePlace {
    if is_set(HAS_PAGES) {
        let entry = params.pages_offset + sequence.batch * params.pages_batch + first_key / params.page_len;
        return TilePlace(min(aux[entry], params.last_page), first_key % params.page_len);
    }
    return TilePlace(sequence.batch, sequence.first_key + first_key);
}

fn tile_start(view: View, place: TilePlace, kv_head: u32) -> u32 {
    return view.offset + place.batch * view.batch + kv_head * view.head + place.row * view.row;
}
