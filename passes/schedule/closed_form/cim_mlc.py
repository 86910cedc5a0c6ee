"""The baseline ``cim-mlc``: segments, duplication, balance and refinement as in the authors' public beta.

Source: Qu et al., CIM-MLC, ASPLOS 2024 (arXiv 2401.12428) and its beta; docs/scheduling.md has the formulas. Copies are
lists with one entry an operator; a pool has 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cimc.passes.schedule.closed_form.operators import Machine, Operator

Copies = tuple[int, ...]


@dataclass(frozen=True)
class CimMlcCopies:
    """Copies after duplication (``d``), balance (``b``) and refinement (``x``), one entry an operator."""

    duplicated: Copies
    balanced: Copies
    refined: Copies


@dataclass(frozen=True)
class Layer:
    """What duplication knows of an operator: a convolution, or without crossbars a pool."""

    rows: int
    """Rows of the output: copies divide them. 1 for products that are never duplicated."""
    work: int
    stride: int
    cores: int
    """Whole cores of one copy."""
    tiles: int
    """Crossbars of one copy; 0 for a pool."""


def segments(ops: tuple[Operator, ...], machine: Machine) -> tuple[tuple[Operator, ...], ...]:
    """First-fit in order while the whole cores of one copy each fit the chip; pools never open a segment."""
    found: list[list[Operator]] = []
    used = 0
    for op in ops:
        used += machine.cores_of(op)
        if not found or (used > machine.cores and not op.is_pool):
            found.append([])
            used = machine.cores_of(op)
        found[-1].append(op)
    return tuple(tuple(segment) for segment in found)


def assign(ops: tuple[Operator, ...], machine: Machine) -> CimMlcCopies:
    """The three steps for a segment, which opens with a convolution.

    Raises ``ValueError`` for a segment that does not fit the chip with one copy each.
    """
    layers = tuple(
        Layer(op.out_height, op.work, op.stride, machine.cores_of(op), machine.tiles(op)) for op in ops
    )
    return assign_layers(layers, machine.cores, machine.core_crossbars)


def assign_layers(layers: tuple[Layer, ...], cores: int, core_crossbars: int) -> CimMlcCopies:
    """The three steps for any layers on a chip of ``cores`` x ``core_crossbars``; the first has crossbars.

    Raises ``ValueError`` when one copy each needs more cores than there are.
    """
    duplicated = _duplicate(layers, cores)
    balanced = _balance(layers, duplicated)
    refined = tuple(
        max(layer.cores * b * core_crossbars // layer.tiles, 1) if layer.tiles else 1
        for layer, b in zip(layers, balanced, strict=True)
    )
    return CimMlcCopies(duplicated, balanced, refined)


def _duplicate(layers: tuple[Layer, ...], cores: int) -> Copies:
    """Spare cores to copies by dynamic programming over (layer, cores used); counts divide the output height.

    Ties prefer duplicating to not and, among equal, the largest count, so that later layers win.
    """
    spare = cores - sum(layer.cores for layer in layers)
    if spare < 0:
        raise ValueError(f"one copy of each operator needs {-spare} cores more than the {cores}")
    best = np.zeros(spare + 1, np.int64)
    choices: list[npt.NDArray[np.int64]] = []
    for layer in layers:
        best, choice = _extend(best, layer)
        choices.append(choice)
    copies = [1] * len(layers)
    for index in reversed(range(len(layers))):
        copies[index] = int(choices[index][spare])
        spare -= (copies[index] - 1) * layers[index].cores
    return tuple(copies)


def _extend(
    before: npt.NDArray[np.int64], layer: Layer
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Work saved (negative) and copies of ``layer`` by spare cores, given the table of the layers before it."""
    best, choice = before.copy(), np.ones(len(before), np.int64)
    for copies in range(2, layer.rows + 1 if layer.tiles else 2):
        taken = (copies - 1) * layer.cores
        if layer.rows % copies or taken >= len(before):
            continue
        # Exact: copies divide the output height, hence the work.
        value = before[: len(before) - taken] + layer.work // copies - layer.work
        wins = value <= best[taken:]
        best[taken:][wins] = value[wins]
        choice[taken:][wins] = copies
    return best, choice


def _balance(layers: tuple[Layer, ...], duplicated: Copies) -> Copies:
    """No layer faster than the first one feeds it; every stride on the way, projections' too, divides the need."""
    first = last = duplicated[0]
    stride, balanced = 1, [first]
    for layer, d in zip(layers[1:], duplicated[1:], strict=True):
        stride *= layer.stride
        if not layer.tiles:
            balanced.append(1)
            continue
        wanted = min(first // stride, d)
        last = max(last // layer.stride if wanted > last else wanted, 1)
        balanced.append(last)
    return tuple(balanced)
