//! Which keys a row sees, decided by the shaders' own parts and by [`Sequence::contains`]: thousands of bands, some
//! hundred in a dispatch of one small shader.

use crate::app::App;
use crate::case::{PLAIN, shape};
use std::ops::Range;
use wgpu_attention::internal::{Params, Sequence, SequenceParams};
use wgpu_attention::wgpu::util::DeviceExt;
use wgpu_attention::{Align, AttentionOptions, Problem, wgpu};

const CAUSAL: AttentionOptions = AttentionOptions { causal: true, ..PLAIN };

/// As in visibility.wgsl.
const QUERIES: u32 = 8;
const TILES: usize = 8;
const KEYS: usize = 32;
/// Lines of the shader's table.
const LINES: usize = 512;

const TEXT: &str = concat!(
    include_str!("visibility.wgsl"),
    include_str!("../../shaders/shared/params.wgsl"),
    include_str!("../../shaders/shared/view.wgsl"),
    include_str!("../../shaders/shared/sequence.wgsl"),
    include_str!("../../shaders/shared/locate_ragged.wgsl"),
    include_str!("../../shaders/shared/rows.wgsl"),
    include_str!("../../shaders/shared/key_bits.wgsl"),
    include_str!("../../shaders/shared/mask_bits.wgsl"),
    include_str!("../../shaders/shared/visibility.wgsl"),
);

/// One sequence: its queries, and which keys they see.
#[derive(Debug)]
struct Band {
    q_len: u32,
    sequence: Sequence,
}

fn band(q_len: usize, kv_len: usize, options: AttentionOptions) -> Band {
    let problem = Problem::new(&shape(1, 1, q_len, kv_len, 8), &options).unwrap();
    Band { q_len: problem.q_len, sequence: problem.sequence(0) }
}

/// The shader with its pipeline, on a device of core WebGPU.
struct Shader {
    app: App,
    pipeline: wgpu::ComputePipeline,
}

impl Shader {
    fn new(text: &str) -> Self {
        let app = App::open();
        let source = wgpu::ShaderSource::Wgsl(text.into());
        let module =
            app.device.create_shader_module(wgpu::ShaderModuleDescriptor { label: None, source });
        let pipeline = app.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: None,
            layout: None,
            module: &module,
            entry_point: None,
            compilation_options: Default::default(),
            cache: None,
        });
        Self { app, pipeline }
    }

    /// For each query, one after the other, the bits of each tile and how often it came.
    fn found(&self, bands: &[Band], splits: u32) -> Vec<[u32; 2]> {
        let (mut tiles, mut queries) = (0, 0);
        let mut table = Vec::new();
        for Band { q_len, sequence, .. } in bands {
            let Sequence { seen_len, offset, band } = *sequence;
            table.push(SequenceParams {
                first_tile: tiles,
                first_query: queries,
                first_key: 0,
                q_len: *q_len,
                seen_len,
                band_lower: band.lower,
                band_upper: band.upper,
                offset,
            });
            tiles += q_len.div_ceil(QUERIES);
            queries += q_len;
        }
        let sequences = u32::try_from(table.len()).unwrap();
        table.resize(LINES, SequenceParams::default());
        // The same for all bands of a call.
        let kept = bands[0].sequence.band.kept;
        let params =
            Params { splits, sequences, kept, group: 1, kv_len: 1 << 20, ..Params::default() };
        let uniform = |contents: &[u8]| {
            let usage = wgpu::BufferUsages::UNIFORM;
            let label = None;
            let wanted = wgpu::util::BufferInitDescriptor { label, contents, usage };
            self.app.device.create_buffer_init(&wanted)
        };
        let (params, table) =
            (uniform(bytemuck::bytes_of(&params)), uniform(bytemuck::cast_slice(&table)));
        let found = self.app.buffer(&vec![0.0; 2 * TILES * queries as usize]);
        let unread = [(); 3].map(|()| self.app.buffer(&[0.0; 4]));
        let bound = [(0, &params), (1, &found), (11, &table)];
        let all = bound.into_iter().chain([6, 7, 8].into_iter().zip(&unread));
        let entries: Vec<_> = all
            .map(|(binding, buffer)| wgpu::BindGroupEntry {
                binding,
                resource: buffer.as_entire_binding(),
            })
            .collect();
        let group = self.app.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &self.pipeline.get_bind_group_layout(0),
            entries: &entries,
        });
        let mut encoder = self.app.encoder();
        let mut pass = encoder.begin_compute_pass(&Default::default());
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &group, &[]);
        pass.dispatch_workgroups(tiles, splits, 1);
        drop(pass);
        self.app.submit(encoder);
        let words: Vec<u32> = self.app.read(&found).iter().map(|word| word.to_bits()).collect();
        words.as_chunks().0.to_vec()
    }

    /// The first key that the shader and the reference disagree on, or that comes twice.
    fn verdict(&self, bands: &[Band], splits: u32) -> Result<(), String> {
        let found = self.found(bands, splits);
        let mut rows = found.chunks(TILES);
        for band in bands {
            for (i, row) in rows.by_ref().take(band.q_len as usize).enumerate() {
                for j in 0..TILES * KEYS {
                    let [bits, times] = row[j / KEYS];
                    let expected = band.sequence.contains(i, j);
                    let found = bits >> (j % KEYS) & 1 == 1;
                    if found != expected || times > 1 {
                        return Err(format!(
                            "query {i}, key {j}: expected {expected}, found {found}, {times} \
                             times, {splits} splits, {band:?}"
                        ));
                    }
                }
            }
        }
        Ok(())
    }
}

/// Whole rows and shares of them, for all bands, grouped by what is the same for a call.
fn verdict(shader: &Shader, mut bands: Vec<Band>) -> Result<(), String> {
    bands.sort_by_key(|band| band.sequence.band.kept);
    let mut calls = 0;
    for same in bands.chunk_by(|a, b| a.sequence.band.kept == b.sequence.band.kept) {
        for some in same.chunks(LINES) {
            [1, 3].into_iter().try_for_each(|splits| shader.verdict(some, splits))?;
            calls += 1;
        }
    }
    assert!(calls > 0, "no bands");
    Ok(())
}

fn aligned(offsets: Range<i64>) -> impl Iterator<Item = Align> {
    offsets.map(Align::Offset).chain([Align::TopLeft, Align::BottomRight])
}

/// Every length up to two tiles, every offset of a band, and windows with and without keys that stay.
fn bands() -> Vec<Band> {
    let mut bands = Vec::new();
    for len in 1..=66 {
        let window = AttentionOptions { window_left: Some(5), ..PLAIN };
        for options in [PLAIN, CAUSAL, window] {
            bands.push(band(3, len, options));
            bands.push(band(len, 40, options));
            bands.push(band(len, len, options));
        }
    }
    for align in aligned(-72..105) {
        let window = AttentionOptions { window_left: Some(0), align, ..PLAIN };
        let causal = AttentionOptions { align, ..CAUSAL };
        let both = AttentionOptions { window_left: Some(33), window_right: Some(2), ..causal };
        [window, causal, both].into_iter().for_each(|options| bands.push(band(70, 100, options)));
    }
    for align in [1 << 30, -(1 << 30), 1000, -1000].map(Align::Offset) {
        let window = AttentionOptions { window_left: Some(3), align, ..PLAIN };
        for options in [window, AttentionOptions { align, ..CAUSAL }] {
            bands.push(band(33, 40, options));
        }
    }
    let reaches = [None, Some(0), Some(1), Some(31), Some(32), Some(40), Some(usize::MAX)];
    for align in [Align::TopLeft, Align::BottomRight, Align::Offset(-7), Align::Offset(60)] {
        for (window_left, window_right) in
            reaches.into_iter().flat_map(|left| reaches.map(|right| (left, right)))
        {
            for window_keeps in [0, 1, 4, 32, 33, 64, usize::MAX] {
                let open =
                    AttentionOptions { window_left, window_right, window_keeps, align, ..PLAIN };
                for causal in [false, true] {
                    let options = AttentionOptions { causal, ..open };
                    bands.push(band(70, 200, options));
                    bands.push(band(20, 33, options));
                }
            }
        }
    }
    bands
}

#[test]
fn rows_see_the_keys_that_the_reference_says_and_each_once() {
    let bands = bands();
    assert!(bands.len() > 3500, "{}", bands.len());
    verdict(&Shader::new(TEXT), bands).unwrap_or_else(|message| panic!("{message}"));
}

#[test]
#[ignore = "planted faults: tests of the tests"]
fn faults_of_the_band_are_found() {
    for (find, replacement) in [
        ("sequence.band_upper + 1, left", "sequence.band_upper, left"),
        ("sequence.band_upper + 1, i32", "sequence.band_upper, i32"),
        ("diagonal + sequence.band_lower", "diagonal + sequence.band_lower + 1"),
        ("max(params.kept, first_key) - first_key", "0u"),
        ("(params.kept + KEYS - 1u) / KEYS * KEYS", "0u"),
        ("select(range.skipped, 0u, place < range.gap)", "range.skipped"),
        ("|| last_key < params.kept", "|| first_key < params.kept"),
        ("last_key < sequence.seen_len", "first_key < sequence.seen_len"),
        ("i32(last_key) - i32(first_query) <= ", "i32(last_key) - i32(last_query) <= "),
        ("|| first_key < params.kept)", ")"),
        ("i32(last_query) <= sequence.band_upper", "i32(last_query) < sequence.band_upper"),
        ("(split + 1u) / params.splits", "split / params.splits"),
        ("- i32(first_key);\n    let begin", "- i32(first_key) + 1;\n    let begin"),
    ] {
        let text = TEXT.replace(find, replacement);
        assert_ne!(text, TEXT, "no such text: {find}");
        let verdict = verdict(&Shader::new(&text), bands());
        assert!(verdict.is_err(), "not found out: `{find}` as `{replacement}`");
    }
}
