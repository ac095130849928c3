"""One set of names, signatures and promises in the reference and in every backend."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from types import ModuleType

import pytest

import attnspec.contract
import attnspec.reference

FUNCTIONS = [
    "dot_product_attention",
    "attention_stages",
    "self_attention",
    "key_value_attention",
    "multi_head_attention",
]
SHARED = ["MultiHeadParameters", "causal", "sliding_window", "key_lengths", "query_lengths", "full"]
OPTIONS = ["mask", "bias", "scale", "softcap"]


def shape_of_signature(function: object) -> list[tuple[str, str, object]]:
    """What callers see of a signature: names, kinds and defaults; the annotations name each framework's own arrays."""
    return [(p.name, p.kind.name, p.default) for p in inspect.signature(function).parameters.values()]


def first_line(function: object) -> str:
    return inspect.getdoc(function).partition("\n")[0]


def test_all_is_the_documented_list(attn: ModuleType) -> None:
    assert attn.__all__ == FUNCTIONS + SHARED


@pytest.mark.parametrize("name", FUNCTIONS + SHARED)
def test_name_exists(attn: ModuleType, name: str) -> None:
    assert callable(getattr(attn, name))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_signature_is_the_reference_signature(attn: ModuleType, name: str) -> None:
    expected = shape_of_signature(getattr(attnspec.reference, name))
    assert shape_of_signature(getattr(attn, name)) == expected


@pytest.mark.parametrize("name", FUNCTIONS)
def test_tensors_come_first_and_options_are_keywords(name: str) -> None:
    parameters = shape_of_signature(getattr(attnspec.reference, name))
    keywords = [name for name, kind, _ in parameters if kind == "KEYWORD_ONLY"]
    defaults = {name: default for name, kind, default in parameters if kind == "KEYWORD_ONLY" and name in OPTIONS}
    assert [kind for _, kind, _ in parameters if kind != "KEYWORD_ONLY"] == ["POSITIONAL_OR_KEYWORD"] * (
        len(parameters) - len(keywords)
    )
    assert keywords[-len(OPTIONS) :] == OPTIONS
    assert defaults == dict.fromkeys(OPTIONS)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_docstring_begins_like_the_reference(attn: ModuleType, name: str) -> None:
    assert first_line(getattr(attn, name)) == first_line(getattr(attnspec.reference, name))


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("attn", ["torch", "tensorflow", "jax"], indirect=True)
def test_backend_docstring_names_its_differences(attn: ModuleType, name: str) -> None:
    doc = inspect.getdoc(getattr(attn, name))
    assert f"Arguments, shapes and errors: `attnspec.reference.{name}`." in doc
    assert "\nDifferences: " in doc


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("part", ["Args:", "Returns:"])
def test_reference_docstring_is_complete(name: str, part: str) -> None:
    assert f"\n{part}" in inspect.getdoc(getattr(attnspec.reference, name))


@pytest.mark.parametrize("name", SHARED)
def test_masks_and_parameters_are_the_same_objects_everywhere(attn: ModuleType, name: str) -> None:
    assert getattr(attn, name) is getattr(attnspec.contract, name)


def test_contract_exports() -> None:
    assert attnspec.contract.__all__ == [
        "AttentionStages",
        "Mask",
        "MultiHeadParameters",
        "causal",
        "full",
        "key_lengths",
        "query_lengths",
        "sliding_window",
    ]


def test_parameters_keep_their_order() -> None:
    assert attnspec.contract.MultiHeadParameters._fields == (
        "query_weight",
        "key_weight",
        "value_weight",
        "output_weight",
        "query_bias",
        "key_bias",
        "value_bias",
        "output_bias",
    )
    assert attnspec.contract.MultiHeadParameters._field_defaults == dict.fromkeys(
        ["query_bias", "key_bias", "value_bias", "output_bias"]
    )


def test_stages_keep_their_order() -> None:
    assert attnspec.contract.AttentionStages._fields == ("scores", "logits", "weights", "logsumexp", "output")


def test_protocol_for_the_type_checker_names_everything() -> None:
    tree = ast.parse(Path(__file__).with_name("protocol_check.py").read_text(encoding="utf-8"))
    [protocol] = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    assert {node.name for node in protocol.body if isinstance(node, ast.FunctionDef)} == {*FUNCTIONS, *SHARED}
    checked = {node.value.attr for node in tree.body if isinstance(node, ast.AnnAssign)}
    assert checked == {"reference", "torch", "tensorflow", "jax"}
