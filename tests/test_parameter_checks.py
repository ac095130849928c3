"""Checks of trees of parameters: the class of every branch, and the dtype and shape of every leaf."""

import re
from typing import Any

import numpy as np
import pytest

from attnspec.contract import MultiHeadParameters
from attnspec.contract.checks import Checks
from attnspec.contract.layer_parameters import (
    EncoderLayerParameters,
    EncoderParameters,
    FeedForwardParameters,
    LayerNormParameters,
    LinearParameters,
    TextEncoderParameters,
)
from attnspec.contract.operands import Operand
from attnspec.contract.parameter_checks import check_leaf_dtypes, check_leaf_shape, check_leaf_shapes, check_tree

NORM = LayerNormParameters(np.ones(7))
LAYER = EncoderLayerParameters(
    MultiHeadParameters(*(np.zeros((7, 7)),) * 4),
    NORM,
    FeedForwardParameters(np.zeros((7, 13)), np.zeros((13, 7))),
    NORM,
)
TEXT = TextEncoderParameters(LinearParameters(np.zeros((11, 7))), None, None, EncoderParameters((LAYER, LAYER)))


def checks() -> Checks:
    return Checks(lambda _, value: value, np.shape)


def test_leaves_by_path() -> None:
    given = check_tree("parameters", TEXT, TextEncoderParameters)
    assert given["embedding.weight"] is TEXT.embedding.weight
    assert given["encoder.layers.1.attention.query_weight"] is LAYER.attention.query_weight
    assert len(given) == 1 + 2 * (4 + 1 + 2 + 1)  # nothing for what is None


WRONG: dict[str, tuple[Any, str]] = {
    "branch": (
        TEXT._replace(encoder=EncoderParameters((LAYER, LAYER._replace(attention=tuple(LAYER.attention))))),
        (
            "`encoder.layers.1.attention` of `parameters` must be MultiHeadParameters(query_weight, …); "
            "got an object of type tuple"
        ),
    ),
    "list of layers": (
        TEXT._replace(encoder=EncoderParameters([LAYER])),
        (
            "`encoder.layers` of `parameters` must be a tuple of EncoderLayerParameters(attention, …); "
            "got an object of type list"
        ),
    ),
    "one layer": (
        TEXT._replace(encoder=EncoderParameters(LAYER)),
        (
            "`encoder.layers` of `parameters` must be a tuple of EncoderLayerParameters(attention, …); "
            "got an object of type attnspec.EncoderLayerParameters"
        ),
    ),
    "no branch": (
        TEXT._replace(embedding=None),
        "`embedding` of `parameters` must be LinearParameters(weight, …); got None",
    ),
    "no leaf": (
        TEXT._replace(embedding_norm=LayerNormParameters(None)),
        "`embedding_norm.weight` of `parameters` must be given; got None",
    ),
    "tuple for a leaf": (
        TEXT._replace(positions=((1.0,),)),
        "`positions` of `parameters` must be an array or nested lists of numbers; got an object of type tuple",
    ),
}


@pytest.mark.parametrize(("tree", "text"), WRONG.values(), ids=WRONG)
def test_wrong_tree(tree: Any, text: str) -> None:
    with pytest.raises(TypeError) as caught:
        check_tree("parameters", tree, TextEncoderParameters)
    assert str(caught.value) == text


def test_wrong_shape_says_letters_and_sizes() -> None:
    text = "`hidden_weight` of `parameters` must have shape (E, F) = (7, 13); got (7, 12)"
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        check_leaf_shape("hidden_weight", (7, 12), (("E", 7), ("F", 13)), checks())


def test_letters_bind_from_leaf_to_leaf() -> None:
    given = {"layers.0.hidden_weight": Operand((7, 13), "float64"), "layers.0.hidden_bias": Operand((13,), "float64")}
    letters = {"hidden_weight": "E F", "hidden_bias": "F", "output_bias": "E"}
    assert check_leaf_shapes(given, letters, {"E": 7}, checks(), prefix="layers.0") == {"E": 7, "F": 13}
    given["layers.0.hidden_bias"] = Operand((12,), "float64")
    with pytest.raises(
        ValueError, match=r"^`layers.0.hidden_bias` of `tree` must have shape \(F,\) = \(13,\); got \(12,\)$"
    ):
        check_leaf_shapes(given, letters, {"E": 7}, checks(), "tree", "layers.0")


def test_unknown_sizes_are_kept_for_later() -> None:
    unknown, pending = object(), checks()
    sizes = check_leaf_shapes({"weight": Operand((unknown, 7), "float64")}, {"weight": "D D"}, {"D": 7}, pending)
    assert sizes == {"D": 7}
    assert [tuple(item) for item in pending.pending] == [
        ("equal", unknown, 7, "`weight` of `parameters` must have shape (D, D) = (7, 7); got (?, 7)")
    ]


def test_one_dtype() -> None:
    inputs, leaf = Operand((5, 7), "float32"), Operand((7,), "float32")
    assert check_leaf_dtypes({"inputs": inputs}, {"weight": leaf}) == "float32"
    text = "`weight` of `parameters` must have the dtype of `inputs`; got inputs float32 and weight float64"
    with pytest.raises(TypeError, match=f"^{text}$"):
        check_leaf_dtypes({"inputs": inputs}, {"weight": leaf._replace(dtype="float64")})
