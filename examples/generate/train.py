"""Trains the model of examples/generate.rs, which sorts the letters of a word, and writes it beside this file.

    pip install "jax[cpu]" optax safetensors && python examples/generate/train.py [STEPS]

A prompt is up to 24 letters and ">"; what follows are the same letters in alphabetical order and ".". The model is a
decoder as those of today: rotary encoding, grouped heads, RMSNorm before each part, no biases, the embedding again as
the last layer. It never sees the words of unseen.txt, which are drawn first and left out of its training; how many of
them it sorts is said at the end, and tests/generate holds the library to the same words. Ten to twenty minutes on a core.
"""

import pathlib
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from safetensors.numpy import save_file

LETTERS = "abcdefghijklmnopqrstuvwxyz"
VOCABULARY = LETTERS + ">."
LONGEST = 24
# Of a prompt, its answer and both signs.
CONTEXT = 2 * LONGEST + 2
WIDTH, HIDDEN, LAYERS = 64, 128, 3
HEADS, KV_HEADS, HEAD_DIM = 4, 2, 16
BASE, EPSILON = 10_000.0, 1e-5
UNSEEN, SHORTEST_UNSEEN = 200, 6
BATCH, RATE = 128, 4e-3
STEPS = int(sys.argv[1]) if len(sys.argv) > 1 else 2500

folder = pathlib.Path(__file__).resolve().parent
random = np.random.default_rng(6)


def words(count, shortest=1, longest=LONGEST):
    """Random ones of all lengths, of all letters or of only some, so that there are many of a kind too."""
    drawn = []
    for length in random.integers(shortest, longest + 1, count):
        kinds = random.permutation(26)[: random.integers(2, 27)]
        drawn.append("".join(LETTERS[kind] for kind in random.choice(kinds, length)))
    return drawn


unseen = sorted(set(words(UNSEEN, SHORTEST_UNSEEN)), key=lambda word: (len(word), word))
is_unseen = set(unseen)


def batch():
    """Tokens of words and their answers, and which of them are to be foretold. Every other batch is of short words: it is
    quicker."""
    longest = random.choice([LONGEST // 2, LONGEST])
    tokens = np.zeros((BATCH, 2 * longest + 2), np.int32)
    answers = np.zeros(tokens.shape, np.float32)
    for row, word in enumerate(words(BATCH, longest=longest)):
        while word in is_unseen:
            (word,) = words(1, longest=longest)
        text = word + ">" + "".join(sorted(word)) + "."
        tokens[row, : len(text)] = [VOCABULARY.index(sign) for sign in text]
        answers[row, len(word) + 1 : len(text)] = 1
    return tokens, answers


def fresh():
    """Weights `[out, in]`, as the library's linear layers take them."""
    rows = (HEADS + 2 * KV_HEADS) * HEAD_DIM
    sizes = {"qkv": (rows, WIDTH), "out": (WIDTH, WIDTH), "widen": (HIDDEN, WIDTH), "narrow": (WIDTH, HIDDEN)}
    weights = {"embedding": random.normal(0, 0.1, (len(VOCABULARY), WIDTH)), "norm": np.ones(WIDTH)}
    for layer in range(LAYERS):
        weights[f"{layer}.attention_norm"] = weights[f"{layer}.mlp_norm"] = np.ones(WIDTH)
        for name, (after, before) in sizes.items():
            weights[f"{layer}.{name}"] = random.normal(0, before**-0.5, (after, before))
    return {name: jnp.asarray(weight, jnp.float32) for name, weight in weights.items()}


def norm(x, weight):
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + EPSILON) * weight


def rotate(x):
    """`[batch, len, heads, HEAD_DIM]`, pairs as halves."""
    frequencies = BASE ** (-jnp.arange(0, HEAD_DIM, 2) / HEAD_DIM)
    angles = jnp.arange(x.shape[1])[:, None, None] * frequencies
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    first, second = jnp.split(x, 2, -1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], -1)


def logits(weights, tokens):
    """`[batch, len, vocabulary]`: of each sign whether it comes next."""
    x = weights["embedding"][tokens]
    count, length = tokens.shape
    for layer in range(LAYERS):
        of = lambda name: weights[f"{layer}.{name}"]
        qkv = norm(x, of("attention_norm")) @ of("qkv").T
        qkv = qkv.reshape(count, length, HEADS + 2 * KV_HEADS, HEAD_DIM)
        query, key, value = jnp.split(qkv, [HEADS, HEADS + KV_HEADS], 2)
        mixed = jax.nn.dot_product_attention(rotate(query), rotate(key), value, is_causal=True)
        x = x + mixed.reshape(count, length, WIDTH) @ of("out").T
        hidden = norm(x, of("mlp_norm")) @ of("widen").T
        x = x + jax.nn.gelu(hidden, approximate=False) @ of("narrow").T
    return norm(x, weights["norm"]) @ weights["embedding"].T


def loss(weights, tokens, answers):
    of_each = optax.softmax_cross_entropy_with_integer_labels(logits(weights, tokens[:, :-1]), tokens[:, 1:])
    return jnp.sum(of_each * answers[:, 1:]) / jnp.sum(answers)


optimizer = optax.chain(
    optax.clip_by_global_norm(1.0),
    optax.adamw(optax.warmup_cosine_decay_schedule(0.0, RATE, STEPS // 20, STEPS, RATE / 100), b2=0.98),
)


@jax.jit
def step(weights, state, tokens, answers):
    value, gradients = jax.value_and_grad(loss)(weights, tokens, answers)
    updates, state = optimizer.update(gradients, state, weights)
    return optax.apply_updates(weights, updates), state, value


@partial(jax.jit, donate_argnums=1)
def extend(weights, tokens, lens):
    """The likeliest sign behind the first `lens` of each row."""
    rows = jnp.arange(len(tokens))
    return tokens.at[rows, lens].set(jnp.argmax(logits(weights, tokens)[rows, lens - 1], -1))


def exact(weights, prompts):
    """The share of words that come out sorted, every letter and the end."""
    tokens = np.zeros((len(prompts), CONTEXT), np.int32)
    for row, word in enumerate(prompts):
        tokens[row, : len(word) + 1] = [VOCABULARY.index(sign) for sign in word + ">"]
    lens = np.array([len(word) + 1 for word in prompts])
    for at in range(LONGEST + 1):
        tokens = extend(weights, tokens, np.minimum(lens + at, CONTEXT - 1))
    texts = ["".join(VOCABULARY[token] for token in row) for row in np.asarray(tokens)]
    wanted = [word + ">" + "".join(sorted(word)) + "." for word in prompts]
    return np.mean([text.startswith(want) for text, want in zip(texts, wanted)])


def main():
    weights = fresh()
    state = optimizer.init(weights)
    print(f"{sum(weight.size for weight in weights.values())} numbers")
    for at in range(1, STEPS + 1):
        weights, state, value = step(weights, state, *batch())
        if at % 250 == 0:
            print(f"step {at}: loss {value:.5f}, {exact(weights, words(400)):.1%} of 400 random words exact", flush=True)
    save_file({f"{name}.weight": np.asarray(weight) for name, weight in weights.items()}, folder / "model.safetensors")
    (folder / "unseen.txt").write_text("\n".join(unseen) + "\n")
    print(f"{exact(weights, unseen):.2%} of {len(unseen)} unseen words of {SHORTEST_UNSEEN} to {LONGEST} letters exact")


main()
