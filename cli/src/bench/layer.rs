//! The layers around attention, by their sizes, in f32.

use super::label::Label;
use wgpu_attention::check::Workload;
use wgpu_attention::{ElementType, Error, Gpu};

/// A layer, by its sizes, which [`Layer::label`] names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layer {
    Linear([usize; 4]),
    /// Every token looks at all.
    MultiHead([usize; 4]),
    SelfAttention([usize; 4]),
    Additive([usize; 4]),
    Rotary([usize; 4]),
    Positional([usize; 3]),
}

impl Layer {
    pub(super) fn label(&self) -> Label {
        let (pass, words, sizes): (_, _, &[usize]) = match self {
            Self::Linear(sizes) => ("linear", "B,S,in,out", sizes),
            Self::MultiHead(sizes) => ("multi-head", "B,S,width,heads", sizes),
            Self::SelfAttention(sizes) => ("self-attention", "B,S,width,heads", sizes),
            Self::Additive(sizes) => ("additive", "B,Sq,Skv,width", sizes),
            Self::Rotary(sizes) => ("rotary", "B,H,S,D", sizes),
            Self::Positional(sizes) => ("positional", "B,S,width", sizes),
        };
        let (macs, elements) = self.work();
        Label {
            sizes: sizes.to_vec(),
            element: ElementType::F32,
            causal: false,
            words: words.to_owned(),
            pass,
            kernel: None,
            flops: 2.0 * macs as f64,
            bytes: 4 * elements as u64,
            moves: matches!(self, Self::Rotary(_) | Self::Positional(_)),
        }
    }

    /// Multiply-adds of projections and visible pairs; elements of all tensors read and written.
    fn work(&self) -> (usize, usize) {
        match *self {
            Self::Linear([batch, len, from, to]) => {
                (batch * len * from * to, batch * len * (from + to) + to * (from + 1))
            }
            Self::MultiHead([batch, len, width, _]) => {
                let macs = batch * len * (4 * width * width + 2 * len * width);
                (macs, 2 * batch * len * width + 4 * width * (width + 1))
            }
            Self::SelfAttention([batch, len, width, heads]) => {
                let head_dim = width / heads;
                let macs = batch * len * width * (3 * head_dim + width + 2 * len);
                (macs, 2 * batch * len * width + 3 * head_dim * head_dim + width * (width + 1))
            }
            Self::Additive([batch, q_len, kv_len, width]) => {
                let projections = batch * (q_len + kv_len) * width * width;
                let vectors = batch * (2 * q_len + kv_len) * width;
                let macs = projections + 2 * batch * q_len * kv_len * width;
                (macs, vectors + 2 * width * (width + 1))
            }
            Self::Rotary([batch, heads, len, head_dim]) => {
                let x = batch * heads * len * head_dim;
                (2 * x, 2 * x + len * head_dim)
            }
            Self::Positional([batch, len, width]) => {
                (batch * len * width, (2 * batch + 1) * len * width)
            }
        }
    }

    pub(super) fn workload<'g>(&self, gpu: &'g Gpu) -> Result<Workload<'g>, Error> {
        match *self {
            Self::Linear(sizes) => Workload::linear(gpu, sizes),
            Self::MultiHead(sizes) => Workload::multi_head(gpu, sizes),
            Self::SelfAttention(sizes) => Workload::self_attention(gpu, sizes),
            Self::Additive(sizes) => Workload::additive(gpu, sizes),
            Self::Rotary(sizes) => Workload::rotary(gpu, sizes),
            Self::Positional(sizes) => Workload::positional(gpu, sizes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Layer;

    #[test]
    fn work_of_a_layer_is_that_of_its_products_and_its_tensors() {
        for (layer, macs, elements) in [
            (Layer::Linear([2, 5, 12, 7]), 2 * 5 * 12 * 7, 2 * 5 * (12 + 7) + 7 * 12 + 7),
            (
                Layer::MultiHead([3, 9, 24, 3]),
                4 * 3 * 9 * 24 * 24 + 2 * 3 * 3 * 9 * 9 * 8,
                2 * 3 * 9 * 24 + 4 * (24 * 24 + 24),
            ),
            (
                Layer::SelfAttention([2, 9, 24, 3]),
                3 * 2 * 9 * 3 * 8 * 8 + 2 * 9 * 24 * 24 + 2 * 2 * 3 * 9 * 9 * 8,
                2 * 2 * 9 * 24 + 3 * 8 * 8 + 24 * 24 + 24,
            ),
            (
                Layer::Additive([2, 5, 9, 16]),
                2 * (5 + 9) * 16 * 16 + 2 * 2 * 5 * 9 * 16,
                2 * (5 + 9 + 5) * 16 + 2 * 16 * 16 + 16 + 16,
            ),
            (Layer::Rotary([2, 3, 7, 10]), 2 * 2 * 3 * 7 * 10, 2 * 2 * 3 * 7 * 10 + 2 * 7 * 5),
            (Layer::Positional([2, 7, 9]), 2 * 7 * 9, 2 * 2 * 7 * 9 + 7 * 9),
        ] {
            assert_eq!(layer.work(), (macs, elements), "{layer:?}");
        }
    }
}
