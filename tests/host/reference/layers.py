"""Writes layers.json: small layers and their answers, by PyTorch's own modules in float64.

A row that sees nothing is NaN in PyTorch; here its weights are 0, and its output the last projection's bias.

    pip install torch && python layers.py
"""

import json
import math
import pathlib

import torch

torch.manual_seed(1706_03762)
INF = math.inf


def grid(*sizes):
    """Random multiples of 1/8: exact in f32, short in decimal."""
    return torch.randint(-12, 13, sizes).double() / 8


def numbers(tensor):
    """A flat list; infinities as text."""
    return [str(x) if math.isinf(x) else int(x) if x == int(x) else x for x in tensor.flatten().tolist()]


def fill(module):
    for parameter in module.parameters():
        parameter.data = grid(*parameter.shape)
    return module.eval()


def state(module):
    return {name: {"dims": list(t.shape), "data": numbers(t)} for name, t in module.state_dict().items()}


def mask_json(mask):
    if mask is None:
        return None
    kind = "hidden" if mask.dtype == torch.bool else "added"
    return {"kind": kind, "data": numbers(mask.double())}


def multi_head(name, batch=2, heads=2, width=8, lens=(3, 5), kdim=None, vdim=None, attn=None, padding=None,
               batch_first=True, weights=None, **options):  # fmt: skip
    q_len, kv_len = lens
    module = torch.nn.MultiheadAttention(
        width, heads, kdim=kdim, vdim=vdim, batch_first=batch_first, dtype=torch.float64, **options
    )
    fill(module)
    kdim, vdim = kdim or width, vdim or width
    sizes = lambda n, w: (batch, n, w) if batch_first else (n, batch, w)
    query, key, value = grid(*sizes(q_len, width)), grid(*sizes(kv_len, kdim)), grid(*sizes(kv_len, vdim))
    with torch.no_grad():
        out, found = module(
            query, key, value, key_padding_mask=padding, attn_mask=attn, average_attn_weights=weights != "per_head"
        )
    lost = out.isnan()
    if lost.any():
        out = torch.where(lost, module.out_proj.bias.detach().expand_as(out), out)
        assert found.isnan().any()
        found = found.nan_to_num(0)
    case = {
        "layer": "multi_head", "name": name, "batch": batch, "heads": heads, "q_len": q_len, "kv_len": kv_len,
        "batch_first": batch_first, "add_zero_attn": options.get("add_zero_attn", False), "weights": weights,
        "state": state(module), "query": numbers(query), "key": numbers(key), "value": numbers(value),
        "attn_mask": mask_json(attn), "key_padding_mask": mask_json(padding),
        "expected": {"out": numbers(out), "weights": numbers(found)},
    }  # fmt: skip
    return case


class SelfAttention(torch.nn.Module):
    """The tutorial's module, from its description."""

    def __init__(self, embed_size, heads, scale_by):
        super().__init__()
        self.heads, self.head_dim = heads, embed_size // heads
        self.divisor = {"head": self.head_dim, "embed": embed_size}[scale_by] ** 0.5
        self.values = torch.nn.Linear(self.head_dim, self.head_dim, bias=False)
        self.keys = torch.nn.Linear(self.head_dim, self.head_dim, bias=False)
        self.queries = torch.nn.Linear(self.head_dim, self.head_dim, bias=False)
        self.fc_out = torch.nn.Linear(embed_size, embed_size)

    def forward(self, values, keys, queries, mask):
        apart = lambda x: x.unflatten(2, (self.heads, self.head_dim))
        values, keys, queries = self.values(apart(values)), self.keys(apart(keys)), self.queries(apart(queries))
        scores = torch.einsum("nqhd,nkhd->nhqk", queries, keys)
        if mask is not None:
            scores = scores.masked_fill(mask == 0, -1e20)
        weights = torch.softmax(scores / self.divisor, dim=3)
        return self.fc_out(torch.einsum("nhqk,nkhd->nqhd", weights, values).flatten(2)), weights


def self_attention(name, batch=2, heads=2, width=6, lens=(3, 4), mask=None, scale_by="head"):
    module = fill(SelfAttention(width, heads, scale_by).double())
    q_len, kv_len = lens
    values, keys, queries = grid(batch, kv_len, width), grid(batch, kv_len, width), grid(batch, q_len, width)
    with torch.no_grad():
        out, weights = module(values, keys, queries, mask)
    return {
        "layer": "self_attention", "name": name, "batch": batch, "heads": heads, "q_len": q_len, "kv_len": kv_len,
        "scale_by": scale_by, "state": state(module),
        "values": numbers(values), "keys": numbers(keys), "queries": numbers(queries),
        "mask": None if mask is None else {"dims": list(mask.shape), "data": numbers(mask)},
        "expected": {"out": numbers(out), "weights": numbers(weights)},
    }  # fmt: skip


def some_bools(*sizes):
    hidden = torch.rand(sizes) < 0.4
    hidden[..., 0] = False
    return hidden


def some_floats(*sizes):
    added = grid(*sizes)
    added[..., -1] = -INF
    return added


def cases():
    yield multi_head("plain", lens=(4, 4))
    yield multi_head("len_first", batch_first=False)
    yield multi_head("per_head", weights="per_head", heads=4)
    yield multi_head("mean", weights="mean", batch=3, heads=3, width=9)
    yield multi_head("one_head_of_one", heads=1, width=1, batch=1, lens=(1, 1))
    yield multi_head("no_biases", bias=False)
    yield multi_head("widths", kdim=5, vdim=3, weights="mean")
    yield multi_head("widths_len_first", kdim=4, vdim=12, batch_first=False)
    yield multi_head("bias_kv", add_bias_kv=True, weights="mean")
    yield multi_head("zero_row", add_zero_attn=True, weights="per_head")
    yield multi_head("both_rows", add_bias_kv=True, add_zero_attn=True, batch_first=False, weights="per_head")
    yield multi_head("hidden", attn=some_bools(3, 5), weights="mean")
    yield multi_head("hidden_per_head", attn=some_bools(4, 3, 5), weights="per_head")
    yield multi_head("added", attn=some_floats(3, 5))
    yield multi_head("added_per_head", attn=some_floats(4, 3, 5), weights="mean", batch_first=False)
    yield multi_head("padding", padding=some_bools(2, 5), weights="mean")
    yield multi_head("padding_added", padding=some_floats(2, 5))
    yield multi_head("hidden_and_padding", attn=some_bools(3, 5), padding=some_bools(2, 5), weights="per_head")
    yield multi_head("added_and_padding_added", attn=some_floats(4, 3, 5), padding=some_floats(2, 5))
    yield multi_head("added_and_padding", attn=some_floats(3, 5), padding=some_bools(2, 5), weights="mean")
    yield multi_head("hidden_and_padding_added", attn=some_bools(4, 3, 5), padding=some_floats(2, 5))
    yield multi_head("masks_and_rows", attn=some_bools(4, 3, 5), padding=some_floats(2, 5), add_bias_kv=True,
                     add_zero_attn=True, kdim=7, weights="mean")  # fmt: skip
    nothing = some_bools(3, 5)
    nothing[1] = True
    yield multi_head("a_row_of_nothing", attn=nothing, weights="mean")
    yield multi_head("all_hidden_but_added_rows", attn=torch.ones(3, 5, dtype=torch.bool), add_bias_kv=True)

    yield self_attention("plain", lens=(4, 4))
    yield self_attention("by_embed", scale_by="embed", heads=3)
    mask = (torch.rand(2, 1, 3, 4) < 0.6).double()
    mask[0, 0, 1] = 0
    yield self_attention("masked", mask=mask)
    yield self_attention("masked_keys", mask=torch.tensor([1, 0, 2.5, 0]).double(), scale_by="embed")
    yield self_attention("masked_rows", mask=torch.tensor([[1], [0], [1]]).double())
    yield self_attention("one_head", heads=1, width=3, batch=1, lens=(1, 5), mask=torch.zeros(1, 1, 1, 5).double())


written = list(cases())
lines = ",\n".join(json.dumps(case, separators=(",", ":"), allow_nan=False) for case in written)
path = pathlib.Path(__file__).with_name("layers.json")
path.write_text(f"[\n{lines}\n]\n")
print(f"{len(written)} cases, {path.stat().st_size} bytes")
