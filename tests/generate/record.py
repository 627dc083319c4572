"""Writes reference.json: what the model of examples/generate.rs says to a few words, by numpy in float64.

    pip install numpy safetensors && python tests/generate/record.py

Written apart from the training: one token after the other, as the formulas say, without a batch or a cache.
"""

import json
import math
import pathlib

import numpy as np
from safetensors.numpy import load_file

WORDS = ["ba", "attention", "mississippi", "zyxwvutsrqponmlkjihgfedc", "incomprehensibilities"]
SIGNS = "abcdefghijklmnopqrstuvwxyz>."
LAYERS, HEADS, KV_HEADS, HEAD_DIM = 3, 4, 2, 16

folder = pathlib.Path(__file__).resolve().parent
model = folder.parents[1] / "examples" / "generate" / "model.safetensors"
weights = {name: weight.astype(np.float64) for name, weight in load_file(model).items()}
erf = np.vectorize(math.erf)


def norm(x, name):
    return x / np.sqrt(np.mean(x * x) + 1e-5) * weights[name]


def rotate(x, position):
    """A head's pairs of columns i and i + 8, as complex numbers."""
    turned = (x[:8] + 1j * x[8:]) * np.exp(1j * position * 10_000.0 ** (-np.arange(8) / 8))
    return np.concatenate([turned.real, turned.imag])


def logits(tokens):
    """Behind the last token."""
    rows = [weights["embedding.weight"][token] for token in tokens]
    for layer in range(LAYERS):
        queries, keys, values = [], [], []
        for position, x in enumerate(rows):
            qkv = weights[f"{layer}.qkv.weight"] @ norm(x, f"{layer}.attention_norm.weight")
            heads = qkv.reshape(HEADS + 2 * KV_HEADS, HEAD_DIM)
            queries.append([rotate(head, position) for head in heads[:HEADS]])
            keys.append([rotate(head, position) for head in heads[HEADS : HEADS + KV_HEADS]])
            values.append(heads[HEADS + KV_HEADS :])
        for at, x in enumerate(rows):
            found = []
            for head in range(HEADS):
                kv_head = head // (HEADS // KV_HEADS)
                scores = [queries[at][head] @ keys[j][kv_head] / math.sqrt(HEAD_DIM) for j in range(at + 1)]
                shares = np.exp(np.array(scores) - max(scores))
                found.append(sum(share * values[j][kv_head] for j, share in enumerate(shares / shares.sum())))
            x = x + weights[f"{layer}.out.weight"] @ np.concatenate(found)
            hidden = weights[f"{layer}.widen.weight"] @ norm(x, f"{layer}.mlp_norm.weight")
            rows[at] = x + weights[f"{layer}.narrow.weight"] @ (hidden * (1 + erf(hidden / math.sqrt(2))) / 2)
    return weights["embedding.weight"] @ norm(rows[-1], "norm.weight")


def answer(word):
    tokens = [SIGNS.index(sign) for sign in word + ">"]
    said = []
    while len(said) <= len(word) and (not said or tokens[-1] != SIGNS.index(".")):
        said.append(logits(tokens))
        tokens.append(int(np.argmax(said[-1])))
    text = "".join(SIGNS[token] for token in tokens[len(word) + 1 :])
    return {"word": word, "text": text, "logits": [[round(x, 6) for x in row.tolist()] for row in said]}


reference = {"recorded_with": f"numpy {np.__version__}, float64", "answers": [answer(word) for word in WORDS]}
(folder / "reference.json").write_text(json.dumps(reference, separators=(",", ":")) + "\n")
