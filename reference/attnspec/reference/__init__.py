"""The definition of attention: NumPy, float64, written to be read.

`dot_product_attention` in `attention.py` is the page to start with; the names are those of every backend, and beside
them the gradients in closed form.
"""

from attnspec.contract import AdditiveParameters as AdditiveParameters
from attnspec.contract import AttentionGradients as AttentionGradients
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

from .attention import attention_stages as attention_stages
from .attention import dot_product_attention as dot_product_attention
from .block_gradients import decoder_layer_vjp as decoder_layer_vjp
from .block_gradients import decoder_vjp as decoder_vjp
from .block_gradients import encoder_layer_vjp as encoder_layer_vjp
from .block_gradients import encoder_vjp as encoder_vjp
from .block_gradients import feed_forward_vjp as feed_forward_vjp
from .block_gradients import layer_norm_vjp as layer_norm_vjp
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
from .gate_gradients import attention_gate_vjp as attention_gate_vjp
from .gate_gradients import gated_attention_cell_vjp as gated_attention_cell_vjp
from .gate_gradients import gated_attention_vjp as gated_attention_vjp
from .gate_gradients import gated_input_vjp as gated_input_vjp
from .gates import attention_gate as attention_gate
from .gates import gated_attention as gated_attention
from .gates import gated_attention_cell as gated_attention_cell
from .gates import gated_attention_cell_stages as gated_attention_cell_stages
from .gates import gated_input as gated_input
from .gradients import dot_product_attention_vjp as dot_product_attention_vjp
from .layers import run_layer as run_layer
from .model_gradients import add_learned_positions_vjp as add_learned_positions_vjp
from .model_gradients import embedding_vjp as embedding_vjp
from .model_gradients import mean_pooling_vjp as mean_pooling_vjp
from .model_gradients import sequence_classifier_vjp as sequence_classifier_vjp
from .model_gradients import text_encoder_vjp as text_encoder_vjp
from .model_gradients import transformer_vjp as transformer_vjp
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
from .positions import rotary_embedding_vjp as rotary_embedding_vjp
from .positions import rotate_pairs as rotate_pairs
from .positions import sinusoidal_positions as sinusoidal_positions
from .projection_gradients import key_value_attention_vjp as key_value_attention_vjp
from .projection_gradients import multi_head_attention_vjp as multi_head_attention_vjp
from .projection_gradients import self_attention_vjp as self_attention_vjp
from .projections import key_value_attention as key_value_attention
from .projections import multi_head_attention as multi_head_attention
from .projections import self_attention as self_attention
from .similarities import additive_attention as additive_attention
from .similarities import bilinear_attention as bilinear_attention
from .similarities import cosine_attention as cosine_attention
from .similarities import hard_attention as hard_attention
from .similarity_gradients import additive_attention_vjp as additive_attention_vjp
from .similarity_gradients import bilinear_attention_vjp as bilinear_attention_vjp
from .similarity_gradients import cosine_attention_vjp as cosine_attention_vjp
from .similarity_gradients import hard_attention_vjp as hard_attention_vjp

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
    "run_layer",
    "AttentionGradients",
    "dot_product_attention_vjp",
    "self_attention_vjp",
    "key_value_attention_vjp",
    "multi_head_attention_vjp",
    "rotary_embedding_vjp",
    "hard_attention_vjp",
    "additive_attention_vjp",
    "bilinear_attention_vjp",
    "cosine_attention_vjp",
    "attention_gate_vjp",
    "gated_input_vjp",
    "gated_attention_vjp",
    "gated_attention_cell_vjp",
    "layer_norm_vjp",
    "feed_forward_vjp",
    "encoder_layer_vjp",
    "encoder_vjp",
    "decoder_layer_vjp",
    "decoder_vjp",
    "embedding_vjp",
    "add_learned_positions_vjp",
    "mean_pooling_vjp",
    "text_encoder_vjp",
    "sequence_classifier_vjp",
    "transformer_vjp",
]
