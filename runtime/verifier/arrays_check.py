"""Checks of array sets: crossbars, tiles, codings, groups, and that the weight image is fully used (P060 to P068)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cimc.diagnostics import CimError
from cimc.runtime.crossbar.coding import Coding, converter_range
from cimc.runtime.crossbar.converter import MAX_STEP
from cimc.runtime.program.opcodes import READS
from cimc.runtime.program.tables import NONE
from cimc.runtime.verifier.code import Decoded
from cimc.runtime.verifier.tables_check import Machine

Block = tuple[int, int, int, int]
"""k0, k1, n0, n1."""

_MACHINE_FIELDS = (
    "weight_encoding",
    "column_flip",
    "cell_bits",
    "input_encoding",
    "dac_bits",
    "parallel_rows",
    "subtract",
)
"""Fields of a coding that have a key of the same name in the machine's ``crossbar`` section."""


def read_codings(decoded: Decoded) -> list[Coding | None]:
    """The codings of the program; reports P066 for rows that are none."""
    codings: list[Coding | None] = []
    for number, row in enumerate(decoded.program["codings"]["fields"]):
        try:
            codings.append(Coding.from_row(np.asarray(row)))
        except CimError as error:
            codings.append(None)
            decoded.report("P066", f"coding {number} is invalid: {error}")
    return codings


def check_arrays(
    decoded: Decoded,
    machine: Machine,
    codings: Sequence[Coding | None],
    weights_shapes: Mapping[str, tuple[int, int]] | None,
    weights: Mapping[str, npt.NDArray[Any]] | None,
) -> None:
    """Report sets whose crossbars, blocks or weights cannot be."""
    sets = {name: column.tolist() for name, column in decoded.program["array_sets"].items()}
    tiles = {name: column.tolist() for name, column in decoded.program["tiles"].items()}
    holders: dict[tuple[int, int, int], int] = {}
    tilings: dict[tuple[Block, ...], bool] = {}  # of sets in the same blocks, as those of copies are
    for number in range(decoded.program.count("array_sets")):
        node = decoded.node_of(sets["context"][number])
        coding = codings[sets["coding"][number]]
        span = range(sets["tile_first"][number], sets["tile_first"][number] + sets["tile_count"][number])
        rows = sets["k1"][number] - sets["k0"][number]
        columns = sets["n1"][number] - sets["n0"][number]
        blocks: list[Block] = []
        for tile in span:
            block = (tiles["k0"][tile], tiles["k1"][tile], tiles["n0"][tile], tiles["n1"][tile])
            blocks.append(block)
            _check_tile(decoded, machine, coding, number, tiles["xbar"][tile], block, node)
            if tiles["set"][tile] != number:
                decoded.report(
                    "P063", f"tile {tile} of set {number} says set {tiles['set'][tile]}", node=node
                )
            key = (sets["core"][number], tiles["xbar"][tile], sets["phase"][number])
            if (
                holders.setdefault(key, number) != number
                or list(tiles["xbar"][t] for t in span).count(tiles["xbar"][tile]) > 1
            ):
                decoded.report(
                    "P061",
                    f"crossbar {key[1]} of core {key[0]} holds array sets {holders[key]} and {number} in phase"
                    f" {key[2]}",
                    node=node,
                )
        groups = sets["groups"][number]
        stored = weights if sets["tensor"][number] != NONE else None
        if groups < 1 or rows % groups or columns % groups:
            decoded.report(
                "P067",
                f"array set {number} of {rows} x {columns} weights cannot be the diagonal of {groups} groups",
                node=node,
            )
        elif groups > 1 and stored is not None:
            _check_diagonal(decoded, number, groups, stored)
        if coding is not None and coding.max_abs_weight and stored is not None:
            _check_range(decoded, number, coding.max_abs_weight, stored)
        tiling = ((0, rows, 0, columns), *blocks)
        if tiling not in tilings:
            tilings[tiling] = rows >= 1 and columns >= 1 and _tiled(blocks, rows, columns)
        if not tilings[tiling]:
            decoded.report(
                "P063", f"tiles of array set {number} do not tile its {rows} x {columns} block", node=node
            )
        if coding is not None:
            for problem in foreign_fields(coding, decoded.program.machine["crossbar"]):
                decoded.report("P068", f"array set {number}: {problem}", node=node)
            steps = decoded.program["steps"]["h"][sets["step_first"][number] :][: coding.step_count]
            outside = len(steps) and not 1 <= int(steps.min()) <= int(steps.max()) <= MAX_STEP
            if len(steps) < coding.step_count or outside:
                decoded.report(
                    "P066",
                    f"array set {number} needs {coding.step_count} converter steps of 1 to {MAX_STEP}, given"
                    f" {steps.tolist()}",
                    node=node,
                )
        if coding is not None and stored is not None:
            _check_weights(decoded, coding, number, stored)
        if coding is not None and coding.column_flip and sets["tensor"][number] == NONE:
            decoded.report(
                "P069",
                f"array set {number} flips columns; rows written at run time know no others",
                node=node,
            )
    _check_image(decoded, sets, weights_shapes)


def foreign_fields(coding: Coding, crossbar: Mapping[str, Any]) -> Iterator[str]:
    """Numbers of a coding that are the machine's to decide and differ from it, in words."""
    given = {name: crossbar[name] for name in _MACHINE_FIELDS if name in crossbar}
    if "adc_bits" in crossbar:
        names = ("converter_lo", "converter_hi", "converter_zero")
        signed = bool(crossbar.get("adc_signed"))
        given |= dict(zip(names, converter_range(crossbar["adc_bits"], signed), strict=True))
    for name, value in given.items():
        if getattr(coding, name) != value:
            yield f"{name} is {value} on this machine, the coding says {getattr(coding, name)}"


def _check_tile(
    decoded: Decoded,
    machine: Machine,
    coding: Coding | None,
    number: int,
    xbar: int,
    block: Block,
    node: int,
) -> None:
    k0, k1, n0, n1 = block
    if not 0 <= xbar < machine.crossbars:
        decoded.report(
            "P060", f"array set {number} uses crossbar {xbar}; a core has {machine.crossbars}", node=node
        )
    cells = coding.cells_per_weight if coding is not None and not machine.logical_cells else 1
    if k1 - k0 > machine.rows or (n1 - n0) * cells > machine.columns:
        decoded.report(
            "P062",
            f"a tile of array set {number} takes {k1 - k0} rows x {(n1 - n0) * cells} columns; a crossbar has"
            f" {machine.rows} x {machine.columns}",
            node=node,
        )


def _check_weights(
    decoded: Decoded, coding: Coding, number: int, weights: Mapping[str, npt.NDArray[Any]]
) -> None:
    """The cells of the set's coding can hold its weights."""
    sets = decoded.program["array_sets"]
    name = decoded.program.weights[int(sets["tensor"][number])]
    if name not in weights:
        return  # P064 says so
    rows = slice(max(0, int(sets["k0"][number])), max(0, int(sets["k1"][number])))
    columns = slice(max(0, int(sets["n0"][number])), max(0, int(sets["n1"][number])))
    block = weights[name][rows, columns]
    low, high = coding.weight_range
    narrowest = np.dtype(np.int8 if coding.weight_bits <= 8 else np.int16)
    if block.size and (int(block.min()) < low or int(block.max()) > high):
        decoded.report(
            "P066",
            f"array set {number} holds weights {block.min()} … {block.max()} of '{name}'; its coding holds {low} …"
            f" {high}",
            node=decoded.node_of(int(sets["context"][number])),
        )
    elif block.dtype != narrowest:
        decoded.report(
            "P066",
            f"array set {number} holds weights {block.dtype} of '{name}'; those of {coding.weight_bits} bits are stored"
            f" as {narrowest}",
            node=decoded.node_of(int(sets["context"][number])),
        )


def _held(decoded: Decoded, number: int, weights: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """The weights of a set, (K, N); empty where they cannot be read, as P064 says."""
    sets = {name: int(column[number]) for name, column in decoded.program["array_sets"].items()}
    name = decoded.program.weights[sets["tensor"]]
    if name not in weights or min(sets["k0"], sets["n0"]) < 0:
        return np.zeros((0, 0), np.int8)
    return weights[name][sets["k0"] : sets["k1"], sets["n0"] : sets["n1"]]


def _check_diagonal(
    decoded: Decoded, number: int, groups: int, weights: Mapping[str, npt.NDArray[Any]]
) -> None:
    """Every row of a set of several groups holds weights in the columns of one group only."""
    block = _held(decoded, number, weights)
    used = (block.reshape(len(block), groups, -1) != 0).any(axis=2).sum(axis=1) if block.size else np.zeros(1)
    if int(used.max()) > 1:
        sets = decoded.program["array_sets"]
        decoded.report(
            "P067",
            f"row {int(used.argmax())} of array set {number} has weights of {int(used.max())} of its {groups} groups"
            f" in '{decoded.program.weights[int(sets['tensor'][number])]}'; a row belongs to one",
            node=decoded.node_of(int(sets["context"][number])),
        )


def _check_range(
    decoded: Decoded, number: int, largest: int, weights: Mapping[str, npt.NDArray[Any]]
) -> None:
    """The weights of a set are within what its coding promises its cells."""
    held = _held(decoded, number, weights)
    found = max(int(held.max(initial=0)), -int(held.min(initial=0)))
    if found > largest:
        decoded.report(
            "P068",
            f"array set {number} holds a weight of magnitude {found}, its coding states {largest} at most",
            node=decoded.node_of(int(decoded.program["array_sets"]["context"][number])),
        )


def _tiled(blocks: Sequence[Block], rows: int, columns: int) -> bool:
    """Whether ``blocks`` cover [0, rows) x [0, columns) once."""
    inside = all(0 <= k0 < k1 <= rows and 0 <= n0 < n1 <= columns for k0, k1, n0, n1 in blocks)
    if not inside:
        return False
    covered = _coverage(blocks, rows, columns)
    return bool((covered == 1).all())


def _coverage(blocks: Sequence[Block], rows: int, columns: int) -> npt.NDArray[np.int64]:
    """How many blocks cover each cell of the grid that the blocks' edges cut rows x columns into."""
    edges_k = np.unique([0, rows, *(k for block in blocks for k in block[:2])])
    edges_n = np.unique([0, columns, *(n for block in blocks for n in block[2:])])
    change = np.zeros((len(edges_k), len(edges_n)), np.int64)
    for k0, k1, n0, n1 in blocks:
        i0, i1 = np.searchsorted(edges_k, (k0, k1))
        j0, j1 = np.searchsorted(edges_n, (n0, n1))
        change[i0, j0] += 1
        change[i0, j1] -= 1
        change[i1, j0] -= 1
        change[i1, j1] += 1
    return change.cumsum(0).cumsum(1)[:-1, :-1]


def _check_image(
    decoded: Decoded, sets: dict[str, list[int]], weights_shapes: Mapping[str, tuple[int, int]] | None
) -> None:
    """Every weight in the same number of sets, every set read."""
    read = {step.row.xb for step in decoded.all() if step.row.opcode in READS}
    of_tensor: dict[int, list[int]] = defaultdict(list)
    for number, tensor in enumerate(sets["tensor"]):
        of_tensor[tensor].append(number)
        if number not in read:
            decoded.report(
                "P064", f"array set {number} is never read", node=decoded.node_of(sets["context"][number])
            )
    for tensor, name in enumerate(decoded.program.weights):
        numbers = of_tensor[tensor]
        if not numbers:
            decoded.report("P064", f"no array set holds tensor '{name}'")
            continue
        node = decoded.node_of(sets["context"][numbers[0]])
        blocks = [(sets["k0"][s], sets["k1"][s], sets["n0"][s], sets["n1"][s]) for s in numbers]
        rows, columns = max(b[1] for b in blocks), max(b[3] for b in blocks)
        if weights_shapes is not None:
            if name not in weights_shapes:
                decoded.report("P064", f"the weight image has no tensor '{name}'", node=node)
                continue
            outside = rows > weights_shapes[name][0] or columns > weights_shapes[name][1]
            rows, columns = weights_shapes[name]
            if outside:
                decoded.report(
                    "P064", f"sets of tensor '{name}' leave its {rows} x {columns} weights", node=node
                )
                continue
        if min(min(block) for block in blocks) < 0:
            decoded.report("P064", f"a set of tensor '{name}' begins below 0", node=node)
            continue
        covered = _coverage(blocks, rows, columns)
        if covered.min() != covered.max() or covered.min() < 1:
            decoded.report(
                "P064",
                f"weights of tensor '{name}' stand in {covered.min()} to {covered.max()} sets; each belongs in"
                " the same number of copies",
                node=node,
            )
