//! `plot`: pictures that show the weights, labels, what is hidden, and what is wrong with them.

use crate::support::{Folder, Tensor, file};
use safetensors::{Dtype, tensor::TensorView};
use std::collections::HashMap;
use std::io::Cursor;

const HIDDEN: [u8; 3] = [232, 234, 237];
const NOT_FINITE: [u8; 3] = [217, 72, 15];

/// Even causal weights of so many heads.
fn causal(sizes: &[usize]) -> Tensor {
    let [.., queries, keys] = *sizes else { panic!("{sizes:?}") };
    let weight = |place: usize| {
        let (query, key) = (place / keys % queries, place % keys);
        if key <= query { 1.0 / (query + 1) as f32 } else { 0.0 }
    };
    let weights: Vec<f32> = (0..sizes.iter().product()).map(weight).collect();
    Tensor::f32("weights", sizes, &weights)
}

/// `plot in.safetensors --device cpu` and more arguments, which has to succeed; what stands on stdout.
#[track_caller]
fn plot(folder: &Folder, args: &[&str]) -> String {
    let ended = folder.tool(&[&["plot", "in.safetensors", "--device", "cpu"], args].concat());
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{args:?}: {ended:?}");
    assert!(!ended.stdout.contains('\x1b'), "colours although this is no terminal");
    ended.stdout
}

struct Pixels {
    size: (u32, u32),
    bytes: Vec<u8>,
}

impl Pixels {
    fn read(folder: &Folder, name: &str) -> Self {
        let bytes = std::fs::read(folder.path(name)).expect("a picture");
        let mut reader = png::Decoder::new(Cursor::new(bytes)).read_info().expect("a PNG header");
        let mut bytes = vec![0; reader.output_buffer_size().expect("a size")];
        let frame = reader.next_frame(&mut bytes).expect("a whole picture");
        Self { size: (frame.width, frame.height), bytes }
    }

    fn at(&self, x: usize, y: usize) -> [u8; 3] {
        let start = 3 * (y * self.size.0 as usize + x);
        self.bytes[start..start + 3].try_into().expect("three bytes")
    }
}

/// The text elements of a picture that is well-formed XML, and how many shapes have this colour.
fn svg(folder: &Folder, name: &str, color: [u8; 3]) -> (Vec<String>, usize) {
    let text = std::fs::read_to_string(folder.path(name)).expect("a picture");
    let document = roxmltree::Document::parse(&text).expect("XML");
    assert_eq!(document.root_element().tag_name().name(), "svg");
    let [r, g, b] = color;
    let fill = format!("#{r:02X}{g:02X}{b:02X}");
    let texts = document.descendants().filter(|node| node.has_tag_name("text"));
    let texts = texts.map(|node| node.text().unwrap_or_default().trim().to_owned()).collect();
    let filled = |node: &roxmltree::Node<'_, '_>| node.attribute("fill") == Some(&fill);
    (texts, document.descendants().filter(filled).count())
}

#[test]
fn a_few_tokens_have_large_cells_with_numbers_and_a_light_triangle_above() {
    let folder = Folder::with(&[causal(&[2, 8, 8])]);
    let stdout = plot(&folder, &["--out", "heads.PNG"]);
    assert_eq!(folder.names(), ["heads.PNG", "in.safetensors"]);
    let pixels = Pixels::read(&folder, "heads.PNG");
    assert_eq!(pixels.size, (32 + 2 * (31 + 8 * 52 + 32) + 110, 96 + 8 * 52 + 64));
    for panel in 0..2 {
        let corner = |query: usize, key: usize| {
            pixels.at(63 + panel * 479 + key * 52 + 4, 96 + query * 52 + 4)
        };
        assert_eq!(corner(0, 0), [16, 26, 72], "all of the weight is the darkest colour");
        for query in 0..8 {
            for key in 0..8 {
                assert_eq!(corner(query, key) == HIDDEN, key > query, "{query} {key}");
                assert_eq!(corner(query, key), corner(query, key.min(query + 1).min(7)));
            }
        }
        let rows: Vec<[u8; 3]> = (0..8).map(|query| corner(query, 0)).collect();
        assert!(rows.is_sorted_by(|above, below| above[0] < below[0]), "lighter downwards");
        let middle = (63 + panel * 479 + 10..63 + panel * 479 + 42)
            .filter(|&x| pixels.at(x, 96 + 26) != [16, 26, 72]);
        assert!(middle.count() > 5, "a number stands in the cell");
    }
    let lines: Vec<&str> = stdout.lines().collect();
    assert_eq!((lines[0], lines[11]), ("Head 0", "Head 1"), "{stdout}");
    assert_eq!(lines[2], "  0  ███  ·   ·   ·   ·   ·   ·   · ");
    assert_eq!(lines[4], "  2  ▒▒▒ ▒▒▒ ▒▒▒  ·   ·   ·   ·   · ");
}

#[test]
fn many_tokens_have_small_cells_and_a_tick_every_few() {
    let folder = Folder::with(&[causal(&[12, 128, 128])]);
    plot(&folder, &["--out", "heads.png"]);
    let pixels = Pixels::read(&folder, "heads.png");
    let (width, height) = (39 + 128 * 5 + 32, 96 + 128 * 5 + 32);
    assert_eq!(pixels.size, (32 + 4 * width + 110, 3 * height + 32));
    for panel in 0..12 {
        let (left, top) = (71 + panel % 4 * width as usize, 96 + panel / 4 * height as usize);
        let cell = |query: usize, key: usize| pixels.at(left + key * 5 + 2, top + query * 5 + 2);
        for (query, key) in [(0, 1), (0, 127), (63, 64), (126, 127)] {
            assert_eq!(cell(query, key), HIDDEN, "{query} {key}");
        }
        for (query, key) in [(0, 0), (63, 63), (127, 0), (127, 127)] {
            let [red, _, blue] = cell(query, key);
            assert!(blue > red + 30, "{query} {key}: even one of 128 shares is blue");
        }
    }
    plot(&folder, &["--out", "head.svg", "--head", "7"]);
    let (texts, hidden) = svg(&folder, "head.svg", HIDDEN);
    let ticks: Vec<String> = (0..128).step_by(5).map(|tick| tick.to_string()).collect();
    assert_eq!(texts[0], "Head 7");
    assert_eq!(texts[1..=52], [&ticks[..], &ticks].concat());
    assert_eq!(
        texts[53],
        "Each row is a query; its cells say how much of its attention goes to each key, in percent."
    );
    assert_eq!(hidden, 127 + 1, "one bar a row, and the legend");
}

#[test]
fn tokens_come_from_flags_or_the_file_and_else_are_numbers() {
    let write = |texts: &[(&str, &str)], sizes: &[usize]| {
        let tensor = causal(sizes);
        let view = TensorView::new(Dtype::F32, sizes.to_vec(), tensor.bytes()).expect("a tensor");
        let texts: HashMap<String, String> =
            texts.iter().map(|&(key, text)| (key.to_owned(), text.to_owned())).collect();
        let folder = Folder::new();
        let bytes = safetensors::serialize([("weights", view)], Some(texts)).expect("a file");
        folder.write("in.safetensors", &bytes);
        folder
    };
    let square: &[usize] = &[2, 2];
    let wide: &[usize] = &[2, 3];
    let file = [("tokens", r#"["<a>", "b&"]"#), ("key_tokens", r#"["k", "", "\u0007 m"]"#)];
    type Case<'a> = (&'a [(&'a str, &'a str)], &'a [usize], &'a [&'a str], &'a [&'a str]);
    let cases: &[Case<'_>] = &[
        (&[], square, &[], &["0", "1", "0", "1"]),
        (&[], square, &["--tokens", " the  cat "], &["the", "cat", "the", "cat"]),
        (&[], wide, &["--tokens=the cat"], &["0", "1", "2", "the", "cat"]),
        (&[], wide, &["--key-tokens", "- --x y"], &["-", "--x", "y", "0", "1"]),
        (&[], square, &["--tokens=a b", "--key-tokens=c d"], &["c", "d", "a", "b"]),
        (&file[..1], square, &[], &["<a>", "b&", "<a>", "b&"]),
        (&file, wide, &[], &["k", "\u{fffd} m", "<a>", "b&"]),
        (&file, wide, &["--tokens", "日本 \"'"], &["0", "1", "2", "日本", "\"'"]),
        (&file, square, &["--tokens", "x y"], &["x", "y", "x", "y"]),
        (&file, wide, &["--key-tokens", "x y z"], &["x", "y", "z", "<a>", "b&"]),
        (&[("tokens", "7"), ("other", "[")], square, &["--tokens=x y"], &["x", "y", "x", "y"]),
    ];
    for (texts, sizes, flags, expected) in cases {
        let folder = write(texts, sizes);
        plot(&folder, &[&["--out", "out.svg"], *flags].concat());
        let (found, _) = svg(&folder, "out.svg", HIDDEN);
        assert_eq!(found[1..=expected.len()], **expected, "{texts:?} {flags:?}");
        plot(&folder, &[&["--out", "out.png"], *flags].concat());
    }

    let refuses = |texts: &[(&str, &str)], sizes: &[usize], flags: &[&str], says: &[&str]| {
        let args = ["plot", "in.safetensors", "--out", "out.svg"];
        write(texts, sizes).refuses(&[&args, flags].concat(), says);
    };
    refuses(&[], square, &["--tokens", "a b c"], &["--tokens: expected 2 tokens, found 3"]);
    refuses(&[], square, &["--tokens="], &["--tokens: expected 2 tokens, found 0"]);
    refuses(&[], wide, &["--key-tokens=a b"], &["--key-tokens: expected 3 tokens, found 2"]);
    refuses(&file, square, &[], &["key_tokens in __metadata__: expected 2 tokens, found 3"]);
    refuses(&file[..1], &[3, 3], &[], &["tokens in __metadata__: expected 3 tokens, found 2"]);
    for text in ["", "a b", "7", "[1, 2]", r#"{"a": "b"}"#, "[[], []]", r#"["a", "b"] c"#] {
        let says = ["tokens in __metadata__: expected a JSON array of strings, found"];
        refuses(&[("tokens", text)], square, &[], &says);
    }
}

#[test]
fn heads_and_batches_are_drawn_in_the_order_asked_for() {
    let folder = Folder::with(&[causal(&[3, 5, 2, 2])]);
    let titles = |flags: &[&str]| {
        let stdout = plot(&folder, &[&["--out", "out.svg"], flags].concat());
        let (texts, _) = svg(&folder, "out.svg", HIDDEN);
        let titles = |text: &str| text.contains("head ");
        let drawn: Vec<String> = texts.into_iter().filter(|text| titles(text)).collect();
        assert_eq!(drawn, stdout.lines().filter(|line| titles(line)).collect::<Vec<_>>());
        drawn.join("; ")
    };
    assert_eq!(titles(&["--head=4", "--batch=2"]), "Batch 2, head 4");
    assert_eq!(titles(&["--batch", "1", "--head=3,0,3"]), "Batch 1, head 3; Batch 1, head 0");
    assert_eq!(
        titles(&["--head", "1", "--batch", "2", "--batch", "0"]),
        "Batch 2, head 1; Batch 0, head 1"
    );
    assert_eq!(titles(&[]).split("; ").count(), 15);
    for (flags, says) in [
        (&["--head", "5"][..], "--head: expected 0 to 4, found 5"),
        (&["--batch=3"], "--batch: expected 0 to 2, found 3"),
        (&["--head", "99999999999999999999"], "--head: expected 0 to 4"),
        (&["--head", "-1"], "at least 0"),
        (&["--head", "0,"], "--head"),
        (&["--batch", "all"], "'all'"),
    ] {
        let args = ["plot", "in.safetensors", "--out", "out.png"];
        let folder = Folder::with(&[causal(&[3, 5, 2, 2])]);
        folder.refuses(&[&args[..], flags].concat(), &[says]);
    }
}

#[test]
fn each_heatmap_is_of_its_own_batch_and_head() {
    let identity: Vec<f32> = (0..16).map(|i| if i % 5 == 0 { 1.0 } else { 0.0 }).collect();
    let folder = Folder::with(&[Tensor::f32("weights", &[2, 2, 1, 4], &identity)]);
    let stdout = plot(&folder, &["--out", "out.png", "--head", "0,1"]);
    let rows: Vec<&str> = stdout.lines().filter(|line| line.contains('█')).collect();
    let expected = [
        "  0  ███  ·   ·   · ",
        "  0   ·  ███  ·   · ",
        "  0   ·   ·  ███  · ",
        "  0   ·   ·   ·  ███",
    ];
    assert_eq!(rows, expected);
}

#[test]
fn what_is_not_finite_stands_out_and_what_is_no_weight_does_no_harm() {
    let numbers = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0, -7.0, f32::MAX, 1e-40, 2.0];
    let folder = Folder::with(&[Tensor::f32("weights", &[2, 4], &numbers)]);
    let stdout = plot(&folder, &["--out", "out.svg"]);
    assert!(stdout.contains("!!! !!! !!!  · \n"), "{stdout}");
    let (texts, broken) = svg(&folder, "out.svg", NOT_FINITE);
    assert_eq!(broken, 3 + 1, "three cells and the legend");
    for text in ["NaN", "inf", "-inf", "200", "-700", "not finite"] {
        assert!(texts.iter().any(|found| found == text), "{text}: {texts:?}");
    }
    let large = vec![f32::NAN; 64 * 64];
    let folder = Folder::with(&[Tensor::f32("weights", &[64, 64], &large)]);
    assert!(plot(&folder, &["--out", "out.png"]).contains("!!!!"));
    assert!(Pixels::read(&folder, "out.png").bytes.chunks(3).any(|pixel| pixel == NOT_FINITE));
}

#[test]
fn many_cells_are_shown_in_blocks_by_the_largest_weight() {
    let len = 100;
    let causal = |i: usize| if i % len <= i / len { 1.0 } else { 0.0 };
    let mut weights: Vec<f32> = (0..len * len).map(causal).collect();
    // In blocks of 3 queries and 2 keys, what is no number comes before any other, first or last.
    weights[6 * len] = f32::NAN;
    weights[11 * len + 1] = f32::NAN;
    let folder = Folder::with(&[Tensor::f32("weights", &[len, len], &weights)]);
    let stdout = plot(&folder, &["--out", "out.png"]);
    let lines: Vec<&str> = stdout.lines().collect();
    assert_eq!(lines.len(), 1 + 34 + 1, "{stdout}");
    assert_eq!(lines[1], format!("{}{}", "█".repeat(2), "·".repeat(48)));
    assert_eq!(lines[34], "█".repeat(50));
    assert_eq!(lines[35], "(the largest of every 3 queries x 2 keys)");
    assert!([lines[3], lines[4]].iter().all(|line| line.starts_with("!█")), "{stdout}");
}

#[test]
fn labels_are_one_line_of_limited_length() {
    let folder = Folder::with(&[causal(&[4, 4])]);
    let (fits, long) = ("x".repeat(24), "é".repeat(25));
    let tokens = format!("a\u{1b}[31m\u{ffff} {fits} {long} b");
    plot(&folder, &["--out=out.svg", "--tokens", &tokens]);
    let (texts, _) = svg(&folder, "out.svg", HIDDEN);
    let long = format!("{}…", "é".repeat(23));
    assert_eq!(texts[1..5], ["a\u{fffd}[31m\u{fffd}", &fits, &long, "b"]);
}

#[test]
fn every_type_of_floats_is_drawn_alike() {
    let weights = Tensor::f32("weights", &[2, 2], &[1.0, 0.0, 0.5, 0.5]);
    let mut pictures = Vec::new();
    for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::F64] {
        let folder = Folder::with(&[weights.rounded(dtype)]);
        plot(&folder, &["--out", "out.png"]);
        pictures.push(Pixels::read(&folder, "out.png").bytes);
    }
    assert!(pictures.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn what_run_emits_is_drawn() {
    let wave = Tensor::wave;
    let folder =
        Folder::with(&[wave("q", &[2, 3, 4]), wave("k", &[2, 5, 4]), wave("v", &[2, 5, 4])]);
    folder.run(&["--emit", "weights", "--causal"]);
    let args = ["plot", "out.safetensors", "--out", "out.png", "--adapter", "any", "--backend=gl"];
    let ended = folder.tool(&args);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{ended:?}");
    assert!(ended.stdout.starts_with("Head 0\n"), "{ended:?}");
}

/// The titles of what stands on stdout.
fn titles(stdout: &str) -> Vec<&str> {
    let is_title =
        |line: &&str| ["Batch", "Head", "Mean"].iter().any(|word| line.starts_with(word));
    stdout.lines().filter(is_title).collect()
}

#[test]
fn means_over_heads_are_labelled_as_such_and_never_as_heads() {
    let state =
        [Tensor::wave("in_proj_weight", &[12, 4]), Tensor::wave("out_proj.weight", &[4, 4])];
    let emitted = |sizes: &[usize], flags: &[&str]| {
        let tensors = ["query", "key", "value"].map(|name| Tensor::wave(name, sizes));
        let folder = Folder::with(&tensors);
        folder.write("w.safetensors", &file(&state));
        let mha = ["mha", "in.safetensors", "--weights", "w.safetensors", "--heads", "2"];
        folder.compute(&[&mha[..], &["--emit=weights", "--batch-first"]].concat(), flags);
        let ended = folder.tool(&["plot", "out.safetensors", "--out", "out.svg"]);
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{ended:?}");
        let texts = svg(&folder, "out.svg", HIDDEN).0;
        let found = titles(&ended.stdout).iter().map(|&title| title.to_owned()).collect::<Vec<_>>();
        assert!(found.iter().all(|title| texts.contains(title)), "{found:?}: {texts:?}");
        found
    };
    let batches = ["Batch 0, mean over heads", "Batch 1, mean over heads"];
    assert_eq!(emitted(&[2, 3, 4], &[]), batches);
    assert_eq!(emitted(&[1, 3, 4], &[]), ["Mean over heads"]);
    assert_eq!(emitted(&[3, 4], &[]), ["Mean over heads"]);
    let heads = [[0, 0], [0, 1], [1, 0], [1, 1]];
    let heads = heads.map(|[batch, head]| format!("Batch {batch}, head {head}"));
    assert_eq!(emitted(&[2, 3, 4], &["--per-head-weights"]), heads);
    assert_eq!(emitted(&[3, 4], &["--per-head-weights"]), ["Head 0", "Head 1"]);
}

#[test]
fn additive_weights_are_of_batches() {
    let tensors =
        [("query", &[2, 3, 4][..]), ("keys", &[2, 5, 4]), ("w_q", &[6, 4]), ("w_k", &[6, 4])];
    let tensors = [&tensors[..], &[("w_v", &[6])]].concat();
    let tensors: Vec<Tensor> =
        tensors.into_iter().map(|(name, sizes)| Tensor::wave(name, sizes)).collect();
    let folder = Folder::with(&tensors);
    folder.compute(&["additive", "in.safetensors"], &["--emit=weights"]);
    let ended = folder.tool(&["plot", "out.safetensors", "--out", "out.png", "--batch=1,0"]);
    assert_eq!(titles(&ended.stdout), ["Batch 1", "Batch 0"], "{ended:?}");
}

#[test]
fn axes_that_the_weights_do_not_have_are_refused() {
    let weights = causal(&[2, 3, 3]);
    for axes in [
        r#"["batch","heads","queries","keys"]"#,
        r#"["queries","keys"]"#,
        r#"["batch","keys","queries"]"#,
        r#"["tokens","queries","keys"]"#,
        "batch",
    ] {
        let view = TensorView::new(Dtype::F32, vec![2, 3, 3], weights.bytes()).expect("a tensor");
        let texts = HashMap::from([("weights_axes".to_owned(), axes.to_owned())]);
        let bytes = safetensors::serialize([("weights", view)], Some(texts)).expect("a file");
        let folder = Folder::new();
        folder.write("in.safetensors", &bytes);
        let plot = ["plot", "in.safetensors", "--out", "out.png"];
        folder.refuses(&plot, &["weights_axes in __metadata__: expected", "found"]);
    }
}

#[test]
fn what_cannot_be_drawn_is_refused() {
    let plot = ["plot", "in.safetensors", "--out", "out.png"];
    let refuses = |tensor: Tensor, args: &[&str], says: &[&str]| {
        Folder::with(&[tensor]).refuses(args, says);
    };
    for out in ["out", "out.jpg", "png", ".png", "out.svg.gz", "out.png/"] {
        let args = ["plot", "in.safetensors", "--out", out];
        refuses(causal(&[2, 2]), &args, &["--out"]);
    }
    let says = ["--out: expected a name that ends in .png or .svg, found out.jpg"];
    refuses(causal(&[2, 2]), &["plot", "missing", "--out", "out.jpg"], &says);
    refuses(causal(&[2, 2]), &["plot", "in.safetensors"], &["--out"]);
    refuses(causal(&[2, 2]), &["plot", "missing", "--out=out.png"], &["missing"]);
    let args = ["plot", "in.safetensors", "--out", "missing/out.png"];
    refuses(causal(&[2, 2]), &args, &["--out missing/out.png"]);
    refuses(causal(&[2, 2]), &[&plot[..], &["--causal"]].concat(), &["--causal"]);
    refuses(Tensor::wave("q", &[2, 2]), &plot, &["weights: expected a tensor of this name"]);
    let bools = Tensor::bools("weights", &[2, 2], &[1; 4]);
    refuses(bools, &plot, &["weights: expected F32 or F16 or BF16 or F64, found BOOL"]);
    for sizes in [&[0, 2][..], &[2, 0], &[0, 2, 2], &[3, 0, 2, 2], &[0, 1 << 40, 1, 1]] {
        let says = format!("weights: expected sizes of at least 1, found {sizes:?}");
        refuses(Tensor::wave("weights", sizes), &plot, &[&says]);
    }
    for sizes in [&[][..], &[4], &[1, 1, 1, 2, 2], &[0; 5]] {
        let says = format!("found {sizes:?}");
        refuses(Tensor::wave("weights", sizes), &plot, &["expected 2 to 4 sizes", &says]);
    }
    refuses(causal(&[8193, 1]), &plot, &["at most 8192 queries, found 8193"]);
    refuses(causal(&[1, 8193]), &plot, &["at most 8192 keys, found 8193"]);
    refuses(causal(&[8193, 1, 1]), &plot, &["at most 8192 heatmaps, found 8193"]);
    refuses(causal(&[8192, 1, 1]), &plot, &["picture: expected at most 2^26 pixels", "--head"]);
    let svg = ["plot", "in.safetensors", "--out", "out.svg"];
    refuses(causal(&[513, 512]), &svg, &["at most 262144 cells in an .svg", "found 262656"]);
}
