"""Rotary positions as an option of multi-head attention: how queries and keys turn, and where they stand (S37)."""

from __future__ import annotations

from typing import Any

import numpy as np

from .checks import Checks
from .operands import Size, describe, show_size
from .positions import Positions, as_offset, check_near, check_offset, shift, show_arguments
from .rotary import check_base, check_pairing, frequencies_of
from .shapes import Sizes
from .trees import Tree, frozen


@frozen
class Rotary(Tree):
    """Rotary positions of projected heads: query i turns as at position i + offset, key j as at j (S7, S21, S37).

    Attributes:
        pairing: "half_split" or "interleaved", as for `rotary_embedding`; there is no default.
        base: 10000 by default.
        rotary_dim: how many components of a head turn, even, by default all of them.
        offset: int, integers of shape (*B,), or "end" for Tk − Tq. None means 0 and needs Tq = Tk.

    Source: Su et al. 2021, equation 34; the half-split pairing: Black et al. 2022.
    """

    pairing: str
    base: float = 10000.0
    rotary_dim: int | None = None
    offset: Any = None

    def __post_init__(self) -> None:
        check_pairing(self.pairing)
        object.__setattr__(self, "base", check_base(self.base))
        if self.rotary_dim is not None:
            if isinstance(self.rotary_dim, bool) or not isinstance(self.rotary_dim, int | np.integer):
                raise TypeError(f"`rotary_dim` of `Rotary` must be an int or None; got {self.rotary_dim!r}")
            object.__setattr__(self, "rotary_dim", int(self.rotary_dim))
        object.__setattr__(self, "offset", as_offset("Rotary", self.offset))

    def query_positions(self, at: Positions) -> Any:
        """Return i + offset for the queries of a block, (Tq,) or (*B, Tq), in the accumulation dtype."""
        places = (at.query + shift(self.offset, at))[..., 0]
        return at.as_number(places if len(places.shape) == 1 else places[..., 0, :])

    def key_positions(self, at: Positions) -> Any:
        """Return j for the keys of a block, (Tk,), in the accumulation dtype."""
        return at.as_number(at.key[0])

    def frequencies(self, head_dim: Size) -> tuple[float, ...]:
        """Return the angle by which each pair turns from one position to the next."""
        return frequencies_of(self.base, head_dim if self.rotary_dim is None else self.rotary_dim)

    def check(self, sizes: Sizes, checks: Checks) -> None:
        """Check that components of a head turn in pairs, and the offset (S7)."""
        self.check_head(sizes.head_dim, checks)
        check_offset("Rotary", self.offset, sizes, checks)
        check_near("offset` of `Rotary", self.offset, checks)

    def check_head(self, head_dim: Size, checks: Checks) -> None:
        """Check that components of a head turn in pairs."""
        size = head_dim if self.rotary_dim is None else self.rotary_dim
        if not isinstance(size, int):
            raise ValueError("the size of a head is not known; give `rotary_dim` of `Rotary`")

        def message() -> str:
            if self.rotary_dim is None:
                return f"the size of a head must be even: components turn in pairs; got {size}"
            limit = f"between 0 and {show_size(head_dim)}, the size of a head"
            return f"`rotary_dim` of `Rotary` must be even and {limit}: components turn in pairs; got {size}"

        if size < 0 or size % 2:
            raise ValueError(message())
        checks.at_most(size, head_dim, message)

    def __repr__(self) -> str:
        rest = show_arguments(base=self.base, rotary_dim=self.rotary_dim, offset=self.offset)
        return f"Rotary({self.pairing!r}, {rest})"


def check_rotary(rotary: Any, sizes: Sizes, checks: Checks) -> None:
    """Refuse what is neither None nor a `Rotary` that fits an attention of these sizes."""
    if rotary is None:
        return
    if not isinstance(rotary, Rotary):
        raise TypeError(f"`rotary` must be Rotary(pairing, …); got {describe(rotary)}")
    rotary.check(sizes, checks)
