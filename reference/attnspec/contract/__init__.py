"""The written agreement: what a call may look like, what its masks mean, and what its errors say.

This package holds no tensor and imports no framework. The reference and every backend check each call here, before any
computation, so the same wrong call raises the same exception with the same text in all of them.
"""

from .attention_configs import AdditiveAttentionConfig as AdditiveAttentionConfig
from .attention_configs import DotProductAttentionConfig as DotProductAttentionConfig
from .attention_configs import GatedAttentionCellConfig as GatedAttentionCellConfig
from .attention_configs import GatedAttentionConfig as GatedAttentionConfig
from .attention_configs import HardAttentionConfig as HardAttentionConfig
from .attention_configs import KeyValueAttentionConfig as KeyValueAttentionConfig
from .attention_configs import MultiHeadAttentionConfig as MultiHeadAttentionConfig
from .attention_configs import SelfAttentionConfig as SelfAttentionConfig
from .bert_states import text_encoder_from_bert as text_encoder_from_bert
from .biases import Bias as Bias
from .biases import alibi as alibi
from .biases import alibi_slopes as alibi_slopes
from .biases import relative_position_bias as relative_position_bias
from .block_configs import DecoderConfig as DecoderConfig
from .block_configs import DecoderLayerConfig as DecoderLayerConfig
from .block_configs import EncoderConfig as EncoderConfig
from .block_configs import EncoderLayerConfig as EncoderLayerConfig
from .block_configs import FeedForwardConfig as FeedForwardConfig
from .block_configs import LayerNormConfig as LayerNormConfig
from .block_configs import LearnedPositionsConfig as LearnedPositionsConfig
from .block_configs import LinearConfig as LinearConfig
from .block_configs import SinusoidalPositionsConfig as SinusoidalPositionsConfig
from .dropout import Dropout as Dropout
from .layer_config import LayerConfig as LayerConfig
from .layer_config import ParameterSpec as ParameterSpec
from .layer_config import initial_state as initial_state
from .layer_parameters import AdditiveParameters as AdditiveParameters
from .layer_parameters import DecoderLayerParameters as DecoderLayerParameters
from .layer_parameters import DecoderParameters as DecoderParameters
from .layer_parameters import EncoderLayerParameters as EncoderLayerParameters
from .layer_parameters import EncoderParameters as EncoderParameters
from .layer_parameters import FeedForwardParameters as FeedForwardParameters
from .layer_parameters import GatedAttentionCellParameters as GatedAttentionCellParameters
from .layer_parameters import GatedAttentionParameters as GatedAttentionParameters
from .layer_parameters import LayerNormParameters as LayerNormParameters
from .layer_parameters import LinearParameters as LinearParameters
from .layer_parameters import SequenceClassifierParameters as SequenceClassifierParameters
from .layer_parameters import TextEncoderParameters as TextEncoderParameters
from .layer_parameters import TransformerParameters as TransformerParameters
from .layer_results import CachedAttention as CachedAttention
from .layer_results import CellResult as CellResult
from .layer_results import CellStages as CellStages
from .layer_results import CellState as CellState
from .layer_results import DecoderCache as DecoderCache
from .layer_results import DecoderLayerDropout as DecoderLayerDropout
from .layer_results import DecoderStep as DecoderStep
from .layer_results import EncoderLayerDropout as EncoderLayerDropout
from .layer_results import KeyValueCache as KeyValueCache
from .layer_results import TextEncoderDropout as TextEncoderDropout
from .layer_results import TransformerDropout as TransformerDropout
from .layer_states import StateError as StateError
from .layer_states import read_state as read_state
from .layer_states import save_state as save_state
from .mask_json import mask_from_json as mask_from_json
from .mask_json import mask_to_json as mask_to_json
from .masks import Mask as Mask
from .masks import full as full
from .masks import predicate as predicate
from .model_configs import SequenceClassifierConfig as SequenceClassifierConfig
from .model_configs import TextEncoderConfig as TextEncoderConfig
from .model_configs import TransformerConfig as TransformerConfig
from .native_options import InterchangeError as InterchangeError
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
from .rotary_option import Rotary as Rotary

__all__ = [
    "AdditiveAttentionConfig",
    "AdditiveParameters",
    "AttentionGradients",
    "AttentionStages",
    "Bias",
    "CachedAttention",
    "CellResult",
    "CellStages",
    "CellState",
    "DecoderCache",
    "DecoderConfig",
    "DecoderLayerConfig",
    "DecoderLayerDropout",
    "DecoderLayerParameters",
    "DecoderParameters",
    "DecoderStep",
    "DotProductAttentionConfig",
    "Dropout",
    "EncoderConfig",
    "EncoderLayerConfig",
    "EncoderLayerDropout",
    "EncoderLayerParameters",
    "EncoderParameters",
    "FeedForwardConfig",
    "FeedForwardParameters",
    "GatedAttentionCellConfig",
    "GatedAttentionCellParameters",
    "GatedAttentionConfig",
    "GatedAttentionParameters",
    "HardAttentionConfig",
    "InterchangeError",
    "KeyValueAttentionConfig",
    "KeyValueCache",
    "LayerConfig",
    "LayerNormConfig",
    "LayerNormParameters",
    "LearnedPositionsConfig",
    "LinearConfig",
    "LinearParameters",
    "Mask",
    "MultiHeadAttentionConfig",
    "MultiHeadParameters",
    "ParameterSpec",
    "PartialAttention",
    "Rotary",
    "SelfAttentionConfig",
    "SequenceClassifierConfig",
    "SequenceClassifierParameters",
    "SinusoidalPositionsConfig",
    "StateError",
    "TextEncoderConfig",
    "TextEncoderDropout",
    "TextEncoderParameters",
    "TransformerConfig",
    "TransformerDropout",
    "TransformerParameters",
    "alibi",
    "alibi_slopes",
    "causal",
    "chunked",
    "full",
    "initial_state",
    "key_lengths",
    "mask_from_json",
    "mask_to_json",
    "predicate",
    "prefix",
    "query_lengths",
    "read_state",
    "relative_position_bias",
    "save_state",
    "segments",
    "sliding_window",
    "text_encoder_from_bert",
]
