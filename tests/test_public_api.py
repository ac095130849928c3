"""One set of names, signatures and promises in the reference and in every backend."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import attnspec.contract
import attnspec.reference
from attnspec.contract.tree_classes import TREE_CLASSES
from attnspec.contract.trees import Tree

ATTENTIONS = [
    "dot_product_attention",
    "attention_stages",
    "self_attention",
    "key_value_attention",
    "multi_head_attention",
]
POSITIONS = ["rotary_embedding", "rotate_pairs", "sinusoidal_positions"]
FUNCTIONS = [*ATTENTIONS, "attention_with_logsumexp", "merge_attention", *POSITIONS]
MASKS = [
    "causal",
    "sliding_window",
    "key_lengths",
    "query_lengths",
    "segments",
    "prefix",
    "chunked",
    "predicate",
    "full",
]
SHARED = [
    *["MultiHeadParameters", "AttentionStages", "PartialAttention", "Dropout"],
    *[*MASKS, "mask_to_json", "mask_from_json", "alibi", "alibi_slopes", "relative_position_bias"],
]
VJPS = {
    "dot_product_attention_vjp": "dot_product_attention",
    "self_attention_vjp": "self_attention",
    "key_value_attention_vjp": "key_value_attention",
    "multi_head_attention_vjp": "multi_head_attention",
    "rotary_embedding_vjp": "rotary_embedding",
}
"""The gradients, which only the reference has, and the operations that they belong to."""

ALL = [
    *["dot_product_attention", "attention_stages", "attention_with_logsumexp", "merge_attention"],
    *["self_attention", "key_value_attention", "multi_head_attention"],
    *["MultiHeadParameters", "AttentionStages", "PartialAttention"],
    *[*MASKS, "mask_to_json", "mask_from_json", "alibi", "alibi_slopes", "relative_position_bias", "Dropout"],
    *POSITIONS,
]
BESIDE = [
    *["empty_cache", "cached_multi_head_attention", "hard_attention", "additive_attention"],
    *["bilinear_attention", "cosine_attention", "attention_gate", "gated_input", "gated_attention"],
    *["gated_attention_cell", "gated_attention_cell_stages", "layer_norm", "feed_forward", "encoder_layer"],
    *["encoder", "decoder_layer", "decoder", "embedding", "add_sinusoidal_positions"],
    *["add_learned_positions", "mean_pooling", "text_encoder", "sequence_classifier", "transformer"],
    *["start_decoding", "decoder_step", "greedy_decode"],
]
"""The operations beside the core."""
TREES = [
    *["Rotary", "LinearParameters", "AdditiveParameters", "GatedAttentionParameters"],
    *["GatedAttentionCellParameters", "LayerNormParameters", "FeedForwardParameters"],
    *["EncoderLayerParameters", "DecoderLayerParameters", "EncoderParameters", "DecoderParameters"],
    *["TextEncoderParameters", "SequenceClassifierParameters", "TransformerParameters", "CellState"],
    *["CellResult", "CellStages", "EncoderLayerDropout", "DecoderLayerDropout", "TextEncoderDropout"],
    *["TransformerDropout", "KeyValueCache", "CachedAttention", "DecoderCache", "DecoderStep"],
]
"""Parameters, results and options of those."""
LAYERS = [
    *["Layer", "DotProductAttention", "SelfAttention", "KeyValueAttention", "MultiHeadAttention"],
    *["HardAttention", "AdditiveAttention", "GatedAttention", "GatedAttentionCell", "SinusoidalPositions"],
    *["LearnedPositions", "Linear", "LayerNorm", "FeedForward", "EncoderLayer", "DecoderLayer", "Encoder"],
    *["Decoder", "TextEncoder", "SequenceClassifier", "Transformer", "from_native", "to_native"],
]
"""What only the backends have."""
OTHER_VJPS = [
    *["hard_attention_vjp", "additive_attention_vjp", "bilinear_attention_vjp", "cosine_attention_vjp"],
    *["attention_gate_vjp", "gated_input_vjp", "gated_attention_vjp", "gated_attention_cell_vjp"],
    *["layer_norm_vjp", "feed_forward_vjp", "encoder_layer_vjp", "encoder_vjp", "decoder_layer_vjp"],
    *["decoder_vjp", "embedding_vjp", "add_learned_positions_vjp", "mean_pooling_vjp", "text_encoder_vjp"],
    *["sequence_classifier_vjp", "transformer_vjp"],
]
"""Their gradients, which only the reference has."""
OPTIONS = ["mask", "bias", "scale", "softcap", "sinks", "dropout"]


def shape_of_signature(function: object) -> list[tuple[str, str, object]]:
    """What callers see of a signature: names, kinds and defaults; the annotations name each framework's own arrays."""
    return [(p.name, p.kind.name, p.default) for p in inspect.signature(function).parameters.values()]


REQUIRED = inspect.Parameter.empty


def first_line(function: object) -> str:
    return inspect.getdoc(function).partition("\n")[0]


def test_all_is_the_documented_list(attn: ModuleType) -> None:
    own = ["run_layer", "AttentionGradients", *VJPS, *OTHER_VJPS] if attn is attnspec.reference else LAYERS
    assert len(attn.__all__) == len({*attn.__all__})
    assert {*attn.__all__} == {*ALL, *BESIDE, *TREES, *own}
    assert {*ALL} == {*FUNCTIONS, *SHARED}


@pytest.mark.parametrize("name", BESIDE)
def test_operations_beside_the_core_have_the_reference_signature(attn: ModuleType, name: str) -> None:
    expected = shape_of_signature(getattr(attnspec.reference, name))
    assert shape_of_signature(getattr(attn, name)) == expected


@pytest.mark.parametrize("name", BESIDE)
def test_operations_beside_the_core_are_described_alike(attn: ModuleType, name: str) -> None:
    assert first_line(getattr(attn, name)) == first_line(getattr(attnspec.reference, name))


@pytest.mark.parametrize("name", TREES)
def test_trees_are_the_same_classes_everywhere(attn: ModuleType, name: str) -> None:
    assert getattr(attn, name) is getattr(attnspec.contract, name)


@pytest.mark.parametrize("name", FUNCTIONS + SHARED)
def test_name_exists(attn: ModuleType, name: str) -> None:
    assert callable(getattr(attn, name))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_signature_is_the_reference_signature(attn: ModuleType, name: str) -> None:
    expected = shape_of_signature(getattr(attnspec.reference, name))
    assert shape_of_signature(getattr(attn, name)) == expected


@pytest.mark.parametrize("name", ["attention_with_logsumexp", *ATTENTIONS])
def test_tensors_come_first_and_options_are_keywords(name: str) -> None:
    parameters = shape_of_signature(getattr(attnspec.reference, name))
    keywords = [name for name, kind, _ in parameters if kind == "KEYWORD_ONLY"]
    # A sink enters once, in the merge; only what projects heads itself can turn them before the scores.
    options = [option for option in OPTIONS if (name, option) != ("attention_with_logsumexp", "sinks")]
    if name == "multi_head_attention":
        options.insert(-1, "rotary")
    defaults = {name: default for name, kind, default in parameters if kind == "KEYWORD_ONLY" and name in options}
    assert [kind for _, kind, _ in parameters if kind != "KEYWORD_ONLY"] == ["POSITIONAL_OR_KEYWORD"] * (
        len(parameters) - len(keywords)
    )
    assert keywords[-len(options) :] == options
    assert defaults == dict.fromkeys(options)


@pytest.mark.parametrize(
    ("name", "positional", "keywords"),
    [
        ("merge_attention", ["outputs", "logsumexps"], {"sinks": None}),
        (
            "rotary_embedding",
            ["inputs", "positions"],
            {"pairing": REQUIRED, "base": None, "rotary_dim": None, "frequencies": None},
        ),
        ("rotate_pairs", ["inputs", "cosines", "sines"], {"pairing": REQUIRED}),
        ("sinusoidal_positions", ["positions", "size"], {"base": 10000.0, "dtype": None}),
        ("causal", ["offset"], {}),
        ("sliding_window", ["left", "right", "offset"], {}),
        ("key_lengths", ["n"], {}),
        ("query_lengths", ["n"], {}),
        ("segments", ["query_ids", "key_ids"], {}),
        ("prefix", ["lengths", "offset"], {}),
        ("chunked", ["size", "offset"], {}),
        ("predicate", ["name", "function"], {}),
        ("full", [], {}),
        ("alibi", ["slopes"], {"symmetric": REQUIRED, "offset": None}),
        ("alibi_slopes", ["num_heads"], {}),
        ("relative_position_bias", ["table"], {"bidirectional": REQUIRED, "max_distance": 128, "offset": None}),
        ("Dropout", ["rate", "keep"], {}),
        ("mask_to_json", ["mask"], {}),
        ("mask_from_json", ["data", "predicates"], {}),
    ],
)
def test_signature(name: str, positional: list[str], keywords: dict[str, object]) -> None:
    parameters = shape_of_signature(getattr(attnspec.reference, name))
    assert [found for found, kind, _ in parameters if kind == "POSITIONAL_OR_KEYWORD"] == positional
    assert {found: default for found, kind, default in parameters if kind == "KEYWORD_ONLY"} == keywords


@pytest.mark.parametrize(
    ("name", "defaults"),
    [
        ("causal", {"offset": None}),
        ("sliding_window", {"left": None, "right": None, "offset": None}),
        ("prefix", {"offset": None}),
        ("chunked", {"offset": None}),
        ("alibi", {"slopes": None, "offset": None}),
        ("Dropout", {"keep": None}),
        ("mask_from_json", {"predicates": None}),
    ],
)
def test_defaults_of_masks_and_biases(name: str, defaults: dict[str, object]) -> None:
    parameters = shape_of_signature(getattr(attnspec.reference, name))
    assert {found: default for found, _, default in parameters if default is not REQUIRED} == defaults


@pytest.mark.parametrize("name", FUNCTIONS)
def test_docstring_begins_like_the_reference(attn: ModuleType, name: str) -> None:
    assert first_line(getattr(attn, name)) == first_line(getattr(attnspec.reference, name))


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("attn", ["torch", "tensorflow", "jax"], indirect=True)
def test_backend_docstring_names_its_differences(attn: ModuleType, name: str) -> None:
    doc = inspect.getdoc(getattr(attn, name))
    assert f"Arguments, shapes and errors: `attnspec.reference.{name}`." in doc
    assert "\nDifferences: " in doc


@pytest.mark.parametrize(("name", "operation"), VJPS.items(), ids=VJPS.keys())
def test_gradients_take_what_their_operation_takes(name: str, operation: str) -> None:
    given = shape_of_signature(getattr(attnspec.reference, name))
    expected = shape_of_signature(getattr(attnspec.reference, operation))
    expected = [parameter for parameter in expected if (operation, parameter[0]) != ("rotary_embedding", "inputs")]
    added = (
        ["output_cotangent", "logsumexp_cotangent"] if operation == "dot_product_attention" else ["output_cotangent"]
    )
    assert [parameter for parameter in given if parameter[0] not in added] == expected
    assert [parameter[0] for parameter in given if parameter[0] in added] == added
    places = [parameter[0] for parameter in given if parameter[1] == "POSITIONAL_OR_KEYWORD"]
    assert places[-1] == "output_cotangent"  # after the tensors of the operation


@pytest.mark.parametrize("name", ["AttentionGradients", *VJPS])
@pytest.mark.parametrize("attn", ["torch", "tensorflow", "jax"], indirect=True)
def test_gradients_in_closed_form_are_of_the_reference_only(attn: ModuleType, name: str) -> None:
    assert not hasattr(attn, name)


@pytest.mark.parametrize("name", [*FUNCTIONS, *VJPS])
@pytest.mark.parametrize("part", ["Args:", "Returns:"])
def test_reference_docstring_is_complete(name: str, part: str) -> None:
    assert f"\n{part}" in inspect.getdoc(getattr(attnspec.reference, name))


@pytest.mark.parametrize("name", SHARED)
def test_masks_and_parameters_are_the_same_objects_everywhere(attn: ModuleType, name: str) -> None:
    assert getattr(attn, name) is getattr(attnspec.contract, name)


def test_contract_exports() -> None:
    own = {"AttentionGradients", "Bias", "Mask"}
    shared = {name for name in ALL if name in dir(attnspec.contract)}
    layers = {"LayerConfig", "ParameterSpec", "initial_state", "StateError", "read_state", "save_state"}
    configs = {f"{name}Config" for name in LAYERS[1:-2]}
    expected = own | shared | {*TREES} | layers | configs | {"InterchangeError"}
    assert {*attnspec.contract.__all__} == expected
    assert len(attnspec.contract.__all__) == len(expected)


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


def test_results_with_names_keep_their_order() -> None:
    assert attnspec.contract.PartialAttention._fields == ("output", "logsumexp")
    assert attnspec.contract.AttentionGradients._fields == ("query", "key", "value", "bias", "sinks")


def test_every_mask_and_bias_that_a_user_can_make_is_a_tree() -> None:
    """What is not in `TREE_CLASSES` would be opaque to `jit`, `vmap` and `tf.function`."""
    made = [
        attnspec.reference.causal() & ~attnspec.reference.full() | np.ones((2, 2), bool),
        attnspec.reference.alibi(symmetric=True) + np.zeros((2, 2)),
        attnspec.reference.Dropout(0.5),
        *(cls for cls in _subclasses(Tree) if cls.__module__.startswith("attnspec.")),
    ]
    abstract = {Tree, attnspec.contract.Mask, attnspec.contract.Bias}
    classes = {thing if isinstance(thing, type) else type(thing) for thing in made}
    assert classes - abstract == {*TREE_CLASSES}
    assert len(TREE_CLASSES) == 19


def _subclasses(cls: type) -> set[type]:
    return {cls, *(deeper for below in cls.__subclasses__() for deeper in _subclasses(below))}


def test_protocol_for_the_type_checker_names_everything() -> None:
    tree = ast.parse(Path(__file__).with_name("protocol_check.py").read_text(encoding="utf-8"))
    [protocol, gradients] = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    assert {node.name for node in protocol.body if isinstance(node, ast.FunctionDef)} == {*ALL}
    assert {node.name for node in gradients.body if isinstance(node, ast.FunctionDef)} == {"AttentionGradients", *VJPS}
    checked = [(node.annotation.id, node.value.attr) for node in tree.body if isinstance(node, ast.AnnAssign)]
    assert checked == [
        *(("AttentionModule", name) for name in ("reference", "torch", "tensorflow", "jax")),
        ("GradientModule", "reference"),
    ]
