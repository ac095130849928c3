"""Attention in JAX: `import attnspec.jax as attn`.

The names and their meaning are those of `attnspec.reference`.
"""

from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

try:
    import jax as _jax  # noqa: F401 - only to say clearly that it is missing
except ModuleNotFoundError as error:
    if error.name not in ("jax", "jaxlib"):
        raise
    raise ModuleNotFoundError(
        "attnspec.jax needs JAX, which is not installed; install it with: pip install 'attnspec[jax]'", name="jax"
    ) from None

from attnspec.contract import AdditiveParameters as AdditiveParameters
from attnspec.contract import AttentionStages as AttentionStages
from attnspec.contract import CachedAttention as CachedAttention
from attnspec.contract import CellResult as CellResult
from attnspec.contract import CellStages as CellStages
from attnspec.contract import CellState as CellState
from attnspec.contract import DecoderCache as DecoderCache
from attnspec.contract import DecoderLayerDropout as DecoderLayerDropout
from attnspec.contract import DecoderLayerParameters as DecoderLayerParameters
from attnspec.contract import DecoderParameters as DecoderParameters
from attnspec.contract import DecoderStep as DecoderStep
from attnspec.contract import Dropout as Dropout
from attnspec.contract import EncoderLayerDropout as EncoderLayerDropout
from attnspec.contract import EncoderLayerParameters as EncoderLayerParameters
from attnspec.contract import EncoderParameters as EncoderParameters
from attnspec.contract import FeedForwardParameters as FeedForwardParameters
from attnspec.contract import GatedAttentionCellParameters as GatedAttentionCellParameters
from attnspec.contract import GatedAttentionParameters as GatedAttentionParameters
from attnspec.contract import KeyValueCache as KeyValueCache
from attnspec.contract import LayerNormParameters as LayerNormParameters
from attnspec.contract import LinearParameters as LinearParameters
from attnspec.contract import MultiHeadParameters as MultiHeadParameters
from attnspec.contract import PartialAttention as PartialAttention
from attnspec.contract import Rotary as Rotary
from attnspec.contract import SequenceClassifierParameters as SequenceClassifierParameters
from attnspec.contract import TextEncoderDropout as TextEncoderDropout
from attnspec.contract import TextEncoderParameters as TextEncoderParameters
from attnspec.contract import TransformerDropout as TransformerDropout
from attnspec.contract import TransformerParameters as TransformerParameters
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
from attnspec.contract.layer_exports import load as _load

from .attention import attention_stages as attention_stages
from .attention import dot_product_attention as dot_product_attention
from .blocks import decoder as decoder
from .blocks import decoder_layer as decoder_layer
from .blocks import encoder as encoder
from .blocks import encoder_layer as encoder_layer
from .blocks import feed_forward as feed_forward
from .blocks import layer_norm as layer_norm
from .decoding import cached_multi_head_attention as cached_multi_head_attention
from .decoding import decoder_step as decoder_step
from .decoding import empty_cache as empty_cache
from .decoding import greedy_decode as greedy_decode
from .decoding import start_decoding as start_decoding
from .gates import attention_gate as attention_gate
from .gates import gated_attention as gated_attention
from .gates import gated_attention_cell as gated_attention_cell
from .gates import gated_attention_cell_stages as gated_attention_cell_stages
from .gates import gated_input as gated_input
from .models import add_learned_positions as add_learned_positions
from .models import add_sinusoidal_positions as add_sinusoidal_positions
from .models import embedding as embedding
from .models import mean_pooling as mean_pooling
from .models import sequence_classifier as sequence_classifier
from .models import text_encoder as text_encoder
from .models import transformer as transformer
from .partial_results import attention_with_logsumexp as attention_with_logsumexp
from .partial_results import merge_attention as merge_attention
from .positions import rotary_embedding as rotary_embedding
from .positions import rotate_pairs as rotate_pairs
from .positions import sinusoidal_positions as sinusoidal_positions
from .projections import key_value_attention as key_value_attention
from .projections import multi_head_attention as multi_head_attention
from .projections import self_attention as self_attention
from .similarities import additive_attention as additive_attention
from .similarities import bilinear_attention as bilinear_attention
from .similarities import cosine_attention as cosine_attention
from .similarities import hard_attention as hard_attention

if _TYPE_CHECKING:
    from .attention_layers import AdditiveAttention as AdditiveAttention
    from .attention_layers import DotProductAttention as DotProductAttention
    from .attention_layers import GatedAttention as GatedAttention
    from .attention_layers import GatedAttentionCell as GatedAttentionCell
    from .attention_layers import HardAttention as HardAttention
    from .attention_layers import KeyValueAttention as KeyValueAttention
    from .attention_layers import MultiHeadAttention as MultiHeadAttention
    from .attention_layers import SelfAttention as SelfAttention
    from .block_layers import Decoder as Decoder
    from .block_layers import DecoderLayer as DecoderLayer
    from .block_layers import Encoder as Encoder
    from .block_layers import EncoderLayer as EncoderLayer
    from .block_layers import FeedForward as FeedForward
    from .block_layers import LayerNorm as LayerNorm
    from .block_layers import LearnedPositions as LearnedPositions
    from .block_layers import Linear as Linear
    from .block_layers import SinusoidalPositions as SinusoidalPositions
    from .interchange import from_native as from_native
    from .interchange import to_native as to_native
    from .layer import Layer as Layer
    from .model_layers import SequenceClassifier as SequenceClassifier
    from .model_layers import TextEncoder as TextEncoder
    from .model_layers import Transformer as Transformer

__all__ = [
    "dot_product_attention",
    "attention_stages",
    "attention_with_logsumexp",
    "merge_attention",
    "self_attention",
    "key_value_attention",
    "multi_head_attention",
    "empty_cache",
    "cached_multi_head_attention",
    "hard_attention",
    "additive_attention",
    "bilinear_attention",
    "cosine_attention",
    "attention_gate",
    "gated_input",
    "gated_attention",
    "gated_attention_cell",
    "gated_attention_cell_stages",
    "layer_norm",
    "feed_forward",
    "encoder_layer",
    "encoder",
    "decoder_layer",
    "decoder",
    "embedding",
    "add_sinusoidal_positions",
    "add_learned_positions",
    "mean_pooling",
    "text_encoder",
    "sequence_classifier",
    "transformer",
    "start_decoding",
    "decoder_step",
    "greedy_decode",
    "MultiHeadParameters",
    "AttentionStages",
    "PartialAttention",
    "LinearParameters",
    "AdditiveParameters",
    "GatedAttentionParameters",
    "GatedAttentionCellParameters",
    "LayerNormParameters",
    "FeedForwardParameters",
    "EncoderLayerParameters",
    "DecoderLayerParameters",
    "EncoderParameters",
    "DecoderParameters",
    "TextEncoderParameters",
    "SequenceClassifierParameters",
    "TransformerParameters",
    "CellState",
    "CellResult",
    "CellStages",
    "EncoderLayerDropout",
    "DecoderLayerDropout",
    "TextEncoderDropout",
    "TransformerDropout",
    "KeyValueCache",
    "CachedAttention",
    "DecoderCache",
    "DecoderStep",
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
    "Rotary",
    "rotary_embedding",
    "rotate_pairs",
    "sinusoidal_positions",
    "Layer",
    "DotProductAttention",
    "SelfAttention",
    "KeyValueAttention",
    "MultiHeadAttention",
    "HardAttention",
    "AdditiveAttention",
    "GatedAttention",
    "GatedAttentionCell",
    "SinusoidalPositions",
    "LearnedPositions",
    "Linear",
    "LayerNorm",
    "FeedForward",
    "EncoderLayer",
    "DecoderLayer",
    "Encoder",
    "Decoder",
    "TextEncoder",
    "SequenceClassifier",
    "Transformer",
    "from_native",
    "to_native",
]


def __getattr__(name: str) -> _Any:
    return _load(__name__, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
