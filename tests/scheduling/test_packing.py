"""Cores that contexts fill, against packing them one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cimc.passes.schedule.copies.packing import Counts, cores_needed


def by_crossbars(counts: dict[int, int]) -> Counts:
    """The counts as an array."""
    found = np.zeros(max(counts, default=0) + 1, np.int64)
    for taken, count in counts.items():
        found[taken] = count
    return found


def one_by_one(counts: dict[int, int], size: int) -> list[int]:
    """What best fit decreasing leaves of every core."""
    cores: list[int] = []
    for taken in sorted((s for s, n in counts.items() if s for _ in range(n)), reverse=True):
        fitting = [i for i, left in enumerate(cores) if left >= taken]
        if fitting:
            cores[min(fitting, key=lambda i: cores[i])] -= taken
        else:
            cores.append(size - taken)
    return cores


@given(st.integers(1, 16), st.data())
def test_counts_are_packed_as_contexts_one_by_one(size: int, data: st.DataObject) -> None:
    """Contexts taken in groups of one size fill as many cores as one after the other."""
    counts = data.draw(st.dictionaries(st.integers(0, size), st.integers(0, 12), max_size=5))
    assert cores_needed(by_crossbars(counts), size) == len(one_by_one(counts, size))


def test_complements_share_cores() -> None:
    """Nine and seven fill a core of sixteen; nine alone leave seven each."""
    assert cores_needed(by_crossbars({9: 10, 7: 10}), 16) == 10
    assert cores_needed(by_crossbars({9: 10}), 16) == 10
    assert cores_needed(by_crossbars({9: 10, 7: 11}), 16) == 11


def test_a_context_larger_than_a_core_is_refused() -> None:
    """It fits no core, however many there are."""
    with pytest.raises(ValueError, match="17 crossbars, cores have 16"):
        cores_needed(by_crossbars({17: 1}), 16)
