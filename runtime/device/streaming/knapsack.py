"""A bounded knapsack in integers, with all ways to count an optimum (docs/streaming.md, placement).

Items of equal value and weight form a class; an answer says how many of each class are kept, since which of
them is a question of time and not of bytes. A network has few classes: layers repeat.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd
from typing import Any

import numpy as np
import numpy.typing as npt

MAX_UNITS = 1 << 19
"""Longest table of values. Values are counted in their greatest common divisor, or coarser where that is longer."""
MAX_VECTORS = 32
"""Optimal counts that are followed; more of them are as good in bytes and left unlooked at."""
_NEVER = np.int64(1) << 62


@dataclass(frozen=True)
class Item:
    """``value`` is lost if the item is left out; ``weight`` is what keeping costs, ``None`` if it cannot be kept."""

    value: int
    weight: int | None


@dataclass(frozen=True)
class Choice:
    """The optimum: ``left_out`` is the value lost, ``kept[v][c]`` how many members of ``classes[c]`` stay."""

    left_out: int
    classes: tuple[tuple[int, ...], ...]
    """Item indices, ascending."""
    kept: tuple[tuple[int, ...], ...]
    """Count vectors of this value; at least one."""
    exact: bool
    """Whether ``left_out`` is proven least (values were not rounded)."""
    complete: bool
    """Whether ``kept`` holds every optimal vector."""


def fractional_bound(items: Sequence[Item], capacity: int) -> float:
    """A lower bound on the value left out by any selection: items may be kept in part (Dantzig, 1957)."""
    lost = float(sum(item.value for item in items))
    able = [item for item in items if item.weight is not None and item.value > 0]
    able.sort(key=lambda item: (item.weight or 0) / item.value)
    for item in able:
        assert item.weight is not None
        share = 1.0 if item.weight <= capacity else capacity / item.weight
        lost -= share * item.value
        capacity -= item.weight
        if capacity <= 0:
            break
    return lost


def least_left_out(items: Sequence[Item], capacity: int) -> Choice:
    """Keep items of total weight at most ``capacity`` so that the value left out is least.

    Raises :class:`ValueError` for a negative capacity.
    """
    if capacity < 0:
        raise ValueError(f"a capacity is 0 or more, got {capacity}")
    total = sum(item.value for item in items)
    grouped: dict[tuple[int, int], list[int]] = {}
    for index, item in enumerate(items):
        if item.weight is not None and item.weight <= capacity:
            grouped.setdefault((item.value, item.weight), []).append(index)
    kinds = sorted(grouped)
    unit = max(gcd(*(value for value, _ in kinds)) if kinds else 1, 1)
    reach = sum(value * len(grouped[value, weight]) for value, weight in kinds)
    exact = reach // unit <= MAX_UNITS
    unit = unit if exact else -(-reach // MAX_UNITS)
    counted = [(value // unit, weight, len(grouped[value, weight])) for value, weight in kinds]
    table = _lightest(counted)
    best = int(np.flatnonzero(table <= capacity)[-1])
    vectors, complete = _vectors(counted, best, capacity)
    lost = [total - sum(n * kinds[c][0] for c, n in enumerate(vector)) for vector in vectors]
    least = min(lost)
    return Choice(
        least,
        tuple(tuple(grouped[kind]) for kind in kinds),
        tuple(vector for vector, value in zip(vectors, lost, strict=True) if value == least),
        exact,
        complete and exact,
    )


def _lightest(counted: Sequence[tuple[int, int, int]]) -> npt.NDArray[Any]:
    """int64 [V + 1]: the least weight of each total value, from (value, weight, how many) of each class."""
    table = np.full(1 + sum(value * count for value, _, count in counted), _NEVER, dtype=np.int64)
    table[0] = 0
    for value, weight, count in counted:
        part = 1
        while count > 0:  # 1, 2, 4 ... and the rest: any number up to the count is a sum of some
            taken = min(part, count)
            shift = value * taken
            moved = table[: len(table) - shift] + weight * taken
            np.minimum(table[shift:], moved, out=table[shift:])
            count -= taken
            part *= 2
    return table


def _vectors(
    counted: Sequence[tuple[int, int, int]], best: int, capacity: int
) -> tuple[list[tuple[int, ...]], bool]:
    """Count vectors of total value ``best`` within ``capacity``, and whether these are all.

    From the last class to the first; a partial vector goes on if the classes before it can make up the rest. Their
    table is computed anew for each class: memory stays that of two tables.
    """
    partial: list[tuple[int, int, tuple[int, ...]]] = [(best, capacity, ())]
    complete = True
    for c in range(len(counted) - 1, -1, -1):
        value, weight, count = counted[c]
        table = _lightest(counted[:c])
        following: list[tuple[int, int, tuple[int, ...]]] = []
        for rest, room, chosen in partial:
            for n in range(count + 1):
                left, space = rest - n * value, room - n * weight
                if left < 0 or space < 0:
                    break
                if left < len(table) and table[left] <= space:
                    following.append((left, space, (n, *chosen)))
        complete &= len(following) <= MAX_VECTORS
        partial = following[:MAX_VECTORS]
    return [chosen for _, _, chosen in partial], complete
