//! One validated attention call.

use super::options::{Align, AttentionOptions};
use super::pages::Pages;
use super::sequences::{self, Band, Lens, PackedSequence, Sequence};
use super::shape::AttentionShape;
use super::small::{SmallTensors, put_keys_behind_queries};
use crate::element::ElementType;
use crate::error::Error;
use crate::tensor::{Format, Given, Spec, Tensor, Views};
use crate::view::{View, check_not_zero, length};

/// One validated attention call: sizes that fit a shader, resolved views, resolved options.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    /// What the scores go through, as asked for.
    pub options: AttentionOptions,
    /// Number of sequences.
    pub batch: u32,
    /// Number of query heads.
    pub num_heads: u32,
    /// Number of key/value heads.
    pub num_kv_heads: u32,
    /// Queries per sequence.
    pub q_len: u32,
    /// Keys per sequence.
    pub kv_len: u32,
    /// Length of query and key vectors.
    pub head_dim: u32,
    /// Length of value and output vectors.
    pub value_dim: u32,
    /// What query, key, value and out are stored as.
    pub element: ElementType,
    /// Where each tensor lies that the call has; of keys and values in pages, where the pool does.
    pub views: Views,
    /// What lengths in a buffer do, if the call finds them there; `seen_len` is then `kv_len`.
    pub lens: Option<Lens>,
    /// The pages that keys and values lie in, if they do.
    pub pages: Option<Pages>,
    /// Lengths of the small tensors, which share a binding.
    pub small: SmallTensors,
    /// Factor of the scores.
    pub scale: f64,
    /// The softcap, if any.
    pub softcap: Option<f32>,
    /// Keys from here on are hidden.
    pub seen_len: u32,
    /// Query `i` stands at key `i + offset`.
    pub offset: i32,
    /// Which keys causality and the windows leave visible.
    pub band: Band,
    /// What the last three are for each sequence, if not the same for all.
    pub sequences: Option<Vec<Sequence>>,
    /// The sequences of a batch without padding.
    pub packed: Option<Vec<PackedSequence>>,
}

impl Problem {
    /// Validates a shape and options.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the first size, layout or option that cannot be used.
    pub fn new(shape: &AttentionShape, options: &AttentionOptions) -> Result<Self, Error> {
        let s = shape;
        check_not_zero([
            ("num_heads", s.num_heads),
            ("num_kv_heads", s.num_kv_heads),
            ("head_dim", s.head_dim),
            ("value_dim", s.value_dim),
        ])?;
        let expected = format_args!("a divisor of num_heads = {}", s.num_heads);
        let divides = s.num_heads.is_multiple_of(s.num_kv_heads);
        Error::require(divides, "num_kv_heads", expected, s.num_kv_heads)?;
        // With a cache the queries are the last tokens, and stand at the last keys.
        let has_window = options.window_left.is_some() || options.window_right.is_some();
        let counts = options.causal || has_window || s.alibi.is_some();
        let fits = !s.cached || !counts || options.align != Align::TopLeft;
        let expected = "Align::BottomRight, as the queries are the last tokens of a cache";
        Error::require(fits, "align", expected, "Align::TopLeft")?;
        let pages = Pages::new(s, options)?;
        let lens = Lens::new(s, options)?;
        let Sequence { seen_len, offset, band } =
            Sequence::new(options, s.q_len, s.kv_len, Lens::most_moved(lens))?;
        let mut problem = Self {
            options: *options,
            sequences: sequences::sequences(s, options)?,
            packed: sequences::packed(s, options)?,
            batch: length("batch", s.batch)?,
            num_heads: length("num_heads", s.num_heads)?,
            num_kv_heads: length("num_kv_heads", s.num_kv_heads)?,
            q_len: length("q_len", s.q_len)?,
            kv_len: length("kv_len", s.kv_len)?,
            head_dim: length("head_dim", s.head_dim)?,
            value_dim: length("value_dim", s.value_dim)?,
            element: s.element,
            views: Views::default(),
            lens,
            pages,
            small: SmallTensors::default(),
            scale: 0.0,
            softcap: options.softcap,
            seen_len,
            offset,
            band,
        };
        for tensor in Tensor::attention() {
            let sizes = problem.ranges(tensor, &problem.whole()).map(|range| range.len());
            problem.views[tensor] = s.view(tensor, sizes)?;
        }
        put_keys_behind_queries(s, &mut problem.views)?;
        // A kernel reads the mask's bits of a whole tile of keys at once.
        let stride = problem.view(Tensor::Mask).map_or(0, |view| view.column);
        Error::require(stride <= 1, "mask", "a key stride of 0 or 1", stride)?;
        problem.small = SmallTensors::new(&problem.views)?;
        problem.scale = options.scale.map_or(1.0 / (s.head_dim as f64).sqrt(), f64::from);
        Error::require(problem.scale.is_finite(), "scale", "a finite number", problem.scale)?;
        if let Some(cap) = options.softcap {
            let is_above = cap.is_finite() && cap > 0.0;
            Error::require(is_above, "softcap", "a finite number above 0", cap)?;
        }
        Ok(problem)
    }

    /// Where a tensor lies, if the call has it.
    #[must_use]
    pub fn view(&self, tensor: Tensor) -> Option<View> {
        self.views[tensor]
    }

    /// Whether the call has a tensor.
    #[must_use]
    pub fn has(&self, tensor: Tensor) -> bool {
        self.views[tensor].is_some()
    }

    /// Place of query.
    #[must_use]
    pub fn query(&self) -> View {
        self.views[Tensor::Query].unwrap_or_default()
    }

    /// Place of key.
    #[must_use]
    pub fn key(&self) -> View {
        self.views[Tensor::Key].unwrap_or_default()
    }

    /// Place of value.
    #[must_use]
    pub fn value(&self) -> View {
        self.views[Tensor::Value].unwrap_or_default()
    }

    /// Place of out.
    #[must_use]
    pub fn out(&self) -> View {
        self.views[Tensor::Out].unwrap_or_default()
    }

    /// The same without some of its tensors.
    pub(crate) fn without(&self, tensors: impl IntoIterator<Item = Tensor>) -> Self {
        let mut problem = self.clone();
        for tensor in tensors {
            problem.views[tensor] = None;
            problem.lens = problem.lens.filter(|_| tensor != Tensor::Lens);
            problem.pages = problem.pages.filter(|_| tensor != Tensor::Pages);
        }
        problem
    }

    /// Number of query heads that share one key/value head.
    #[must_use]
    pub fn group(&self) -> u32 {
        self.num_heads / self.num_kv_heads
    }

    /// The scale as a kernel gets it.
    #[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is what is wanted")]
    #[must_use]
    pub fn scale_f32(&self) -> f32 {
        self.scale as f32
    }

    /// The tensors that a caller gives, or may give: key segments come with those of the queries.
    pub(crate) fn given(&self) -> impl Iterator<Item = Given> + '_ {
        let tensors = Tensor::attention();
        tensors.filter(|&tensor| tensor != Tensor::KeySegments).map(|tensor| {
            let Spec { name, format, is_output, .. } = tensor.spec();
            let len = self.small.len(tensor);
            let view = self.views[tensor];
            let view = view.map(|view| View { extent: view.extent.max(len), ..view });
            let per_word = format.per_word(self.element);
            // Of both sides, ids have no one shape.
            let shape =
                (tensor != Tensor::Segments).then(|| (self.type_name(tensor), self.sizes(tensor)));
            Given { tensor, name, view, per_word, is_output, shape }
        })
    }

    /// What the call reads of a small tensor, as if all stood in one buffer.
    pub(crate) fn small_view(&self, tensor: Tensor) -> Option<View> {
        let stored = if tensor == Tensor::KeySegments { Tensor::Segments } else { tensor };
        let first = self.small.first(stored);
        let view = self.views[tensor].filter(|view| view.extent > 0)?;
        Some(View { offset: view.offset + first, extent: view.extent + first, ..view })
    }

    /// What stands in the binding of small tensors, if there are any: which buffer, and from the
    /// first element that is read to the last.
    pub(crate) fn small_tensors(&self) -> Option<(Tensor, View)> {
        let tensor = match self.small.present().next()? {
            _ if self.small.are_joined() => Tensor::Joined,
            tensor => tensor,
        };
        let hull = |a: View, b: View| {
            let (offset, extent) = (a.offset.min(b.offset), a.extent.max(b.extent));
            View { offset, extent, ..a }
        };
        let read = Tensor::SMALL.into_iter().chain([Tensor::KeySegments]);
        Some((tensor, read.filter_map(|tensor| self.small_view(tensor)).reduce(hull)?))
    }

    /// What the elements of a tensor are.
    fn type_name(&self, tensor: Tensor) -> &'static str {
        match tensor.spec().format {
            Format::Elements => self.element.name(),
            Format::Words if matches!(tensor, Tensor::Segments | Tensor::Lens | Tensor::Pages) => {
                "u32"
            }
            Format::Words => "f32",
            Format::Bits => "bits",
        }
    }

    /// The same without what is about single keys.
    pub(crate) fn of_rows(&self) -> Self {
        let stays = [Tensor::Query, Tensor::Key, Tensor::Value, Tensor::Sinks];
        self.without(Tensor::INPUTS.into_iter().filter(|tensor| !stays.contains(tensor)))
    }

    /// The same without what joins a row once all of its keys are in.
    pub(crate) fn of_keys(&self) -> Self {
        self.without([Tensor::Sinks])
    }

    /// Whether the scale is subnormal: devices may take it for 0, so kernels get it in two steps.
    pub(crate) fn has_tiny_scale(&self) -> bool {
        self.scale_f32().is_subnormal()
    }

    /// Whether there are scores, and some form of them is asked for.
    #[must_use]
    pub fn stores_scores(&self) -> bool {
        let forms = [Tensor::RawScores, Tensor::CappedScores, Tensor::MaskedScores];
        self.kv_len > 0 && forms.into_iter().any(|form| self.has(form))
    }

    /// Whether there are weights, and they are asked for.
    #[must_use]
    pub fn stores_weights(&self) -> bool {
        self.kv_len > 0 && self.has(Tensor::Weights)
    }
}
