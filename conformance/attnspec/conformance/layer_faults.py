"""Faulty layers: each a small deviation from a correct one, as in real code. The suite must catch them all.

Every fault is the public function of its operation, over NumPy arrays. It names the clause that it breaks and the
condition that makes it visible: a suite without such a case cannot catch it.
"""

from __future__ import annotations

from . import faulty_blocks, faulty_gates, faulty_heads, faulty_models, faulty_similarities, faulty_stacks
from .planted import LayerFault as LayerFault

LAYER_FAULTS: tuple[LayerFault, ...] = tuple(
    fault
    for module in (faulty_heads, faulty_similarities, faulty_gates, faulty_blocks, faulty_stacks, faulty_models)
    for fault in module.planting.faults
)
"""The planted faults of every operation beside the core."""
