"""An attention in plain Python that `attnspec verify "exec:python target.py"` can test.

It needs nothing but Python: no attnspec, no NumPy. Requests are read from standard input and answered on standard
output, one JSON object to a line; tensors are read from and written to safetensors files. `docs/protocol.md` describes
all of it. Run by hand it waits for a first line, such as {"type": "start", "id": 0, "protocol": 1}.
"""

from __future__ import annotations

import array
import json
import math
import struct
import sys
from itertools import product
from operator import mul
from typing import Any, NamedTuple

OPTIONS = ["mask", "bias", "scale", "softcap", "causal_offset"]
ABILITY = {"dtypes": ["float64", "float32", "bfloat16", "float16"], "options": OPTIONS}
STARTED = {
    "type": "started",
    "protocol": 1,
    "name": "plain Python attention",
    "version": "1.0",
    "language": "Python",
    "operations": {"dot_product_attention": ABILITY, "attention_with_logsumexp": ABILITY},
}
CODES = {"F64": "d", "F32": "f", "F16": "e", "BOOL": "?"}
"""The letters of `struct` for the dtypes that it knows; bfloat16 is the upper half of a float32."""


class Tensor(NamedTuple):
    """Numbers in row-major order."""

    dtype: str
    shape: list[int]
    numbers: list[Any]

    def place(self, index: tuple[int, ...]) -> int:
        """Return where a row begins: an axis of 1 serves every index. The last axis is not in `index`."""
        place = 0
        for i, size in zip(index, self.shape, strict=False):
            place = place * size + (i if size > 1 else 0)
        return place * self.shape[-1]

    def row(self, index: tuple[int, ...]) -> list[Any]:
        """Return the numbers of one row."""
        place = self.place(index)
        return self.numbers[place : place + self.shape[-1]]


def read_tensors(path: str) -> dict[str, Tensor]:
    """Read a safetensors file: the length of its header, the header in JSON, and the tensors' bytes."""
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        data = file.read()
    tensors = {}
    for name, entry in header.items():
        if name != "__metadata__":
            start, stop = entry["data_offsets"]
            tensors[name] = Tensor(entry["dtype"], entry["shape"], decode(entry["dtype"], data[start:stop]))
    return tensors


def decode(dtype: str, data: bytes) -> list[Any]:
    """Turn bytes into numbers."""
    if dtype == "BF16":
        halves = struct.unpack(f"<{len(data) // 2}H", data)
        return [struct.unpack("<f", struct.pack("<I", half << 16))[0] for half in halves]
    code = CODES[dtype]
    return list(struct.unpack(f"<{len(data) // struct.calcsize(code)}{code}", data))


def encode(dtype: str, numbers: list[float]) -> bytes:
    """Turn numbers into bytes, rounded to nearest, halves to even."""
    if dtype == "F16":
        return b"".join(struct.pack("<e", number if abs(number) < 65520 else number * math.inf) for number in numbers)
    if dtype == "F64":
        return struct.pack(f"<{len(numbers)}d", *numbers)
    single = array.array("f", numbers)  # too large a number becomes infinite, where struct refuses it
    if sys.byteorder == "big":
        single.byteswap()
    if dtype == "F32":
        return single.tobytes()
    words = struct.unpack(f"<{len(numbers)}I", single.tobytes())
    halves = [
        0x7FC0 if x != x else (word + 0x7FFF + (word >> 16 & 1)) >> 16 for x, word in zip(numbers, words, strict=True)
    ]
    return struct.pack(f"<{len(halves)}H", *halves)


def write_tensors(path: str, tensors: dict[str, Tensor]) -> None:
    """Write a safetensors file."""
    header, data = {}, b""
    for name, tensor in tensors.items():
        payload = encode(tensor.dtype, tensor.numbers)
        offsets = [len(data), len(data) + len(payload)]
        header[name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": offsets}
        data += payload
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # so that the data is aligned
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)


def attention(tensors: dict[str, Tensor], options: dict[str, Any]) -> dict[str, Tensor]:
    """Compute softmax(softcap(scale · q·k) + bias) @ value row by row, over the keys that are visible."""
    query, key, value = (tensors[name] for name in ("query", "key", "value"))
    mask, bias = tensors.get("mask"), tensors.get("bias")
    scale = options.get("scale", 1 / math.sqrt(query.shape[-1]))
    softcap, offset = options.get("softcap"), options.get("causal_offset")
    has_heads = len(query.shape) > 3
    groups = query.shape[-3] // key.shape[-3] if has_heads else 1
    keys = key.shape[-2]
    outputs: list[float] = []
    logsumexps: list[float] = []
    for index in product(*map(range, query.shape[:-1])):
        *above, i = index
        if has_heads:  # some neighbouring query heads share one head of keys
            above[-1] //= groups
        visible = [True] * keys if mask is None else broadcast(mask.row(index), keys)
        added = None if bias is None else broadcast(bias.row(index), keys)
        row, logits, values = query.row(index), [], []
        for j in range(keys):
            if not visible[j] or (offset is not None and j > i + offset) or (added and added[j] == -math.inf):
                continue  # a key that is not visible is not read: there may be NaN
            score = scale * sum(map(mul, row, key.row((*above, j))))
            if softcap is not None:
                score = softcap * math.tanh(score / softcap)
            logits.append(score if added is None else score + added[j])
            values.append(value.row((*above, j)))
        output, logsumexp = average(logits, values, value.shape[-1])
        outputs += output
        logsumexps.append(logsumexp)
    wide = "F64" if query.dtype == "F64" else "F32"
    return {
        "output": Tensor(query.dtype, [*query.shape[:-1], value.shape[-1]], outputs),
        "logsumexp": Tensor(wide, query.shape[:-1], logsumexps),
    }


def broadcast(row: list[Any], keys: int) -> list[Any]:
    """Repeat a row of one number for every key."""
    return row if len(row) == keys else row * keys


def average(logits: list[float], values: list[list[float]], size: int) -> tuple[list[float], float]:
    """Return the weighted mean of values, and the logarithm of the sum of the logits' exponentials.

    A row that sees nothing is zero.
    """
    if not logits:
        return [0.0] * size, -math.inf
    largest = max(logits)
    if any(logit != logit for logit in logits) or largest == math.inf:
        return [math.nan] * size, math.nan if largest != math.inf else math.inf
    weights = [math.exp(logit - largest) for logit in logits]
    total = sum(weights)
    output = [sum(map(mul, weights, column)) / total for column in zip(*values, strict=True)]
    return output, largest + math.log(total)


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Answer one request."""
    if request["type"] == "start":
        if request["protocol"] != 1:
            return {"type": "error", "text": f"this target speaks protocol 1, not {request['protocol']}"}
        return STARTED
    results = attention(read_tensors(request["tensors"]), request["options"])
    write_tensors(request["write"], {name: results[name] for name in request["results"]})
    return {"type": "done"}


def main() -> None:
    """Answer requests until there are no more."""
    for line in sys.stdin:
        request = json.loads(line)
        if request["type"] == "stop":
            break
        try:
            reply = answer(request)
        except Exception as error:
            reply = {"type": "error", "text": f"{type(error).__name__}: {error}"}
        print(json.dumps({**reply, "id": request["id"]}), flush=True)


if __name__ == "__main__":
    main()
