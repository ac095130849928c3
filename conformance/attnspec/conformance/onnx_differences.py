"""Where ONNX's implementations differ from attnspec or from each other, each difference as the smallest node for it.

Queries are zero wherever the scores do not matter: then all visible keys weigh the same, and the output is the mean of
the visible values, which can be checked by eye.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import ml_dtypes
import numpy as np

from .onnx_operators import OnnxNode

Array: TypeAlias = np.ndarray[Any, Any]

AGREES, DIFFERS, REFUSES, ANSWERS = "agrees", "differs", "refuses", "answers"


class Difference(NamedTuple):
    """One question to which not everybody gives the same answer."""

    name: str
    question: str
    """What the node asks."""
    reason: str
    """What the answers mean, and which of them ONNX's text supports."""
    node: OnnxNode
    answers: tuple[str, str, str]
    """What the reference, the function body and ONNX Runtime do: agree with attnspec, differ from it, refuse to answer;
    or answer where attnspec refuses."""
    output: str = "Y"
    explains: Callable[[OnnxNode, str], bool] | None = None
    """Whether another node's output differs for the same reason, where random nodes can meet it."""


def _node(opset: int = 23, inputs: dict[str, Array] | None = None, **attributes: Any) -> OnnxNode:
    return OnnxNode("Attention", opset, attributes, inputs or {})


def _flat(queries: int, values: list[float], dtype: Any = np.float32, **others: Any) -> dict[str, Array]:
    """Zero queries and keys of size 1 for these values: the output is the mean of the visible values."""
    keys = len(values)
    tensors = {
        "Q": np.zeros((1, 1, queries, 1), dtype),
        "K": np.zeros((1, 1, keys, 1), dtype),
        "V": np.array(values, dtype).reshape(1, 1, keys, 1),
    }
    return tensors | {name: np.asarray(array) for name, array in others.items()}


def _scored(query: list[float], keys: list[float], dtype: Any = np.float32, **others: Any) -> dict[str, Array]:
    """Queries and keys of size 1 with these components, and the values 1, 2, 6."""
    tensors = _flat(len(query), [1.0, 2.0, 6.0][: len(keys)], dtype, **others)
    return tensors | {
        "Q": np.array(query, dtype).reshape(1, 1, -1, 1),
        "K": np.array(keys, dtype).reshape(1, 1, -1, 1),
    }


def _query_length(node: OnnxNode) -> int:
    return int(node.inputs["Q"].shape[-2])


def _has_one_row(node: OnnxNode, output: str) -> bool:
    attn_mask, attributes = node.inputs.get("attn_mask"), node.attributes
    has_window = any(attributes.get(name, -1) >= 0 for name in ("left_window_size", "right_window_size"))
    return (
        output in ("Y", "qk_matmul_output")
        and bool(attributes.get("is_causal"))
        and not has_window
        and attn_mask is not None
        and attn_mask.ndim > 1
        and attn_mask.shape[-2] == 1 < _query_length(node)
    )


def _is_capped_raw_score(node: OnnxNode, output: str) -> bool:
    is_mode_0 = node.attributes.get("qk_matmul_output_mode", 0) == 0
    return output == "qk_matmul_output" and is_mode_0 and bool(node.attributes.get("softcap"))


def _is_single_query_after_past(node: OnnxNode, output: str) -> bool:
    is_causal = bool(node.attributes.get("is_causal"))
    return output in ("Y", "qk_matmul_output") and is_causal and "past_key" in node.inputs and _query_length(node) == 1


def _shows_masked_logits(node: OnnxNode, output: str) -> bool:
    return output == "qk_matmul_output" and node.attributes.get("qk_matmul_output_mode") == 2


_NOBODY = (DIFFERS, DIFFERS, DIFFERS)
_HIDE_LAST = np.array([[True, True, False]])
_NAN, _INF = float("nan"), float("inf")

DIFFERENCES: tuple[Difference, ...] = (
    # The reference against the text and the function body.
    Difference(
        "one-row-mask-causal",
        "`is_causal` with a mask whose query axis is 1",
        "The reference takes the number of queries from the mask, so every query gets what query 0 may see. A mask of "
        "one row that hides padding is a common one.",
        _node(inputs=_flat(3, [1, 2, 6], attn_mask=[[True, True, True]]), is_causal=1),
        (DIFFERS, AGREES, REFUSES),
        explains=_has_one_row,
    ),
    Difference(
        "rank-1-mask-causal",
        "`is_causal` with a mask of one axis",
        "The operator's text allows it; the reference unpacks two axes.",
        _node(inputs=_flat(3, [1, 2, 6], attn_mask=[True, True, True]), is_causal=1),
        (REFUSES, AGREES, REFUSES),
    ),
    Difference(
        "mode-0-softcap",
        "`qk_matmul_output_mode=0` with a softcap",
        "Mode 0 is the raw product by the text; the reference returns it after the softcap, like mode 1.",
        _node(inputs=_scored([1], [1, 2, 6]), softcap=1.0, scale=1.0),
        (DIFFERS, AGREES, AGREES),
        "qk_matmul_output",
        _is_capped_raw_score,
    ),
    Difference(
        "one-column-mask",
        "opset 23, a mask whose key axis is 1",
        "At opset 23 shapes broadcast; filling up with −∞ came with opset 24. The reference fills up at 23, too.",
        _node(inputs=_flat(1, [1, 2, 6], attn_mask=[[True]])),
        (DIFFERS, AGREES, REFUSES),
    ),
    Difference(
        "short-integer-mask",
        "opset 24, a mask of integers that is too short",
        "−∞ is no integer: the reference raises OverflowError, the function body fills up with the smallest integer.",
        _node(24, _flat(1, [1, 2, 6], attn_mask=[[0, 0]])),
        (REFUSES, AGREES, AGREES),
    ),
    Difference(
        "integer-mask-causal",
        "opset 24, a mask of integers, `is_causal` and `nonpad_kv_seqlen`",
        "The function body rounds every −∞ to the smallest integer, and the sum of two of these is 0: what both hide "
        "comes back. The reference raises OverflowError.",
        _node(24, _flat(2, [1, 2, 6], attn_mask=[[0, 0, 0]] * 2, nonpad_kv_seqlen=[1]), is_causal=1),
        (REFUSES, DIFFERS, REFUSES),
    ),
    Difference(
        "bfloat16-long-row",
        "bfloat16, 512 keys of the same weight, all values 1",
        "The sum of the softmax is made in bfloat16, where 256 + 1 is 256: the weights add up to 2.",
        _node(inputs=_flat(1, [1] * 512, ml_dtypes.bfloat16)),
        (DIFFERS, DIFFERS, REFUSES),
    ),
    Difference(
        "double-scale",
        "float64",
        "The function body computes √scale in float32, and ONNX Runtime runs a function body for float64: a result in "
        "float64 that is as accurate as one in float32.",
        _node(
            inputs={
                "Q": np.ones((1, 1, 1, 3)),
                "K": np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 1.0], [2.0, 1.0, 0.0]])[None, None],
                "V": np.array([[1.0], [2.0], [6.0]])[None, None],
            }
        ),
        (AGREES, DIFFERS, DIFFERS),
    ),
    Difference(
        "two-dtypes",
        "Q and K in float32, V in float16",
        "The type constraints allow it, and the function body multiplies the two without a cast.",
        _node(inputs=_flat(1, [1, 2, 6]) | {"V": np.array([1, 2, 6], np.float16).reshape(1, 1, 3, 1)}),
        (AGREES, REFUSES, REFUSES),
    ),
    Difference(
        "head-counts-of-four-axes",
        "opset 23, four axes and `q_num_heads`, `kv_num_heads`",
        "Superfluous before opset 25, an error since. The function body then returns three axes.",
        _node(inputs=_flat(1, [1, 2, 6]), q_num_heads=1, kv_num_heads=1),
        (AGREES, DIFFERS, AGREES),
    ),
    # ONNX Runtime against the text.
    Difference(
        "one-query-past-causal",
        "`is_causal`, a cache, one query and two new keys",
        "ONNX Runtime drops `is_causal` where there is one query: it sees the key after its own.",
        _node(
            inputs=_flat(1, [2, 6])
            | {"past_key": np.zeros((1, 1, 1, 1), "f4"), "past_value": np.ones((1, 1, 1, 1), "f4")},
            is_causal=1,
        ),
        (AGREES, AGREES, DIFFERS),
        explains=_is_single_query_after_past,
    ),
    Difference(
        "masked-logits",
        "`qk_matmul_output_mode=2`: what stands at a masked position",
        "−∞ by the text; ONNX Runtime masks with the smallest finite number, and shows it.",
        _node(inputs=_flat(2, [1, 2]), is_causal=1, qk_matmul_output_mode=2),
        (AGREES, AGREES, DIFFERS),
        "qk_matmul_output",
        _shows_masked_logits,
    ),
    Difference(
        "smallest-number-mask",
        "a floating mask of the smallest finite number everywhere",
        "A number is not −∞, so the row is not empty: the mean of the values. ONNX Runtime takes it for an empty row.",
        _node(inputs=_flat(1, [1, 2, 6], attn_mask=np.full((1, 3), np.finfo(np.float32).min))),
        (AGREES, AGREES, DIFFERS),
    ),
    Difference(
        "double-empty-row",
        "float64, a row without a visible key",
        "Zero by the text since onnx 1.23. ONNX Runtime gives 0 in float32; the function body that it runs for float64 "
        "lacks the rule.",
        _node(inputs=_flat(1, [1, 2, 6], np.float64, attn_mask=[[False] * 3])),
        (AGREES, AGREES, DIFFERS),
    ),
    Difference(
        "zero-scale",
        "`scale=0`",
        "The mean of the visible values (S2); ONNX Runtime wants a positive scale.",
        _node(inputs=_flat(1, [1, 2, 6]), scale=0.0),
        (AGREES, AGREES, REFUSES),
    ),
    # attnspec against all or most of ONNX.
    Difference(
        "masked-nan-key",
        "NaN in a masked key",
        "Not read (S11). ONNX adds −∞ to a score that is NaN.",
        _node(inputs=_scored([0], [0, 0, _NAN], attn_mask=_HIDE_LAST)),
        _NOBODY,
    ),
    Difference(
        "masked-nan-value",
        "NaN in a masked value",
        "Not read (S11). ONNX multiplies it by a weight of 0.",
        _node(inputs=_flat(1, [1, 2, _NAN], attn_mask=_HIDE_LAST)),
        _NOBODY,
    ),
    Difference(
        "masked-nan-mask",
        "NaN in a floating mask, where `is_causal` hides the key",
        "Not read (S5).",
        _node(inputs=_flat(2, [1, 2, 6], attn_mask=np.array([[0, 0, _NAN]] * 2, np.float32)), is_causal=1),
        (DIFFERS, DIFFERS, AGREES),
    ),
    Difference(
        "visible-infinite-key",
        "−∞ in a visible key",
        "NaN for every row that sees it (S11): the sign of such a score would depend on the order of its sum. In ONNX "
        "the score is −∞, and the key has no weight.",
        _node(inputs=_scored([1], [-_INF, 0, 0])),
        _NOBODY,
    ),
    Difference(
        "negative-scale",
        "`scale=-1`",
        "A scale is a factor of any sign (S2); ONNX takes its square root.",
        _node(inputs=_scored([1], [0, 1, 2]), scale=-1.0),
        (DIFFERS, DIFFERS, REFUSES),
    ),
    Difference(
        "half-precision-scores",
        "float16, scores of 65536",
        "Half precisions compute in float32 (S16); in ONNX the scores are float16, and infinite.",
        _node(inputs=_scored([256], [256, 256, 256], np.float16), scale=1.0),
        _NOBODY,
    ),
    Difference(
        "half-precision-mask",
        "float16, scores of −64 and a mask of float16's smallest number",
        "Their sum is finite in float32 (S16): the mean of the values. In float16 it is −∞ everywhere in a row that no "
        "mask makes empty.",
        _node(
            inputs=_scored([-8], [8, 8, 8], np.float16, attn_mask=np.full((1, 3), np.finfo(np.float16).min)), scale=1.0
        ),
        _NOBODY,
    ),
    Difference(
        "narrow-softmax",
        "float32, scores of 10⁵ and `softmax_precision` FLOAT16",
        "attnspec computes the softmax in at least the precision of its inputs; a cast to float16 makes these scores "
        "infinite. ONNX Runtime's answer shows no such cast.",
        _node(inputs=_scored([1000], [100, 100, 99]), scale=1.0, softmax_precision=10),
        (DIFFERS, DIFFERS, AGREES),
    ),
    Difference(
        "no-keys",
        "no keys at all",
        "An empty row (S18).",
        _node(inputs=_flat(1, [])),
        (REFUSES, REFUSES, REFUSES),
    ),
    # What attnspec refuses.
    Difference(
        "negative-softcap",
        "`softcap=-1`",
        "Refused (S3). The reference and ONNX Runtime leave the scores as they are; the function body caps them.",
        _node(inputs=_scored([1], [0, 1, 2]), scale=1.0, softcap=-1.0),
        (ANSWERS, ANSWERS, ANSWERS),
    ),
    Difference(
        "length-beyond-keys",
        "`nonpad_kv_seqlen` greater than the number of keys",
        "Refused (S8): a length that is wrong can be noticed.",
        _node(24, _flat(1, [1, 2, 6], nonpad_kv_seqlen=[9])),
        (ANSWERS, ANSWERS, REFUSES),
    ),
)
