"""The definition of attention: NumPy, float64, written to be read.

`dot_product_attention` in `attention.py` is the page to start with; the names are those of every backend.
"""

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
