"""One set of names, signatures and promises in the reference and in every backend."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from types import ModuleType

import frameworks
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
CACHES = ["empty_cache", "cached_multi_head_attention"]
SIMILARITIES = ["hard_attention", "additive_attention", "bilinear_attention", "cosine_attention"]
GATES = ["attention_gate", "gated_input", "gated_attention", "gated_attention_cell", "gated_attention_cell_stages"]
BLOCKS = ["layer_norm", "feed_forward", "encoder_layer", "encoder", "decoder_layer", "decoder"]
MODELS = [
    *["embedding", "add_sinusoidal_positions", "add_learned_positions", "mean_pooling"],
    *["text_encoder", "sequence_classifier", "transformer"],
]
DECODING = ["start_decoding", "decoder_step", "greedy_decode"]
POSITIONS = ["rotary_embedding", "rotate_pairs", "sinusoidal_positions"]
FUNCTIONS = [
    *[*ATTENTIONS, "attention_with_logsumexp", "merge_attention", *CACHES, *SIMILARITIES, *GATES, *BLOCKS, *MODELS],
    *[*DECODING, *POSITIONS],
]
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
FIELDS = {
    "MultiHeadParameters": (
        *("query_weight", "key_weight", "value_weight", "output_weight"),
        *("query_bias?", "key_bias?", "value_bias?", "output_bias?"),
    ),
    "AttentionStages": ("scores", "logits", "weights", "logsumexp", "output"),
    "PartialAttention": ("output", "logsumexp"),
    "LinearParameters": ("weight", "bias?"),
    "AdditiveParameters": ("score_weight", "query_weight?", "key_weight?", "hidden_bias?"),
    "GatedAttentionParameters": (
        *("input_weight", "input_bias", "unit_weight", "unit_bias", "score_weight", "output_bias"),
    ),
    "GatedAttentionCellParameters": (
        *("gate_weight", "gate_bias", "input_score_weight", "mean_score_weight", "output_score_weight", "unit_bias"),
        *("score_weight", "update_weight", "recurrent_weight", "update_bias", "control_weight"),
        *("control_recurrent_weight", "control_bias", "output_gate_bias", "output_weight", "output_bias"),
    ),
    "LayerNormParameters": ("weight", "bias?"),
    "FeedForwardParameters": ("hidden_weight", "output_weight", "hidden_bias?", "output_bias?"),
    "EncoderLayerParameters": ("attention", "attention_norm", "feed_forward", "feed_forward_norm"),
    "DecoderLayerParameters": (
        *("attention", "attention_norm", "cross_attention", "cross_attention_norm"),
        *("feed_forward", "feed_forward_norm"),
    ),
    "EncoderParameters": ("layers", "norm?"),
    "DecoderParameters": ("layers", "norm?"),
    "TextEncoderParameters": ("embedding", "positions", "embedding_norm", "encoder"),
    "SequenceClassifierParameters": ("body", "head"),
    "TransformerParameters": (
        *("encoder", "decoder", "source_embedding?", "target_embedding?"),
        *("source_positions?", "target_positions?", "head?"),
    ),
    "CellState": ("memory", "output"),
    "CellResult": ("outputs", "state"),
    "CellStages": ("pool", "distribution", "control", "reading", "update", "content", "outputs", "state"),
    "EncoderLayerDropout": ("weights?", "attention?", "hidden?", "feed_forward?"),
    "DecoderLayerDropout": (
        *("weights?", "attention?", "cross_weights?", "cross_attention?", "hidden?", "feed_forward?"),
    ),
    "TextEncoderDropout": ("embedding?", "layers?"),
    "TransformerDropout": ("source?", "target?", "encoder?", "decoder?"),
    "KeyValueCache": ("key", "value", "length"),
    "CachedAttention": ("output", "cache"),
    "DecoderCache": ("layers", "memory"),
    "DecoderStep": ("output", "cache"),
}
"""The named tuples and their fields, in order; what may be left out, and is None then, has a question mark."""

SHARED = [
    *[*FIELDS, *MASKS, "mask_to_json", "mask_from_json", "alibi", "alibi_slopes", "relative_position_bias"],
    *["Dropout", "Rotary"],
]
LAYERS = [
    *["DotProductAttention", "SelfAttention", "KeyValueAttention", "MultiHeadAttention", "HardAttention"],
    *["AdditiveAttention", "GatedAttention", "GatedAttentionCell", "SinusoidalPositions", "LearnedPositions"],
    *["Linear", "LayerNorm", "FeedForward", "EncoderLayer", "DecoderLayer", "Encoder", "Decoder"],
    *["TextEncoder", "SequenceClassifier", "Transformer"],
]
INTERCHANGE = ["from_native", "to_native"]
LOADED_LATER = ["Layer", *LAYERS, *INTERCHANGE]
"""What only backends have: importing one of them imports Keras, or Flax."""

WITHOUT_GRADIENT = {
    *["attention_stages", "attention_with_logsumexp", "merge_attention", "gated_attention_cell_stages"],  # of another
    *[*CACHES, *DECODING],  # for evaluation
    *["add_sinusoidal_positions", "rotate_pairs", "sinusoidal_positions"],  # that of the sum, of a rotation, none
}
VJPS = {f"{name}_vjp": name for name in FUNCTIONS if name not in WITHOUT_GRADIENT}
"""The gradients, which only the reference has, and the operations that they belong to."""

ALL = [
    *["dot_product_attention", "attention_stages", "attention_with_logsumexp", "merge_attention"],
    *["self_attention", "key_value_attention", "multi_head_attention"],
    *[*CACHES, *SIMILARITIES, *GATES, *BLOCKS, *MODELS, *DECODING],
    *[*FIELDS, *MASKS, "mask_to_json", "mask_from_json", "alibi", "alibi_slopes", "relative_position_bias"],
    *["Dropout", "Rotary", *POSITIONS],
]
GRADIENTS = [
    *["AttentionGradients", "dot_product_attention_vjp", "self_attention_vjp", "key_value_attention_vjp"],
    *["multi_head_attention_vjp", "rotary_embedding_vjp"],
    *[f"{name}_vjp" for name in (*SIMILARITIES, *GATES[:-1], *BLOCKS) if name not in WITHOUT_GRADIENT],
    *[f"{name}_vjp" for name in MODELS if name not in WITHOUT_GRADIENT],
]
OPTIONS = ["mask", "bias", "scale", "softcap", "sinks", "dropout"]


def shape_of_signature(function: object) -> list[tuple[str, str, object]]:
    """What callers see of a signature: names, kinds and defaults; the annotations name each framework's own arrays."""
    return [(p.name, p.kind.name, p.default) for p in inspect.signature(function).parameters.values()]


REQUIRED = inspect.Parameter.empty
NOTHING: dict[str, object] = dict.fromkeys(OPTIONS)
SETTINGS = {"num_heads": REQUIRED, "num_kv_heads": None, "norm": "post", "activation": "relu", "epsilon": 1e-5}
BLOCK: dict[str, object] = SETTINGS | dict.fromkeys(["mask", "bias", "rotary", "dropout"])
MODEL: dict[str, object] = SETTINGS | {"positions": "sinusoidal", "rotary": None, "dropout": None}


def first_line(function: object) -> str:
    return inspect.getdoc(function).partition("\n")[0]


def test_all_is_the_documented_list(attn: ModuleType) -> None:
    own = ["run_layer", *GRADIENTS] if attn is attnspec.reference else LOADED_LATER
    assert attn.__all__ == ALL + own
    assert {*ALL} == {*FUNCTIONS, *SHARED}
    assert {*GRADIENTS} == {"AttentionGradients", *VJPS}


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
        ("empty_cache", ["batch_shape", "capacity", "num_kv_heads", "head_dim", "value_dim"], {"dtype": "float32"}),
        (
            "cached_multi_head_attention",
            ["inputs", "parameters", "cache"],
            {"num_heads": REQUIRED, "num_kv_heads": None, **NOTHING, "rotary": None},
        ),
        (
            "hard_attention",
            ["query", "key", "value"],
            {"top_k": REQUIRED, "noise": None, "mask": None, "bias": None, "scale": None, "softcap": None},
        ),
        ("additive_attention", ["query", "key", "value", "parameters"], NOTHING),
        ("bilinear_attention", ["query", "key", "value", "weight"], NOTHING),
        ("cosine_attention", ["query", "key", "value"], NOTHING),
        ("attention_gate", ["inputs", "parameters"], {}),
        ("gated_input", ["inputs", "parameters"], {}),
        ("gated_attention", ["inputs", "parameters"], {}),
        ("gated_attention_cell", ["inputs", "state", "parameters"], {"valid": None, "dropout": None}),
        ("gated_attention_cell_stages", ["inputs", "state", "parameters"], {"valid": None, "dropout": None}),
        ("layer_norm", ["inputs", "parameters"], {"epsilon": 1e-5}),
        ("feed_forward", ["inputs", "parameters"], {"activation": "relu", "dropout": None}),
        ("encoder_layer", ["inputs", "parameters"], BLOCK),
        ("encoder", ["inputs", "parameters"], BLOCK),
        ("decoder_layer", ["inputs", "memory", "parameters"], BLOCK | {"memory_mask": None}),
        ("decoder", ["inputs", "memory", "parameters"], BLOCK | {"memory_mask": None}),
        ("embedding", ["inputs", "parameters"], {}),
        ("add_sinusoidal_positions", ["inputs"], {"offset": 0, "base": 10000.0}),
        ("add_learned_positions", ["inputs", "table"], {"offset": 0}),
        ("mean_pooling", ["inputs"], {"valid": None}),
        ("text_encoder", ["inputs", "parameters"], MODEL | {"valid": None, "mask": None, "bias": None}),
        ("sequence_classifier", ["inputs", "parameters"], MODEL | {"valid": None, "mask": None, "bias": None}),
        (
            "transformer",
            ["source", "target", "parameters"],
            MODEL | {"source_valid": None, "target_mask": attnspec.contract.causal()},
        ),
        (
            "start_decoding",
            ["memory", "parameters"],
            {"num_heads": REQUIRED, "num_kv_heads": None, "capacity": REQUIRED},
        ),
        (
            "decoder_step",
            ["inputs", "parameters", "cache"],
            {name: default for name, default in BLOCK.items() if name != "mask"} | {"memory_mask": None},
        ),
        (
            "greedy_decode",
            ["source", "parameters"],
            {name: default for name, default in MODEL.items() if name != "dropout"}
            | {"source_valid": None, **dict.fromkeys(["start", "stop", "max_length"], REQUIRED)},
        ),
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
    added = {
        "dot_product_attention": ["output_cotangent", "logsumexp_cotangent"],
        "gated_attention_cell": ["outputs_cotangent", "state_cotangent"],
    }.get(operation, ["output_cotangent"])
    assert [parameter for parameter in given if parameter[0] not in added] == expected
    assert [parameter[0] for parameter in given if parameter[0] in added] == added
    places = [parameter[0] for parameter in given if parameter[1] == "POSITIONAL_OR_KEYWORD"]
    assert places[-1] == added[0]  # after the tensors of the operation


@pytest.mark.parametrize("name", ["run_layer", "AttentionGradients", *VJPS])
@pytest.mark.parametrize("attn", ["torch", "tensorflow", "jax"], indirect=True)
def test_gradients_in_closed_form_are_of_the_reference_only(attn: ModuleType, name: str) -> None:
    assert not hasattr(attn, name)


@pytest.mark.parametrize("name", LOADED_LATER)
def test_layers_are_of_the_backends_only(name: str) -> None:
    assert not hasattr(attnspec.reference, name)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("attn", ["torch", "tensorflow", "jax"], indirect=True)
def test_layers_are_classes_with_the_same_docstring(attn: ModuleType, name: str) -> None:
    layer = getattr(attn, name)
    assert issubclass(layer, attn.Layer)
    assert layer.__module__.startswith(attn.__name__)
    assert inspect.getdoc(layer) == inspect.getdoc(getattr(frameworks.load("torch"), name))


@pytest.mark.parametrize("name", INTERCHANGE)
@pytest.mark.parametrize("attn", ["torch", "tensorflow", "jax"], indirect=True)
def test_interchange_takes_a_layer_first(attn: ModuleType, name: str) -> None:
    first, *others = shape_of_signature(getattr(attn, name))
    assert first == ("module" if name == "from_native" else "layer", "POSITIONAL_OR_KEYWORD", REQUIRED)
    assert {kind for _, kind, _ in others} <= {"KEYWORD_ONLY"}


@pytest.mark.parametrize("attn", ["torch", "tensorflow", "jax"], indirect=True)
def test_a_name_that_does_not_exist_is_missed(attn: ModuleType) -> None:
    with pytest.raises(AttributeError, match=rf"^module '{attn.__name__}' has no attribute 'Convolution'$"):
        _ = attn.Convolution
    assert {*ALL, *LOADED_LATER} <= {*dir(attn)}


# A stage, a step or a vector of the same operation refers to its arguments.
@pytest.mark.parametrize("name", [*FUNCTIONS, *VJPS])
@pytest.mark.parametrize("part", ["Args:", "Returns:"])
def test_reference_docstring_is_complete(name: str, part: str) -> None:
    assert f"\n{part}" in inspect.getdoc(getattr(attnspec.reference, name))


@pytest.mark.parametrize("name", SHARED)
def test_masks_and_parameters_are_the_same_objects_everywhere(attn: ModuleType, name: str) -> None:
    assert getattr(attn, name) is getattr(attnspec.contract, name)


def test_contract_exports() -> None:
    assert attnspec.contract.__all__ == sorted(attnspec.contract.__all__)
    assert {*attnspec.contract.__all__} == {
        *[*SHARED, "AttentionGradients", "Bias", "Mask", "LayerConfig", "ParameterSpec"],
        *[f"{name}Config" for name in LAYERS],
        *["initial_state", "text_encoder_from_bert", "read_state", "save_state", "StateError", "InterchangeError"],
    }


@pytest.mark.parametrize("name", FIELDS)
def test_named_tuples_keep_their_order(name: str) -> None:
    cls = getattr(attnspec.contract, name)
    assert cls._fields == tuple(field.removesuffix("?") for field in FIELDS[name])
    assert cls._field_defaults == {field.removesuffix("?"): None for field in FIELDS[name] if field.endswith("?")}


def test_gradients_keep_their_order() -> None:
    assert attnspec.contract.AttentionGradients._fields == ("query", "key", "value", "bias", "sinks")


def test_every_mask_and_bias_that_a_user_can_make_is_a_tree() -> None:
    """What is not in `TREE_CLASSES` would be opaque to `jit`, `vmap` and `tf.function`."""
    made = [
        attnspec.reference.causal() & ~attnspec.reference.full() | np.ones((2, 2), bool),
        attnspec.reference.alibi(symmetric=True) + np.zeros((2, 2)),
        attnspec.reference.Dropout(0.5),
        # A mask of the suite's own is for NumPy alone; tests have masks of theirs.
        *(cls for cls in _subclasses(Tree) if cls.__module__.startswith("attnspec.contract.")),
    ]
    abstract = {Tree, attnspec.contract.Mask, attnspec.contract.Bias}
    classes = {thing if isinstance(thing, type) else type(thing) for thing in made}
    assert classes - abstract == {*TREE_CLASSES}
    assert len(TREE_CLASSES) == 19


def _subclasses(cls: type) -> set[type]:
    return {cls, *(deeper for below in cls.__subclasses__() for deeper in _subclasses(below))}


def test_protocol_for_the_type_checker_names_everything() -> None:
    tree = ast.parse(Path(__file__).with_name("protocol_check.py").read_text(encoding="utf-8"))
    found = {
        cls.name: {node.name for node in cls.body if isinstance(node, ast.FunctionDef)}
        for cls in tree.body
        if isinstance(cls, ast.ClassDef)
    }
    assert found == {
        "AttentionModule": {*ALL},
        "LayerModule": {*LOADED_LATER},
        "GradientModule": {"run_layer", "AttentionGradients", *VJPS},
    }
    checked = [(node.annotation.id, node.value.attr) for node in tree.body if isinstance(node, ast.AnnAssign)]
    assert checked == [
        ("AttentionModule", "reference"),
        *(("LayerModule", name) for name in ("torch", "tensorflow", "jax")),
        ("GradientModule", "reference"),
    ]
