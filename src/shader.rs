//! TEXT: embedded WGSL, shared parts, and specialisation by name. Pure.
//!
//! A shader is a file that naga and an editor read as it is. The host does two things to it: it adds
//! the parts that `// use` lines name, each once, and rewrites the initialiser of named constants.
//! `load(key)` is the part `load` with its `tensor` renamed to `key`.

use crate::plan::{Access, Constant, Entry, Storage, Variant};
use std::collections::BTreeSet;
use std::sync::OnceLock;

/// A storage buffer that a shader binds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding {
    /// Its number.
    pub number: u32,
    /// What the shader calls it.
    pub name: &'static str,
    /// What the shader does with it.
    pub access: Access,
}

/// The storage buffers that a shader binds, as its file says; binding 0 is always the uniform block.
#[must_use]
pub fn bindings(entry: Entry) -> &'static [Binding] {
    static ALL: OnceLock<Vec<Vec<Binding>>> = OnceLock::new();
    let all = ALL.get_or_init(|| {
        let of_file = |entry: Entry| entry.text().lines().filter_map(binding).collect();
        Entry::ALL.into_iter().map(of_file).collect()
    });
    &all[entry as usize]
}

/// What a line such as `@group(0) @binding(1) var<storage, read> query: array<f32>;` declares.
fn binding(line: &'static str) -> Option<Binding> {
    let (number, rest) = line.strip_prefix("@group(0) @binding(")?.split_once(") var<storage, ")?;
    let (access, rest) = rest.split_once("> ")?;
    let (name, _) = rest.split_once(':')?;
    let access = if access == "read" { Access::Read } else { Access::ReadWrite };
    Some(Binding { number: number.parse().ok()?, name, access })
}

/// The text of a shared part.
fn part(name: &str, variant: &Variant) -> Option<&'static str> {
    let storage = if name == "store" { variant.out } else { variant.storage };
    Some(match (name, storage) {
        ("view", _) => include_str!("../shaders/shared/view.wgsl"),
        ("tokens", _) => include_str!("../shaders/shared/tokens.wgsl"),
        ("sequence", _) => include_str!("../shaders/shared/sequence.wgsl"),
        ("locate", _) if variant.is_ragged() => {
            include_str!("../shaders/shared/locate_ragged.wgsl")
        }
        ("locate", _) if bindings(variant.entry).iter().any(|binding| binding.name == "aux") => {
            include_str!("../shaders/shared/locate_lens.wgsl")
        }
        ("locate", _) => include_str!("../shaders/shared/locate_same.wgsl"),
        ("tile", _) => include_str!("../shaders/shared/tile.wgsl"),
        ("params", _) => include_str!("../shaders/shared/params.wgsl"),
        ("rows", _) => include_str!("../shaders/shared/rows.wgsl"),
        ("row_tile", _) => include_str!("../shaders/shared/row_tile.wgsl"),
        ("columns", _) => include_str!("../shaders/shared/columns.wgsl"),
        ("finite", _) => include_str!("../shaders/shared/finite.wgsl"),
        ("visibility", _) => include_str!("../shaders/shared/visibility.wgsl"),
        ("mask_bits", _) => include_str!("../shaders/shared/mask_bits.wgsl"),
        ("tanh", _) => include_str!("../shaders/shared/tanh.wgsl"),
        ("transform", _) => include_str!("../shaders/shared/transform.wgsl"),
        ("softmax_state", _) => include_str!("../shaders/shared/softmax_state.wgsl"),
        ("key_products", _) => include_str!("../shaders/shared/key_products.wgsl"),
        ("finish", _) => include_str!("../shaders/shared/finish.wgsl"),
        ("score_tile", _) => include_str!("../shaders/shared/score_tile.wgsl"),
        ("row_totals", _) => include_str!("../shaders/shared/row_totals.wgsl"),
        ("settle", _) => include_str!("../shaders/shared/settle.wgsl"),
        ("slots", _) => include_str!("../shaders/shared/slots.wgsl"),
        ("next_tile", _) => include_str!("../shaders/shared/next_tile.wgsl"),
        ("value_sums", _) => include_str!("../shaders/shared/value_sums.wgsl"),
        ("value_tile", _) => include_str!("../shaders/shared/value_tile.wgsl"),
        ("lanes", _) => include_str!("../shaders/shared/lanes.wgsl"),
        ("matrix_tile", _) => include_str!("../shaders/shared/matrix_tile.wgsl"),
        ("load", Storage::F32) => include_str!("../shaders/shared/load_f32.wgsl"),
        ("load", Storage::F32x4) => include_str!("../shaders/shared/load_f32x4.wgsl"),
        ("store", Storage::F32) => include_str!("../shaders/shared/store_f32.wgsl"),
        ("load", Storage::F16) => include_str!("../shaders/shared/load_f16.wgsl"),
        ("load", Storage::F16x4) => include_str!("../shaders/shared/load_f16x4.wgsl"),
        ("load", Storage::F16Words | Storage::Bf16Words) => {
            include_str!("../shaders/shared/load_words.wgsl")
        }
        ("store", Storage::F32x4) => include_str!("../shaders/shared/store_f32x4.wgsl"),
        ("store", Storage::F16) => include_str!("../shaders/shared/store_f16.wgsl"),
        ("store", Storage::F16x4) => include_str!("../shaders/shared/store_f16x4.wgsl"),
        ("store", Storage::F16Words | Storage::Bf16Words) => {
            include_str!("../shaders/shared/store_words.wgsl")
        }
        ("store", Storage::Unpacked) => include_str!("../shaders/shared/store_unpacked.wgsl"),
        // Of the two that are stored as words, both are of one type.
        ("pairs", _) if [variant.storage, variant.out].contains(&Storage::Bf16Words) => {
            include_str!("../shaders/shared/pairs_bf16.wgsl")
        }
        ("pairs", _) => include_str!("../shaders/shared/pairs_f16.wgsl"),
        _ => return None,
    })
}

/// The whole text of a variant, ready for a compiler.
///
/// # Panics
/// If a shader names a part that does not exist, or a variant a constant that its shader does not
/// declare exactly once: our bugs, which the host tests look for in every variant.
#[must_use]
pub fn assemble(variant: &Variant) -> String {
    let mut text = variant.entry.text().to_owned();
    for (alias, storage) in [("alias Stored", variant.storage), ("alias StoredOut", variant.out)] {
        if text.contains(&format!("{alias} = ")) {
            set(&mut text, alias, storage.alias());
        }
    }
    if let Some(Constant::Count(size)) = variant.constants.get("MATRIX_SIZE") {
        for (alias, kind) in [("Left", "f16, A"), ("Right", "f16, B"), ("Sums", "f32, C")] {
            set(&mut text, &format!("alias {alias}"), &format!("coop_mat{size}x{size}<{kind}>"));
        }
    }
    for (name, constant) in &variant.constants {
        set(&mut text, &format!("const {name}"), &constant.to_string());
    }
    let mut added = BTreeSet::new();
    add_parts(&text.clone(), variant, &mut added, &mut text);
    let needs_matrices = variant.entry.needs_matrices();
    if needs_matrices {
        text.insert_str(0, "enable wgpu_cooperative_matrix;\n");
    }
    let stores_f16 = [variant.storage, variant.out].iter().any(|storage| storage.needs_f16());
    if stores_f16 || needs_matrices {
        text.insert_str(0, "enable f16;\n");
    }
    text
}

/// Rewrites what stands between `declaration =` and the semicolon.
fn set(text: &mut String, declaration: &str, value: &str) {
    let start = format!("{declaration} = ");
    let places: Vec<usize> = text.match_indices(&start).map(|(at, _)| at + start.len()).collect();
    let [place] = places[..] else {
        panic!("`{declaration}` is declared {} times, expected once", places.len());
    };
    let length = text[place..].find(';').unwrap_or_else(|| panic!("`{declaration}` has no end"));
    text.replace_range(place..place + length, value);
}

/// Appends the parts that `source` names, and those that they name.
fn add_parts(source: &str, variant: &Variant, added: &mut BTreeSet<String>, text: &mut String) {
    for line in source.lines() {
        let Some(names) = line.strip_prefix("// use ") else { continue };
        for name in names.split(", ") {
            if !added.insert(name.to_owned()) {
                continue;
            }
            let (stem, tensor) = match name.trim_end_matches(')').split_once('(') {
                Some((stem, tensor)) => (stem, Some(tensor)),
                None => (name, None),
            };
            let part = part(stem, variant).unwrap_or_else(|| panic!("no shared part `{name}`"));
            let part = match tensor {
                Some(tensor) => part.replace("tensor", tensor),
                None => part.to_owned(),
            };
            text.push('\n');
            text.push_str(&part);
            add_parts(&part, variant, added, text);
        }
    }
}
