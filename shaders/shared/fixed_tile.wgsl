// Sizes of the tiles of register_tile.wgsl for kernels that have no others.
// needs ROWS_EACH

// The invocations of a workgroup: ROW_LANES x KEY_LANES.
const ROW_LANES = 8u;
const KEY_LANES = 16u;
const KEYS_EACH = 4u;
const THREADS = ROW_LANES * KEY_LANES;
const ROWS = ROW_LANES * ROWS_EACH;
const KEYS = KEY_LANES * KEYS_EACH;
