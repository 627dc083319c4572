"""Writes the files of this folder, each named for what it tries.

`taken` holds what some command line of `tests/tool/hostile.rs` takes, `refused` what none does.
"""

import json
import struct
from pathlib import Path

HERE = Path(__file__).parent
WIDTH = {"F64": 8, "I64": 8, "U64": 8, "C64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2}
ONE = {"F32": struct.pack("<f", 1), "F64": struct.pack("<d", 1), "F16": b"\x00\x3c", "BF16": b"\x80\x3f"}
VAST = 2**63 - 1


def save(folder, name, content):
    (HERE / folder).mkdir(exist_ok=True)
    (HERE / folder / f"{name}.safetensors").write_bytes(content)


def raw(header, data=b""):
    header = header if isinstance(header, bytes) else header.encode()
    return struct.pack("<Q", len(header)) + header + data


def tensors(metadata=None, data=None, **wanted):
    """name=(dtype, sizes) or name=(dtype, sizes, bytes)."""
    header, body = {"__metadata__": metadata} if metadata is not None else {}, b""
    for name, (dtype, sizes, *given) in wanted.items():
        count = 1
        for size in sizes:
            count *= size
        content = given[0] if given else (ONE.get(dtype, bytes(WIDTH.get(dtype, 1))) * count)
        header[name] = {"dtype": dtype, "shape": sizes, "data_offsets": [len(body), len(body) + len(content)]}
        body += content
    return raw(json.dumps(header, separators=(",", ":")), body if data is None else data)


def call(**others):
    """Two queries, three keys, one head."""
    wanted = {"q": ("F32", [2, 2]), "k": ("F32", [3, 2]), "v": ("F32", [3, 1])}
    return tensors(**{**wanted, **others})


def floats(*numbers):
    return struct.pack(f"<{len(numbers)}f", *numbers)


def one(entry):
    return raw('{"q":' + entry + "}", bytes(16))


def weights(text, key="tokens"):
    return tensors(metadata={key: text}, weights=("F32", [2, 2]))


NAN, INF = float("nan"), float("inf")

refused = {
    "length-beyond-memory": b"\xff" * 8 + b"{}",
    "length-of-the-file-and-one": struct.pack("<Q", 3) + b"{}",
    "length-wraps-around": struct.pack("<Q", 2**64 - 8) + bytes(64),
    "header-nested-deep": raw("[" * 900),
    "header-value-nested-deep": raw('{"q":' + "[" * 400 + "]" * 400 + "}"),
    "header-not-utf8": raw(b'{"\xff\xfe":1}'),
    "header-with-nul": raw(b'{"q\x00":1}'),
    "header-of-spaces": raw(" " * 64),
    "header-name-twice": raw('{"q":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"q":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}', bytes(8)),
    "header-escapes-in-the-error": raw('{"\\u001b[31m\\n\\u2028":7}'),
    "header-surrogate": raw('{"\\ud800":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}'),
    "metadata-of-numbers": raw('{"__metadata__":{"tokens":7}}'),
    "metadata-as-a-tensor": one('{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"__metadata__":{"dtype":"F32","shape":[],"data_offsets":[0,0]}'),
    "dtype-of-half-a-byte": one('{"dtype":"F4","shape":[3],"data_offsets":[0,16]}'),
    "dtype-of-six-bits": one('{"dtype":"F6_E2M3","shape":[1],"data_offsets":[0,16]}'),
    "dtype-unknown": one('{"dtype":"Q4_K","shape":[4],"data_offsets":[0,16]}'),
    "dtype-complex": call(q=("C64", [2, 2])),
    "dtype-of-k-is-another": call(k=("F16", [3, 2])),
    "sizes-overflow-to-what-is-there": one('{"dtype":"F32","shape":[4611686018427387905,4],"data_offsets":[0,16]}'),
    "sizes-beyond-integers": one('{"dtype":"F32","shape":[99999999999999999999],"data_offsets":[0,16]}'),
    "sizes-of-a-fraction": one('{"dtype":"F32","shape":[4.0],"data_offsets":[0,16]}'),
    "sizes-vast-but-empty": call(q=("F32", [0, 1, VAST, 2])),
    "sizes-last-integer-but-empty": tensors(q=("F32", [0, 1, 2**64 - 1, 2]), k=("F32", [1, 1, 0, 2]), v=("F32", [1, 1, 0, 1])),
    "sizes-vast-batch-of-nothing": call(q=("F32", [VAST, 1, 0, 2])),
    "sizes-vast-value-dim-without-keys": tensors(q=("F32", [2, 2]), k=("F32", [0, 2]), v=("F32", [0, VAST])),
    "sizes-more-out-than-indices": tensors(q=("F32", [4, 2]), k=("F32", [0, 2]), v=("F32", [0, 2**30])),
    "rank-0": call(q=("F32", [])),
    "rank-300": call(q=("F32", [1] * 300)),
    "head-dim-0": tensors(q=("F32", [2, 0]), k=("F32", [3, 0]), v=("F32", [3, 1])),
    "offsets-beyond-the-end": one('{"dtype":"F32","shape":[4],"data_offsets":[16,32]}'),
    "offsets-backwards": one('{"dtype":"F32","shape":[4],"data_offsets":[16,0]}'),
    "offsets-at-the-last-integer": one('{"dtype":"F32","shape":[0],"data_offsets":[18446744073709551615,18446744073709551615]}'),
    "offsets-of-one-number": one('{"dtype":"F32","shape":[4],"data_offsets":[16]}'),
    "offsets-overlap": raw('{"q":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"k":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}', bytes(12)),
    "data-a-byte-short": call()[:-1],
    "data-a-byte-long": call() + b"\x00",
    "past-without-its-other-half": call(past_k=("F32", [3, 2])),
    "kv-len-negative": call(kv_len=("I64", [1], struct.pack("<q", -1))),
    "kv-len-lowest": call(kv_len=("I64", [1], struct.pack("<q", -2**63))),
    "kv-len-beyond-the-keys": call(kv_len=("I32", [1], struct.pack("<i", 4))),
    "kv-len-of-floats": call(kv_len=("F32", [1])),
    "cu-seqlens-fall": tensors(q=("F32", [2, 1, 2]), k=("F32", [3, 1, 2]), v=("F32", [3, 1, 1]), cu_seqlens_q=("I32", [3], struct.pack("<3i", 0, 3, 2)), cu_seqlens_k=("I32", [3], struct.pack("<3i", 0, 1, 3))),
    "cu-seqlens-empty": tensors(q=("F32", [0, 1, 2]), k=("F32", [0, 1, 2]), v=("F32", [0, 1, 1]), cu_seqlens_q=("I32", [0]), cu_seqlens_k=("I32", [0])),
    "mask-of-bytes": call(mask=("U8", [2, 3])),
    "mask-too-short": call(mask=("BOOL", [3, 3])),
    "weights-tokens-no-json": weights("["),
    "weights-tokens-of-numbers": weights("[1,2]"),
    "weights-tokens-too-few": weights('["a"]'),
    "weights-key-tokens-too-many": weights('["a","b","c"]', "key_tokens"),
    "weights-empty": tensors(weights=("F32", [0, 0])),
    "weights-vast-but-empty": tensors(weights=("F32", [VAST, 0, VAST])),
    "weights-of-integers": tensors(weights=("I32", [2, 2])),
}

taken = {
    "no-batch": tensors(q=("F32", [0, 1, 2, 2]), k=("F32", [0, 1, 3, 2]), v=("F32", [0, 1, 3, 1])),
    "no-queries": call(q=("F32", [0, 2])),
    "no-keys": tensors(q=("F32", [2, 2]), k=("F32", [0, 2]), v=("F32", [0, 1])),
    "no-keys-in-a-past": tensors(q=("F32", [2, 2]), k=("F32", [3, 2]), v=("F32", [3, 1]), past_k=("F32", [0, 2]), past_v=("F32", [0, 1])),
    "nothing-finite": call(q=("F32", [2, 2], floats(NAN, INF, -INF, NAN)), bias=("F32", [3], floats(NAN, INF, -INF))),
    "doubles-beyond-floats": tensors(q=("F64", [1, 1], struct.pack("<d", 1e300)), k=("F64", [1, 1], struct.pack("<d", -1e300)), v=("F64", [1, 1], struct.pack("<d", 1e-320))),
    "mask-hides-all": call(mask=("BOOL", [2, 3], bytes(6))),
    "mask-of-any-bytes": call(mask=("BOOL", [2, 3], b"\x00\x01\x02\x7f\x80\xff")),
    "mask-of-no-columns": call(mask=("BOOL", [2, 0])),
    "bias-lowest": call(bias=("F32", [1], floats(-3.4028234663852886e38))),
    "kv-len-0": call(kv_len=("I64", [1], bytes(8))),
    "cu-seqlens-of-nothing": tensors(q=("F32", [0, 1, 2]), k=("F32", [0, 1, 2]), v=("F32", [0, 1, 1]), cu_seqlens_q=("I64", [4], bytes(32)), cu_seqlens_k=("I64", [4], bytes(32))),
    "dim-of-one-and-batch-of-many": tensors(q=("F16", [1, 1, 1, 1]), k=("F16", [9, 1, 1, 1]), v=("F16", [1, 1, 1, 1])),
    "data-not-aligned": raw(call()[8:8 + struct.unpack("<Q", call()[:8])[0]] + b" ", call()[8 + struct.unpack("<Q", call()[:8])[0]:]),
    "others-are-ignored": call(**{"\x1b[31m\n": ("C64", [1]), "": ("U8", [0]), "dout": ("BOOL", [VAST, 0])}),
    "weights-not-finite": tensors(weights=("F32", [2, 2], floats(NAN, INF, -INF, -0.0))),
    "weights-no-shares": tensors(weights=("F64", [1, 2], struct.pack("<2d", -1e308, 1e308))),
    "weights-tokens-with-control-characters": weights(json.dumps(["\x00\x1b[31m<&\"'\uffff", "\n" * 99])),
    "weights-with-metadata-of-others": tensors(metadata={"format": "pt", "tokenizer": "["}, weights=("BF16", [1, 1, 1])),
}

for folder, files in (("refused", refused), ("taken", taken)):
    for name, content in files.items():
        assert len(content) < 1024, (name, len(content))
        save(folder, name, content)
