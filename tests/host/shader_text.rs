//! The WGSL on disk, and how it becomes the text of a variant.

use crate::shaders::SHADERS;
use std::collections::BTreeSet;
use std::fs;
use std::panic::catch_unwind;
use std::path::Path;
use wgpu_attention::internal::{Constant, Entry, Params, Storage, Variant, assemble};

/// The files of a folder below shaders: stem and text.
fn files(folder: &str) -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders").join(folder);
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<(String, String)> = paths
        .filter(|path| path.is_file())
        .map(|path| {
            assert_eq!(path.extension().unwrap(), "wgsl", "{path:?}");
            let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
            (stem, fs::read_to_string(path).unwrap())
        })
        .collect();
    files.sort();
    files
}

fn bare(entry: Entry, storage: Storage) -> Variant {
    Variant::new(entry, [storage; 2], [])
}

/// Flags that pick parts and stand in no text.
const PICKS: [&str; 2] = ["RAGGED", "SUBGROUP"];

/// The names that `const` lines of a text declare.
fn constants(text: &str) -> Vec<&str> {
    let names = text.lines().filter_map(|line| line.strip_prefix("const "));
    names.map(|line| line.split([' ', ':', '=']).next().unwrap()).collect()
}

/// The text without comments.
fn code(text: &str) -> String {
    text.lines().map(|line| line.split("//").next().unwrap()).collect::<Vec<_>>().join("\n")
}

#[test]
fn every_shader_file_is_an_entry_and_every_entry_a_file() {
    let mut entries = Entry::ALL.map(Entry::name);
    entries.sort_unstable();
    let files = files("");
    let stems: Vec<&str> = files.iter().map(|(stem, _)| stem.as_str()).collect();
    assert_eq!(stems, entries);
    for (stem, text) in &files {
        let entry = Entry::ALL.into_iter().find(|entry| entry.name() == stem).unwrap();
        // What is embedded is what is on disk, and scalars without options are its defaults.
        let default = if entry == Entry::Pack { Storage::F16Words } else { Storage::F32 };
        let assembled = assemble(&bare(entry, default));
        let enabled = assembled.find("// ").unwrap();
        assert_eq!(enabled > 0, entry.needs_matrices(), "{stem}");
        assert!(assembled[enabled..].starts_with(text), "{stem}");
    }
}

#[test]
fn every_shared_part_is_used_by_some_shader() {
    let texts: Vec<String> = SHADERS.iter().map(|shader| assemble(&shader.variant)).collect();
    for (stem, part) in files("shared") {
        let is_used = texts.iter().any(|text| {
            let tensors = text.lines().filter_map(|line| line.strip_prefix("@group(0) @binding("));
            let tensors =
                tensors.filter_map(|line| line.split_once("> ")?.1.split_once(": array<"));
            tensors
                .chain([("tensor", "")])
                .any(|(tensor, _)| text.contains(&part.replace("tensor", tensor)))
        });
        assert!(is_used, "{stem}");
    }
}

#[test]
fn a_part_is_added_once_however_often_it_is_named() {
    for shader in SHADERS.iter() {
        let text = assemble(&shader.variant);
        let mut seen = BTreeSet::new();
        for line in
            text.lines().filter(|line| line.starts_with("fn ") || line.starts_with("struct "))
        {
            assert!(seen.insert(line), "{}: {line}", shader.variant);
        }
    }
}

#[test]
fn every_knob_is_declared_once_and_turned_by_some_plan() {
    for (stem, text) in files("") {
        let knobs = text.lines().position(|line| line.starts_with("@group")).unwrap();
        let knobs = text.lines().take(knobs).collect::<Vec<_>>().join("\n");
        let declared = constants(&knobs);
        let everywhere = constants(&text);
        let distinct: BTreeSet<&&str> = everywhere.iter().collect();
        assert_eq!(distinct.len(), everywhere.len(), "{stem}: {everywhere:?}");
        for shader in SHADERS.iter().filter(|shader| shader.variant.entry.name() == stem) {
            let constants = shader.variant.constants.keys().copied();
            let mut turned: BTreeSet<&str> =
                constants.filter(|name| !PICKS.contains(name)).collect();
            // Some have the same workgroup everywhere.
            turned.extend(declared.contains(&"THREADS").then_some("THREADS"));
            // What a cache puts in its place goes through the rotary kernel.
            turned.extend((stem == "positional").then_some("TO_PLACE"));
            assert_eq!(declared.iter().copied().collect::<BTreeSet<_>>(), turned, "{stem}");
        }
    }
}

#[test]
fn a_constant_is_rewritten_once_and_nothing_else_is() {
    for shader in SHADERS.iter() {
        let variant = &shader.variant;
        let mut bare = Variant { constants: [].into(), ..variant.clone() };
        // These decide which parts there are, and of which types matrices are.
        for name in PICKS.iter().chain(&["MATRIX_SIZE"]) {
            bare.constants.extend(variant.constants.get_key_value(name));
        }
        let (before, after) = (assemble(&bare), assemble(variant));
        assert_eq!(before.lines().count(), after.lines().count(), "{variant}");
        for (before, after) in before.lines().zip(after.lines()) {
            let name = constants(after).first().copied().unwrap_or_default();
            match variant.constants.get(name) {
                Some(value) => assert_eq!(after, format!("const {name} = {value};"), "{variant}"),
                None => assert_eq!(after, before, "{variant}"),
            }
        }
        for (name, value) in variant.constants.iter().filter(|(name, _)| !PICKS.contains(name)) {
            let line = format!("const {name} = {value};");
            assert_eq!(after.lines().filter(|l| *l == line).count(), 1, "{variant}: {line}");
        }
        let aliases = after.lines().filter(|line| line.starts_with("alias "));
        let matrices = if variant.entry.needs_matrices() { 3 } else { 0 };
        assert_eq!(aliases.count(), variant.storage.len() + matrices, "{variant}");
        for (tensor, storage) in &variant.storage {
            let (_, elements) = after.split_once(&format!("> {tensor}: array<")).unwrap();
            let alias = elements.split('>').next().unwrap();
            assert!(after.contains(&format!("alias {alias} = {};", storage.alias())), "{variant}");
        }
    }
}

#[test]
fn a_constant_that_the_shader_lacks_is_our_bug() {
    for entry in Entry::ALL {
        for name in ["HEAD_DIMS", "HEAD", "KEY", "VALUE_CHUNK_", "Stored", ""] {
            let variant = Variant {
                constants: [(name, Constant::Count(1))].into(),
                ..bare(entry, Storage::F32)
            };
            let panic =
                *catch_unwind(|| assemble(&variant)).unwrap_err().downcast::<String>().unwrap();
            assert_eq!(panic, format!("`const {name}` is declared 0 times, expected once"));
        }
    }
}

#[test]
fn shaders_are_plain_wgsl_without_a_preprocessor_or_infinities() {
    for (stem, text) in files("").into_iter().chain(files("shared")) {
        for foreign in ["#if", "#define", "#endif", "#include", "{{", "}}", "\t", "\r"] {
            assert!(!text.contains(foreign), "{stem}: {foreign:?}");
        }
        let code = code(&text);
        // `enable` lines are the host's, and naga cannot carry what `override` would have to.
        for keyword in ["enable", "override", "diagnostic", "inf", "Inf", "nan", "NaN", "subgroup"]
        {
            let mut words = code.split(|c: char| !c.is_alphanumeric() && c != '_');
            assert!(!words.any(|word| word == keyword), "{stem}: {keyword}");
        }
        for division in ["/ 0.0", "/0.0", "/ 0u"] {
            assert!(!code.contains(division), "{stem}: {division}");
        }
        assert!(text.lines().all(|line| line.len() <= 120), "{stem}");
        assert!(text.starts_with("// ") && text.ends_with('\n'), "{stem}");
    }
}

/// The bits of `flags` in Rust and in WGSL.
#[test]
fn flags_are_the_same_bits_on_both_sides() {
    let text = include_str!("../../shaders/shared/params.wgsl");
    let bits = [
        ("HAS_LSE", Params::HAS_LSE),
        ("STORES_SUMS", Params::STORES_SUMS),
        ("HAS_SINKS", Params::HAS_SINKS),
        ("HAS_LENS", Params::HAS_LENS),
        ("HAS_MASK", Params::HAS_MASK),
        ("HAS_SEGMENTS", Params::HAS_SEGMENTS),
        ("HAS_PAGES", Params::HAS_PAGES),
        ("READS_SUMS", Params::READS_SUMS),
        ("STORES_SCORES", Params::STORES_SCORES),
        ("MARKS_HIDDEN", Params::MARKS_HIDDEN),
        ("HAS_WEIGHTS", Params::HAS_WEIGHTS),
        ("SETTLES", Params::SETTLES),
    ];
    for (at, (name, bit)) in bits.into_iter().enumerate() {
        assert_eq!(bit, 1 << at, "{name}");
        assert!(text.contains(&format!("\nconst {name} = {bit}u;\n")), "{name}");
    }
}

/// Words of WGSL that our shaders use.
const WGSL: &str = "A B C abs alias all any array atomic atomicAdd atomicLoad atomicOr atomicStore bitcast bool clamp \
    const continue coopLoad coopLoadT coopMultiplyAdd coopStoreT coop_mat8x8 countLeadingZeros dot else exp exp2 fma f16 f32 \
    false fn for function global_invocation_id i32 if let local_invocation_index log mat4x4 max min num_workgroups private ptr read \
    read_write return select sign storage struct subgroupShuffleXor subgroup_id true u32 uniform var vec2 vec3 vec4 while workgroup \
    workgroupBarrier workgroupUniformLoad workgroup_id";

/// The names in a text's code that it declares, and those that it does not.
fn declared_and_free(text: &str) -> [BTreeSet<String>; 2] {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let (code, wgsl) = (code(text), WGSL.split_whitespace().collect::<BTreeSet<_>>());
    let mut names = [BTreeSet::new(), BTreeSet::new()];
    let (mut rest, mut last) = (code.as_str(), "");
    while let Some(at) = rest.find(is_word) {
        let before = rest[..at].chars().next_back();
        let end = rest[at..].find(|c| !is_word(c)).map_or(rest.len(), |len| at + len);
        let word = &rest[at..end];
        rest = &rest[end..];
        let follows =
            before == Some(' ') && ["fn", "let", "var", "const", "struct", "alias"].contains(&last);
        let is_declared = follows || rest.starts_with(':');
        // Neither numbers nor members nor attributes.
        if !word.starts_with(|c: char| c.is_ascii_digit()) && !matches!(before, Some('.' | '@')) {
            names[usize::from(!is_declared)].insert(word.to_owned());
        }
        last = word;
    }
    let [declared, mut free] = names;
    free.retain(|name| !declared.contains(name) && !wgsl.contains(name.as_str()));
    [declared, free]
}

/// The names that stand in lines such as `// use`.
fn listed(text: &str, word: &str) -> BTreeSet<String> {
    let start = format!("// {word} ");
    let names = text.lines().filter_map(|line| line.strip_prefix(&start));
    names.flat_map(|names| names.split(", ")).map(str::to_owned).collect()
}

/// What a line of a text declares for all of its functions.
fn item(line: &str) -> Option<&str> {
    let is_variable = line.starts_with("var<") || line.starts_with("@group");
    let rest = match is_variable {
        true => line.split_once("> ").map(|(_, rest)| rest),
        false => {
            ["fn ", "struct ", "alias ", "const "].iter().find_map(|kind| line.strip_prefix(kind))
        }
    };
    rest?.split(|c: char| !c.is_alphanumeric() && c != '_').next()
}

/// What a line `// use` brings: of a part with several files, what all of them declare.
fn brought(name: &str, shared: &[(String, String)]) -> BTreeSet<String> {
    let (stem, tensor) = name.trim_end_matches(')').split_once('(').unwrap_or((name, "tensor"));
    let is_file = shared.iter().any(|(file, _)| file == stem);
    let files = shared.iter().filter(|(file, _)| {
        file == stem
            || !is_file && file.strip_prefix(stem).is_some_and(|rest| rest.starts_with('_'))
    });
    let declared = files.map(|(_, text)| {
        text.replace("tensor", tensor).lines().filter_map(item).map(str::to_owned).collect()
    });
    let shared: Option<BTreeSet<String>> = declared.reduce(|all, one| &all & &one);
    shared.unwrap_or_else(|| panic!("no part {name}"))
}

/// Every name in a file is its own, of a part that it uses, or, in a part, one that its includer has to declare.
#[test]
fn parts_say_what_they_use_and_what_they_need() {
    let shared = files("shared");
    for (stem, text) in files("").into_iter().chain(shared.clone()) {
        let [declared, free] = declared_and_free(&text);
        let mut missing = free.clone();
        for name in listed(&text, "use") {
            let brought = brought(&name, &shared);
            assert!(!brought.is_disjoint(&free), "{stem}: nothing of {name} is used");
            assert!(brought.is_disjoint(&declared), "{stem}: hides something of {name}");
            missing = &missing - &brought;
        }
        assert_eq!(missing, listed(&text, "needs"), "{stem}");
    }
}
