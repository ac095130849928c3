"""The arguments of the attention layers."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, ClassVar

import numpy as np

from .checks import Checks
from .layer_config import (
    LayerConfig,
    ParameterSpec,
    Part,
    check_count,
    check_flag,
    check_number,
    check_rate,
)
from .layer_parameters import AdditiveParameters, GatedAttentionCellParameters, GatedAttentionParameters
from .operands import describe
from .parameters import MultiHeadParameters
from .positional_masks import sliding_window
from .rotary_option import Rotary
from .shapes import check_heads

PROJECTIONS = ("query", "key", "value", "output")


@dataclass(frozen=True)
class SelfAttentionConfig(LayerConfig):
    """Self-attention with one head and without an output projection.

    Args:
        model_size: size of the inputs, E.
        head_dim: size of queries and keys, Dk; by default the model size.
        value_dim: size of values and outputs, Dv; by default `head_dim`.
        scale, softcap: as for `self_attention`.
        dropout_rate: of the attention weights, in training.

    Parameters: query_weight, key_weight (E, Dk), value_weight (E, Dv), from glorot_uniform.
    """

    layer: ClassVar[str] = "SelfAttention"
    model_size: int
    _: KW_ONLY
    head_dim: int | None = None
    value_dim: int | None = None
    scale: float | None = None
    softcap: float | None = None
    dropout_rate: float = 0.0

    def check(self) -> None:
        """Check the arguments."""
        check_count("model_size", self.model_size)
        _check_sizes(head_dim=self.head_dim, value_dim=self.value_dim)
        _check_scores(self.scale, self.softcap)
        check_rate("dropout_rate", self.dropout_rate)

    def parts(self) -> dict[str, Part]:
        """Name the parameters."""
        head_dim = self.head_dim or self.model_size
        value_dim = self.value_dim or head_dim
        return {
            "query_weight": ParameterSpec((self.model_size, head_dim)),
            "key_weight": ParameterSpec((self.model_size, head_dim)),
            "value_weight": ParameterSpec((self.model_size, value_dim)),
        }

    def settings(self) -> dict[str, Any]:
        """Return the options of every call."""
        return {"scale": self.scale, "softcap": self.softcap}


@dataclass(frozen=True)
class DotProductAttentionConfig(LayerConfig):
    """Scaled dot-product attention of tensors that come projected.

    Args:
        scale, softcap: as for `dot_product_attention`.
        use_scale: whether the scale is learned; `scale` must then be None.
        dropout_rate: of the attention weights, in training.

    Parameters: scale (), 1, where it is learned.
    """

    layer: ClassVar[str] = "DotProductAttention"
    _: KW_ONLY
    scale: float | None = None
    softcap: float | None = None
    use_scale: bool = False
    dropout_rate: float = 0.0

    def check(self) -> None:
        """Check the arguments."""
        _check_scores(self.scale, self.softcap)
        check_rate("dropout_rate", self.dropout_rate)
        if check_flag("use_scale", self.use_scale) and self.scale is not None:
            raise ValueError(f"`scale` and `use_scale` exclude each other; got {self.scale} beside a learned scale")

    def parts(self) -> dict[str, Part]:
        """Name the parameters."""
        return {"scale": ParameterSpec((), "ones") if self.use_scale else None}

    def settings(self) -> dict[str, Any]:
        """Return the options of every call; a learned scale takes the place of this one."""
        return {"scale": self.scale, "softcap": self.softcap}


@dataclass(frozen=True)
class KeyValueAttentionConfig(LayerConfig):
    """One query reads a memory of key-value pairs; the query may be projected first.

    Args:
        head_dim: size of queries and keys, Dk.
        query_size: size of what the query is projected from; None: the query comes projected.
        scale, softcap: as for `key_value_attention`.
        dropout_rate: of the attention weights, in training.

    Parameters: query_weight (query_size, Dk), from glorot_uniform; none where `query_size` is None.
    """

    layer: ClassVar[str] = "KeyValueAttention"
    head_dim: int
    _: KW_ONLY
    query_size: int | None = None
    scale: float | None = None
    softcap: float | None = None
    dropout_rate: float = 0.0

    def check(self) -> None:
        """Check the arguments."""
        check_count("head_dim", self.head_dim)
        _check_sizes(query_size=self.query_size)
        _check_scores(self.scale, self.softcap)
        check_rate("dropout_rate", self.dropout_rate)

    def parts(self) -> dict[str, Part]:
        """Name the parameters."""
        size = self.query_size
        return {"query_weight": None if size is None else ParameterSpec((size, self.head_dim))}

    def settings(self) -> dict[str, Any]:
        """Return the options of every call."""
        return {"scale": self.scale, "softcap": self.softcap}


@dataclass(frozen=True)
class MultiHeadAttentionConfig(LayerConfig):
    """Multi-head attention with all its options.

    Args:
        model_size: size of the query inputs, E.
        num_heads: Hq.
        num_kv_heads: Hkv, which divides Hq; by default Hq.
        head_dim: size of queries and keys for each head, Dk; by default E / Hq, which must then be whole.
        value_dim: size of values for each head, Dv; by default Dk.
        key_size, value_size: sizes of the key and value inputs; by default E, and `key_size`.
        output_size: E_out; by default E.
        use_bias: True, False, or the names of the projections that have one, of query, key, value, output.
        use_sinks: whether each head has a learned sink.
        window: (left, right), the keys beside a query's own that it may see, None = unbounded on that side; (None, 0)
            is causal, (256, 0) a causal window.
        rotary: `Rotary(pairing, …)`, which turns queries and keys.
        scale, softcap: as for `multi_head_attention`.
        dropout_rate: of the attention weights, in training.
        output_dropout_rate: of the output, in training.

    Parameters: query_weight (E, Hq·Dk), key_weight, value_weight, output_weight (Hq·Dv, E_out), from glorot_uniform;
        query_bias, key_bias, value_bias, output_bias, 0; sinks (Hq,), 0.
    """

    layer: ClassVar[str] = "MultiHeadAttention"
    tree: ClassVar[Any] = MultiHeadParameters
    model_size: int
    num_heads: int
    _: KW_ONLY
    num_kv_heads: int | None = None
    head_dim: int | None = None
    value_dim: int | None = None
    key_size: int | None = None
    value_size: int | None = None
    output_size: int | None = None
    use_bias: bool | tuple[str, ...] = True
    use_sinks: bool = False
    window: tuple[int | None, int | None] | None = None
    rotary: Rotary | None = None
    scale: float | None = None
    softcap: float | None = None
    dropout_rate: float = 0.0
    output_dropout_rate: float = 0.0

    def check(self) -> None:
        """Check the arguments."""
        check_count("model_size", self.model_size)
        check_heads(self.num_heads, self.num_kv_heads)
        _check_sizes(
            head_dim=self.head_dim,
            value_dim=self.value_dim,
            key_size=self.key_size,
            value_size=self.value_size,
            output_size=self.output_size,
        )
        if self.head_dim is None:
            check_divides(self.model_size, self.num_heads)
        object.__setattr__(self, "use_bias", _check_biases(self.use_bias))
        check_flag("use_sinks", self.use_sinks)
        object.__setattr__(self, "window", _check_window(self.window))
        _check_rotary(self.rotary, self.query_dim)
        _check_scores(self.scale, self.softcap)
        check_rate("dropout_rate", self.dropout_rate)
        check_rate("output_dropout_rate", self.output_dropout_rate)

    @property
    def kv_heads(self) -> int:
        """Hkv."""
        return self.num_heads if self.num_kv_heads is None else self.num_kv_heads

    @property
    def query_dim(self) -> int:
        """Dk."""
        return self.model_size // self.num_heads if self.head_dim is None else self.head_dim

    def parts(self) -> dict[str, Part]:
        """Name the parameters."""
        key_dim = self.query_dim
        value_dim = self.value_dim or key_dim
        key_size = self.key_size or self.model_size
        columns = {
            "query": self.num_heads * key_dim,
            "key": self.kv_heads * key_dim,
            "value": self.kv_heads * value_dim,
            "output": self.output_size or self.model_size,
        }
        rows = {
            "query": self.model_size,
            "key": key_size,
            "value": self.value_size or key_size,
            "output": self.num_heads * value_dim,
        }
        biased = PROJECTIONS if self.use_bias is True else () if self.use_bias is False else self.use_bias
        return {
            **{f"{name}_weight": ParameterSpec((rows[name], columns[name])) for name in PROJECTIONS},
            **{
                f"{name}_bias": ParameterSpec((columns[name],), "zeros") if name in biased else None
                for name in PROJECTIONS
            },
            "sinks": ParameterSpec((self.num_heads,), "zeros") if self.use_sinks else None,
        }

    def settings(self) -> dict[str, Any]:
        """Return the options of every call."""
        return {
            "num_heads": self.num_heads,
            "num_kv_heads": self.kv_heads,
            "scale": self.scale,
            "softcap": self.softcap,
            "rotary": self.rotary,
        }

    def meaning(self) -> dict[str, Any]:
        """Return what decides, beside the parameters, what the layer computes in evaluation."""
        return {**self.settings(), "window": self.window}

    def settings_at(self, offset: Any) -> dict[str, Any]:
        """Return the options of a call whose query 0 stands at key position `offset`, None where it says nothing."""
        settings = self.settings()
        if offset is None:
            return settings
        if self.window is None and self.rotary is None:
            raise ValueError("`offset` says where queries stand for `window` and `rotary`; this layer has neither")
        if self.rotary is not None:
            if self.rotary.offset is not None:
                raise ValueError(f"`offset` is given twice: in the call, and in the layer's own {self.rotary!r}")
            settings["rotary"] = replace(self.rotary, offset=offset)
        return settings

    def windowed(self, mask: Any, offset: Any) -> Any:
        """Return the mask of a call, the layer's own window included."""
        if self.window is None:
            return mask
        window = sliding_window(*self.window, offset=offset)
        return window if mask is None else window & mask


@dataclass(frozen=True)
class HardAttentionConfig(LayerConfig):
    """Hard attention: each query reads its `top_k` best keys.

    Args:
        top_k: how many.
        scale, softcap: as for `hard_attention`.

    It has no parameters.
    """

    layer: ClassVar[str] = "HardAttention"
    top_k: int
    _: KW_ONLY
    scale: float | None = None
    softcap: float | None = None

    def check(self) -> None:
        """Check the arguments."""
        check_count("top_k", self.top_k)
        _check_scores(self.scale, self.softcap)

    def settings(self) -> dict[str, Any]:
        """Return the options of every call."""
        return {"top_k": self.top_k, "scale": self.scale, "softcap": self.softcap}


@dataclass(frozen=True)
class AdditiveAttentionConfig(LayerConfig):
    """Additive attention, v · tanh(W_q q + W_k k + b).

    Args:
        query_size: size of the queries.
        key_size: size of the keys; by default that of the queries.
        hidden_size: A, the size of the tanh; by default `query_size`.
        use_projections: whether there are W_q and W_k; without them all three sizes must be equal.
        use_bias: whether there is b.
        scale, softcap: as for `additive_attention`.
        dropout_rate: of the attention weights, in training.

    Parameters: score_weight (A,), query_weight (query_size, A), key_weight (key_size, A), from glorot_uniform;
        hidden_bias (A,), 0.
    """

    layer: ClassVar[str] = "AdditiveAttention"
    tree: ClassVar[Any] = AdditiveParameters
    query_size: int
    _: KW_ONLY
    key_size: int | None = None
    hidden_size: int | None = None
    use_projections: bool = True
    use_bias: bool = False
    scale: float | None = None
    softcap: float | None = None
    dropout_rate: float = 0.0

    def check(self) -> None:
        """Check the arguments."""
        check_count("query_size", self.query_size)
        _check_sizes(key_size=self.key_size, hidden_size=self.hidden_size)
        check_flag("use_projections", self.use_projections)
        check_flag("use_bias", self.use_bias)
        _check_scores(self.scale, self.softcap)
        check_rate("dropout_rate", self.dropout_rate)
        sizes = (self.query_size, self.key_size or self.query_size, self.hidden_size or self.query_size)
        if not self.use_projections and len(set(sizes)) > 1:
            raise ValueError(
                "`query_size`, `key_size` and `hidden_size` must be equal without projections; "
                f"got {sizes[0]}, {sizes[1]} and {sizes[2]}"
            )

    def parts(self) -> dict[str, Part]:
        """Name the parameters."""
        hidden = self.hidden_size or self.query_size
        key_size = self.key_size or self.query_size
        return {
            "score_weight": ParameterSpec((hidden,)),
            "query_weight": ParameterSpec((self.query_size, hidden)) if self.use_projections else None,
            "key_weight": ParameterSpec((key_size, hidden)) if self.use_projections else None,
            "hidden_bias": ParameterSpec((hidden,), "zeros") if self.use_bias else None,
        }

    def settings(self) -> dict[str, Any]:
        """Return the options of every call."""
        return {"scale": self.scale, "softcap": self.softcap}


@dataclass(frozen=True)
class GatedAttentionConfig(LayerConfig):
    """Gated attention heads over hidden units.

    Args:
        input_size: D.
        num_heads: K.
        num_units: n.
        score_size: d.

    Parameters: input_weight (D, n), unit_weight, unit_bias (K, n, d), score_weight (d,), from glorot_uniform;
        input_bias, output_bias (n,), 0.
    """

    layer: ClassVar[str] = "GatedAttention"
    tree: ClassVar[Any] = GatedAttentionParameters
    input_size: int
    num_heads: int
    num_units: int
    _: KW_ONLY
    score_size: int = 64

    def check(self) -> None:
        """Check the arguments."""
        for name in ("input_size", "num_heads", "num_units", "score_size"):
            check_count(name, getattr(self, name))

    def parts(self) -> dict[str, Part]:
        """Name the parameters."""
        per_unit = (self.num_heads, self.num_units, self.score_size)
        return {
            "input_weight": ParameterSpec((self.input_size, self.num_units)),
            "input_bias": ParameterSpec((self.num_units,), "zeros"),
            "unit_weight": ParameterSpec(per_unit),
            "unit_bias": ParameterSpec(per_unit),
            "score_weight": ParameterSpec((self.score_size,)),
            "output_bias": ParameterSpec((self.num_units,), "zeros"),
        }


@dataclass(frozen=True)
class GatedAttentionCellConfig(LayerConfig):
    """The gated attention cell: a recurrent memory that reads a sequence at every step.

    Args:
        model_size: size of the inputs and of the state, D.
        num_heads: K, which divides D.
        output_size: C.
        score_size: d.
        dropout_rate: of the distribution over positions, in training.

    Parameters, from glorot_uniform: gate_weight (K, D, n), input_score_weight, mean_score_weight, output_score_weight
        (D, d), unit_bias (n, d), score_weight (d,), update_weight, recurrent_weight (D, D), control_weight,
        control_recurrent_weight (D, K), output_weight (D, C); 0: gate_bias (K, n), update_bias (D,), control_bias (K,),
        output_gate_bias (D,), output_bias (C,). n = D/K.
    """

    layer: ClassVar[str] = "GatedAttentionCell"
    tree: ClassVar[Any] = GatedAttentionCellParameters
    model_size: int
    num_heads: int
    output_size: int
    _: KW_ONLY
    score_size: int = 64
    dropout_rate: float = 0.0

    def check(self) -> None:
        """Check the arguments."""
        for name in ("model_size", "num_heads", "output_size", "score_size"):
            check_count(name, getattr(self, name))
        check_divides(self.model_size, self.num_heads)
        check_rate("dropout_rate", self.dropout_rate)

    def parts(self) -> dict[str, Part]:
        """Name the parameters."""
        size, heads, score = self.model_size, self.num_heads, self.score_size
        units = size // heads
        return {
            "gate_weight": ParameterSpec((heads, size, units)),
            "gate_bias": ParameterSpec((heads, units), "zeros"),
            "input_score_weight": ParameterSpec((size, score)),
            "mean_score_weight": ParameterSpec((size, score)),
            "output_score_weight": ParameterSpec((size, score)),
            "unit_bias": ParameterSpec((units, score)),
            "score_weight": ParameterSpec((score,)),
            "update_weight": ParameterSpec((size, size)),
            "recurrent_weight": ParameterSpec((size, size)),
            "update_bias": ParameterSpec((size,), "zeros"),
            "control_weight": ParameterSpec((size, heads)),
            "control_recurrent_weight": ParameterSpec((size, heads)),
            "control_bias": ParameterSpec((heads,), "zeros"),
            "output_gate_bias": ParameterSpec((size,), "zeros"),
            "output_weight": ParameterSpec((size, self.output_size)),
            "output_bias": ParameterSpec((self.output_size,), "zeros"),
        }


def check_divides(model_size: int, num_heads: int) -> None:
    """Check that heads share a size evenly."""
    if model_size % num_heads:
        raise ValueError(f"`num_heads` must divide `model_size`; got {num_heads} heads and a size of {model_size}")


def _check_rotary(rotary: Any, head_dim: int) -> None:
    """Check that a rotary option turns heads of this size, and is the same at every call."""
    if rotary is None:
        return
    if not isinstance(rotary, Rotary):
        raise TypeError(f"`rotary` must be Rotary(pairing, …); got {describe(rotary)}")
    if not (rotary.offset is None or isinstance(rotary.offset, int | str)):
        raise ValueError(f"the `offset` of a layer's `rotary` must be an int, 'end' or None; got {rotary!r}")
    rotary.check_head(head_dim, Checks(lambda name, value: None, np.shape))  # noqa: ARG005 - no tensor is looked at


def _check_sizes(**sizes: int | None) -> None:
    for name, size in sizes.items():
        if size is not None:
            check_count(name, size)


def _check_scores(scale: float | None, softcap: float | None) -> None:
    if scale is not None:
        check_number("scale", scale)
    if softcap is not None:
        check_number("softcap", softcap, positive=True)


def _check_biases(use_bias: Any) -> bool | tuple[str, ...]:
    if isinstance(use_bias, bool):
        return use_bias
    names = tuple(use_bias) if isinstance(use_bias, list | tuple) else ()
    if not names or not all(isinstance(name, str) and name in PROJECTIONS for name in names):
        raise ValueError(
            f"`use_bias` must be True, False or names of projections, of {', '.join(PROJECTIONS)}; got {use_bias!r}"
        )
    chosen = tuple(name for name in PROJECTIONS if name in names)
    return True if chosen == PROJECTIONS else chosen


def _check_window(window: Any) -> tuple[int | None, int | None] | None:
    if window is None:
        return None
    if not isinstance(window, list | tuple) or len(window) != 2:
        raise TypeError(f"`window` must be (left, right), numbers of keys or None; got {window!r}")
    for side in window:
        if side is not None and (isinstance(side, bool) or not isinstance(side, int | np.integer) or side < 0):
            raise ValueError(f"each side of `window` must be an int of at least 0, or None; got {tuple(window)!r}")
    if window[0] is None and window[1] is None:
        raise ValueError("`window` must be bounded on one side; leave it out to see everything")
    left, right = (None if side is None else int(side) for side in window)
    return left, right
