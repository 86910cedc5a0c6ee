"""How many cores contexts of given sizes fill: what a scheduler counts with before anything is placed."""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]
"""Contexts of so many crossbars, by number of crossbars."""


def cores_needed(counts: Counts, size: int) -> int:
    """Cores of ``size`` crossbars for ``counts[s]`` contexts of ``s`` crossbars each, the largest first, each into the
    fullest core that holds it (best fit decreasing). Contexts without crossbars need none.

    Raises ``ValueError`` for a context larger than a core.
    """
    if len(counts) > size + 1 and counts[size + 1 :].any():
        raise ValueError(f"a context of {counts.nonzero()[0][-1]} crossbars, cores have {size}")
    return int(_packed(counts[: size + 1], size))


@numba.njit(cache=True)
def _packed(counts: Counts, size: int) -> int:
    with_left = np.zeros(size + 1, np.int64)
    opened = 0
    for taken in range(len(counts) - 1, 0, -1):
        missing = counts[taken]
        for left in range(taken, size + 1):
            if missing and with_left[left]:
                missing -= _fill(with_left, left, with_left[left], taken, missing)
        if missing:
            new = -(-missing // (size // taken))
            opened += new
            with_left[size] += new
            _fill(with_left, size, new, taken, missing)
    return opened


@numba.njit(cache=True)
def _fill(with_left: Counts, left: int, cores: int, taken: int, contexts: int) -> int:
    """Put up to ``contexts`` of ``taken`` crossbars into ``cores`` that have ``left``; how many found room."""
    each = left // taken
    full = min(cores, contexts // each)
    with_left[left] -= full
    with_left[left - each * taken] += full
    rest = min(contexts - full * each, each) if full < cores else 0
    if rest:
        with_left[left] -= 1
        with_left[left - rest * taken] += 1
    return full * each + rest
