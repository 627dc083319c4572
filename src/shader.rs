//! TEXT: embedded WGSL, shared parts, and specialisation by name. Pure.
//!
//! A shader is a file that naga and an editor read as it is. The host does two things to it: it
//! adds the parts that `// use` lines name, each once, and rewrites the initialiser of named
//! constants. `load(key)` is the part `load`, as `key` is stored, with its `tensor` renamed to
//! `key`.

pub use crate::plan::{Binding, bindings};
use crate::plan::{Constant, Storage, Variant};
use std::collections::BTreeSet;

macro_rules! parts {
    ($($stem:literal)*) => {
        &[$(($stem, include_str!(concat!("../shaders/shared/", $stem, ".wgsl")))),*]
    };
}

/// The files of shared parts: stem and text.
const PARTS: &[(&str, &str)] = parts! {
    "block_key" "columns" "finish" "finite" "fixed_tile" "key_bits" "key_products" "lane_states" "lane_sums_portable" "lane_sums_subgroup" "linear_params" "load_f16" "load_f16x4"
    "load_f32" "load_f32x4" "load_words" "load_words_x4" "locate_lens" "locate_ragged" "locate_same"
    "lockstep" "marked_scores" "mask_bits" "matrix_outs" "matrix_products" "matrix_tile" "next_tile"
    "out_totals" "outs" "pairs_bf16" "pairs_f16" "params" "queries"
    "register_tile" "rolled" "row_block" "row_totals" "rows" "score_tile" "sequence" "settle" "softmax_state"
    "staged" "store_f16" "store_f16x4" "store_f32" "store_f32x4" "store_unpacked" "store_words"
    "store_words_x4" "tanh" "tile" "tile_scores" "tile_values" "tile_visibility" "tokens" "transform" "value_sums" "value_tile" "view" "visibility"
};

/// The text of a shared part. Some have several files, of which the variant picks one; `load` and
/// `store` have one for each way in which a tensor may be stored.
fn part(name: &str, tensor: Option<&str>, variant: &Variant) -> Option<&'static str> {
    let stem = match (name, tensor) {
        ("lane_sums", _) if is_on(variant, "SUBGROUP") => "lane_sums_subgroup".to_owned(),
        ("lane_sums", _) => "lane_sums_portable".to_owned(),
        ("locate", _) if is_on(variant, "RAGGED") => "locate_ragged".to_owned(),
        ("locate", _) if bindings(variant.entry).any(|binding| binding.name == "aux") => {
            "locate_lens".to_owned()
        }
        ("locate", _) => "locate_same".to_owned(),
        // Tensors that are stored as words are all of one type.
        ("pairs", _) if variant.storage.values().any(|storage| storage.is_bf16()) => {
            "pairs_bf16".to_owned()
        }
        ("pairs", _) => "pairs_f16".to_owned(),
        ("load" | "store", Some(tensor)) => {
            match variant.storage.get(tensor).copied().unwrap_or(Storage::F32) {
                Storage::F16Words | Storage::Bf16Words => format!("{name}_words"),
                Storage::F16WordsX4 | Storage::Bf16WordsX4 => format!("{name}_words_x4"),
                // Nothing reads it but pack.wgsl, in its own way.
                Storage::Unpacked if name == "load" => "load_words".to_owned(),
                storage => format!("{name}_{}", storage.name()),
            }
        }
        _ => name.to_owned(),
    };
    PARTS.iter().find(|(part, _)| *part == stem).map(|(_, text)| *text)
}

/// Flags of a variant that no text has: they pick parts.
const PICKS: [&str; 2] = ["RAGGED", "SUBGROUP"];

fn is_on(variant: &Variant, flag: &str) -> bool {
    variant.constants.get(flag) == Some(&Constant::Flag(true))
}

/// The whole text of a variant, ready for a compiler.
///
/// # Panics
/// If a shader names a part that does not exist, or a variant a constant that its shader does not
/// declare exactly once: our bugs, which the host tests look for in every variant.
#[must_use]
pub fn assemble(variant: &Variant) -> String {
    let mut text = variant.entry.text().to_owned();
    for (Binding { name, .. }, alias) in variant.entry.stored() {
        set(&mut text, &format!("alias {alias}"), variant.storage[name].alias());
    }
    if let Some(Constant::Count(size)) = variant.constants.get("MATRIX_SIZE") {
        for (alias, kind) in [("Left", "f16, A"), ("Right", "f16, B"), ("Sums", "f32, C")] {
            set(&mut text, &format!("alias {alias}"), &format!("coop_mat{size}x{size}<{kind}>"));
        }
    }
    for (name, constant) in variant.constants.iter().filter(|(name, _)| !PICKS.contains(name)) {
        set(&mut text, &format!("const {name}"), &constant.to_string());
    }
    let mut added = BTreeSet::new();
    add_parts(&text.clone(), variant, &mut added, &mut text);
    let needs_matrices = variant.entry.needs_matrices();
    if needs_matrices {
        text.insert_str(0, "enable wgpu_cooperative_matrix;\n");
    }
    let stores_f16 = variant.storage.values().any(|storage| storage.needs_f16());
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
            let (stem, tensor) = match name.trim_end_matches(')').split_once('(') {
                Some((stem, tensor)) => (stem, Some(tensor)),
                None => (name, None),
            };
            let part =
                part(stem, tensor, variant).unwrap_or_else(|| panic!("no shared part `{name}`"));
            let part = match tensor {
                Some(tensor) => part.replace("tensor", tensor),
                None => part.to_owned(),
            };
            if !added.insert(part.clone()) {
                continue;
            }
            text.push('\n');
            text.push_str(&part);
            add_parts(&part, variant, added, text);
        }
    }
}
