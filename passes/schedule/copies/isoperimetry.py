"""How few elements of a source any number of windows see together: the isoperimetric problem of a convolution.

A consumer that has begun s windows, whichever they are, has a source of which at least so many elements are made. For a
padded 3 x 3 convolution it is s and a frontier of about a row.
"""

from __future__ import annotations

from functools import lru_cache

import numba
import numpy as np
import numpy.typing as npt

from cimc.dialects.cim_types import WindowAttr

Ints = npt.NDArray[np.int64]

MOST_STEPS = 20_000_000
"""Steps of the exact search, about as many ns; larger frames, and windows with gaps, are counted only."""
_NEVER = 1 << 40


@lru_cache(maxsize=256)
def least_needed(window: WindowAttr, sizes: tuple[int, int], results: tuple[int, int]) -> Ints:
    """The fewest elements of a source of ``sizes`` (rows, columns) that s of ``results`` windows need, for every s.

    *Proof.* Let h_c be the windows among s in column c of the result. A column c' of the source has at least g(h_c)
    elements under those of column c if windows there see it, where g(h) is the fewest rows that h windows of a column
    see; so at least g(M_c'), with M_c' the largest such h_c. Summed over columns this is the sum over j of
    (g(j) - g(j - 1)) |{c': M_c' >= j}|, and the columns with M_c' >= j are those that the a_j columns of windows with
    h_c >= j see: at least q(a_j), with q as g across. The a_j fall with j and add up to s; the answer is the least sum
    over all such a. Windows that are pushed into a corner see so few (compression: Bollobas and Leader,
    "Compressions and isoperimetric inequalities", J. Comb. Theory A 56, 1991).

    Shape (windows + 1,); not to be written to.
    """
    steps = results[0] * results[1] * results[0] * results[1]
    if max(window.dilations) > 1 or steps > MOST_STEPS:
        return _counted(*(_seen(window, sizes[axis], results[axis], axis) for axis in (0, 1)))
    down, across = (_fewest(*_line(window, sizes[axis], results[axis], axis)) for axis in (0, 1))
    return _piled(np.diff(down), across)


@lru_cache(maxsize=256)
def least_rows(window: WindowAttr, rows: int, results: int) -> Ints:
    """The fewest of ``rows`` that any number of ``results`` rows of windows need; without gaps in the windows."""
    return _fewest(*_line(window, rows, results, 0))


def _line(window: WindowAttr, size: int, results: int, axis: int) -> tuple[Ints, Ints]:
    """Where the windows of a line begin and end in the source."""
    begin = np.arange(results) * window.strides[axis] - window.pads[axis]
    return np.clip(begin, 0, size), np.clip(begin + window.kernel[axis], 0, size)


def _seen(window: WindowAttr, size: int, results: int, axis: int) -> tuple[Ints, int]:
    """Elements of a line that each of its windows sees, and the most windows that see one of them."""
    begin = np.arange(results)[:, None] * window.strides[axis] - window.pads[axis]
    at = begin + np.arange(window.kernel[axis]) * window.dilations[axis]
    inside = (at >= 0) & (at < size)
    return inside.sum(axis=1), int(np.bincount(at[inside], minlength=1).max())


def _counted(high: tuple[Ints, int], wide: tuple[Ints, int]) -> Ints:
    """Elements under s windows, those that see the fewest, each as if the most windows saw it."""
    seen = np.sort(np.outer(high[0], wide[0]).reshape(-1))
    return np.concatenate([[0], -(-np.cumsum(seen) // max(1, high[1] * wide[1]))])


@numba.njit(cache=True)
def _fewest(first: Ints, last: Ints) -> Ints:
    """The fewest elements of a line under any number of its windows [first, last), which end one behind the other."""
    n = len(first)
    best = np.full((n + 1, n), _NEVER)
    best[1] = last - first
    for k in range(2, n + 1):
        for i in range(k - 1, n):
            for j in range(k - 2, i):
                more = last[i] - max(first[i], last[j])
                best[k, i] = min(best[k, i], best[k - 1, j] + max(0, more))
    found = np.zeros(n + 1, np.int64)
    for k in range(1, n + 1):
        found[k] = best[k].min()
    return found


@numba.njit(cache=True)
def _piled(rises: Ints, across: Ints) -> Ints:
    """The least sum of ``rises[j] * across[a_j]`` over all a that fall with j, for every sum of them.

    From the last row to the first: ``least[a, s]`` is that of the rows from j on with none longer than a.
    """
    rows, width = len(rises), len(across) - 1
    least = np.full((width + 1, rows * width + 1), _NEVER)
    least[:, 0] = 0
    for j in range(rows - 1, -1, -1):
        for a in range(width + 1):
            cost = rises[j] * across[a]
            for s in range((rows - j) * width, -1, -1):
                found = least[a - 1, s] if a else _NEVER
                if s >= a:
                    found = min(found, cost + least[a, s - a])
                least[a, s] = found
    return least[width].copy()
