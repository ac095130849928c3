"""The written agreement: what a call may look like, what its masks mean, and what its errors say.

This package holds no tensor and imports no framework. The reference and every backend check each call here, before any
computation, so the same wrong call raises the same exception with the same text in all of them.
"""

from .biases import Bias as Bias
from .biases import alibi as alibi
from .biases import alibi_slopes as alibi_slopes
from .biases import relative_position_bias as relative_position_bias
from .dropout import Dropout as Dropout
from .mask_json import mask_from_json as mask_from_json
from .mask_json import mask_to_json as mask_to_json
from .masks import Mask as Mask
from .masks import full as full
from .masks import predicate as predicate
from .parameters import AttentionGradients as AttentionGradients
from .parameters import AttentionStages as AttentionStages
from .parameters import MultiHeadParameters as MultiHeadParameters
from .parameters import PartialAttention as PartialAttention
from .positional_masks import causal as causal
from .positional_masks import chunked as chunked
from .positional_masks import key_lengths as key_lengths
from .positional_masks import prefix as prefix
from .positional_masks import query_lengths as query_lengths
from .positional_masks import segments as segments
from .positional_masks import sliding_window as sliding_window

__all__ = [
    "AttentionGradients",
    "AttentionStages",
    "Bias",
    "Dropout",
    "Mask",
    "MultiHeadParameters",
    "PartialAttention",
    "alibi",
    "alibi_slopes",
    "causal",
    "chunked",
    "full",
    "key_lengths",
    "mask_from_json",
    "mask_to_json",
    "predicate",
    "prefix",
    "query_lengths",
    "relative_position_bias",
    "segments",
    "sliding_window",
]
