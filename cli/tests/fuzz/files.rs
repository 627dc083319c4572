//! Bytes of files: small valid ones, changed where their reader has to be careful.

use super::{config, file, plot, run};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use std::cell::Cell;

/// Files that are taken as they are: attention with all that goes with it, and weights.
const HEADERS: [&str; 3] = [
    r#"{"q":{"dtype":"F32","shape":[1,2,2,2],"data_offsets":[0,32]},"k":{"dtype":"F32","shape":[1,1,3,2],"data_offsets":[32,56]},"v":{"dtype":"F32","shape":[1,1,3,1],"data_offsets":[56,68]},"mask":{"dtype":"BOOL","shape":[2,3],"data_offsets":[68,74]},"bias":{"dtype":"F32","shape":[3],"data_offsets":[74,86]},"alibi_slopes":{"dtype":"F32","shape":[2],"data_offsets":[86,94]},"kv_len":{"dtype":"I64","shape":[1],"data_offsets":[94,102]}}"#,
    r#"{"q":{"dtype":"F16","shape":[2,2],"data_offsets":[0,8]},"k":{"dtype":"F16","shape":[3,2],"data_offsets":[8,20]},"v":{"dtype":"F16","shape":[3,1],"data_offsets":[20,26]},"past_k":{"dtype":"F16","shape":[1,2],"data_offsets":[26,30]},"past_v":{"dtype":"F16","shape":[1,1],"data_offsets":[30,32]}}"#,
    r#"{"__metadata__":{"tokens":"[\"a\",\"b\"]","key_tokens":"[\"c\",\"d\",\"e\"]"},"weights":{"dtype":"F32","shape":[2,2,3],"data_offsets":[0,48]}}"#,
];
const DATA: [usize; 3] = [102, 32, 48];

/// Numbers at which something ends.
const NUMBERS: [&str; 17] = [
    "0",
    "1",
    "2",
    "3",
    "7",
    "64",
    "-1",
    "1.5",
    "1e3",
    "2147483648",
    "4294967296",
    "1099511627776",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "\"1\"",
];
const TYPES: [&str; 16] = [
    "F32", "F16", "BF16", "F64", "BOOL", "I32", "I64", "U8", "U64", "F8_E4M3", "F4", "F6_E2M3",
    "C64", "Q4", "f32", "",
];

/// What is done to a file.
#[derive(Clone, Debug)]
enum Edit {
    /// Another number in the header.
    Number(Index, &'static str),
    /// Another element type in the header.
    Type(Index, &'static str),
    /// Numbers of the header change places.
    Swap(Index, Index),
    /// Any bytes over the header or the data.
    Bytes(Index, Vec<u8>),
    /// The header is said to be so long.
    Length(u64),
    Truncated(Index),
    Longer(usize),
    /// A part of the header twice, or not at all.
    Repeated(Index, Index),
    Removed(Index, Index),
}

fn edit() -> impl Strategy<Value = Edit> {
    let at = any::<Index>;
    let length = prop_oneof![0..1000_u64, any::<u64>(), select(vec![u64::MAX, 1 << 32, 1 << 63])];
    prop_oneof![
        5 => (at(), select(&NUMBERS[..])).prop_map(|(at, number)| Edit::Number(at, number)),
        3 => (at(), select(&TYPES[..])).prop_map(|(at, name)| Edit::Type(at, name)),
        2 => (at(), at()).prop_map(|(one, other)| Edit::Swap(one, other)),
        2 => (at(), vec(any::<u8>(), 1..9)).prop_map(|(at, bytes)| Edit::Bytes(at, bytes)),
        1 => length.prop_map(Edit::Length),
        1 => at().prop_map(Edit::Truncated),
        1 => (1..64_usize).prop_map(Edit::Longer),
        1 => (at(), at()).prop_map(|(from, to)| Edit::Repeated(from, to)),
        1 => (at(), at()).prop_map(|(from, to)| Edit::Removed(from, to)),
    ]
}

/// Where in the header the runs of digits stand.
fn numbers(header: &[u8]) -> Vec<std::ops::Range<usize>> {
    let mut runs: Vec<std::ops::Range<usize>> = Vec::new();
    for place in (0..header.len()).filter(|&place| header[place].is_ascii_digit()) {
        match runs.last_mut() {
            Some(run) if run.end == place => run.end += 1,
            _ => runs.push(place..place + 1),
        }
    }
    runs
}

fn edited(header: &str, data: &[u8], edits: &[Edit]) -> Vec<u8> {
    let (mut header, mut data) = (header.as_bytes().to_vec(), data.to_vec());
    let mut length = None;
    for edit in edits {
        let runs = numbers(&header);
        let range = |from: &Index, to: &Index| {
            let (from, to) = (from.index(header.len() + 1), to.index(header.len() + 1));
            from.min(to)..from.max(to)
        };
        match edit {
            Edit::Number(at, number) if !runs.is_empty() => {
                drop(header.splice(at.get(&runs).clone(), number.bytes()));
            }
            Edit::Type(at, name) => {
                let key = b"\"dtype\":\"";
                let ends: Vec<usize> =
                    (0..header.len()).filter(|&place| header[..place].ends_with(key)).collect();
                if !ends.is_empty() {
                    let start = *at.get(&ends);
                    let len = header[start..].iter().take_while(|&&byte| byte != b'"').count();
                    drop(header.splice(start..start + len, name.bytes()));
                }
            }
            Edit::Swap(one, other) if !runs.is_empty() => {
                let (one, other) = (one.get(&runs).clone(), other.get(&runs).clone());
                let (first, last) =
                    if one.start <= other.start { (one, other) } else { (other, one) };
                if first != last {
                    let [low, high] = [&first, &last].map(|run| header[run.clone()].to_vec());
                    drop(header.splice(last, low));
                    drop(header.splice(first, high));
                }
            }
            Edit::Bytes(at, bytes) => {
                let at = at.index(header.len() + data.len() + 1);
                let all = header.iter_mut().chain(&mut data).skip(at);
                all.zip(bytes).for_each(|(old, new)| *old = *new);
            }
            Edit::Repeated(from, to) => {
                let part = header[range(from, to)].to_vec();
                let end = range(from, to).end;
                drop(header.splice(end..end, part));
            }
            Edit::Removed(from, to) => drop(header.drain(range(from, to))),
            Edit::Length(found) => length = Some(*found),
            Edit::Truncated(at) => data.truncate(at.index(data.len() + 1)),
            Edit::Longer(more) => data.resize(data.len() + more, 0xff),
            Edit::Number(..) | Edit::Swap(..) => {}
        }
    }
    let mut bytes = file(&header, &data);
    if let Some(length) = length {
        bytes[..8].copy_from_slice(&length.to_le_bytes());
    }
    bytes
}

#[test]
fn no_file_makes_the_tool_panic_or_leave_anything_behind() {
    let done = Cell::new(0);
    let strategy = (0..HEADERS.len(), any::<u8>(), vec(edit(), 0..4));
    proptest!(config(2000), |((which, fill, edits) in strategy)| {
        let bytes = edited(HEADERS[which], &vec![fill % 3; DATA[which]], &edits);
        let flag = ["--emit=lse,weights,qk", "--pad-mask", "--layout=thd"][usize::from(fill % 3)];
        let taken = if which == 2 { plot(&bytes, &[]) } else { run(&bytes, &[flag.to_owned()]) };
        done.set(done.get() + u32::from(taken));
    });
    // Neither all refused nor all taken: the cases reach what stands behind the reader.
    assert!((100..1500).contains(&done.get()), "{done:?}");
}

#[test]
fn a_file_cut_off_anywhere_is_refused() {
    for (header, data) in HEADERS.iter().zip(DATA) {
        let whole = file(header.as_bytes(), &vec![0; data]);
        for end in 0..whole.len() {
            assert!(!run(&whole[..end], &[]) && !plot(&whole[..end], &[]), "{end} of {header}");
        }
    }
}
