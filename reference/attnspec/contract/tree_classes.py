"""Every class of object that holds arrays: what a framework registers, to take such objects apart and rebuild them."""

from __future__ import annotations

from .biases import Alibi, BiasArray, RelativePositionBias, Sum
from .dropout import Dropout
from .masks import BooleanArray, Both, Either, Full, Not, Predicate
from .positional_masks import Causal, Chunked, KeyLengths, Prefix, QueryLengths, Segments, SlidingWindow
from .rotary_option import Rotary
from .trees import Tree

MASK_CLASSES: tuple[type[Tree], ...] = (
    Full,
    Causal,
    SlidingWindow,
    KeyLengths,
    QueryLengths,
    Segments,
    Prefix,
    Chunked,
    Predicate,
    BooleanArray,
    Both,
    Either,
    Not,
)

BIAS_CLASSES: tuple[type[Tree], ...] = (BiasArray, Alibi, RelativePositionBias, Sum)

TREE_CLASSES: tuple[type[Tree], ...] = (*MASK_CLASSES, *BIAS_CLASSES, Dropout, Rotary)
