"""Addresses of buffers: first fit over all phases of a buffer."""

from __future__ import annotations

import numpy as np
import pytest

from cimc.passes.lower.memory_map import MemoryMap


@pytest.mark.parametrize("seed", range(8))
def test_first_fit_against_a_search_byte_by_byte(seed: int) -> None:
    """Every base is the lowest at which no byte is taken in any of the buffer's phases."""
    rng = np.random.default_rng(seed)
    memory, taken = MemoryMap(), np.zeros((6, 400), bool)
    for _ in range(40):
        size, first = int(rng.integers(0, 9)), int(rng.integers(0, 6))
        last = int(rng.integers(first, 6))
        free = taken[first : last + 1].sum(axis=0) == 0
        wanted = next(at for at in range(400) if free[at : at + size].all()) if size else None
        base = memory.take(-1, size, (first, last))
        if size:
            assert base == wanted
            taken[first : last + 1, base : base + size] = True
    assert memory.end(-1) == 1 + int(np.flatnonzero(taken.any(axis=0)).max())
    assert memory.end(0) == 0


def test_a_chain_of_phases_takes_two_buffers() -> None:
    """What one phase leaves to the next is free after it: a chain of any length needs room for two."""
    memory = MemoryMap()
    bases = [memory.take(-1, 100, (phase, phase + 1)) for phase in range(50)]
    assert set(bases) == {0, 100}
    assert memory.end(-1) == 200
