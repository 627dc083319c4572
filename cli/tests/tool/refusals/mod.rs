//! Bad input: exit code 2, one line that names it, and nothing written.

mod arguments;
mod files;
mod tensors;

use crate::support::{Folder, Tensor};

/// Arguments, and what the refusal says of them.
type Refused<'a> = (&'a [&'a str], &'a [&'a str]);

/// A `run` that would stop with exit code 3 if it came as far as opening a device.
const RUN: [&str; 8] = [
    "run",
    "in.safetensors",
    "--out",
    "out.safetensors",
    "--device",
    "gpu",
    "--adapter",
    "no such adapter",
];

fn tensors() -> Vec<Tensor> {
    vec![
        Tensor::wave("q", &[2, 4, 3, 8]),
        Tensor::wave("k", &[2, 2, 5, 8]),
        Tensor::wave("v", &[2, 2, 5, 6]),
    ]
}

fn refuse_flags(cases: &[Refused<'_>]) {
    let folder = Folder::with(&tensors());
    for (flags, says) in cases {
        folder.refuses(&[&RUN, *flags].concat(), says);
    }
}

/// Each of `others` in place of the tensor of its name, or in addition.
fn refuse_tensors(cases: &[(&[Tensor], &[&str])]) {
    for (others, says) in cases {
        let mut tensors = tensors();
        tensors.retain(|tensor| others.iter().all(|other| other.name != tensor.name));
        tensors.extend_from_slice(others);
        Folder::with(&tensors).refuses(&RUN, says);
    }
}
