"""Writes encodings.json: rotary and sinusoidal encodings, ALiBi slopes and additive attention, by PyTorch in float64.

    python tests/host/reference/encodings.py

Rotations are complex multiplications; the other definitions are written as their authors publish them.
"""

import json
import math
import pathlib

import torch

torch.manual_seed(2104_09864)


def grid(*sizes):
    """Random multiples of 1/8: exact in f32, short in decimal."""
    return torch.randint(-12, 13, sizes).double() / 8


def number(x):
    x = float(f"{x:.12g}")
    return int(x) if x == int(x) else x


def flat(tensor):
    return [number(x) for x in tensor.double().flatten().tolist()]


def angles(positions, rotary_dim, base):
    """[.., rotary_dim / 2]."""
    inverse = 1.0 / base ** (torch.arange(0, rotary_dim, 2).double() / rotary_dim)
    return positions.double()[..., None] * inverse


def rotary(name, batch=2, heads=2, len=3, dim=6, rotary_dim=None, interleaved=False, base=10000.0, offset=0,
           positions=None):  # fmt: skip
    rotary_dim = dim if rotary_dim is None else rotary_dim
    x = grid(batch, heads, len, dim)
    tokens = torch.arange(offset, offset + len).expand(batch, len) if positions is None else positions
    turns = torch.polar(torch.tensor(1.0).double(), angles(tokens, rotary_dim, base))[:, None]
    head, tail = x[..., :rotary_dim], x[..., rotary_dim:]
    if interleaved:
        turned = torch.view_as_complex(head.reshape(batch, heads, len, rotary_dim // 2, 2).contiguous()) * turns
        turned = torch.view_as_real(turned).flatten(-2)
    else:
        turned = torch.complex(*head.chunk(2, -1)) * turns
        turned = torch.cat([turned.real, turned.imag], -1)
    return {
        "name": name,
        "sizes": [batch, heads, len, dim, rotary_dim],
        "interleaved": interleaved,
        "base": base,
        "positions": tokens.flatten().tolist(),
        "x": flat(x),
        "out": flat(torch.cat([turned, tail], -1)),
    }


def rotaries():
    yield rotary("half")
    yield rotary("interleaved", interleaved=True)
    yield rotary("odd_half", dim=7, rotary_dim=6, offset=5)
    yield rotary("two_of_five", dim=5, rotary_dim=2, interleaved=True, offset=1000)
    yield rotary("part_by_fours", dim=16, rotary_dim=8, base=500.0)
    yield rotary("named", len=4, dim=8, positions=torch.tensor([[3, 0, 7, 7], [1, 2, 0, 5]]))
    yield rotary("named_neighbours", dim=10, interleaved=True, positions=torch.tensor([[31, 0, 2], [4, 4, 9]]))
    yield rotary("far", batch=1, heads=1, len=2, dim=4, positions=torch.tensor([[131071, 1000000]]))


def sinusoids():
    for len, dim, base, offset in [(3, 6, 10000.0, 0), (4, 5, 100.0, 7), (2, 1, 10000.0, 3), (1, 4, 10000.0, 131071)]:
        place = torch.arange(offset, offset + len).double()[:, None]
        factor = torch.exp(torch.arange(0, dim, 2).double() * (-math.log(base) / dim))
        table = torch.zeros(len, dim).double()
        table[:, 0::2] = torch.sin(place * factor)
        table[:, 1::2] = torch.cos(place * factor)[:, : dim // 2]
        yield {"len": len, "dim": dim, "base": base, "offset": offset, "out": flat(table)}


def slopes(heads):
    """As the authors' code."""

    def of_a_power(n):
        start = 2 ** (-(2 ** -(math.log2(n) - 3)))
        return [start * start**i for i in range(n)]

    if math.log2(heads).is_integer():
        return of_a_power(heads)
    closest = 2 ** math.floor(math.log2(heads))
    return of_a_power(closest) + slopes(2 * closest)[0::2][: heads - closest]


def additive(name, batch=2, lens=(3, 4), dims=(3, 5, 2), hidden=4, bias=True, mask=None, same=False):
    (q_len, kv_len), (query_dim, key_dim, value_dim) = lens, dims
    query, keys = grid(batch, q_len, query_dim), grid(batch, kv_len, key_dim)
    values = keys if same else grid(batch, kv_len, value_dim)
    w_q, w_k, w_v = grid(hidden, query_dim), grid(hidden, key_dim), grid(hidden)
    b = grid(hidden) if bias else None
    inner = query @ w_q.T
    inner = inner[:, :, None] + (keys @ w_k.T)[:, None] + (0 if b is None else b)
    scores = torch.tanh(inner) @ w_v
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    weights = torch.softmax(scores, -1).nan_to_num(0.0)
    return {
        "name": name,
        "sizes": [batch, q_len, kv_len, query_dim, key_dim, values.shape[-1], hidden],
        "query": flat(query),
        "keys": flat(keys),
        "values": flat(values),
        "w_q": flat(w_q),
        "w_k": flat(w_k),
        "w_v": flat(w_v),
        "b": None if b is None else flat(b),
        "mask": None if mask is None else {"dims": list(mask.shape), "data": [bool(m) for m in mask.flatten()]},
        "out": flat(weights @ values),
        "weights": flat(weights),
    }


def additives():
    yield additive("plain")
    yield additive("no_bias", bias=False, same=True)
    yield additive("one_of_everything", batch=1, lens=(1, 1), dims=(1, 1, 1), hidden=1)
    mask = torch.rand(2, 3, 4) < 0.6
    mask[1, 2] = False
    yield additive("mask_with_a_row_of_nothing", mask=mask)
    yield additive("mask_of_keys", lens=(2, 5), mask=torch.rand(2, 1, 5) < 0.7)
    yield additive("mask_of_queries", lens=(3, 2), mask=torch.tensor([[True], [False], [True]]))


written = {
    "rotary": list(rotaries()),
    "sinusoidal": list(sinusoids()),
    "slopes": [{"heads": n, "out": [number(x) for x in slopes(n)]} for n in (1, 2, 3, 6, 8, 12, 40)],
    "additive": list(additives()),
}
lines = ",\n".join(
    f'"{key}":[\n' + ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases) + "\n]"
    for key, cases in written.items()
)
path = pathlib.Path(__file__).with_name("encodings.json")
path.write_text(f"{{\n{lines}\n}}\n")
print(f"{path.stat().st_size} bytes")
