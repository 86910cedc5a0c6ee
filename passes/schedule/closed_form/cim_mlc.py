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
    duplicated = _duplicate(ops, machine)
    balanced = _balance(ops, duplicated)
    refined = tuple(
        1 if op.is_pool else max(machine.cores_of(op) * b * machine.core_crossbars // machine.tiles(op), 1)
        for op, b in zip(ops, balanced, strict=True)
    )
    return CimMlcCopies(duplicated, balanced, refined)


def _duplicate(ops: tuple[Operator, ...], machine: Machine) -> Copies:
    """Spare cores to copies by dynamic programming over (operator, cores used); counts divide the output height.

    Ties prefer duplicating to not and, among equal, the largest count, so that later operators win.
    """
    spare = machine.cores - sum(machine.cores_of(op) for op in ops)
    if spare < 0:
        raise ValueError(f"one copy of each operator needs {-spare} cores more than the {machine.cores}")
    convolutions = [(i, op) for i, op in enumerate(ops) if not op.is_pool]
    best = np.zeros(spare + 1, np.int64)
    choices: list[npt.NDArray[np.int64]] = []
    for _, op in convolutions:
        best, choice = _extend(best, op, machine.cores_of(op))
        choices.append(choice)
    copies = [1] * len(ops)
    for (index, op), choice in zip(reversed(convolutions), reversed(choices), strict=True):
        copies[index] = int(choice[spare])
        spare -= (copies[index] - 1) * machine.cores_of(op)
    return tuple(copies)


def _extend(
    before: npt.NDArray[np.int64], op: Operator, cores: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Work saved (negative) and copies of ``op`` by spare cores, given the table of the operators before it."""
    best, choice = before.copy(), np.ones(len(before), np.int64)
    for copies in range(2, op.out_height + 1):
        taken = (copies - 1) * cores
        if op.out_height % copies or taken >= len(before):
            continue
        # Exact: copies divide the output height, hence the work.
        value = before[: len(before) - taken] + op.work // copies - op.work
        wins = value <= best[taken:]
        best[taken:][wins] = value[wins]
        choice[taken:][wins] = copies
    return best, choice


def _balance(ops: tuple[Operator, ...], duplicated: Copies) -> Copies:
    """No operator faster than the first one feeds it; every stride on the way, projections' too, divides the need."""
    first = last = duplicated[0]
    stride, balanced = 1, [first]
    for op, d in zip(ops[1:], duplicated[1:], strict=True):
        stride *= op.stride
        if op.is_pool:
            balanced.append(1)
            continue
        wanted = min(first // stride, d)
        last = max(last // op.stride if wanted > last else wanted, 1)
        balanced.append(last)
    return tuple(balanced)
