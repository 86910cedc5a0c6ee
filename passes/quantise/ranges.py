"""Calibrated ranges by tensor name, kept in the weight store so that a dump can be resumed."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from cimc.dialects.weights import WeightStore

_PREFIX = "range:"


def put_ranges(store: WeightStore, ranges: Mapping[str, npt.NDArray[np.float32]]) -> None:
    """Store ``(low, high)`` of each tensor as two float32.

    Raises ValueError when another range of a tensor is there already.
    """
    for name, ends in ranges.items():
        store.put(_PREFIX + name, np.asarray(ends, np.float32))


def range_of(store: WeightStore, tensor: str) -> tuple[float, float] | None:
    """The range of ``tensor``, or ``None`` when it was not calibrated."""
    if _PREFIX + tensor not in store:
        return None
    low, high = store.array(_PREFIX + tensor)
    return float(low), float(high)
