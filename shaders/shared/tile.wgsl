// Where the keys and values of a tile lie.
// use rows, locate_tile

// Of the tensor's first axis and of its rows: where the tile's first key lies. The others follow it.
struct TilePlace {
    batch: u32,
    row: u32,
}

fn tile_start(view: View, place: TilePlace, kv_head: u32) -> u32 {
    return view.offset + place.batch * view.batch + kv_head * view.head + place.row * view.row;
}
