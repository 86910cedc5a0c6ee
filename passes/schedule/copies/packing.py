"""How many cores contexts of given sizes fill: what a scheduler counts with before anything is placed."""

from __future__ import annotations

from collections.abc import Mapping


def cores_needed(counts: Mapping[int, int], size: int) -> int:
    """Cores of ``size`` crossbars for ``counts[s]`` contexts of ``s`` crossbars each, the largest first, each into the
    fullest core that holds it (best fit decreasing). Contexts without crossbars need none.

    Raises ``ValueError`` for a context larger than a core.
    """
    if max(counts, default=0) > size:
        raise ValueError(f"a context of {max(counts)} crossbars, cores have {size}")
    with_left = [0] * (size + 1)
    opened = 0
    for taken in sorted(counts, reverse=True):
        missing = counts[taken] if taken else 0
        for left in range(taken, size + 1):
            if not missing:
                break
            if with_left[left]:
                missing -= _fill(with_left, left, with_left[left], taken, missing)
        if not missing:
            continue
        new = -(-missing // (size // taken))
        opened += new
        with_left[size] += new
        _fill(with_left, size, new, taken, missing)
    return opened


def _fill(with_left: list[int], left: int, cores: int, taken: int, contexts: int) -> int:
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
