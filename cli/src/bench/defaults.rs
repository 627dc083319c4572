//! What is timed if nobody says what.

use super::args::Sizes;
use super::case::{Case, Extra};
use super::layer::Layer;
use wgpu_attention::{Capabilities, ElementType, Kernel};

/// The element types that an adapter has arithmetic and fast loads for.
pub(super) fn elements(capabilities: &Capabilities) -> Vec<ElementType> {
    if capabilities.shader_f16 && !capabilities.is_software() {
        vec![ElementType::F32, ElementType::F16]
    } else {
        vec![ElementType::F32]
    }
}

/// Shapes of prompts and of decoding; a CPU that plays a GPU gets what it does within two minutes.
pub(super) fn shapes(capabilities: &Capabilities) -> Vec<Sizes> {
    if capabilities.is_software() {
        return vec![
            [1, 8, 8, 512, 512, 64],
            [1, 8, 8, 1024, 1024, 64],
            [1, 8, 8, 2048, 2048, 64],
            [1, 8, 8, 512, 512, 128],
            [1, 8, 8, 1024, 1024, 128],
            [1, 8, 8, 2048, 2048, 128],
            [1, 2, 2, 512, 512, 256],
            [1, 2, 2, 1024, 1024, 256],
            [1, 8, 2, 512, 512, 64],
            [1, 8, 8, 1, 4096, 64],
            [1, 32, 8, 1, 4096, 128],
            // Decoding over short and long contexts, of a batch, and with eight heads to a key.
            [1, 8, 2, 1, 1024, 64],
            [1, 8, 2, 1, 16_384, 64],
            [1, 8, 2, 1, 131_072, 64],
            [8, 8, 2, 1, 1024, 64],
            [1, 8, 1, 1, 4096, 64],
        ];
    }
    // As many tokens and columns at every length, and so as much to read.
    let tokens = 8192;
    let prompts = [64, 128, 256].into_iter().flat_map(|head_dim| {
        let heads = 1024 / head_dim;
        [512, 1024, 2048, 4096, 8192, 16_384]
            .map(|len: usize| [(tokens / len).max(1), heads, heads, len, len, head_dim])
    });
    let grouped = [[1, 32, 8, 2048, 2048, 128]];
    // Decoding: by context, by batch, and by heads to a key.
    let contexts = [1024, 4096, 16_384, 65_536, 131_072].map(|len| [1, 32, 8, 1, len, 128]);
    let others = [
        [8, 32, 8, 1, 4096, 128],
        [32, 32, 8, 1, 4096, 128],
        [1, 32, 32, 1, 4096, 128],
        [1, 32, 4, 1, 4096, 128],
    ];
    let all = prompts.chain(grouped).chain(contexts).chain(others);
    // Keys of the widest element fit a buffer.
    let key_bytes = |[batch, _, kv_heads, _, kv_len, head_dim]: &Sizes| {
        [batch, kv_heads, kv_len, head_dim].into_iter().fold(4, |bytes, &size| bytes * size as u64)
    };
    all.filter(|sizes| key_bytes(sizes) <= capabilities.buffer_size).collect()
}

/// Cases that no list of shapes can ask for: a window, a bias, and the weights.
pub(super) fn extras(capabilities: &Capabilities, kernel: Option<Kernel>) -> Vec<Case> {
    // There are as many weights as the square of the length.
    let (sizes, weighed) = if capabilities.is_software() {
        ([1, 8, 8, 1024, 1024, 64], [1, 8, 8, 512, 512, 64])
    } else {
        ([1, 16, 16, 8192, 8192, 64], [1, 16, 16, 1024, 1024, 64])
    };
    let element = ElementType::F32;
    let case = |sizes, causal, extra| Case { sizes, element, causal, extra, kernel };
    let weighs = !matches!(kernel, Some(Kernel::ForwardWide | Kernel::ForwardMatrix));
    let weights = weighs.then(|| case(weighed, false, Extra::Weights));
    [case(sizes, true, Extra::Window(255)), case(sizes, false, Extra::Bias)]
        .into_iter()
        .chain(weights)
        .collect()
}

/// The layers around attention, of sizes that models have.
pub(super) fn layers(capabilities: &Capabilities) -> Vec<Layer> {
    let (batch, len, width, heads) =
        if capabilities.is_software() { (1, 512, 512, 8) } else { (16, 512, 1024, 16) };
    vec![
        Layer::Linear([batch, len, width, 4 * width]),
        Layer::MultiHead([batch, len, width, heads]),
        Layer::SelfAttention([batch, len, width, heads]),
        Layer::Additive([batch, 64, len, width / 2]),
        Layer::Rotary([batch, heads, 8 * len, width / heads]),
        Layer::Positional([batch, 8 * len, width]),
    ]
}
