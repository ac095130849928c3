"""Attention in TensorFlow: `import attnspec.tensorflow as attn`.

The names and their meaning are those of `attnspec.reference`.
"""

try:
    import tensorflow as _tensorflow  # noqa: F401 - only to say clearly that it is missing
except ModuleNotFoundError as error:
    if error.name != "tensorflow":
        raise
    raise ModuleNotFoundError(
        "attnspec.tensorflow needs TensorFlow, which is not installed; "
        "install it with: pip install 'attnspec[tensorflow]'",
        name="tensorflow",
    ) from None

from attnspec.contract import AttentionStages as AttentionStages
from attnspec.contract import Dropout as Dropout
from attnspec.contract import MultiHeadParameters as MultiHeadParameters
from attnspec.contract import PartialAttention as PartialAttention
from attnspec.contract import alibi as alibi
from attnspec.contract import alibi_slopes as alibi_slopes
from attnspec.contract import causal as causal
from attnspec.contract import chunked as chunked
from attnspec.contract import full as full
from attnspec.contract import key_lengths as key_lengths
from attnspec.contract import mask_from_json as mask_from_json
from attnspec.contract import mask_to_json as mask_to_json
from attnspec.contract import predicate as predicate
from attnspec.contract import prefix as prefix
from attnspec.contract import query_lengths as query_lengths
from attnspec.contract import relative_position_bias as relative_position_bias
from attnspec.contract import segments as segments
from attnspec.contract import sliding_window as sliding_window

from .attention import attention_stages as attention_stages
from .attention import dot_product_attention as dot_product_attention
from .partial_results import attention_with_logsumexp as attention_with_logsumexp
from .partial_results import merge_attention as merge_attention
from .positions import rotary_embedding as rotary_embedding
from .positions import rotate_pairs as rotate_pairs
from .positions import sinusoidal_positions as sinusoidal_positions
from .projections import key_value_attention as key_value_attention
from .projections import multi_head_attention as multi_head_attention
from .projections import self_attention as self_attention

__all__ = [
    "dot_product_attention",
    "attention_stages",
    "attention_with_logsumexp",
    "merge_attention",
    "self_attention",
    "key_value_attention",
    "multi_head_attention",
    "MultiHeadParameters",
    "AttentionStages",
    "PartialAttention",
    "causal",
    "sliding_window",
    "key_lengths",
    "query_lengths",
    "segments",
    "prefix",
    "chunked",
    "predicate",
    "full",
    "mask_to_json",
    "mask_from_json",
    "alibi",
    "alibi_slopes",
    "relative_position_bias",
    "Dropout",
    "rotary_embedding",
    "rotate_pairs",
    "sinusoidal_positions",
]
