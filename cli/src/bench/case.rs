//! One call of attention: sizes, element type, what is hidden; its work and its traffic.

use super::args::Sizes;
use super::label::Label;
use wgpu_attention::check::Workload;
use wgpu_attention::{
    Align, AttentionOptions, AttentionShape, BroadcastLayout, Capabilities, ElementType, Error,
    Gpu, Kernel, Layout, Plan, Problem,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Case {
    pub(super) sizes: Sizes,
    pub(super) element: ElementType,
    pub(super) causal: bool,
    pub(super) extra: Extra,
    /// `None` leaves it to the planner.
    pub(super) kernel: Option<Kernel>,
}

/// What a call has besides query, key and value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extra {
    Nothing,
    /// How many keys before its own place a query sees.
    Window(usize),
    /// A bias of each query and key, the same for all heads.
    Bias,
    /// The weights besides out.
    Weights,
}

/// With fewer queries than this the keys and values take longer to read than to compute with.
const FEW_QUERIES: usize = 16;

/// Beyond any cache, where a step of a decoder finds other layers' keys and values.
const BEYOND_CACHES: usize = 256 << 20;

impl Case {
    pub(super) fn shape(&self) -> AttentionShape {
        let [batch, num_heads, num_kv_heads, q_len, kv_len, head_dim] = self.sizes;
        let bias = BroadcastLayout::Sizes([1, 1, q_len, kv_len]);
        AttentionShape {
            num_kv_heads,
            kv_len,
            element: self.element,
            bias: (self.extra == Extra::Bias).then_some(bias),
            weights: (self.extra == Extra::Weights).then_some(Layout::Bhsd),
            ..AttentionShape::new(batch, num_heads, q_len, head_dim)
        }
    }

    pub(super) fn options(&self) -> AttentionOptions {
        let window_left = match self.extra {
            Extra::Window(left) => Some(left),
            _ => None,
        };
        AttentionOptions {
            causal: self.causal,
            window_left,
            align: Align::BottomRight,
            ..AttentionOptions::default()
        }
    }

    pub(super) fn label(&self) -> Label {
        // Another pass where a comparison by shape would take the case for a plain one.
        let (extra, pass) = match self.extra {
            Extra::Nothing => (None, "fwd"),
            Extra::Window(left) => (Some(format!("window {left}")), "fwd window"),
            Extra::Bias => (Some("bias".to_owned()), "fwd bias"),
            Extra::Weights => (Some("weights".to_owned()), "fwd weights"),
        };
        let words = self.causal.then(|| "causal".to_owned()).into_iter().chain(extra);
        Label {
            sizes: self.sizes.to_vec(),
            element: self.element,
            causal: self.causal,
            words: words.collect::<Vec<_>>().join(", "),
            pass,
            kernel: self.kernel.map(|kernel| kernel.name()),
            flops: self.flops(),
            bytes: self.bytes(),
            moves: self.is_decode(),
        }
    }

    /// What the library says of the case without having a device.
    pub(super) fn validate(&self) -> Result<(), Error> {
        Problem::new(&self.shape(), &self.options())?;
        // No choice of a kernel depends on the lengths, and short ones are planned at once.
        let short = AttentionShape { q_len: 1, kv_len: 1, bias: None, ..self.shape() };
        let problem = Problem::new(&short, &self.options())?;
        match Plan::new(problem, &Capabilities::PORTABLE, self.kernel) {
            Err(error) if error.is_invalid() => Err(error),
            _ => Ok(()),
        }
    }

    /// Whether it is a step of a decoder, which reading keys and values holds up, not computing.
    pub(super) fn is_decode(&self) -> bool {
        self.sizes[3] < FEW_QUERIES
    }

    /// Pairs of a query and a key that it sees, of one head.
    pub(super) fn pairs(&self) -> u64 {
        let [_, _, _, q_len, kv_len, _] = self.sizes.map(|size| size as i64);
        let row = |query: i64| {
            let place = query + kv_len - q_len;
            let last = if self.causal { place.min(kv_len - 1) } else { kv_len - 1 };
            let first = match self.extra {
                Extra::Window(left) => i64::try_from(left).map_or(0, |left| (place - left).max(0)),
                _ => 0,
            };
            u64::try_from(last - first + 1).unwrap_or(0)
        };
        (0..q_len).map(row).sum()
    }

    /// Two multiplications and two additions for each visible pair and column; those of the softmax
    /// are not counted, and hidden pairs are not either.
    fn flops(&self) -> f64 {
        let [batch, num_heads, _, _, _, head_dim] = self.sizes.map(|size| size as f64);
        4.0 * batch * num_heads * head_dim * self.pairs() as f64
    }

    /// Query, key, value, bias, out and weights, each read or written once.
    fn bytes(&self) -> u64 {
        let [batch, num_heads, num_kv_heads, q_len, kv_len, head_dim] =
            self.sizes.map(|size| size as u64);
        let each = 4 / u64::from(self.element.per_word());
        let elements = 2 * batch * head_dim * (num_heads * q_len + num_kv_heads * kv_len);
        let matrices = match self.extra {
            Extra::Bias => 1,
            Extra::Weights => batch * num_heads,
            Extra::Nothing | Extra::Window(_) => 0,
        };
        elements * each + 4 * matrices * q_len * kv_len
    }

    pub(super) fn workload<'g>(&self, gpu: &'g Gpu, tunes: bool) -> Result<Workload<'g>, Error> {
        let [batch, _, num_kv_heads, _, kv_len, head_dim] = self.sizes;
        let words = (batch * num_kv_heads * kv_len * head_dim) / self.element.per_word() as usize;
        // A software adapter shares its caches with everything else, as its peers do.
        let copies = match self.is_decode() && !gpu.capabilities().is_software() {
            true => BEYOND_CACHES.div_ceil(2 * 4 * words).min(64),
            false => 1,
        };
        Workload::attention(gpu, &self.shape(), &self.options(), self.kernel, copies, tunes)
    }
}

#[cfg(test)]
mod tests {
    use super::{Case, Extra};
    use wgpu_attention::ElementType;

    fn case(q_len: usize, kv_len: usize, causal: bool, extra: Extra) -> Case {
        let sizes = [3, 4, 2, q_len, kv_len, 8];
        Case { sizes, element: ElementType::F16, causal, extra, kernel: None }
    }

    #[test]
    fn pairs_are_those_that_the_definition_sees() {
        for (q_len, kv_len) in [(5, 5), (3, 7), (7, 3), (1, 9)] {
            for causal in [false, true] {
                for extra in [Extra::Nothing, Extra::Window(2), Extra::Window(usize::MAX)] {
                    let case = case(q_len, kv_len, causal, extra);
                    let left = if extra == Extra::Window(2) { 2 } else { 99 };
                    let offset = kv_len as i64 - q_len as i64;
                    let sees =
                        |i: i64, j: i64| (!causal || j <= i + offset) && j >= i + offset - left;
                    let row = |i| (0..kv_len as i64).filter(|&j| sees(i, j)).count() as u64;
                    let expected: u64 = (0..q_len as i64).map(row).sum();
                    assert_eq!(case.pairs(), expected, "{case:?}");
                }
            }
        }
    }

    #[test]
    fn work_and_traffic_are_of_all_heads() {
        let plain = case(5, 7, false, Extra::Nothing);
        assert_eq!(plain.flops(), 4.0 * (3 * 4 * 5 * 7 * 8) as f64);
        assert_eq!(plain.bytes(), 2 * (2 * 3 * 4 * 5 * 8 + 2 * 3 * 2 * 7 * 8));
        assert_eq!(case(5, 7, false, Extra::Bias).bytes(), plain.bytes() + 4 * 5 * 7);
        let weighed = case(5, 7, false, Extra::Weights);
        assert_eq!(weighed.bytes(), plain.bytes() + 4 * 3 * 4 * 5 * 7);
        assert!(
            case(1, 7, false, Extra::Nothing).is_decode()
                && !case(16, 7, true, Extra::Bias).is_decode()
        );
    }
}
