"""What only a framework can get wrong: foreign tensors, other devices and layouts, unknown sizes, lost precision."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType
from typing import Any

import frameworks
import numpy as np
import pytest
from bad_input import FLOATING, Maker
from frameworks import name_of, tensor

from attnspec.contract import (
    Dropout,
    MultiHeadParameters,
    alibi,
    causal,
    chunked,
    full,
    key_lengths,
    predicate,
    prefix,
    query_lengths,
    relative_position_bias,
    segments,
    sliding_window,
)

NATIVE = {
    "reference": "a NumPy array",
    "torch": "a torch.Tensor, a NumPy array",
    "tensorflow": "a tf.Tensor, a NumPy array",
    "jax": "a jax.Array, a NumPy array",
}
DESCRIBED = {
    "torch": "a torch tensor (Tensor)",
    "tensorflow": "a tensorflow tensor (EagerTensor)",
    "jax": "a jax array (ArrayImpl)",
}
ONES = np.ones((2, 5, 7))
OPERANDS: dict[str, dict[str, Any]] = {
    "dot_product_attention": {"query": ONES, "key": ONES, "value": ONES},
    "attention_stages": {"query": ONES, "key": ONES, "value": ONES},
    "attention_with_logsumexp": {"query": ONES, "key": ONES, "value": ONES},
    "self_attention": {
        "inputs": ONES,
        "query_weight": np.ones((7, 3)),
        "key_weight": np.ones((7, 3)),
        "value_weight": np.ones((7, 3)),
    },
    "key_value_attention": {"query": np.ones((2, 7)), "keys": ONES, "values": ONES},
    "multi_head_attention": {"query": ONES, "key": ONES, "value": ONES},
    "rotary_embedding": {"inputs": np.ones((2, 5, 8)), "positions": np.arange(5), "frequencies": np.ones(4)},
    "rotate_pairs": {"inputs": np.ones((2, 5, 8)), "cosines": np.ones((5, 4)), "sines": np.ones((5, 4))},
    "sinusoidal_positions": {"positions": np.arange(5)},
}
OPTIONS: dict[str, dict[str, Any]] = {
    "rotary_embedding": {"pairing": "half_split"},
    "rotate_pairs": {"pairing": "interleaved"},
    "sinusoidal_positions": {"size": 8},
}
PARAMETERS = MultiHeadParameters(*[np.ones((7, 7))] * 4, *[np.ones(7)] * 4)

INSIDE = {
    "mask": ("mask", lambda make: make(np.ones((5, 5), bool))),
    "mask and causal": ("mask", lambda make: causal() & make(np.ones((5, 5), bool))),
    "array or mask": ("mask", lambda make: ~(make(np.ones((5, 5), bool)) | full())),
    "key lengths": ("key_lengths", lambda make: key_lengths(make([1, 2]))),
    "query lengths": ("query_lengths", lambda make: full() & query_lengths(make([1, 2]))),
    "offset": ("offset` of `causal", lambda make: causal(make([1, 2]))),
    "window's offset": ("offset` of `sliding_window", lambda make: sliding_window(1, offset=make([1, 2]))),
    "chunks' offset": ("offset` of `chunked", lambda make: chunked(2, make([1, 2]))),
    "prefix": ("lengths` of `prefix", lambda make: ~prefix(make([1, 2]))),
    "prefix's offset": ("offset` of `prefix", lambda make: prefix(2, make([1, 2]))),
    "query's segments": ("query_ids` of `segments", lambda make: segments(make([0] * 5), [0] * 5)),
    "keys' segments": ("key_ids` of `segments", lambda make: full() & segments([0] * 5, make([[0] * 5] * 2))),
}
INSIDE_BIAS = {
    "sum": ("bias", lambda make: alibi(symmetric=True) + make(np.ones((5, 5)))),
    "sum, first": ("bias", lambda make: make(np.ones((5, 5))) + alibi(symmetric=True)),
    "slopes": ("slopes` of `alibi", lambda make: alibi(make(1.0), symmetric=True)),
    "slopes in a sum": ("slopes` of `alibi", lambda make: np.ones((5, 5)) + alibi(make(1.0), symmetric=False)),
    "alibi's offset": ("offset` of `alibi", lambda make: alibi(symmetric=True, offset=make([1, 2]))),
    "table": (
        "table` of `relative_position_bias",
        lambda make: relative_position_bias(make(np.ones(4)), bidirectional=False),
    ),
    "table's offset": (
        "offset` of `relative_position_bias",
        lambda make: relative_position_bias([0.0] * 4, bidirectional=False, offset=make([1, 2])),
    ),
}


def foreign_to(attn: ModuleType) -> str:
    return {"reference": "torch", "torch": "jax", "jax": "tensorflow", "tensorflow": "torch"}[name_of(attn)]


def refusal(attn: ModuleType, name: str, foreign: str) -> str:
    return f"`{name}` must be {NATIVE[name_of(attn)]} or Python numbers; got {DESCRIBED[foreign]}"


@pytest.mark.parametrize("foreign", ["torch", "tensorflow", "jax"])
def test_tensor_of_every_other_framework_is_refused_by_name(attn: ModuleType, foreign: str) -> None:
    if foreign == name_of(attn):
        foreign = foreign_to(attn)
    frameworks.load(foreign)
    with pytest.raises(TypeError) as caught:
        attn.dot_product_attention(tensor(foreign, ONES), ONES, ONES)
    assert str(caught.value) == refusal(attn, "query", foreign)


@pytest.mark.parametrize(
    ("function", "argument"), [(function, argument) for function, given in OPERANDS.items() for argument in given]
)
def test_foreign_tensor_is_refused_for_each_argument(attn: ModuleType, function: str, argument: str) -> None:
    foreign = foreign_to(attn)
    frameworks.load(foreign)
    given = OPERANDS[function] | {argument: tensor(foreign, OPERANDS[function][argument])}
    options = OPTIONS.get(function, {})
    options |= {"parameters": PARAMETERS, "num_heads": 1} if function == "multi_head_attention" else {}
    with pytest.raises(TypeError) as caught:
        getattr(attn, function)(**given, **options)
    assert str(caught.value) == refusal(attn, argument, foreign)


@pytest.mark.parametrize("field", MultiHeadParameters._fields)
def test_foreign_tensor_is_refused_for_each_parameter(attn: ModuleType, field: str) -> None:
    foreign = foreign_to(attn)
    frameworks.load(foreign)
    parameters = PARAMETERS._replace(**{field: tensor(foreign, getattr(PARAMETERS, field))})
    with pytest.raises(TypeError) as caught:
        attn.multi_head_attention(ONES, ONES, ONES, parameters, num_heads=1)
    assert str(caught.value) == refusal(attn, field, foreign)


@pytest.mark.parametrize("option", ["bias", "scale", "softcap", "sinks"])
def test_foreign_tensor_is_refused_for_each_option(attn: ModuleType, option: str) -> None:
    foreign = foreign_to(attn)
    frameworks.load(foreign)
    value = tensor(foreign, np.ones((5, 5)) if option == "bias" else 2.0, "float64")
    with pytest.raises(TypeError) as caught:
        attn.dot_product_attention(ONES, ONES, ONES, **{option: value})
    assert str(caught.value) == refusal(attn, option, foreign)


@pytest.mark.parametrize(("name", "make"), INSIDE.values(), ids=INSIDE)
def test_foreign_tensor_is_refused_inside_masks(attn: ModuleType, name: str, make: Any) -> None:
    foreign = foreign_to(attn)
    frameworks.load(foreign)
    mask = make(lambda values: tensor(foreign, values))
    with pytest.raises(TypeError) as caught:
        attn.dot_product_attention(ONES, ONES, ONES, mask=mask)
    assert str(caught.value) == refusal(attn, name, foreign)


@pytest.mark.parametrize(("name", "make"), INSIDE_BIAS.values(), ids=INSIDE_BIAS)
def test_foreign_tensor_is_refused_inside_biases(attn: ModuleType, name: str, make: Any) -> None:
    foreign = foreign_to(attn)
    frameworks.load(foreign)
    bias = make(lambda values: tensor(foreign, values))
    with pytest.raises(TypeError) as caught:
        attn.dot_product_attention(ONES, ONES, ONES, bias=bias)
    assert str(caught.value) == refusal(attn, name, foreign)


def test_foreign_tensor_is_refused_as_what_is_kept(attn: ModuleType) -> None:
    foreign = foreign_to(attn)
    frameworks.load(foreign)
    dropout = Dropout(0.5, tensor(foreign, np.ones((5, 5), bool)))
    with pytest.raises(TypeError) as caught:
        attn.dot_product_attention(ONES, ONES, ONES, dropout=dropout)
    assert str(caught.value) == refusal(attn, "keep` of `Dropout", foreign)


@pytest.mark.parametrize("argument", ["outputs[1]", "logsumexps[0]", "sinks"])
def test_foreign_tensor_is_refused_among_slices(attn: ModuleType, argument: str) -> None:
    foreign = foreign_to(attn)
    frameworks.load(foreign)
    given = {"outputs[0]": ONES, "outputs[1]": ONES, "logsumexps[0]": ONES[..., 0], "sinks": np.array(1.0)}
    given |= {argument: tensor(foreign, given[argument], "float64")}
    with pytest.raises(TypeError) as caught:
        attn.merge_attention(
            [given["outputs[0]"], given["outputs[1]"]], [given["logsumexps[0]"], ONES[..., 0]], sinks=given["sinks"]
        )
    assert str(caught.value) == refusal(attn, argument, foreign)


@pytest.mark.parametrize("mask", [lambda mask: mask, lambda mask: causal() & ~mask], ids=["alone", "inside"])
@pytest.mark.parametrize("returned", ["foreign", "numpy"])
def test_a_predicate_must_return_what_it_is_given(attn: ModuleType, mask: Any, returned: str) -> None:
    foreign = foreign_to(attn)
    frameworks.load(foreign)
    if returned == "numpy" and name_of(attn) == "reference":
        returned = "foreign"
    pairs = np.ones((5, 5), bool) if returned == "numpy" else tensor(foreign, np.ones((5, 5), bool))
    with pytest.raises(TypeError) as caught:
        attn.dot_product_attention(ONES, ONES, ONES, mask=mask(predicate("mine", lambda _query, _key: pairs)))
    got = "an object of type numpy.ndarray" if returned == "numpy" else DESCRIBED[foreign]
    assert str(caught.value) == (
        f"`function` of `predicate` 'mine' must return an array of the framework whose indices it is given; got {got}"
    )


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("query", lambda attn, make: attn.dot_product_attention([[1.0], [make(1.0)]], [[1.0]], [[1.0]])),
        ("bias", lambda attn, make: attn.dot_product_attention([[1.0]], [[1.0]], [[1.0]], bias=[[make(1.0)]])),
        ("mask", lambda attn, make: attn.dot_product_attention([[1.0]], [[1.0]], [[1.0]], mask=[[make(True)]])),
        ("key_lengths", lambda attn, make: attn.key_lengths([1, make(1)])),
        ("offset` of `causal", lambda attn, make: attn.causal((make(1),))),
        ("key_ids` of `segments", lambda attn, make: attn.segments([1], [make(1)])),
        ("keep` of `Dropout", lambda attn, make: attn.Dropout(0.5, [[make(True)]])),
        ("sinks", lambda attn, make: attn.dot_product_attention([[1.0]], [[1.0]], [[1.0]], sinks=[make(1.0)])),
        (
            "slopes` of `alibi",
            lambda attn, make: attn.dot_product_attention(
                [[1.0]], [[1.0]], [[1.0]], bias=attn.alibi([make(1.0)], symmetric=True)
            ),
        ),
        ("outputs[0]", lambda attn, make: attn.merge_attention([[[make(1.0)]]], [[1.0]])),
        ("positions", lambda attn, make: attn.sinusoidal_positions([make(1)], 8)),
    ],
    ids=[
        "query",
        "bias",
        "mask",
        "lengths",
        "offset",
        "segments",
        "keep",
        "sinks",
        "slopes",
        "outputs",
        "positions",
    ],
)
@pytest.mark.parametrize("inside", ["torch", "tensorflow", "jax"])
def test_tensors_inside_lists_are_refused(attn: ModuleType, name: str, call: Any, inside: str) -> None:
    frameworks.load(inside)
    with pytest.raises(TypeError) as caught:
        call(attn, lambda value: tensor(inside, value))
    assert str(caught.value) == (
        f"`{name}` must be an array or nested lists of numbers; got a list that holds {DESCRIBED[inside]}"
    )


class TestTorch:
    @pytest.fixture(autouse=True)
    def _load(self) -> None:
        self.attn = frameworks.load("torch")
        self.query = Maker("torch")(5, 7)

    @pytest.mark.parametrize(
        ("name", "options"),
        [
            ("key", lambda move: {"key": move([[0.0] * 7] * 5)}),
            ("bias", lambda move: {"bias": move([[0.0] * 5] * 5)}),
            ("scale", lambda move: {"scale": move(1.0)}),
            ("mask", lambda move: {"mask": full() & move([[True] * 5] * 5)}),
            ("sinks", lambda move: {"sinks": move(1.0)}),
            ("query_ids` of `segments", lambda move: {"mask": segments(move([0] * 5), [0] * 5)}),
            ("slopes` of `alibi", lambda move: {"bias": alibi(move(1.0), symmetric=True)}),
            ("keep` of `Dropout", lambda move: {"dropout": Dropout(0.5, move([[True] * 5] * 5))}),
        ],
        ids=["key", "bias", "scale", "mask", "sinks", "segments", "slopes", "keep"],
    )
    def test_other_device_is_refused(self, name: str, options: Any) -> None:
        given = {"key": self.query} | options(lambda values: tensor("torch", values).to("meta"))
        if name == "key":
            given["key"] = given["key"].double()
        with pytest.raises(ValueError, match="device") as caught:
            self.attn.dot_product_attention(self.query, value=self.query, **given)
        assert str(caught.value) == (
            f"`{name}` must be on the device of `query`; got query on cpu and {name.replace('`', '')} on meta"
        )

    @pytest.mark.parametrize(
        ("other", "name", "call"),
        [
            (
                "inputs",
                "positions",
                lambda attn, x, move: attn.rotary_embedding(x, move(x[:, 0]), pairing="half_split"),
            ),
            ("outputs[0]", "outputs[1]", lambda attn, x, move: attn.merge_attention([x, move(x)], [x[:, 0]] * 2)),
            (
                "outputs[0]",
                "logsumexps[1]",
                lambda attn, x, move: attn.merge_attention([x, x], [x[:, 0], move(x[:, 0])]),
            ),
            (
                "outputs[0]",
                "sinks",
                lambda attn, x, move: attn.merge_attention([x], [x[:, 0]], sinks=move(x[0, 0])),
            ),
            (
                "inputs",
                "frequencies",
                lambda attn, x, move: attn.rotary_embedding(x, [0] * 5, pairing="half_split", frequencies=move(x[0])),
            ),
        ],
        ids=["positions", "outputs", "logsumexps", "sinks", "frequencies"],
    )
    def test_other_device_is_refused_beside_others(self, other: str, name: str, call: Any) -> None:
        with pytest.raises(ValueError, match="device") as caught:
            call(self.attn, Maker("torch")(5, 8), lambda value: value.to("meta"))
        assert str(caught.value) == (
            f"`{name}` must be on the device of `{other}`; got {other} on cpu and {name} on meta"
        )

    @pytest.mark.parametrize("name", ["query", "bias", "mask", "sinks"])
    def test_sparse_tensor_is_refused(self, name: str) -> None:
        query = self.query.to_sparse() if name == "query" else self.query
        sparse = {"bias": Maker("torch")(5, 5), "mask": tensor("torch", np.ones((5, 5), bool))}
        sparse |= {"sinks": Maker("torch")(1)}
        options = {name: sparse[name].to_sparse()} if name in sparse else {}
        with pytest.raises(TypeError) as caught:
            self.attn.dot_product_attention(query, self.query, self.query, **options)
        assert str(caught.value) == f"`{name}` must be a dense torch.Tensor; got a sparse one"

    def test_a_compiled_call_says_the_same(self) -> None:
        import torch

        torch._dynamo.reset()
        attend = torch.compile(self.attn.dot_product_attention, backend="eager")
        with pytest.raises(ValueError, match="size") as caught:
            attend(self.query, Maker("torch")(11, 3), Maker("torch")(11, 3))
        assert str(caught.value) == (
            "`key` must have the size (axis -1) of `query`; got shapes query (5, 7) and key (11, 3)"
        )


class TestJax:
    F4, F8 = np.zeros((5, 7), np.float32), np.zeros((5, 7))
    ROUNDED = (
        "is a NumPy float64 array, which JAX would round to float32: enable 64-bit with "
        "jax.config.update('jax_enable_x64', True), or convert it to float32 yourself"
    )

    @pytest.mark.parametrize(
        ("query", "key", "value", "bias", "text"),
        [
            (F8, F4, F4, None, f"`query` {ROUNDED}"),
            (F4, F4, list(F8), None, f"`value` {ROUNDED}"),
            (F4, F4, F4, np.zeros((5, 5)), f"`bias` {ROUNDED}"),
            (F4, F4.astype(complex), F4, None, f"`key` {FLOATING}; got complex128"),
            (F4, F4, F4.astype(np.int64), None, f"`value` {FLOATING}; got int64"),
        ],
        ids=["query", "value in a list", "bias", "complex", "int"],
    )
    def test_nothing_is_rounded_without_64_bit(self, query: Any, key: Any, value: Any, bias: Any, text: str) -> None:
        attn = frameworks.load("jax")
        import jax

        with jax.enable_x64(False), pytest.raises(TypeError) as caught:
            attn.dot_product_attention(query, key, value, bias=bias)
        assert str(caught.value) == text

    @pytest.mark.parametrize("positions", [5, [0, 1], np.arange(3)], ids=["number", "list", "array"])
    def test_sinusoids_are_not_rounded_without_64_bit(self, positions: Any) -> None:
        attn = frameworks.load("jax")
        import jax

        with jax.enable_x64(False), pytest.raises(TypeError) as caught:
            attn.sinusoidal_positions(positions, 8, dtype="float64")
        assert str(caught.value) == (
            "`dtype` float64 would be rounded to float32 by JAX: enable 64-bit with "
            "jax.config.update('jax_enable_x64', True), or ask for float32"
        )

    def test_nothing_is_rounded_in_a_fresh_process(self) -> None:
        frameworks.load("jax")
        code = (
            "import numpy as np, attnspec.jax as attn\n"
            "print(attn.dot_product_attention([[1.0]], [[2.0]], [[3.0]], scale=np.float64(0.5)).dtype)\n"
            "try: attn.dot_product_attention(np.zeros((5, 7)), np.zeros((5, 7)), np.zeros((5, 7)))\n"
            "except TypeError as error: print(error)"
        )
        finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert finished.stdout.splitlines() == ["float32", f"`query` {self.ROUNDED}"]

    @pytest.mark.parametrize(
        ("error", "text", "options"),
        [
            (TypeError, "`scale` must be a number or a tensor without axes; got dtype bool", {"scale": True}),
            (ValueError, "each axis of `bias` must be 1 or that of (5, 5); got shape (5, 7)", {"bias": F8}),
            (ValueError, "`mask` must have 2 axes, up to (5, 5); got shape (5,)", {"mask": np.ones(5, bool)}),
            (
                ValueError,
                "`sinks` must have one number for the one head, shape (); got shape (2,)",
                {"sinks": np.zeros(2)},
            ),
            (
                ValueError,
                "each axis of `keep` of `Dropout` must be 1 or that of (5, 5); got shape (5, 7)",
                {"dropout": Dropout(0.5, np.ones((5, 7), bool))},
            ),
            (
                ValueError,
                "`slopes` of `alibi` must have one number for the one head, shape (); got shape (2,)",
                {"bias": alibi(np.zeros(2), symmetric=True)},
            ),
            (
                ValueError,
                "`key_ids` of `segments` must have shape (5,); got shape (7,)",
                {"mask": segments([0] * 5, [0] * 7)},
            ),
        ],
        ids=["scale", "bias", "mask", "sinks", "keep", "slopes", "segments"],
    )
    def test_traced_options_are_checked_while_tracing(self, error: Any, text: str, options: dict[str, Any]) -> None:
        attn = frameworks.load("jax")
        import jax

        attend = jax.jit(lambda options: attn.dot_product_attention(self.F8, self.F8, self.F8, **options))
        with pytest.raises(error) as caught:
            attend(options)
        assert str(caught.value) == text

    @pytest.mark.parametrize(
        ("text", "value", "options"),
        [
            (
                "`rate` of `Dropout` must be a Python number; got a jax array",
                0.5,
                lambda rate: {"dropout": Dropout(rate)},
            ),
            ("`size` of `chunked` must be an int; got ", 2, lambda size: {"mask": chunked(size)}),
            (
                "`symmetric` of `alibi` must be True or False; got ",
                True,
                lambda symmetric: {"bias": alibi(symmetric=symmetric)},
            ),
            (
                "`max_distance` of `relative_position_bias` must be an int; got ",
                8,
                lambda distance: {"bias": relative_position_bias([0.0] * 4, bidirectional=True, max_distance=distance)},
            ),
        ],
        ids=["rate", "size", "symmetric", "max_distance"],
    )
    def test_what_must_be_static_is_refused_traced(self, text: str, value: Any, options: Any) -> None:
        attn = frameworks.load("jax")
        import jax

        attend = jax.jit(lambda value: attn.dot_product_attention(self.F8, self.F8, self.F8, **options(value)))
        with pytest.raises(TypeError) as caught:
            attend(value)
        assert str(caught.value).startswith(text)
