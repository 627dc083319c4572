//! The shapes and options that hurt.

use super::data::Data;
use crate::plan::Kernel;
use crate::problem::{
    AlibiLayout, Align, AttentionOptions, AttentionShape, BroadcastLayout, CuSeqlens, Layout,
    PagedKeys, SegmentLayout, Strides,
};

/// One call that every kernel has to get right.
pub(super) struct Case {
    /// What it tries; cases of one name share a row of the report.
    pub(super) name: &'static str,
    pub(super) shape: AttentionShape,
    pub(super) options: AttentionOptions,
    pub(super) data: Data,
    /// The fused kernel, if the plan is not to choose it.
    pub(super) kernel: Option<Kernel>,
}

/// Lengths around the edges of tiles of 32 keys and 64 rows.
const LENGTHS: [(usize, usize); 8] =
    [(1, 1), (9, 1), (1, 97), (31, 33), (64, 64), (65, 127), (130, 95), (37, 256)];
/// Names, head_dim and value_dim; a quick check leaves out the last ones, which cost a compilation
/// each.
const DIMS: [(&str, usize, usize); 11] = [
    ("head_dim 1", 1, 1),
    ("head_dim 3, value_dim 5", 3, 5),
    ("head_dim 64", 64, 64),
    ("head_dim 128", 128, 128),
    ("head_dim 256", 256, 256),
    ("head_dim 72", 72, 72),
    ("head_dim 80", 80, 80),
    ("head_dim 96", 96, 96),
    ("head_dim 112", 112, 112),
    ("head_dim 192, value_dim 128", 192, 128),
    ("head_dim 300, value_dim 260", 300, 260),
];
const QUICK_DIMS: usize = 5;

/// head_dim where another is not what a case tries: loops over a quarter of the columns compile in
/// a third of the time.
const DIM: usize = 64;
const QUICK_DIM: usize = 16;

/// All cases, or those that a quick check leaves; `has_matrices`: of the kernel of cooperative
/// matrices too.
pub(super) fn cases(quick: bool, has_matrices: bool) -> Vec<Case> {
    let dim = if quick { QUICK_DIM } else { DIM };
    let mut list = Cases { cases: Vec::new(), dim };
    let plain = AttentionOptions::default();
    let dims = if quick { &DIMS[..QUICK_DIMS] } else { &DIMS };
    let lengths = if quick { &[(70, 65)][..] } else { &[(70, 65), (5, 37)] };
    for &(name, head_dim, value_dim) in dims {
        for &(q_len, kv_len) in lengths {
            list.add(
                name,
                AttentionShape { value_dim, ..shape(2, q_len, kv_len, head_dim) },
                plain,
            );
        }
    }
    for (q_len, kv_len) in LENGTHS {
        list.add("lengths", shape(2, q_len, kv_len, dim), plain);
    }
    for group in [2, 7, 8] {
        let grouped = AttentionShape { num_heads: group * 2, batch: 2, ..shape(2, 33, 70, dim) };
        list.add("grouped heads", grouped, plain);
    }
    for align in [Align::TopLeft, Align::BottomRight, Align::Offset(-5), Align::Offset(40)] {
        for (q_len, kv_len) in [(65, 127), (130, 95), (40, 40)] {
            let causal = AttentionOptions { causal: true, align, ..plain };
            list.add("causal", shape(2, q_len, kv_len, dim), causal);
            list.poisoned("causal over NaN", shape(2, q_len, kv_len, dim), causal);
            let window = AttentionOptions { window_left: Some(17), ..causal };
            list.add("causal window", shape(2, q_len, kv_len, dim), window);
            let keeps = AttentionOptions { window_keeps: 5, ..window };
            list.add("window that keeps the first keys", shape(2, q_len, kv_len, dim), keeps);
            let window = AttentionOptions { window_right: Some(3), ..plain };
            let window = AttentionOptions { window_left: Some(50), align, ..window };
            list.add("two-sided window", shape(2, q_len, kv_len, dim), window);
        }
    }
    many_keys(&mut list);
    long_rows(&mut list);
    if !quick {
        long(&mut list);
    }
    for align in [Align::TopLeft, Align::BottomRight] {
        let options = AttentionOptions { causal: true, align, ..plain };
        let kv_lens = Some(vec![97, 97, 0, 17, 33]);
        let lens = AttentionShape { batch: 5, kv_lens, ..shape(2, 40, 97, dim) };
        list.poisoned("a length per sequence", lens.clone(), options);
        let on_gpu = AttentionShape { kv_lens: None, lens: true, ..lens.clone() };
        list.add("a length per sequence", AttentionShape { q_len: 3, ..on_gpu.clone() }, options);
        list.poisoned("a length per sequence", on_gpu, options);
        list.add("a length per sequence", lens, plain);
    }
    for (align, causal) in
        [(Align::TopLeft, true), (Align::BottomRight, true), (Align::TopLeft, false)]
    {
        let options = AttentionOptions { causal, align, ..plain };
        let cu_seqlens =
            CuSeqlens { query: vec![0, 33, 33, 40, 105, 106], key: vec![0, 65, 70, 70, 100, 197] };
        let packed = AttentionShape {
            cu_seqlens: Some(cu_seqlens),
            alibi: causal.then_some(AlibiLayout::PerBatchAndHead),
            ..shape(2, 106, 197, dim)
        };
        list.poisoned("sequences without padding", packed.with_layout(Layout::Bshd), options);
    }
    paged(&mut list);
    for softcap in [0.5, 30.0, 1e6, 1e38] {
        let capped = AttentionOptions { softcap: Some(softcap), ..plain };
        list.add("softcap", shape(2, 65, 97, dim), capped);
    }
    options_by_element(&mut list, quick);
    sinks(&mut list);
    layouts(&mut list);
    if cfg!(feature = "half") {
        elements(&mut list);
        if has_matrices {
            matrices(&mut list, quick);
        }
    }
    for (q_len, kv_len) in [(65, 97), (1, 64)] {
        let large = AttentionOptions { scale: Some(4.0 / dim as f32), ..plain };
        list.cases.push(Case {
            name: "scores to 10,000",
            shape: shape(2, q_len, kv_len, dim),
            options: large,
            data: Data::Large,
            kernel: None,
        });
        let equal = AttentionOptions { scale: Some(0.0), ..plain };
        list.add("equal scores", shape(2, q_len, kv_len, dim), equal);
    }
    for (q_len, kv_len) in [(5, 0), (0, 5)] {
        list.add("no queries or no keys", shape(2, q_len, kv_len, dim), plain);
    }
    list.cases
}

/// Mask, bias and ALiBi: given element by element, and broadcast in every way.
fn options_by_element(list: &mut Cases, quick: bool) {
    let dim = list.dim;
    let plain = AttentionOptions::default();
    let base = || AttentionShape { batch: 2, num_heads: 4, ..shape(2, 40, 101, dim) };
    for sizes in [[2, 4, 40, 101], [1, 4, 40, 101], [2, 1, 1, 101], [1, 1, 40, 101], [2, 4, 40, 1]]
    {
        let layout = Some(BroadcastLayout::Sizes(sizes));
        list.add("mask", AttentionShape { mask: layout, ..base() }, plain);
        list.add("bias", AttentionShape { bias: layout, ..base() }, plain);
    }
    let mask = Some(BroadcastLayout::Sizes([1, 1, 40, 101]));
    list.poisoned("mask over NaN", AttentionShape { mask, ..base() }, plain);
    let segments = Some(SegmentLayout::PerSide);
    list.add("segments", AttentionShape { segments, ..base() }, plain);
    list.poisoned("segments", AttentionShape { segments, ..base() }, plain);
    let shared = AttentionShape { segments: Some(SegmentLayout::Shared), kv_len: 40, ..base() };
    list.add("segments", shared, AttentionOptions { causal: true, ..plain });
    for alibi in [AlibiLayout::PerHead, AlibiLayout::PerBatchAndHead] {
        list.add("ALiBi", AttentionShape { alibi: Some(alibi), ..base() }, plain);
    }
    let everything = AttentionShape {
        mask,
        bias: Some(BroadcastLayout::Sizes([2, 4, 40, 101])),
        alibi: Some(AlibiLayout::PerHead),
        segments,
        sinks: true,
        ..base()
    };
    let options = AttentionOptions {
        softcap: Some(5.0),
        causal: true,
        window_left: Some(70),
        align: Align::BottomRight,
        ..plain
    };
    list.add("everything at once", everything.clone(), options);
    if !quick {
        let wide = AttentionShape { head_dim: 256, value_dim: 256, ..everything.clone() };
        list.poisoned("everything, head_dim 256", wide, options);
    }
    list.poisoned("everything, over NaN", everything, options);
}

/// Sinks beside rows that see no key, lengths of their own, few queries of many keys, and scores of
/// any size.
fn sinks(list: &mut Cases) {
    let dim = list.dim;
    let plain = AttentionOptions::default();
    let causal = AttentionOptions { causal: true, align: Align::BottomRight, ..plain };
    let base = |q_len, kv_len| AttentionShape {
        batch: 2,
        num_heads: 8,
        sinks: true,
        ..shape(2, q_len, kv_len, dim)
    };
    list.add("sinks", base(40, 101), plain);
    list.poisoned("sinks", base(130, 95), causal);
    list.add("sinks", base(5, 0), plain);
    list.add("sinks", base(1, 1_000), plain);
    list.add("sinks", AttentionShape { kv_lens: Some(vec![0, 1_000]), ..base(1, 1_000) }, causal);
    list.add("sinks", AttentionShape { kv_lens: Some(vec![0, 77]), ..base(40, 101) }, causal);
    let cu_seqlens = CuSeqlens { query: vec![0, 33, 40, 41], key: vec![0, 0, 70, 97] };
    let packed = AttentionShape { batch: 1, cu_seqlens: Some(cu_seqlens), ..base(41, 97) };
    list.add("sinks", packed.with_layout(Layout::Bshd), causal);
    for (q_len, kv_len) in [(65, 97), (1, 640)] {
        list.cases.push(Case {
            name: "sinks and scores to 10,000",
            shape: base(q_len, kv_len),
            options: AttentionOptions { scale: Some(4.0 / dim as f32), ..plain },
            data: Data::Large,
            kernel: None,
        });
    }
}

/// Few queries of so many keys that workgroups share them, or bindings cannot hold them at once.
fn many_keys(list: &mut Cases) {
    let dim = list.dim;
    let plain = AttentionOptions::default();
    let causal = AttentionOptions { causal: true, align: Align::BottomRight, ..plain };
    let grouped = AttentionShape { num_heads: 8, ..shape(2, 1, 1_000, dim) };
    list.add("many keys", grouped.clone(), plain);
    list.add("many keys", shape(1, 5, 700, dim), causal);
    let keeps = AttentionOptions { window_left: Some(300), window_keeps: 40, ..causal };
    list.add("window that keeps the first keys", shape(1, 5, 700, dim), keeps);
    let window = AttentionOptions { window_left: Some(300), softcap: Some(5.0), ..causal };
    let sizes = Some(BroadcastLayout::Sizes([2, 1, 5, 700]));
    let all = AttentionShape {
        batch: 2,
        kv_lens: Some(vec![700, 333]),
        mask: sizes,
        bias: sizes,
        alibi: Some(AlibiLayout::PerHead),
        segments: Some(SegmentLayout::PerSide),
        sinks: true,
        ..shape(2, 5, 700, dim)
    };
    list.poisoned("many keys, everything", all.clone(), window);
    let on_gpu = AttentionShape { kv_lens: None, lens: true, ..all.clone() };
    list.poisoned("many keys, everything", on_gpu, window);
    list.add("many keys, everything", AttentionShape { kv_lens: None, ..all }, window);
    let cu_seqlens = CuSeqlens { query: vec![0, 1, 3, 3, 7], key: vec![0, 400, 400, 650, 1_000] };
    let packed = AttentionShape { cu_seqlens: Some(cu_seqlens), ..shape(2, 7, 1_000, dim) };
    list.poisoned("many keys", packed.with_layout(Layout::Bshd), causal);
    // Lengths that leave some of the workgroups without a key.
    let uneven = AttentionShape { batch: 3, kv_lens: Some(vec![1_000, 0, 40]), ..grouped };
    list.add("many keys", uneven, causal);
}

/// Keys in pages, some of them shared, up to their borders and past them.
fn paged(list: &mut Cases) {
    let dim = list.dim;
    let plain = AttentionOptions::default();
    let causal = AttentionOptions { causal: true, align: Align::BottomRight, ..plain };
    let paged = |page_len: usize, kv_len: usize, shape: AttentionShape| {
        let pages_per_sequence = kv_len.div_ceil(page_len) + 1;
        let pages = pages_per_sequence * shape.batch + 3;
        let pages = Some(PagedKeys::new(page_len, pages, pages_per_sequence));
        AttentionShape { kv_len, pages, ..shape }
    };
    for (page_len, kv_lens) in [(16, [97, 16, 0]), (32, [97, 33, 64]), (256, [257, 256, 255])] {
        let lens = |q_len| {
            let shape = AttentionShape { batch: 3, num_heads: 4, ..shape(2, q_len, 0, dim) };
            let shape = AttentionShape { kv_lens: Some(kv_lens.to_vec()), ..shape };
            paged(page_len, kv_lens[0], shape)
        };
        list.add("pages", lens(40), causal);
        let from_buffer = AttentionShape { kv_lens: None, lens: true, ..lens(1) };
        list.add("pages", from_buffer, causal);
        list.poisoned("pages", lens(1), causal);
    }
    // Workgroups share the keys, a window leaves some, and everything else joins in.
    let sizes = Some(BroadcastLayout::Sizes([2, 1, 3, 700]));
    let all = AttentionShape {
        batch: 2,
        mask: sizes,
        bias: sizes,
        alibi: Some(AlibiLayout::PerHead),
        segments: Some(SegmentLayout::PerSide),
        ..shape(2, 3, 0, dim)
    };
    let window = AttentionOptions { window_left: Some(300), softcap: Some(5.0), ..causal };
    list.add("many keys in pages", paged(32, 700, shape(1, 3, 0, dim)), plain);
    list.poisoned("many keys in pages", paged(16, 700, all), window);
    let wide = AttentionShape { value_dim: 260, ..shape(2, 5, 0, 300) };
    list.add("pages", paged(16, 100, wide), causal);
}

/// So many keys that a driver that stops long loops is caught.
fn long(list: &mut Cases) {
    for kernel in [None, Some(Kernel::Forward)] {
        list.cases.push(Case {
            name: "8,192 keys",
            shape: shape(1, 3, 8_192, list.dim),
            options: AttentionOptions::default(),
            data: Data::Random,
            kernel,
        });
    }
}

/// 16-bit elements, four at a time, and where rows share words.
fn elements(list: &mut Cases) {
    let dim = list.dim;
    use crate::problem::ElementType::{Bf16, F16};
    let plain = AttentionOptions::default();
    let causal = AttentionOptions { causal: true, softcap: Some(5.0), ..plain };
    for (element, name, odd) in [(F16, "f16", "f16, odd dims"), (Bf16, "bf16", "bf16, odd dims")] {
        let base = || AttentionShape { element, batch: 2, ..shape(2, 70, 65, dim) };
        list.add(name, base(), plain);
        let pages = Some(PagedKeys::new(16, 9, 5));
        list.add(name, AttentionShape { pages, ..base() }, causal);
        for value_dim in [dim, 5] {
            // Of 16 bits, only queries, keys and values: what is merged is f32.
            let few = AttentionShape { q_len: 3, kv_len: 600, value_dim, ..base() };
            list.add(name, AttentionShape { sinks: true, ..few.clone() }, plain);
            list.add(name, few.clone(), plain);
            list.add(name, AttentionShape { batch: 4, lens: true, ..few }, causal);
        }
        list.poisoned(name, base().with_layout(Layout::Bshd), causal);
        for layout in [Layout::Bhsd, Layout::Bshd] {
            let dims = AttentionShape { head_dim: 5, value_dim: 3, ..base() };
            list.add(odd, dims.clone().with_layout(layout), plain);
            let pages = Some(PagedKeys::new(16, 9, 5));
            list.add(odd, AttentionShape { pages, ..dims.with_layout(layout) }, plain);
        }
        let strided = Layout::Strided(Strides { offset: 3, batch: 997, head: 5, row: 11 });
        let dims = AttentionShape { head_dim: 5, value_dim: 3, ..base() };
        list.add(odd, dims.with_layout(strided), plain);
    }
}

/// So many keys that their sums drift unless a kernel takes care: the plan's choice, with weights
/// and scores too, and the kernels that it does not choose for so few queries.
fn long_rows(list: &mut Cases) {
    let asked = [Kernel::Forward, Kernel::Tiled, Kernel::ForwardWide].map(Some);
    for kernel in [None].into_iter().chain(asked) {
        let (shape, options) = (shape(1, 9, 16_384, 4), AttentionOptions::default());
        list.cases.push(Case { name: "long rows", shape, options, data: Data::Even, kernel });
    }
}

/// The kernel of cooperative matrices, which the plan does not choose everywhere.
fn matrices(list: &mut Cases, quick: bool) {
    let dim = list.dim;
    let plain = AttentionOptions::default();
    let causal = AttentionOptions { causal: true, align: Align::BottomRight, ..plain };
    let f16 = |shape| AttentionShape { element: crate::problem::ElementType::F16, ..shape };
    let mut add = |name, shape, options, data| {
        let kernel = Some(Kernel::ForwardMatrix);
        list.cases.push(Case { name, shape: f16(shape), options, data, kernel });
    };
    let dims = [("head_dim 64", 64), ("head_dim 128", 128), ("head_dim 256", 256)];
    for (name, dim) in dims.into_iter().take(if quick { 2 } else { 3 }) {
        for (q_len, kv_len) in [(70, 65), (5, 37)] {
            add(name, shape(2, q_len, kv_len, dim), plain, Data::Random);
        }
    }
    for (q_len, kv_len) in LENGTHS {
        add("lengths", shape(2, q_len, kv_len, dim), plain, Data::Random);
        add("causal", shape(2, q_len, kv_len, dim), causal, Data::Random);
        add("causal over NaN", shape(2, q_len, kv_len, dim), causal, Data::Poisoned);
        let window = AttentionOptions { window_left: Some(17), ..causal };
        add("causal window", shape(2, q_len, kv_len, dim), window, Data::Random);
        let keeps = AttentionOptions { window_keeps: 5, ..window };
        let name = "window that keeps the first keys";
        add(name, shape(2, q_len, kv_len, dim), keeps, Data::Random);
    }
    add("long rows", shape(1, 9, 16_384, dim), plain, Data::Even);
    for group in [2, 7, 8] {
        let grouped = AttentionShape { num_heads: group * 2, batch: 2, ..shape(2, 33, 70, dim) };
        add("grouped heads", grouped, causal, Data::Random);
    }
    let large = AttentionOptions { scale: Some(4.0 / dim as f32), ..plain };
    add("scores to 10,000", shape(2, 65, 97, dim), large, Data::Large);
    let sizes = Some(BroadcastLayout::Sizes([2, 1, 40, 101]));
    let everything = AttentionShape {
        batch: 2,
        num_heads: 4,
        mask: sizes,
        bias: sizes,
        alibi: Some(AlibiLayout::PerHead),
        segments: Some(SegmentLayout::PerSide),
        ..shape(2, 40, 101, dim)
    };
    let options = AttentionOptions { softcap: Some(5.0), window_left: Some(70), ..causal };
    add("everything at once", everything.clone(), options, Data::Random);
    // Of keys as far away as ALiBi makes them, f16 has no weight but 0: an infinite value would
    // show as NaN.
    let everything = AttentionShape { alibi: None, ..everything };
    add("everything, over NaN", everything, options, Data::Poisoned);
    let kv_lens = Some(vec![97, 97, 0, 17, 33]);
    let lens = AttentionShape { batch: 5, kv_lens, ..shape(2, 40, 97, dim) };
    add("a length per sequence", lens, causal, Data::Random);
}

fn layouts(list: &mut Cases) {
    let dim = list.dim;
    let plain = AttentionOptions::default();
    let base = || AttentionShape { batch: 2, num_heads: 4, ..shape(2, 40, 70, dim) };
    list.add("[batch, len, heads, dim]", base().with_layout(Layout::Bshd), plain);
    // Rows with gaps between them, at an offset: four at a time, and where that cannot be.
    for (name, offset, row) in [("strides", 8, dim + 4), ("odd strides", 3, dim + 3)] {
        let strided = |heads: usize, len: usize| {
            let (head, batch) = (len * row + 8, heads * (len * row + 8) + 16);
            let even = |stride: usize| if row % 4 == 0 { stride } else { stride + 1 };
            Layout::Strided(Strides { offset, batch: even(batch), head: even(head), row })
        };
        let (queries, keys) = (strided(4, 40), strided(2, 70));
        let shape =
            AttentionShape { query: queries, key: keys, value: keys, out: queries, ..base() };
        list.add(name, shape, plain);
    }
    // One key and value for all sequences, without a copy.
    let shared = Layout::Strided(Strides { offset: 0, batch: 0, head: 70 * dim, row: dim });
    list.add("strides", AttentionShape { key: shared, value: shared, ..base() }, plain);
}

fn shape(num_kv_heads: usize, q_len: usize, kv_len: usize, head_dim: usize) -> AttentionShape {
    AttentionShape {
        kv_len,
        lse: Some(Layout::Bhsd),
        ..AttentionShape::new(1, num_kv_heads, q_len, head_dim)
    }
}

struct Cases {
    cases: Vec<Case>,
    /// head_dim where a case does not try another.
    dim: usize,
}

impl Cases {
    fn add(&mut self, name: &'static str, shape: AttentionShape, options: AttentionOptions) {
        self.cases.push(Case { name, shape, options, data: Data::Random, kernel: None });
    }

    fn poisoned(&mut self, name: &'static str, shape: AttentionShape, options: AttentionOptions) {
        self.cases.push(Case { name, shape, options, data: Data::Poisoned, kernel: None });
    }
}
