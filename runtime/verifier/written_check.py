"""Definitions before uses: local buffers and cells are written before they are read (P050, P051).

A use is compared with the definitions before it in the same context. Loops that enclose both run in
step: at equal counters the definition is done, with all iterations of the loops around it alone. So the
regions compared are hulls over the loops not shared, at the first iteration of the shared ones where
both move alike, and over all iterations where they do not. Columns a strided definition leaves out are
not looked for: the functional engine finds those.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import chain, pairwise
from math import prod
from typing import NamedTuple

from cimc.runtime.program.opcodes import BY_WORDLINE, READS, WRITES, BufferKind, Opcode
from cimc.runtime.program.tables import NONE
from cimc.runtime.verifier.addresses_check import set_wordlines
from cimc.runtime.verifier.code import Decoded, Step
from cimc.runtime.verifier.operands import Affine, Tables, Touched


class _Region(NamedTuple):
    """Rows [row + rows[0], row + rows[1]] x elements [col + cols[0], col + cols[1]) at a step."""

    step: Step
    row: Affine
    rows: tuple[int, int]
    col: Affine
    cols: tuple[int, int]
    width: int
    """Elements of a row: what lies beyond is not there."""


class _Box(NamedTuple):
    """Half-open intervals of rows and columns."""

    row0: int
    row1: int
    col0: int
    col1: int


def check_written(decoded: Decoded, tables: Tables, touched: Sequence[Sequence[Touched]]) -> None:
    """Report reads of buffers and cells that nothing wrote before."""
    streams: dict[int, list[int]] = defaultdict(list)
    contexts = decoded.program["contexts"]
    order = sorted(range(len(decoded.steps)), key=lambda c: (int(contexts["phase"][c]), c))
    for context in order:
        streams[int(contexts["stream"][context])].append(context)
    wordlines = set_wordlines(decoded)
    local = [kind == BufferKind.LOCAL for kind in tables.buffers["kind"]]
    for members in streams.values():
        steps = [one for context in members for one in touched[context]]
        _check_stream(decoded, tables, steps, wordlines, local)
    _check_shared(decoded, tables, touched)


def _check_stream(
    decoded: Decoded, tables: Tables, steps: Sequence[Touched], wordlines: list[int], local: list[bool]
) -> None:
    defined: dict[int, list[_Region]] = defaultdict(list)
    cells: dict[int, list[_Region]] = defaultdict(list)
    for step, accesses in steps:
        if step.row.opcode in READS or step.row.opcode in WRITES:
            region = _cell_region(decoded, tables, step, wordlines)
            if step.row.opcode in WRITES:
                cells[step.row.xb].append(region)
            elif not _covered(region, cells[step.row.xb], None):
                decoded.report(
                    "P051", f"reads cells of array set {step.row.xb} that no write before it programs", step
                )
        writes: list[tuple[int, _Region]] = []
        for access in accesses:
            if not local[access.buffer]:
                continue
            region = _Region(
                step, access.row, access.rows, access.col, access.cols, tables.buffers["pitch"][access.buffer]
            )
            slots = tables.buffers["slots"][access.buffer]
            if access.reads and not _covered(region, defined[access.buffer], slots):
                decoded.report(
                    "P050",
                    f"operand {access.operand} reads elements of buffer {access.buffer} that nothing before it"
                    " writes",
                    step,
                )
            if access.writes:
                writes.append((access.buffer, region))
        for buffer, region in writes:
            defined[buffer].append(region)


def _cell_region(decoded: Decoded, tables: Tables, step: Step, wordlines: list[int]) -> _Region:
    """Tiles as rows, wordlines as columns; of a set that is written at run time one row, and its own rows as columns.

    Reads of such a set are taken to see all of it.
    """
    zero = Affine(0, (0,) * len(step.trips))
    sets = decoded.program["array_sets"]
    if sets["tensor"][step.row.xb] == NONE:
        rows = int(sets["k1"][step.row.xb] - sets["k0"][step.row.xb])
        if step.row.opcode == Opcode.WRITE_LOCAL:
            return _Region(step, zero, (0, 0), tables.row_address(step, "b"), (0, step.row.n), rows)
        return _Region(step, zero, (0, 0), zero, (0, rows), rows)
    first = tables.row_address(step, "b")
    count = step.row.b_col
    set_number = step.row.xb
    if step.row.opcode not in BY_WORDLINE:
        height = wordlines[set_number]
        return _Region(step, first, (0, count - 1), zero, (0, height), height)
    tiles = int(sets["tile_count"][set_number])
    return _Region(step, zero, (0, tiles - 1), first, (0, count), wordlines[set_number])


def _covered(use: _Region, definitions: list[_Region], slots: int | None, *, ordered: bool = True) -> bool:
    """Whether the boxes of ``definitions`` cover that of ``use``. ``slots``: rows are taken modulo it;
    ``ordered``: the definitions come first, so that shared loops may be taken at one iteration."""
    boxes: list[_Box] = []
    wanted = _Box(0, 0, 0, 0)
    for definition in definitions:
        shared = _shared(use.step, definition.step) if ordered else 0
        alike = _alike(use, definition, shared)
        box = _box(definition, shared if alike else 0, slots)
        wanted = _box(use, shared if alike else 0, slots)
        if (box.row0 <= wanted.row0 and wanted.row1 <= box.row1) and (
            box.col0 <= wanted.col0 and wanted.col1 <= box.col1
        ):
            return True
        boxes.append(_relative(box, wanted))
    if not boxes:
        return False
    size = (wanted.row1 - wanted.row0, wanted.col1 - wanted.col0)
    return _union_covers(boxes, *size)


def _shared(one: Step, other: Step) -> int:
    """Loops that enclose both steps."""
    if one.context != other.context:
        return 0
    depth = 0
    for a, b in zip(one.loops, other.loops, strict=False):
        if a != b:
            break
        depth += 1
    return depth


def _alike(use: _Region, definition: _Region, shared: int) -> bool:
    return (
        use.row.steps[:shared] == definition.row.steps[:shared]
        and use.col.steps[:shared] == definition.col.steps[:shared]
    )


def _box(region: _Region, shared: int, slots: int | None) -> _Box:
    """The hull over the loops beyond the first ``shared``, whose counters stand at 0."""
    trips = tuple(1 if level < shared else n for level, n in enumerate(region.step.trips))
    row0, row1 = region.row.low(trips) + region.rows[0], region.row.high(trips) + region.rows[1] + 1
    if slots is not None:
        if row1 - row0 >= slots:
            row0, row1 = 0, slots
        elif row0 // slots == (row1 - 1) // slots:
            row0, row1 = row0 % slots, (row1 - 1) % slots + 1
    col0, col1 = region.col.low(trips) + region.cols[0], region.col.high(trips) + region.cols[1]
    return _Box(row0, row1, col0, min(col1, region.width))


def _relative(box: _Box, origin: _Box) -> _Box:
    return _Box(
        box.row0 - origin.row0, box.row1 - origin.row0, box.col0 - origin.col0, box.col1 - origin.col0
    )


def _union_covers(boxes: list[_Box], rows: int, cols: int) -> bool:
    """Whether the union covers [0, rows) x [0, cols): checked in each strip between edges of rows."""
    edges = sorted({0, rows, *(e for box in boxes for e in (box.row0, box.row1) if 0 < e < rows)})
    for top, bottom in pairwise(edges):
        reached = 0
        for box in sorted((b for b in boxes if b.row0 <= top and bottom <= b.row1), key=lambda b: b.col0):
            if box.col0 > reached:
                break
            reached = max(reached, box.col1)
        if reached < cols:
            return False
    return True


def _check_shared(decoded: Decoded, tables: Tables, touched: Sequence[Sequence[Touched]]) -> None:
    """What is read of whole buffers is written by someone, before or after: events order the two."""
    whole = [kind == BufferKind.WHOLE for kind in tables.buffers["kind"]]
    written: dict[int, list[_Region]] = defaultdict(list)
    read: list[tuple[int, _Region]] = []
    for step, accesses in chain.from_iterable(touched):
        for access in accesses:
            if not whole[access.buffer]:
                continue
            pitch = tables.buffers["pitch"][access.buffer]
            region = _Region(step, access.row, access.rows, access.col, access.cols, pitch)
            if access.writes:
                written[access.buffer].append(region)
            if access.reads:
                read.append((access.buffer, region))
        if step.row.opcode == Opcode.HOST:
            host = decoded.program.hosts[step.row.imm]
            for buffer, shape in zip(host.outputs, host.output_shapes, strict=True):
                written[buffer].append(_tensor(step, shape))
            for buffer, shape in zip(host.inputs, host.input_shapes, strict=True):
                read.append((buffer, _tensor(step, shape)))
    for buffer, region in read:
        if whole[buffer] and not _covered(
            region, written[buffer], tables.buffers["slots"][buffer], ordered=False
        ):
            decoded.report(
                "P050", f"reads elements of whole buffer {buffer} that nothing writes", region.step
            )


def _tensor(step: Step, shape: tuple[int, ...]) -> _Region:
    """A host operator's tensor: from the start of slot 0 on."""
    zero = Affine(0, (0,) * len(step.trips))
    return _Region(step, zero, (0, 0), zero, (0, prod(shape)), prod(shape))
