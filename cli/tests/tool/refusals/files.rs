//! Files that are no safetensors, and places that cannot be read or written.

use super::{RUN, tensors};
use crate::support::{Folder, Tensor, file};

/// A file with this header, whatever it says, and so many bytes after it.
fn raw(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

#[test]
fn files_that_are_no_safetensors() {
    let whole = file(&tensors());
    let header = |entries: &str| raw(&format!("{{{entries}}}"), 16);
    let tensor = |name: &str, dtype: &str, shape: &str, offsets: &str| {
        format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}"#)
    };
    let q = tensor("q", "F32", "[1,2]", "[0,8]");
    let one = |dtype: &str, shape: &str, offsets: &str| header(&tensor("q", dtype, shape, offsets));
    let two = |k: &str| header(&format!("{q},{k}"));
    let cases = [
        ("empty", Vec::new()),
        ("not even a length", whole[..7].to_vec()),
        ("only a length", whole[..8].to_vec()),
        ("half a header", whole[..40].to_vec()),
        ("a byte too few", whole[..whole.len() - 1].to_vec()),
        ("a byte too many", [&whole[..], &[0]].concat()),
        ("a header longer than the file", [&u32::MAX.to_le_bytes()[..], &[0; 4], b"{}"].concat()),
        ("a header longer than memory", [&[0xff; 8][..], b"{}"].concat()),
        ("a header of no length", raw("", 0)),
        ("text", b"the quick brown fox jumps over the lazy dog".to_vec()),
        ("a header that is not UTF-8", [&whole[..8], &vec![0xff; whole.len() - 8]].concat()),
        ("a header that is no object", raw("[1, 2, 3]", 0)),
        ("a header that ends early", raw(r#"{"q":{"dtype":"F32","#, 0)),
        ("a header nested deep", raw(&"[".repeat(100_000), 0)),
        (
            "a tensor nested deep",
            header(&format!(r#""q":{}1{}"#, "[".repeat(9_999), "]".repeat(9_999))),
        ),
        ("a tensor that is a number", header(r#""q":1"#)),
        ("a tensor without sizes", header(r#""q":{"dtype":"F32","data_offsets":[0,16]}"#)),
        ("an unknown element type", one("Q4", "[2,2]", "[0,16]")),
        ("a negative size", one("F32", "[-2,-2]", "[0,16]")),
        ("a broken size", one("F32", "[1.5,2]", "[0,12]")),
        ("sizes that overflow", one("F32", "[4611686018427387904,4]", "[0,16]")),
        ("a size beyond all integers", one("F32", "[99999999999999999999]", "[0,16]")),
        ("more elements than bytes", one("F32", "[5]", "[0,16]")),
        ("fewer elements than bytes", one("F32", "[3]", "[0,16]")),
        ("offsets past the end", one("F32", "[2,3]", "[0,24]")),
        ("offsets that run backwards", one("F32", "[2,2]", "[16,0]")),
        ("offsets that start late", one("F32", "[3]", "[4,16]")),
        ("overlapping tensors", two(&tensor("k", "F32", "[1,3]", "[4,16]"))),
        ("the same bytes twice", two(&tensor("k", "F32", "[1,2]", "[0,8]"))),
        ("a hole between tensors", two(&tensor("k", "F32", "[1,1]", "[12,16]"))),
        ("bytes of no tensor", header(&q)),
        ("a name twice", two(&tensor("q", "F32", "[1,2]", "[8,16]"))),
        ("a name twice, escaped", two(&tensor("\\u0071", "F32", "[1,2]", "[8,16]"))),
    ];
    let folder = Folder::new();
    for (what, bytes) in &cases {
        folder.write(what, bytes);
        let says = format!("{what}: expected a safetensors file, found");
        folder.refuses(&[&["run", what], &RUN[2..]].concat(), &[&says]);
    }
    folder.write("in.safetensors", &two(&tensor("q", "F32", "[1,2]", "[8,16]")));
    folder.refuses(&RUN, &["two tensors named \"q\""]);
}

#[test]
fn places_that_cannot_be_read_or_written() {
    let folder = Folder::with(&tensors());
    std::fs::create_dir(folder.path("folder")).expect("a folder");
    let refuses = |input: &str, out: &str, says: &[&str]| {
        let args = ["run", input, "--out", out];
        folder.refuses(&[&args[..], &RUN[4..]].concat(), says);
        assert_eq!(std::fs::read_dir(folder.path("folder")).expect("a folder").count(), 0);
    };
    let readable = "expected a readable safetensors file, found";
    refuses("missing.safetensors", "out.safetensors", &["missing.safetensors", readable]);
    refuses("missing/in.safetensors", "out.safetensors", &["missing/in.safetensors", readable]);
    refuses("in.safetensors/in", "out.safetensors", &["in.safetensors/in", readable]);
    refuses("folder", "out.safetensors", &["folder", readable, "a directory"]);
    refuses(".", "out.safetensors", &[readable, "a directory"]);
    refuses("line\nbreak", "out.safetensors", &["line break", readable]);
    refuses(&"long".repeat(2000), "out.safetensors", &[readable]);
    refuses("", "out.safetensors", &["IN.safetensors"]);
    if cfg!(unix) {
        refuses("/dev/zero", "out.safetensors", &["/dev/zero", readable]);
    }

    let writable = "expected a writable file, found";
    let out = "in.safetensors";
    refuses(out, "missing/out.safetensors", &["--out missing/out.safetensors", writable]);
    refuses(out, "in.safetensors/out", &["--out in.safetensors/out", writable]);
    refuses(out, "folder", &["--out folder", writable, "a directory"]);
    refuses(out, "folder/", &["--out folder/", writable, "a directory"]);
    refuses(out, "folder/.", &[writable, "a directory"]);
    refuses(out, "new/", &["--out new/", writable, "a directory"]);
    refuses(out, "folder/new/.", &["--out folder/new/.", writable, "a directory"]);
    refuses(out, "missing/..", &["--out missing/..", writable]);
    refuses(out, "..", &[writable, "a directory"]);
    refuses(out, "/", &["--out /", writable, "a directory"]);
    refuses(out, &"long".repeat(100), &[writable]);

    folder.write("out.safetensors", b"as it was");
    let path = folder.path("out.safetensors");
    let mut permissions = std::fs::metadata(&path).expect("a file").permissions();
    permissions.set_readonly(true);
    std::fs::set_permissions(&path, permissions).expect("a file of ours");
    refuses(out, "out.safetensors", &["--out out.safetensors", writable, "read-only"]);
}

#[test]
fn an_earlier_output_stays_as_it_was() {
    let mut tensors = tensors();
    tensors[1] = Tensor::wave("k", &[2, 2, 5, 7]);
    let folder = Folder::with(&tensors);
    folder.write("out.safetensors", b"as it was");
    folder.refuses(&RUN, &["head_dim of k"]);
    assert_eq!(
        std::fs::read(folder.path("out.safetensors")).ok().as_deref(),
        Some(&b"as it was"[..])
    );
}
