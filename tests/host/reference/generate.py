"""Writes attention.json: small attention problems and their answers, by PyTorch in float64.

Each answer is computed one row at a time, straight from the definition. Where PyTorch has the case itself, in
scaled_dot_product_attention or flex_attention, the script asserts that it agrees.

    pip install torch && python generate.py
"""

import json
import math
import pathlib

import torch
from torch.nn.attention.flex_attention import flex_attention
from torch.nn.functional import scaled_dot_product_attention

torch.manual_seed(1706_03762)
INF = math.inf


def grid(*sizes):
    """Random multiples of 1/8: exact in f32, short in decimal."""
    return torch.randint(-12, 13, sizes).double() / 8


def define(case, query, key, value, mask, bias, slopes):
    """Attention of [batch, heads, len, dim] tensors, row by row."""
    batch, num_heads, q_len, _ = query.shape
    num_kv_heads, kv_len = key.shape[1:3]
    names = ("raw_scores", "capped_scores", "masked_scores", "weights")
    result = {name: torch.zeros(batch, num_heads, q_len, kv_len).double() for name in names}
    result["masked_scores"].fill_(-INF)
    result["out"] = torch.zeros(batch, num_heads, q_len, value.shape[3]).double()
    result["lse"] = torch.full((batch, num_heads, q_len), -INF).double()
    offset, left, right = case["offset"], case["window_left"], case["window_right"]
    for b, h, i in torch.cartesian_prod(*map(torch.arange, (batch, num_heads, q_len))).tolist():
        kv_head = h // (num_heads // num_kv_heads)
        raw = case["scale"] * (key[b, kv_head] @ query[b, h, i])
        capped = raw
        if case["softcap"] is not None:
            capped = case["softcap"] * torch.tanh(raw / case["softcap"])
        masked = capped.clone()
        visible = torch.ones(kv_len, dtype=torch.bool)
        for j in range(kv_len):
            if bias is not None:
                masked[j] += bias[b, h, i, j]
                visible[j] &= bias[b, h, i, j] != -INF
            if slopes is not None:
                masked[j] -= slopes[b, h] * abs(i + offset - j)
            if mask is not None:
                visible[j] &= mask[b, h, i, j]
            if case["causal"]:
                visible[j] &= j <= i + offset
            if left is not None:
                visible[j] &= j >= i + offset - left
            if right is not None:
                visible[j] &= j <= i + offset + right
        masked[~visible] = -INF
        result["raw_scores"][b, h, i] = raw
        result["capped_scores"][b, h, i] = capped
        result["masked_scores"][b, h, i] = masked
        if visible.any():
            weights = torch.softmax(masked, 0)
            result["weights"][b, h, i] = weights
            result["out"][b, h, i] = weights @ value[b, kv_head]
            result["lse"][b, h, i] = torch.logsumexp(masked, 0)
    return result


def agrees(case, query, key, value, mask, bias, slopes, result):
    """Asserts that PyTorch's own attention gives the same; returns by which names."""
    gqa = query.shape[1] != key.shape[1]
    offset, left, right = case["offset"], case["window_left"], case["window_right"]
    visible = torch.ones_like(result["weights"], dtype=torch.bool)
    for upper in (0 if case["causal"] else None, right):
        visible = visible if upper is None else visible.tril(offset + upper)
    visible = visible if left is None else visible.triu(offset - left)
    visible = visible if mask is None else visible & mask
    visible = visible if bias is None else visible & (bias != -INF)
    only_causal = case["causal"] and offset == 0 and all(x is None for x in (left, right, mask, bias))
    by = []
    if case["softcap"] is None:
        arguments = {"scale": case["scale"], "enable_gqa": gqa}
        if only_causal and slopes is None:
            arguments["is_causal"] = True
        elif bias is None and slopes is None:
            arguments["attn_mask"] = visible
        else:
            added = torch.zeros_like(result["masked_scores"]) if bias is None else bias.clone()
            if slopes is not None:
                i, j = torch.arange(query.shape[2])[:, None], torch.arange(key.shape[2])
                added -= slopes[:, :, None, None] * (i + offset - j).abs()
            arguments["attn_mask"] = added.masked_fill(~visible, -INF)
        out = scaled_dot_product_attention(query, key, value, **arguments)
        torch.testing.assert_close(out, result["out"], rtol=1e-12, atol=1e-12)
        by.append("sdpa")

    def score_mod(score, b, h, i, j):
        if case["softcap"] is not None:
            score = case["softcap"] * torch.tanh(score / case["softcap"])
        if bias is not None:
            score = score + bias[b, h, i, j]
        if slopes is not None:
            score = score - slopes[b, h] * (i + offset - j).abs()
        return torch.where(visible[b, h, i, j], score, -INF)

    torch.compiler.reset()  # or it takes the next case's numbers for symbols, and fails
    out, lse = flex_attention(
        query, key, value, score_mod=score_mod, scale=case["scale"], enable_gqa=gqa, return_lse=True
    )
    torch.testing.assert_close(out, result["out"], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(lse, result["lse"], rtol=1e-12, atol=1e-12)
    return by + ["flex"]


def number(x):
    if abs(x) == INF:
        return "inf" if x > 0 else "-inf"
    x = float(f"{x:.12g}")
    return int(x) if x == int(x) else x


def flat(tensor):
    return [number(x) for x in tensor.double().flatten().tolist()]


def make(
    name, batch=1, heads=(2, 2), lens=(3, 4), dims=(4, 4), layout="bhsd", scale=None, softcap=None,
    causal=False, window_left=None, window_right=None, align="top_left", mask=None, bias=None,
    slopes=None, query=None, give=("out", "lse"),
):  # fmt: skip
    (num_heads, num_kv_heads), (q_len, kv_len), (head_dim, value_dim) = heads, lens, dims
    offset = {"top_left": 0, "bottom_right": kv_len - q_len}.get(align, align)
    case = {
        "scale": 1 / math.sqrt(head_dim) if scale is None else scale,
        "softcap": softcap,
        "causal": causal,
        "window_left": window_left,
        "window_right": window_right,
        "offset": offset,
    }
    if query is None:
        query = grid(batch, num_heads, q_len, head_dim)
    key = grid(batch, num_kv_heads, kv_len, head_dim)
    value = grid(batch, num_kv_heads, kv_len, value_dim)
    full = (batch, num_heads, q_len, kv_len)
    expanded = [None if x is None else x.expand(full) for x in (mask, bias)]
    expanded.append(None if slopes is None else slopes.expand(batch, num_heads))
    result = define(case, query, key, value, *expanded)
    by = agrees(case, query, key, value, *expanded, result)
    print(f"{name}: agrees with {' and '.join(by)}")

    lay = (lambda x: x.transpose(1, 2)) if layout == "bshd" else (lambda x: x)
    result["out"] = lay(result["out"])
    return {
        "name": name,
        "sizes": [batch, num_heads, num_kv_heads, q_len, kv_len, head_dim, value_dim],
        "layout": layout,
        **{k: v for k, v in case.items() if k not in ("offset", "scale")},
        "scale": scale,
        "align": align,
        "query": flat(lay(query)),
        "key": flat(lay(key)),
        "value": flat(lay(value)),
        "mask": None if mask is None else {"dims": list(mask.shape), "data": flat(mask)},
        "bias": None if bias is None else {"dims": list(bias.shape), "data": flat(bias)},
        "alibi_slopes": None if slopes is None else {"dims": list(slopes.shape), "data": flat(slopes)},
        "expected": {key: flat(result[key]) for key in give},
    }


def some_mask(*sizes):
    return torch.rand(sizes) < 0.6


def some_bias(*sizes):
    return grid(*sizes).masked_fill(torch.rand(sizes) < 0.2, -INF)


def cases():
    everything = ("out", "lse", "weights", "raw_scores", "capped_scores", "masked_scores")
    yield make("plain", give=("out", "lse", "weights", "masked_scores"))
    yield make("grouped_heads", batch=2, heads=(4, 2), lens=(2, 3))
    yield make("one_kv_head", heads=(3, 1), lens=(2, 3))
    yield make("value_dim", dims=(3, 5))
    yield make("bshd", batch=2, heads=(4, 2), lens=(2, 3), dims=(2, 3), layout="bshd")
    yield make("scale", scale=0.75)
    for align in ("top_left", "bottom_right"):
        yield make(f"causal_{align}_more_queries", lens=(5, 3), dims=(4, 2), causal=True, align=align)
        yield make(f"causal_{align}_more_keys", lens=(3, 5), dims=(4, 2), causal=True, align=align)
    yield make("causal_after_cached_keys", lens=(2, 6), dims=(4, 2), causal=True, align=3)
    yield make("causal_before_the_first_key", lens=(4, 3), dims=(4, 2), causal=True, align=-2)
    yield make("window_left", heads=(1, 1), lens=(5, 6), dims=(4, 2), window_left=1)
    yield make("window_right", heads=(1, 1), lens=(5, 6), dims=(4, 2), window_right=1)
    yield make("window_both", heads=(1, 1), lens=(4, 6), dims=(4, 2), window_left=1, window_right=2,
               align="bottom_right")  # fmt: skip
    yield make("window_causal", heads=(1, 1), lens=(5, 5), dims=(4, 2), window_left=1, window_right=2,
               causal=True)  # fmt: skip
    yield make("softcap", softcap=1.5, scale=1.0, give=everything)
    yield make("softcap_bias", softcap=0.5, scale=1.0, bias=some_bias(1, 1, 3, 4), heads=(1, 1))
    mask = some_mask(2, 1, 3, 4)
    mask[1, 0, 1] = False
    yield make("mask_with_a_row_of_nothing", batch=2, dims=(4, 2), mask=mask, give=("out", "lse", "weights"))
    bias = some_bias(2, 3, 4)
    bias[0, 1] = -INF
    yield make("bias", dims=(4, 2), bias=bias, give=("out", "lse", "weights"))
    query = grid(1, 1, 3, 4)
    query[0, 0, 1] = 0
    low = torch.full((3, 4), -1e9).double()
    low[0, 2] = low[2, 0] = low[2, 3] = 0
    yield make("bias_low_but_finite", heads=(1, 1), bias=low, query=query, give=("out", "lse", "weights"))
    slopes = torch.tensor([0.5, 0.25]).double()
    yield make("alibi", dims=(4, 2), slopes=slopes, align="bottom_right")
    slopes = torch.tensor([[0.5, 0.25], [0.125, 2]]).double()
    yield make("alibi_per_batch", batch=2, dims=(4, 2), slopes=slopes, causal=True, align="bottom_right")
    yield make(
        "everything", batch=2, heads=(4, 2), lens=(3, 5), dims=(3, 2), layout="bshd", scale=1.25, softcap=2.5,
        causal=True, window_left=3, window_right=1, align=2, mask=some_mask(2, 1, 3, 5),
        bias=some_bias(4, 1, 5), slopes=torch.tensor([0.5, 0.25, 0.125, 0.0625]).double(), give=everything,
    )  # fmt: skip


written = list(cases())
lines = ",\n".join(json.dumps(case, separators=(",", ":"), allow_nan=False) for case in written)
path = pathlib.Path(__file__).with_name("attention.json")
path.write_text(f"[\n{lines}\n]\n")
print(f"{len(written)} cases, {path.stat().st_size} bytes")
