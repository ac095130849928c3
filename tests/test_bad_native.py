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

from attnspec.contract import MultiHeadParameters, causal, full, key_lengths, query_lengths, sliding_window

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
    "self_attention": {
        "inputs": ONES,
        "query_weight": np.ones((7, 3)),
        "key_weight": np.ones((7, 3)),
        "value_weight": np.ones((7, 3)),
    },
    "key_value_attention": {"query": np.ones((2, 7)), "keys": ONES, "values": ONES},
    "multi_head_attention": {"query": ONES, "key": ONES, "value": ONES},
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
    options = {"parameters": PARAMETERS, "num_heads": 1} if function == "multi_head_attention" else {}
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


@pytest.mark.parametrize("option", ["bias", "scale", "softcap"])
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


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("query", lambda attn, make: attn.dot_product_attention([[1.0], [make(1.0)]], [[1.0]], [[1.0]])),
        ("bias", lambda attn, make: attn.dot_product_attention([[1.0]], [[1.0]], [[1.0]], bias=[[make(1.0)]])),
        ("mask", lambda attn, make: attn.dot_product_attention([[1.0]], [[1.0]], [[1.0]], mask=[[make(True)]])),
        ("key_lengths", lambda attn, make: attn.key_lengths([1, make(1)])),
        ("offset` of `causal", lambda attn, make: attn.causal((make(1),))),
    ],
    ids=["query", "bias", "mask", "lengths", "offset"],
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
        ],
        ids=["key", "bias", "scale", "mask"],
    )
    def test_other_device_is_refused(self, name: str, options: Any) -> None:
        given = {"key": self.query} | options(lambda values: tensor("torch", values).to("meta"))
        if name == "key":
            given["key"] = given["key"].double()
        with pytest.raises(ValueError, match="device") as caught:
            self.attn.dot_product_attention(self.query, value=self.query, **given)
        assert str(caught.value) == (f"`{name}` must be on the device of `query`; got query on cpu and {name} on meta")

    @pytest.mark.parametrize("name", ["query", "bias", "mask"])
    def test_sparse_tensor_is_refused(self, name: str) -> None:
        query = self.query.to_sparse() if name == "query" else self.query
        sparse = {"bias": Maker("torch")(5, 5), "mask": tensor("torch", np.ones((5, 5), bool))}
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
        ],
        ids=["scale", "bias", "mask"],
    )
    def test_traced_options_are_checked_while_tracing(self, error: Any, text: str, options: dict[str, Any]) -> None:
        attn = frameworks.load("jax")
        import jax

        attend = jax.jit(lambda options: attn.dot_product_attention(self.F8, self.F8, self.F8, **options))
        with pytest.raises(error) as caught:
            attend(options)
        assert str(caught.value) == text
