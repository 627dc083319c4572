//! A plan replayed on the host: every element that a dispatch touches is compared with what the whole
//! problem says of the same query, so that no part is misplaced, left out or computed twice.

use crate::lens::sequence_of;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Mutex;
use wgpu_attention::internal::{
    Band, Bound, Constant, Dispatch, Entry, JoinParams, Params, SequenceParams, Tensor, View,
    ViewParams, assemble, bindings,
};
use wgpu_attention::{ElementType, Kernel, Plan, Problem};

/// A query, as the whole problem counts: with `cu_seqlens`, from the first sequence on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Place {
    batch: usize,
    head: usize,
    query: usize,
}

/// One row of a dispatch, as the dispatch counts, and which columns or keys of it a workgroup computes.
struct Row {
    place: Place,
    sequence: SequenceParams,
    kv_head: usize,
    piece: u32,
}

/// What one invocation writes: no two may write the same.
#[derive(PartialEq, Eq, Hash)]
struct Written {
    tensor: Tensor,
    entry: Entry,
    place: Place,
    piece: u32,
}

/// Replays the whole plan. The query must repeat nothing, as its elements tell the rows apart.
pub(crate) fn assert_covers_its_problem(plan: &Plan) {
    let p = &plan.problem;
    let queries = places(p, &p.query());
    let weights = p.view(Tensor::Weights).filter(|view| view.extent > 0);
    let weights = weights.map(|view| places(p, &view)).unwrap_or_default();
    let mut written = HashSet::new();
    // Rows of the workspace, as the latest scores left them.
    let mut workspace = HashMap::new();
    // Rows of which maximum and sum are known.
    let mut sums = HashMap::new();
    // Elements of out that wait to be packed.
    let mut unpacked = Vec::new();
    let mut joined =
        vec![None; Tensor::SMALL.iter().map(|&small| p.small.len(small)).sum::<u32>() as usize];
    for dispatch in plan.dispatches() {
        assert_fits(dispatch, plan);
        let entry = dispatch.variant.entry;
        if entry == Entry::Join {
            join(dispatch, &mut joined);
            continue;
        }
        // Packing is told of words and nothing else.
        if entry != Entry::Pack {
            assert_knows(dispatch, p);
        }
        let target = match entry {
            Entry::AttentionForward
            | Entry::AttentionForwardWide
            | Entry::AttentionTiled
            | Entry::AttentionDecode
            | Entry::AttentionForwardMatrix
            | Entry::WeightedSum
            | Entry::WeightedSumTiled => Tensor::Out,
            Entry::AttentionWeights => Tensor::Weights,
            Entry::AttentionCombine => panic!("tests/host/decode.rs has what is split over keys"),
            Entry::Scores | Entry::ScoresTiled | Entry::Softmax => scores(dispatch).tensor,
            Entry::Pack => {
                assert_packs(dispatch, p, std::mem::take(&mut unpacked));
                continue;
            }
            _ => unreachable!("{entry:?} is not attention's"),
        };
        assert!(unpacked.is_empty(), "{entry:?} comes before what was written is packed");
        if is_score(entry) && target == Tensor::Workspace {
            workspace.clear();
        }
        for row in rows(dispatch) {
            let query = find(dispatch, Tensor::Query)
                .map(|query| queries[&index(query, dispatch, &row, p)]);
            let place = match (entry, find(dispatch, Tensor::Workspace)) {
                (entry, Some(bound)) if is_score(entry) => {
                    let place = query.unwrap();
                    let start = index(bound, dispatch, &row, p);
                    let other = workspace.insert(start, place).unwrap_or(place);
                    assert_eq!(other, place, "{place:?} and {other:?} share workspace {start}");
                    place
                }
                (_, Some(bound)) => workspace[&index(bound, dispatch, &row, p)],
                (_, None) => query.unwrap_or_else(|| {
                    weights[&index(find(dispatch, Tensor::Weights).unwrap(), dispatch, &row, p)]
                }),
            };
            assert_row(p, dispatch, &row, place);
            if let Some(bound) = find(dispatch, Tensor::Sums) {
                let start = index(bound, dispatch, &row, p);
                if is_weighed(entry) {
                    assert_eq!(sums.get(&start), Some(&place), "the sums of {place:?}");
                } else {
                    sums.insert(start, place);
                }
            }
            let wrote = Written { tensor: target, entry, place, piece: row.piece };
            assert!(written.insert(wrote), "{entry:?} writes {place:?}, {} twice", row.piece);
            if let Some(bound) = find(dispatch, Tensor::Unpacked) {
                let start = index(bound, dispatch, &row, p) as u32;
                unpacked.extend([start, start + p.value_dim - 1]);
            }
        }
    }
    assert!(unpacked.is_empty(), "nobody packs the last part");
    if p.small.are_joined() && !plan.dispatches().is_empty() {
        let wholes = p
            .small
            .present()
            .flat_map(|small| (0..p.small.len(small)).map(move |element| Some((small, element))));
        assert_eq!(joined, wholes.collect::<Vec<_>>(), "small tensors in one buffer");
    }
    let chunks = p.value_dim.div_ceil(plan.tiles.size().value_columns) as usize;
    let shown =
        [p.view(Tensor::RawScores), p.view(Tensor::CappedScores), p.view(Tensor::MaskedScores)];
    let matrices = 1 + shown.iter().flatten().count();
    let sequences: Vec<(u32, u32)> = match &p.packed {
        Some(pieces) => pieces
            .iter()
            .map(|piece| {
                (piece.queries.end - piece.queries.start, piece.keys.end - piece.keys.start)
            })
            .collect(),
        None => vec![(p.q_len, p.kv_len); p.batch as usize],
    };
    let expected = sequences.into_iter().map(|(q_len, kv_len)| {
        let per_row = match plan.kernel {
            Kernel::ThreeStage if kv_len > 0 => matrices + 1 + chunks,
            // Empty rows are forward-wide's, which has tiles of its own.
            Kernel::ThreeStage => p.value_dim.div_ceil(128) as usize,
            _ => chunks + usize::from(p.view(Tensor::Weights).is_some_and(|view| view.extent > 0)),
        };
        (q_len * p.num_heads) as usize * per_row
    });
    let expected: usize = expected.sum();
    // Of what workgroups share along the keys, each row's first share.
    let is_shared = |entry| is_score(entry) || is_weighed(entry);
    let written = written.iter().filter(|wrote| wrote.piece == 0 || !is_shared(wrote.entry));
    assert_eq!(written.count(), expected);
}

/// Whether workgroups share a row's scores, as they share its weights.
fn is_score(entry: Entry) -> bool {
    matches!(entry, Entry::Scores | Entry::ScoresTiled)
}

/// Whether weights are made of sums that were stored.
fn is_weighed(entry: Entry) -> bool {
    matches!(entry, Entry::AttentionWeights | Entry::ScoresTiled)
}

/// Copies what a dispatch of join.wgsl does: which element of which tensor stands where.
fn join(dispatch: &Dispatch, joined: &mut [Option<(Tensor, u32)>]) {
    let JoinParams { first, first_out, count } = dispatch.params();
    let [from, to] =
        ["x", "out"].map(|name| dispatch.bound.iter().find(|bound| bound.name == name).unwrap());
    assert!(to.tensor == Tensor::Joined && count <= dispatch.grid.iter().product::<u32>() * 64);
    for at in 0..count {
        let place = (to.window.first_element + first_out + at) as usize;
        joined[place] = Some((from.tensor, from.window.first_element + first + at));
    }
}

/// Every word of these elements is an invocation's, and both buffers have it.
fn assert_packs(dispatch: &Dispatch, p: &Problem, elements: Vec<u32>) {
    assert_eq!(p.element.per_word(), 2);
    let [unpacked, out] =
        [Tensor::Unpacked, Tensor::Out].map(|tensor| find(dispatch, tensor).unwrap());
    let first = out.window.first_element;
    assert!(unpacked.window.first_element == first && first.is_multiple_of(2));
    let words = dispatch.params::<Params>().words;
    assert!(words <= dispatch.grid[0] * 64 && dispatch.grid[1..] == [1, 1]);
    assert_eq!(out.window.size, u64::from(words) * 4);
    assert_eq!(unpacked.window.size, u64::from(words) * 8);
    for element in elements {
        assert!((first..first + 2 * words).contains(&element), "{element} is not packed");
    }
}

/// Grids and bindings that a device takes.
fn assert_fits(dispatch: &Dispatch, plan: &Plan) {
    let device = plan.capabilities();
    for size in dispatch.grid {
        assert!((1..=device.workgroups_per_axis).contains(&size), "grid {:?}", dispatch.grid);
    }
    let listed: Vec<&str> = bindings(dispatch.variant.entry).map(|binding| binding.name).collect();
    for bound in &dispatch.bound {
        let window = &bound.window;
        assert!(listed.contains(&bound.name), "{bound:?}");
        assert!(window.start.is_multiple_of(u64::from(device.storage_alignment)), "{bound:?}");
        assert!(window.size > 0 && window.size <= device.binding_size, "{bound:?}");
        assert!(window.size.is_multiple_of(4), "{bound:?}");
        let end = window.start + window.size;
        if let Tensor::Workspace | Tensor::Unpacked | Tensor::Sums = bound.tensor {
            assert_eq!(window.start, 0, "{bound:?}");
            assert!(end <= plan.workspace() && end <= 64 << 20, "{bound:?}");
            continue;
        }
        let extent = match bound.tensor {
            Tensor::AlibiSlopes
            | Tensor::Segments
            | Tensor::Lens
            | Tensor::Pages
            | Tensor::Sinks
            | Tensor::Joined => {
                let small = plan.problem.small;
                Tensor::SMALL.iter().map(|&tensor| small.len(tensor)).sum()
            }
            tensor => view(&plan.problem, tensor).unwrap().extent,
        };
        let bytes = |elements: u32| elements.div_ceil(per_word(&plan.problem, bound.tensor)) * 4;
        assert_eq!(window.start, u64::from(bytes(window.first_element)), "{bound:?}");
        assert!(end <= u64::from(bytes(extent)), "{bound:?}");
        // No more than a step of the alignment lies before what the part needs.
        let needs = u64::from(bytes(bound.view.extent)) - u64::from(bytes(bound.view.offset));
        let slack = u64::from(device.storage_alignment) + 4;
        assert!(window.size <= needs + slack, "{bound:?}: {needs} bytes are needed");
    }
    let names: HashSet<&str> = dispatch.bound.iter().map(|bound| bound.name).collect();
    assert_eq!(names.len(), dispatch.bound.len(), "{:?}", dispatch.bound);
}

/// Whether a constant of the shader is on, or a bit of its params.
fn reads(dispatch: &Dispatch, flag: &str) -> bool {
    let bit = match flag {
        "HAS_LSE" => Params::HAS_LSE,
        "STORES_SUMS" => Params::STORES_SUMS,
        "HAS_SINKS" => Params::HAS_SINKS,
        "HAS_LENS" => Params::HAS_LENS,
        "HAS_MASK" => Params::HAS_MASK,
        "HAS_SEGMENTS" => Params::HAS_SEGMENTS,
        "HAS_PAGES" => Params::HAS_PAGES,
        _ => return dispatch.variant.constants.get(flag) == Some(&Constant::Flag(true)),
    };
    dispatch.params::<Params>().flags & bit != 0
}

/// Whether the shader asks for a flag, on or off.
fn asks(dispatch: &Dispatch, flag: &str) -> bool {
    static TEXTS: Mutex<BTreeMap<Entry, String>> = Mutex::new(BTreeMap::new());
    let mut texts = TEXTS.lock().unwrap();
    let variant = &dispatch.variant;
    // They know nothing of single keys.
    let is_of_rows = matches!(variant.entry, Entry::Softmax | Entry::AttentionCombine);
    if is_of_rows && !matches!(flag, "HAS_LSE" | "HAS_SINKS") {
        return false;
    }
    // Sums that were stored include the sinks.
    if is_weighed(variant.entry) && flag == "HAS_SINKS" {
        return false;
    }
    if variant.constants.get("WEIGHS") == Some(&Constant::Flag(false)) && flag == "HAS_LSE" {
        return false;
    }
    let text = texts.entry(variant.entry).or_insert_with(|| assemble(variant));
    text.contains(&format!("is_set({flag})")) || variant.constants.contains_key(flag)
}

/// Every tensor that the shader looks at is there, as are the numbers that no part changes.
fn assert_knows(dispatch: &Dispatch, p: &Problem) {
    let params = &dispatch.params::<Params>();
    assert_eq!(params.scale, p.scale_f32());
    assert!(p.packed.is_some() || params.kv_len == p.kv_len);
    // What the caller sees of the scores before masks and biases is computed without them.
    let early = [Tensor::RawScores, Tensor::CappedScores].map(|early| find(dispatch, early));
    // Nor is there anything of keys to know without keys.
    let late = early == [None; 2] && params.kv_len > 0;
    let small = match p.small.present().collect::<Vec<_>>()[..] {
        [] => Tensor::AlibiSlopes,
        [small] => small,
        _ => Tensor::Joined,
    };
    // They share a binding.
    let flags = ["HAS_ALIBI", "HAS_SEGMENTS", "HAS_LENS", "HAS_PAGES", "HAS_SINKS"];
    let reads_small = flags.iter().any(|name| reads(dispatch, name));
    for (name, tensor, view, column) in [
        ("HAS_MASK", Tensor::Mask, p.view(Tensor::Mask).filter(|_| late), params.mask_column),
        ("HAS_BIAS", Tensor::Bias, p.view(Tensor::Bias).filter(|_| late), params.bias_column),
        ("HAS_ALIBI", small, p.view(Tensor::AlibiSlopes).filter(|_| late), 0),
        ("HAS_SEGMENTS", small, p.view(Tensor::KeySegments).filter(|_| late), 0),
        ("HAS_LENS", small, p.view(Tensor::Lens).filter(|_| late), 0),
        ("HAS_PAGES", small, p.view(Tensor::Pages).filter(|_| late), 0),
        ("HAS_SINKS", small, p.view(Tensor::Sinks), 0),
        (
            "HAS_LSE",
            Tensor::Lse,
            p.view(Tensor::Lse).filter(|_| !reads(dispatch, "STORES_SUMS")),
            0,
        ),
    ] {
        if !asks(dispatch, name) {
            continue;
        }
        let sums = name == "HAS_LSE" && reads(dispatch, "STORES_SUMS");
        assert_eq!(reads(dispatch, name), view.is_some() || sums, "{name}");
        let is_bound = find(dispatch, tensor).is_some();
        let is_needed = if tensor == small { reads_small } else { view.is_some() };
        assert_eq!(is_bound, is_needed, "{name}");
        let strided = view.filter(|_| is_bound && [Tensor::Mask, Tensor::Bias].contains(&tensor));
        assert!(strided.is_none_or(|view| view.column == column), "{name}");
    }
    let softcap = dispatch.variant.constants.get("HAS_SOFTCAP");
    let wanted = p.softcap.filter(|_| early[0].is_none());
    assert!(softcap.is_none_or(|flag| *flag == Constant::Flag(wanted.is_some())));
    assert!(wanted.is_none() || params.softcap == p.softcap.unwrap());
    for (tensor, name) in [
        (Tensor::Query, "query"),
        (Tensor::Key, "key"),
        (Tensor::Value, "value"),
        (Tensor::Out, "out"),
    ] {
        let used = bindings(dispatch.variant.entry).any(|binding| binding.name == name);
        let of_keys = matches!(tensor, Tensor::Key | Tensor::Value);
        let empty = view(p, tensor).is_some_and(|view| view.extent == 0);
        if of_keys && params.kv_len == 0 {
            continue;
        }
        let unpacked = tensor == Tensor::Out && find(dispatch, Tensor::Unpacked).is_some();
        let is_bound = find(dispatch, tensor).is_some() || unpacked;
        assert_eq!(is_bound, used && !empty, "{tensor:?}");
    }
}

/// Everything that the dispatch says of a row is what the problem says of that place.
fn assert_row(p: &Problem, dispatch: &Dispatch, row: &Row, place: Place) {
    let Place { batch, head, query } = place;
    let params = &dispatch.params::<Params>();
    let kv_head = head / p.group() as usize;
    // With `cu_seqlens` a query and its keys count from their own sequence's first on.
    let of_packed = p.packed.iter().flatten().enumerate().find_map(|(at, piece)| {
        let queries = piece.queries.start as usize..piece.queries.end as usize;
        queries
            .contains(&query)
            .then(|| (at, query - queries.start, piece.keys.clone(), piece.sequence))
    });
    let (line, own_query, keys, sequence) =
        of_packed.unwrap_or((batch, query, 0..p.kv_len, p.sequence(batch)));
    let (first_key, kv_len) = (keys.start as usize, keys.end - keys.start);
    for bound in &dispatch.bound {
        let Some(view) = view(p, bound.tensor) else { continue };
        let (expected, columns) = match bound.tensor {
            Tensor::Key | Tensor::Value if kv_len == 0 => continue,
            // Of the first page; any other may follow.
            Tensor::Key | Tensor::Value if p.pages.is_some() => {
                let start = view.index(0, kv_head, 0, 0);
                let heads = (p.num_kv_heads - 1 - kv_head as u32) as usize * view.head as usize;
                (start, view.extent as usize - heads - start)
            }
            Tensor::Key => {
                (view.index(batch, kv_head, first_key, 0), keys_span(kv_len, &view, p.head_dim))
            }
            Tensor::Value => {
                (view.index(batch, kv_head, first_key, 0), keys_span(kv_len, &view, p.value_dim))
            }
            Tensor::Lse => (view.index(batch, head, query, 0), 1),
            Tensor::Query => (view.index(batch, head, query, 0), p.head_dim as usize),
            Tensor::Out | Tensor::Unpacked => {
                (view.index(batch, head, query, 0), p.value_dim as usize)
            }
            _ => {
                let last = (p.kv_len - 1) as usize * view.column as usize;
                (view.index(batch, head, query, 0), last + 1)
            }
        };
        let found = index(bound, dispatch, row, p);
        assert_eq!(found, expected, "{:?} of {place:?}", bound.tensor);
        let first = bound.window.first_element as usize;
        let held = bound.window.size as usize / 4 * per_word(p, bound.tensor) as usize;
        assert!(found >= first && found + columns <= first + held, "{bound:?} for {place:?}");
    }
    let small = dispatch.bound.iter().find(|bound| bound.name == "aux");
    if let Some(Bound { window, .. }) = small {
        let at = |offset: u32, stride: u32, batch: usize, index: usize| {
            (window.first_element + offset + stride * batch as u32) as usize + index
        };
        let own = row.place.batch;
        if let Some(view) = p.view(Tensor::AlibiSlopes).filter(|_| reads(dispatch, "HAS_ALIBI")) {
            let found = at(params.alibi_offset, params.alibi_batch, own, row.place.head);
            assert_eq!(found, view.index(line, head, 0, 0), "slope of {place:?}");
        }
        if let Some(lens) = p.view(Tensor::Lens).filter(|_| reads(dispatch, "HAS_LENS")) {
            let found = at(params.lens.offset, 1, own, 0);
            let first = p.small.first(Tensor::Lens) as usize;
            assert_eq!(found, first + lens.index(batch, 0, 0, 0), "length of {place:?}");
        }
        if let Some(pages) = p.pages.filter(|_| reads(dispatch, "HAS_PAGES")) {
            let first = p.small.first(Tensor::Pages) as usize;
            let found = at(params.pages_offset, params.pages_batch, own, 0);
            let table = p.view(Tensor::Pages).unwrap();
            assert_eq!(found, first + table.index(batch, 0, 0, 0), "pages of {place:?}");
            assert_eq!((params.page_len, params.last_page), (pages.page_len, pages.count - 1));
        }
        if let Some(view) = p.view(Tensor::Sinks).filter(|_| reads(dispatch, "HAS_SINKS")) {
            let first = p.small.first(Tensor::Sinks) as usize;
            let found = at(params.sinks_offset, 0, own, row.place.head);
            assert_eq!(found, first + view.index(0, head, 0, 0), "sink of {place:?}");
        }
        let segments = p.view(Tensor::Segments).filter(|_| reads(dispatch, "HAS_SEGMENTS"));
        if let Some((ids, key)) = segments.zip(p.view(Tensor::KeySegments)) {
            let first = p.small.first(Tensor::Segments) as usize;
            let (offset, stride) = (params.query_segment_offset, params.query_segment_batch);
            let found = at(offset, stride, own, row.place.query);
            assert_eq!(found, first + ids.index(batch, 0, query, 0), "segment of {place:?}");
            let found = at(params.key_segment_offset, params.key_segment_batch, own, 0);
            assert_eq!(
                found,
                first + key.index(batch, 0, 0, 0),
                "segments of the keys of {place:?}"
            );
        }
    }
    let found_query = row.place.query - row.sequence.first_query as usize;
    let known = [(row.sequence, sequence)];
    let lens = [0, 1, p.kv_len / 2, p.kv_len, p.kv_len + 9];
    let of_lens = lens.map(|len| (at_len(dispatch, len), sequence_of(p, len)));
    let sequences = match reads(dispatch, "HAS_LENS") {
        true => &of_lens[..],
        // What hides nothing needs no length.
        _ if p.lens.is_some() => &[],
        _ => &known[..],
    };
    for (found, sequence) in sequences {
        if row.piece == 0 {
            let kept = dispatch.params::<Params>().kept;
            let band = Band { lower: found.band_lower, upper: found.band_upper, kept };
            for j in 0..kv_len as usize {
                let visible = j < found.seen_len as usize && band.contains(found_query, j);
                assert_eq!(visible, sequence.contains(own_query, j), "{place:?}, key {j}");
            }
        }
        let position = found_query as i64 + i64::from(found.offset);
        assert_eq!(position, own_query as i64 + i64::from(sequence.offset), "{place:?}");
    }
}

/// What shaders/shared/locate_lens.wgsl makes of a length.
pub(crate) fn at_len(dispatch: &Dispatch, len: u32) -> SequenceParams {
    let Params { q_len, kv_len, band_lower, band_upper, offset, lens, .. } = dispatch.params();
    let len = len.min(lens.most);
    let moved = (len * lens.moves) as i32;
    let bound = |bound: i32| (bound + moved).clamp(-(q_len as i32), kv_len as i32);
    SequenceParams {
        q_len,
        seen_len: (len.max(lens.before) - lens.before).min(kv_len),
        band_lower: bound(band_lower),
        band_upper: bound(band_upper),
        offset: offset + moved,
        ..SequenceParams::default()
    }
}

/// The sequence of a workgroup, as shaders/shared/locate_*.wgsl find it, and its number in the dispatch.
fn locate(dispatch: &Dispatch, x: u32, z: u32) -> (u32, SequenceParams) {
    let params = &dispatch.params::<Params>();
    if dispatch.table.is_empty() {
        let same = SequenceParams {
            q_len: params.q_len,
            seen_len: params.seen_len,
            band_lower: params.band_lower,
            band_upper: params.band_upper,
            offset: params.offset,
            ..SequenceParams::default()
        };
        return (z, same);
    }
    assert_eq!((z, params.sequences as usize), (0, dispatch.table.len()));
    let (number, line) =
        (0..).zip(&dispatch.table).filter(|(_, line)| line.first_tile <= x).last().unwrap();
    (number, *line)
}

/// The rows of a dispatch, located as shaders/shared/rows.wgsl does.
fn rows(dispatch: &Dispatch) -> Vec<Row> {
    let params = &dispatch.params::<Params>();
    let count = |name: &str| match dispatch.variant.constants.get(name) {
        Some(Constant::Count(count)) => *count,
        other => panic!("{name}: {other:?}"),
    };
    let [x, y, z] = dispatch.grid;
    let place = |batch: u32, head: u32, query: u32| Place {
        batch: batch as usize,
        head: head as usize,
        query: query as usize,
    };
    let mut rows = Vec::new();
    for (batch, y, x) in
        (0..z).flat_map(|z| (0..y).flat_map(move |y| (0..x).map(move |x| (z, y, x))))
    {
        let chunks = |whole: u32, chunk| whole.div_ceil(count(chunk));
        let (pieces, tile) = match dispatch.variant.entry {
            Entry::Softmax => {
                let (_, sequence) = locate(dispatch, x, batch);
                rows.push(Row { place: place(batch, y, x), sequence, kv_head: 0, piece: 0 });
                continue;
            }
            Entry::AttentionForward => (1, count("THREADS") * count("ROWS_EACH")),
            Entry::AttentionWeights => (params.splits, count("THREADS") * count("ROWS_EACH")),
            Entry::AttentionTiled => {
                (count("VALUE_CHUNKS"), count("ROW_LANES") * count("ROWS_EACH"))
            }
            Entry::AttentionDecode => (1, count("ROWS")),
            Entry::AttentionForwardMatrix => (1, count("SUBGROUPS") * count("MATRIX_SIZE")),
            Entry::ScoresTiled => (params.splits, 8 * count("ROWS_EACH")),
            Entry::WeightedSumTiled => {
                (params.value_dim.div_ceil(64 * count("VALUE_VECTORS")), 8 * count("ROWS_EACH"))
            }
            // Their workgroups have 64 invocations.
            Entry::Scores => (chunks(params.kv_len, "KEYS"), 64 * count("ROWS_EACH")),
            Entry::WeightedSum => (chunks(params.value_dim, "COLUMNS"), 64 * count("ROWS_EACH")),
            Entry::AttentionForwardWide => {
                (chunks(count("VALUE_DIM"), "VALUE_CHUNK"), count("ROWS"))
            }
            entry => unreachable!("{entry:?} has no rows of attention"),
        };
        let kv_head = y / pieces;
        let (batch, sequence) = locate(dispatch, x, batch);
        let first = (x - sequence.first_tile) * tile;
        for index in first..first + tile {
            if index < sequence.q_len * params.group {
                let head = kv_head * params.group + index % params.group;
                let place = place(batch, head, sequence.first_query + index / params.group);
                let kv_head = kv_head as usize;
                rows.push(Row { place, sequence, kv_head, piece: y % pieces });
            }
        }
    }
    rows
}

/// Where in its whole buffer the first element of a tensor's row lies.
fn index(bound: &Bound, dispatch: &Dispatch, row: &Row, p: &Problem) -> usize {
    let params = &dispatch.params::<Params>();
    let Place { batch, head, query } = row.place;
    let of_keys = matches!(bound.tensor, Tensor::Key | Tensor::Value);
    let batch = if of_keys && p.pages.is_some() { 0 } else { batch };
    let at = |view: ViewParams, head: usize, row: usize| {
        view.offset as usize
            + batch * view.batch as usize
            + head * view.head as usize
            + row * view.row as usize
    };
    let inside = match bound.tensor {
        Tensor::Query => at(params.query, head, query),
        Tensor::Key => at(params.key, row.kv_head, row.sequence.first_key as usize),
        Tensor::Value => at(params.value, row.kv_head, row.sequence.first_key as usize),
        Tensor::Out | Tensor::Unpacked => at(params.out, head, query),
        Tensor::Lse => at(params.lse, head, query),
        Tensor::Sums if is_weighed(dispatch.variant.entry) => at(params.partial_lse, head, query),
        Tensor::Sums => at(params.lse, head, query),
        Tensor::Mask => at(params.mask, head, query),
        Tensor::Bias => at(params.bias, head, query),
        _ => at(params.scores, head, query),
    };
    bound.window.first_element as usize + inside
}

/// Elements from the first key's first column to the last key's last.
fn keys_span(kv_len: u32, view: &View, dim: u32) -> usize {
    view.row as usize * (kv_len - 1) as usize + dim as usize
}

/// Elements in four bytes.
fn per_word(p: &Problem, tensor: Tensor) -> u32 {
    match tensor {
        Tensor::Mask => 32,
        Tensor::Query | Tensor::Key | Tensor::Value | Tensor::Out => match p.element {
            ElementType::F32 => 1,
            _ => 2,
        },
        _ => 1,
    }
}

fn find(dispatch: &Dispatch, tensor: Tensor) -> Option<&Bound> {
    dispatch.bound.iter().find(|bound| bound.tensor == tensor)
}

fn scores(dispatch: &Dispatch) -> &Bound {
    dispatch.bound.iter().find(|bound| bound.name == "weights").unwrap()
}

fn places(p: &Problem, view: &View) -> HashMap<usize, Place> {
    let mut places = HashMap::new();
    for batch in 0..p.batch as usize {
        for head in 0..p.num_heads as usize {
            for query in 0..p.q_len as usize {
                let place = Place { batch, head, query };
                let other = places.insert(view.index(batch, head, query, 0), place);
                assert_eq!(other, None, "rows must be told apart");
            }
        }
    }
    places
}

fn view(p: &Problem, tensor: Tensor) -> Option<View> {
    match tensor {
        Tensor::Query => Some(p.query()),
        Tensor::Key => Some(p.key()),
        Tensor::Value => Some(p.value()),
        Tensor::Out => Some(p.out()),
        Tensor::Lse => p.view(Tensor::Lse),
        Tensor::Mask => p.view(Tensor::Mask),
        Tensor::Bias => p.view(Tensor::Bias),
        Tensor::Weights => p.view(Tensor::Weights),
        Tensor::RawScores => p.view(Tensor::RawScores),
        Tensor::CappedScores => p.view(Tensor::CappedScores),
        Tensor::MaskedScores => p.view(Tensor::MaskedScores),
        Tensor::Unpacked => Some(p.out()),
        _ => None,
    }
}
