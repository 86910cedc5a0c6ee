"""The collector's thresholds come back."""

from __future__ import annotations

import gc

import pytest

from cimc.garbage import ALLOCATIONS, rare_collections


@pytest.mark.parametrize("before", [(700, 10, 10), (0, 10, 10), (10**6, 5, 5)])
def test_thresholds_are_those_of_before_afterwards(before: tuple[int, int, int]) -> None:
    """Collections are rarer inside, never more frequent; one that is off stays off."""
    found = gc.get_threshold()
    gc.set_threshold(*before)
    try:
        with rare_collections():
            assert gc.get_threshold()[0] == (max(before[0], ALLOCATIONS) if before[0] else 0)
        assert gc.get_threshold() == before
    finally:
        gc.set_threshold(*found)
