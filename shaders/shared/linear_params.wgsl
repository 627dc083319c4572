// Parameters of a linear layer, and where its rows begin.

@group(0) @binding(0) var<uniform> params: Params;

// Mirrored by `LinearParams` in src/layers/linear.rs.
struct Params {
    x_offset: u32,
    x_batch: u32,
    x_row: u32,
    out_offset: u32,
    out_batch: u32,
    out_row: u32,
    weight_offset: u32,
    bias_offset: u32,
    // Rows of a batch, and of all.
    len: u32,
    rows: u32,
    in_features: u32,
    out_features: u32,
}

fn x_start(row: u32) -> u32 {
    return params.x_offset + row / params.len * params.x_batch + row % params.len * params.x_row;
}

fn out_start(row: u32) -> u32 {
    return params.out_offset + row / params.len * params.out_batch + row % params.len * params.out_row;
}
