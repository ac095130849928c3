"""Attention in JAX: `import attnspec.jax as attn`.

The names and their meaning are those of `attnspec.reference`.
"""

try:
    import jax as _jax  # noqa: F401 - only to say clearly that it is missing
except ModuleNotFoundError as error:
    if error.name not in ("jax", "jaxlib"):
        raise
    raise ModuleNotFoundError(
        "attnspec.jax needs JAX, which is not installed; install it with: pip install 'attnspec[jax]'", name="jax"
    ) from None

from attnspec.contract import MultiHeadParameters as MultiHeadParameters
from attnspec.contract import causal as causal
from attnspec.contract import full as full
from attnspec.contract import key_lengths as key_lengths
from attnspec.contract import query_lengths as query_lengths
from attnspec.contract import sliding_window as sliding_window

from .attention import attention_stages as attention_stages
from .attention import dot_product_attention as dot_product_attention
from .projections import key_value_attention as key_value_attention
from .projections import multi_head_attention as multi_head_attention
from .projections import self_attention as self_attention

__all__ = [
    "dot_product_attention",
    "attention_stages",
    "self_attention",
    "key_value_attention",
    "multi_head_attention",
    "MultiHeadParameters",
    "causal",
    "sliding_window",
    "key_lengths",
    "query_lengths",
    "full",
]
