"""The written agreement: what a call may look like, what its masks mean, and what its errors say.

This package holds no tensor and imports no framework. The reference and every backend check each call here, before any
computation, so the same wrong call raises the same exception with the same text in all of them.
"""

from .masks import Mask as Mask
from .masks import causal as causal
from .masks import full as full
from .masks import key_lengths as key_lengths
from .masks import query_lengths as query_lengths
from .masks import sliding_window as sliding_window
from .parameters import AttentionStages as AttentionStages
from .parameters import MultiHeadParameters as MultiHeadParameters

__all__ = [
    "AttentionStages",
    "Mask",
    "MultiHeadParameters",
    "causal",
    "full",
    "key_lengths",
    "query_lengths",
    "sliding_window",
]
