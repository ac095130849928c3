"""The attentions that frameworks bring themselves, as targets: which there are, and what each takes. Imports none."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from typing import NamedTuple

from .targets import MissingFrameworkError, Target, TargetError

_ATTENTION = ("dot_product_attention",)
_WITH_LOGSUMEXP = ("dot_product_attention", "attention_with_logsumexp")
_LAYER = ("dot_product_attention", "multi_head_attention")
_ALL = ("float64", "float32", "bfloat16", "float16")

_IDENTITY = (
    "dot_product_attention is asked of the layer with identity matrices as projections; finite tensors only, since "
    "such a projection carries NaN and Inf from head to head"
)
_FOLDED = "a mask and a bias together are one floating mask, −∞ where the mask is False"


class NativeEntry(NamedTuple):
    """One native attention: what it is, what it needs, and what it is asked."""

    name: str
    """What `attnspec verify` calls it."""
    framework: str
    """Whose it is, for people."""
    packages: tuple[str, ...]
    """The distributions that it needs; one of the names where they are separated by `|`."""
    module: str
    """Where in attnspec its adapter stands."""
    function: str
    """What is called."""
    summary: str
    operations: tuple[str, ...]
    dtypes: tuple[str, ...]
    has_gradients: bool
    conventions: tuple[str, ...]
    """How a case is said in its words, and what its documentation leaves open."""

    @property
    def missing(self) -> tuple[str, ...]:
        """Return the distributions that are not installed."""
        return tuple(package.split("|")[0] for package in self.packages if _version(package) is None)

    @property
    def version(self) -> str:
        """Say which versions are installed, as reports show it."""
        found = ((package.split("|")[0], _version(package)) for package in self.packages)
        return ", ".join(f"{name} {version}" for name, version in found if version is not None)

    @property
    def install(self) -> str:
        """Return the command that installs what it needs."""
        return f"pip install {' '.join(package.split('|')[0] for package in self.packages)}"


_TENSORFLOW = "tensorflow|tensorflow-cpu|tf-nightly|tensorflow-macos"
_SDPA = "torch.nn.functional.scaled_dot_product_attention"
_SDPA_CONVENTIONS = (
    "(*batch, heads, length, size), as attnspec has it; a head axis of 1 where there is none",
    "grouped heads by enable_gqa=True",
    "is_causal=True for a causal mask at offset 0 alone, which is how its documentation aligns it",
    "anything else goes into attn_mask, since is_causal excludes attn_mask",
    _FOLDED,
)
_JAX_CONVENTIONS = (
    "(batch, length, heads, size): axes are moved, several batch axes become one",
    "is_causal=True where there are as many queries as keys",
    "how is_causal is aligned otherwise is not documented, and such masks go into mask",
)
_KERAS_LAYER = (
    "heads are further batch elements: the layer has none",
    "key lengths and query lengths as value_mask and query_mask, a causal mask at offset 0 as use_causal_mask",
)
_ONNX_CONVENTIONS = (
    "a model of one node: opset 23, or opset 24 for nonpad_kv_seqlen",
    "four axes, (batch, heads, length, size): several batch axes become one",
    "is_causal=1 for a causal mask at offset 0, which is its meaning without a cache",
    "key lengths as nonpad_kv_seqlen where nothing is causal",
    _FOLDED,
)

_ENTRIES = (
    NativeEntry(
        "torch.sdpa",
        "PyTorch",
        ("torch",),
        "native_torch",
        _SDPA,
        "scaled_dot_product_attention, by whichever kernel PyTorch chooses",
        _ATTENTION,
        _ALL,
        True,
        _SDPA_CONVENTIONS,
    ),
    NativeEntry(
        "torch.sdpa.math",
        "PyTorch",
        ("torch",),
        "native_torch",
        _SDPA,
        "scaled_dot_product_attention, by the kernel SDPBackend.MATH",
        _ATTENTION,
        _ALL,
        True,
        _SDPA_CONVENTIONS,
    ),
    NativeEntry(
        "torch.sdpa.flash",
        "PyTorch",
        ("torch",),
        "native_torch",
        _SDPA,
        "scaled_dot_product_attention, by the kernel SDPBackend.FLASH_ATTENTION",
        _ATTENTION,
        _ALL,
        True,
        (*_SDPA_CONVENTIONS, "unsupported is what PyTorch refuses for want of a viable backend"),
    ),
    NativeEntry(
        "torch.mha",
        "PyTorch",
        ("torch",),
        "native_torch",
        "torch.nn.functional.multi_head_attention_forward",
        "what nn.MultiheadAttention calls, with need_weights=False",
        _LAYER,
        _ALL,
        True,
        (
            "(length, batch, size); weights transposed, one for each of query, key and value",
            "True hides: masks are inverted; key lengths as key_padding_mask, all else as attn_mask",
            "is_causal is only a hint beside attn_mask, and is not given",
            _IDENTITY,
            _FOLDED,
        ),
    ),
    NativeEntry(
        "torch.flex",
        "PyTorch",
        ("torch",),
        "native_torch",
        "torch.nn.attention.flex_attention.flex_attention",
        "flex_attention, without torch.compile",
        _WITH_LOGSUMEXP,
        _ALL,
        False,
        (
            "four axes: several batch axes become one",
            "masks as a mask_mod that looks up a boolean array, bias and softcap as a score_mod",
            "no gradients: on a CPU it refuses tensors that want them",
        ),
    ),
    NativeEntry(
        "jax.nn",
        "JAX",
        ("jax",),
        "native_jax",
        "jax.nn.dot_product_attention",
        "dot_product_attention, as XLA compiles it",
        _WITH_LOGSUMEXP,
        _ALL,
        True,
        (
            *_JAX_CONVENTIONS,
            "lengths as query_seq_lengths and key_value_seq_lengths, a window at offset 0 as local_window_size",
            "values have the keys' size: its documentation says so, and it refuses others",
        ),
    ),
    NativeEntry(
        "flax.nnx",
        "Flax",
        ("flax", "jax"),
        "native_jax",
        "flax.nnx.dot_product_attention",
        "dot_product_attention, without dropout and module: it then calls jax.nn",
        _ATTENTION,
        _ALL,
        True,
        (
            "(*batch, length, heads, size): axes are moved",
            *_JAX_CONVENTIONS[1:],
            "nnx.MultiHeadAttention calls this function; what it adds are projections to one size",
        ),
    ),
    NativeEntry(
        "keras.ops",
        "Keras",
        ("keras", _TENSORFLOW),
        "native_keras",
        "keras.ops.dot_product_attention",
        "dot_product_attention on TensorFlow",
        _ATTENTION,
        _ALL,
        True,
        _JAX_CONVENTIONS,
    ),
    NativeEntry(
        "keras.mha",
        "Keras",
        ("keras", _TENSORFLOW),
        "native_keras",
        "keras.layers.MultiHeadAttention",
        "the layer MultiHeadAttention on TensorFlow",
        _LAYER,
        _ALL,
        True,
        (
            "(batch, length, size); weights with heads and sizes as two axes",
            "use_causal_mask=True for a causal mask alone with as many queries as keys",
            "anything else as attention_mask",
            _IDENTITY,
        ),
    ),
    NativeEntry(
        "keras.attention",
        "Keras",
        ("keras", _TENSORFLOW),
        "native_keras",
        "keras.layers.Attention",
        "the layer Attention on TensorFlow",
        _ATTENTION,
        _ALL,
        True,
        (*_KERAS_LAYER, "the scale, 1/√Dk too, as the layer's weight: its own default is 1"),
    ),
    NativeEntry(
        "keras.additive",
        "Keras",
        ("keras", _TENSORFLOW),
        "native_keras",
        "keras.layers.AdditiveAttention",
        "the layer AdditiveAttention on TensorFlow",
        ("additive_attention",),
        _ALL,
        True,
        (*_KERAS_LAYER, "score_weight is the layer's weight scale"),
    ),
    NativeEntry(
        "onnxruntime",
        "ONNX Runtime",
        ("onnxruntime", "onnx"),
        "native_onnx",
        "ONNX Runtime's Attention",
        "the operator Attention in ONNX Runtime, on the CPU",
        _ATTENTION,
        _ALL,
        False,
        (*_ONNX_CONVENTIONS, "unsupported is what ONNX Runtime has no implementation of"),
    ),
    NativeEntry(
        "onnx.reference",
        "ONNX",
        ("onnx",),
        "native_onnx",
        "ONNX's Attention",
        "the operator Attention in the NumPy reference of the onnx package",
        _ATTENTION,
        _ALL,
        False,
        _ONNX_CONVENTIONS,
    ),
)

NATIVES: dict[str, NativeEntry] = {entry.name: entry for entry in _ENTRIES}
"""Every native attention by its name."""

NATIVE_NAMES = tuple(NATIVES)


def load_native(name: str) -> Target:
    """Load a native attention as a target.

    Raises:
        TargetError: there is none of this name, or its framework cannot be imported.
        MissingFrameworkError: a distribution that it needs is not installed.
    """
    if name not in NATIVES:
        raise TargetError(f"there is no native target {name!r}; there are {', '.join(NATIVE_NAMES)}")
    entry = NATIVES[name]
    if entry.missing:
        raise MissingFrameworkError(f"target {name!r} needs {', '.join(entry.missing)}; install with: {entry.install}")
    try:
        adapters = importlib.import_module(f".{entry.module}", __package__)
        target: Target = adapters.TARGETS[name](entry)
    except TargetError:
        raise
    except Exception as error:
        raise TargetError(f"target {name!r} cannot be imported: {type(error).__name__}: {error}") from error
    return target


def _version(package: str) -> str | None:
    """Return the installed version of one of the distributions `a|b|c`."""
    for name in package.split("|"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None
