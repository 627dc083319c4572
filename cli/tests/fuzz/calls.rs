//! Tensors and flags of `run`: a call that is right, then changed here and there.

use super::{config, file, run};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select, subsequence};
use std::cell::Cell;
use std::fmt::Write as _;

const LAYOUTS: [&str; 4] = ["bhsd", "bshd", "packed", "thd"];
const TYPES: [&str; 10] =
    ["F32", "F16", "BF16", "F64", "BOOL", "I32", "I64", "U8", "I8", "F8_E5M2"];
/// All that `run` reads beside q, k and v.
const OPTIONAL: [&str; 14] = [
    "mask",
    "bias",
    "past_k",
    "past_v",
    "kv_len",
    "cu_seqlens_q",
    "cu_seqlens_k",
    "alibi_slopes",
    "sinks",
    "seg_q",
    "seg_k",
    "cos",
    "sin",
    "dout",
];
/// Sets of them that go together.
const TOGETHER: [&[&str]; 11] = [
    &[],
    &["mask"],
    &["bias"],
    &["past_k", "past_v"],
    &["kv_len"],
    &["alibi_slopes"],
    &["sinks"],
    &["seg_q", "seg_k"],
    &["cos", "sin"],
    &["dout"],
    &["mask", "bias", "past_k", "past_v", "alibi_slopes"],
];
const FLAGS: [&str; 12] = [
    "--scale",
    "--softcap",
    "--window-left",
    "--window-right",
    "--align",
    "--layout",
    "--heads",
    "--kv-heads",
    "--emit",
    "--rope",
    "--causal",
    "--pad-mask",
];
const VALUES: [&str; 22] = [
    "0",
    "1",
    "2",
    "-1",
    "0.5",
    "-3e38",
    "nan",
    "1e999",
    "99999999999999999999",
    "",
    "top-left",
    "bottom-right",
    "auto",
    "bshd",
    "packed",
    "half",
    "interleaved",
    "lse",
    "weights,qk,lse",
    "qk_softcap,qk_bias",
    "present_k,present_v",
    "lse,dq",
];
/// Bit patterns: zeros, ones, NaN, infinity, negative and small numbers of one type or another.
const BYTES: [[u8; 4]; 8] = [
    [0, 0, 0, 0],
    [0, 0, 0x80, 0x3f],
    [0xff; 4],
    [0, 0, 0x80, 0xff],
    [1, 0, 0, 0],
    [2, 0, 2, 0],
    [0, 0x3c, 0, 0xbc],
    [0, 0, 0xc0, 0x7f],
];

/// batch, heads, kv_heads, q_len, kv_len, past, head_dim, value_dim.
type Counts = [usize; 8];

#[derive(Clone, Debug)]
struct Tensor {
    name: &'static str,
    dtype: &'static str,
    sizes: Vec<usize>,
    /// The elements, which repeat.
    bytes: Vec<u8>,
}

#[derive(Clone, Debug)]
enum Edit {
    Type(Index, &'static str),
    Size(Index, Index, usize),
    LessRank(Index),
    MoreRank(Index, usize),
    Bytes(Index, [u8; 4]),
    Gone(Index),
}

fn edit() -> impl Strategy<Value = Edit> {
    let at = any::<Index>;
    let size = || select(vec![0, 1, 2, 3, 4, 5, 8, 1 << 31, 1 << 40, usize::MAX]);
    prop_oneof![
        (at(), select(&TYPES[..])).prop_map(|(at, dtype)| Edit::Type(at, dtype)),
        (at(), at(), size()).prop_map(|(at, axis, size)| Edit::Size(at, axis, size)),
        at().prop_map(Edit::LessRank),
        (at(), size()).prop_map(|(at, size)| Edit::MoreRank(at, size)),
        (at(), select(&BYTES[..])).prop_map(|(at, bytes)| Edit::Bytes(at, bytes)),
        at().prop_map(Edit::Gone),
    ]
}

/// What a tensor of this name looks like in a call that is right.
fn right(name: &'static str, layout: &str, dtype: &'static str, counts: Counts) -> Tensor {
    let [batch, heads, kv_heads, q_len, kv_len, past, dim, value_dim] = counts;
    let vectors = |heads: usize, len: usize, dim: usize| match layout {
        "bshd" => vec![batch, len, heads, dim],
        "packed" => vec![batch, len, heads * dim],
        "thd" => vec![len, heads, dim],
        _ => vec![batch, heads, len, dim],
    };
    let keys = kv_len + past;
    let (dtype, sizes) = match name {
        "q" => (dtype, vectors(heads, q_len, dim)),
        "k" => (dtype, vectors(kv_heads, kv_len, dim)),
        "v" => (dtype, vectors(kv_heads, kv_len, value_dim)),
        "dout" => (dtype, vectors(heads, q_len, value_dim)),
        "past_k" => (dtype, vec![batch, kv_heads, past, dim]),
        "past_v" => (dtype, vec![batch, kv_heads, past, value_dim]),
        "mask" => ("BOOL", vec![q_len, keys]),
        "bias" => ("F32", vec![heads, 1, keys]),
        "alibi_slopes" | "sinks" => ("F32", vec![heads]),
        "kv_len" => ("I64", vec![batch]),
        "seg_q" => ("I32", vec![batch, q_len]),
        "seg_k" => ("I64", vec![batch, keys]),
        "cos" | "sin" => ("F32", vec![past + q_len.max(kv_len), dim / 2]),
        // One sequence of all tokens.
        _ => ("I32", vec![2]),
    };
    let bytes = match name {
        "kv_len" => (kv_len as u64).to_le_bytes().to_vec(),
        "cu_seqlens_q" => [&[0; 4], &(q_len as u64).to_le_bytes()[..4]].concat(),
        "cu_seqlens_k" => [&[0; 4], &(kv_len as u64).to_le_bytes()[..4]].concat(),
        _ => BYTES[usize::from(dtype.starts_with('F'))].to_vec(),
    };
    Tensor { name, dtype, sizes, bytes }
}

fn change(tensors: &mut Vec<Tensor>, edit: &Edit) {
    let (Edit::Type(at, _)
    | Edit::Size(at, ..)
    | Edit::LessRank(at)
    | Edit::MoreRank(at, _)
    | Edit::Bytes(at, _)
    | Edit::Gone(at)) = edit;
    if tensors.is_empty() {
        return;
    }
    let place = at.index(tensors.len());
    let tensor = &mut tensors[place];
    match edit {
        Edit::Type(_, dtype) => tensor.dtype = dtype,
        Edit::Size(_, axis, size) if !tensor.sizes.is_empty() => {
            *axis.get_mut(&mut tensor.sizes) = *size;
        }
        Edit::LessRank(_) if !tensor.sizes.is_empty() => drop(tensor.sizes.remove(0)),
        Edit::MoreRank(_, size) => tensor.sizes.insert(0, *size),
        Edit::Bytes(_, bytes) => tensor.bytes = bytes.to_vec(),
        Edit::Gone(_) => drop(tensors.remove(place)),
        Edit::Size(..) | Edit::LessRank(_) => {}
    }
}

/// A file of these tensors; of one that would be large it holds nothing.
fn bytes(tensors: &[Tensor]) -> Vec<u8> {
    let (mut header, mut data) = (String::new(), Vec::new());
    for Tensor { name, dtype, sizes, bytes } in tensors {
        let width = match *dtype {
            "F64" | "I64" => 8,
            "F32" | "I32" => 4,
            "F16" | "BF16" => 2,
            _ => 1,
        };
        let elements = sizes.iter().try_fold(1_usize, |product, &size| product.checked_mul(size));
        let count = elements.filter(|&count| count <= 4096).unwrap_or(0) * width;
        let start = data.len();
        data.extend(bytes.iter().cycle().take(count));
        let comma = if header.is_empty() { "" } else { "," };
        let _ = write!(
            header,
            r#"{comma}"{name}":{{"dtype":"{dtype}","shape":{sizes:?},"data_offsets":[{start},{}]}}"#,
            data.len()
        );
    }
    file(format!("{{{header}}}").as_bytes(), &data)
}

fn flag() -> impl Strategy<Value = Vec<String>> {
    let value = prop_oneof![8 => select(&VALUES[..]).prop_map(str::to_owned), 1 => ".{0,6}"];
    let flag = select(&FLAGS[..]);
    (flag, value, 0..8_u8).prop_map(|(flag, value, kind)| match (flag, kind) {
        ("--causal" | "--pad-mask", 1..) => vec![flag.to_owned()],
        (_, 0) => vec![flag.to_owned()],
        (_, 1..4) => vec![flag.to_owned(), value],
        _ => vec![format!("{flag}={value}")],
    })
}

/// A call that is right, or has tensors that do not go together: tensors and flags.
fn call() -> impl Strategy<Value = (Vec<Tensor>, Vec<String>)> {
    let few = || 0..4_usize;
    let counts = (0..3_usize, 1..3_usize, 1..3_usize, few(), few(), few(), 1..4_usize, 1..4_usize);
    let names = prop_oneof![
        8 => select(&TOGETHER[..]).prop_map(<[_]>::to_vec),
        1 => subsequence(OPTIONAL.to_vec(), 0..4),
    ];
    let strategy = (select(&LAYOUTS[..]), select(&TYPES[..4]), counts, names);
    strategy.prop_map(
        |(layout, dtype, (batch, group, kv_heads, q, kv, past, dim, value_dim), names)| {
            let past = if names.contains(&"past_k") { past } else { 0 };
            // What goes with sequences without padding is where they begin.
            let (names, q, kv) = if layout == "thd" {
                (vec!["cu_seqlens_q", "cu_seqlens_k"], 0, 0)
            } else {
                (names, q, kv)
            };
            let counts = [batch, group * kv_heads, kv_heads, q, kv, past, dim, value_dim];
            let names = ["q", "k", "v"].into_iter().chain(names);
            let tensors = names.map(|name| right(name, layout, dtype, counts)).collect();
            let mut flags = vec![format!("--layout={layout}")];
            if layout == "packed" {
                flags.push(format!("--heads={}", group * kv_heads));
                flags.push(format!("--kv-heads={kv_heads}"));
            }
            (tensors, flags)
        },
    )
}

#[test]
fn no_tensor_and_no_flag_makes_run_panic_or_leave_anything_behind() {
    let done = Cell::new(0);
    let strategy = (call(), vec(edit(), 0..3), vec(flag(), 0..3));
    proptest!(config(2000), |(((tensors, flags), edits, more) in strategy)| {
        let (mut tensors, mut flags) = (tensors, flags);
        edits.iter().for_each(|edit| change(&mut tensors, edit));
        flags.extend(more.into_iter().flatten());
        done.set(done.get() + u32::from(run(&bytes(&tensors), &flags)));
    });
    assert!((200..1500).contains(&done.get()), "{done:?}");
}

#[test]
fn a_call_is_done_where_its_tensors_go_together() {
    // What a file holds for rotation and gradients is ignored without the flags that ask for them.
    proptest!(config(500), |((tensors, flags) in call())| {
        let names: Vec<&str> = tensors.iter().map(|tensor| tensor.name).collect();
        let alone = |[one, other]: [&str; 2]| names.contains(&one) != names.contains(&other);
        let pairs = [["past_k", "past_v"], ["seg_q", "seg_k"]];
        let refused = pairs.into_iter().any(alone)
            || (names.contains(&"kv_len") && names.contains(&"past_k"))
            || (!flags[0].ends_with("thd") && names.iter().any(|name| name.starts_with("cu_")));
        prop_assert_eq!(run(&bytes(&tensors), &flags), !refused);
    });
}
