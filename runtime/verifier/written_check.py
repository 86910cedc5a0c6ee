"""Definitions before uses: local buffers and cells are written before they are read (P050, P051).

A use is compared with the definitions before it in the same context. Loops that enclose both run in
step: at equal counters the definition is done, with all iterations of the loops around it alone. So the
regions compared are hulls over the loops not shared, at the first iteration of the shared ones where
both move alike, and over all iterations where they do not. Columns a strided definition leaves out are
not looked for: the functional engine finds those.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from typing import NamedTuple

from cimc.runtime.program.opcodes import BufferKind, Opcode
from cimc.runtime.verifier.addresses_check import set_wordlines
from cimc.runtime.verifier.code import Decoded, Step
from cimc.runtime.verifier.operands import Affine, Tables, accesses

_READS = frozenset((Opcode.READ_XB, Opcode.READ_ROW))
_WRITES = frozenset((Opcode.WRITE_XB, Opcode.WRITE_ROW))


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


def check_written(decoded: Decoded, tables: Tables) -> None:
    """Report reads of buffers and cells that nothing wrote before."""
    streams: dict[int, list[int]] = defaultdict(list)
    contexts = decoded.program["contexts"]
    order = sorted(range(len(decoded.steps)), key=lambda c: (int(contexts["phase"][c]), c))
    for context in order:
        streams[int(contexts["stream"][context])].append(context)
    wordlines = set_wordlines(decoded)
    for members in streams.values():
        _check_stream(decoded, tables, [s for c in members for s in decoded.steps[c] if s.runs], wordlines)
    _check_shared(decoded, tables)


def _check_stream(decoded: Decoded, tables: Tables, steps: list[Step], wordlines: list[int]) -> None:
    defined: dict[int, list[_Region]] = defaultdict(list)
    cells: dict[int, list[_Region]] = defaultdict(list)
    local = [kind == BufferKind.LOCAL for kind in tables.buffers["kind"]]
    for step in steps:
        if step.row.opcode in _READS or step.row.opcode in _WRITES:
            region = _cell_region(decoded, tables, step, wordlines)
            if step.row.opcode in _WRITES:
                cells[step.row.xb].append(region)
            elif not _covered(region, cells[step.row.xb], None):
                decoded.report(
                    "P051", f"reads cells of array set {step.row.xb} that no write before it programs", step
                )
        writes: list[tuple[int, _Region]] = []
        for access in accesses(tables, step):
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
        if step.row.opcode == Opcode.HOST:
            writes += [
                (buffer, _whole(tables, step, buffer))
                for buffer in decoded.program.hosts[step.row.imm].outputs
            ]
        for buffer, region in writes:
            defined[buffer].append(region)


def _cell_region(decoded: Decoded, tables: Tables, step: Step, wordlines: list[int]) -> _Region:
    """Tiles as rows, wordlines as columns."""
    zero = Affine(0, (0,) * len(step.trips))
    first = tables.row_address(step, "b")
    count = step.row.b_col
    set_number = step.row.xb
    if step.row.opcode in (Opcode.READ_XB, Opcode.WRITE_XB):
        height = wordlines[set_number]
        return _Region(step, first, (0, count - 1), zero, (0, height), height)
    tiles = int(decoded.program["array_sets"]["tile_count"][set_number])
    return _Region(step, zero, (0, tiles - 1), first, (0, count), wordlines[set_number])


def _whole(tables: Tables, step: Step, buffer: int) -> _Region:
    zero = Affine(0, (0,) * len(step.trips))
    slots, pitch = tables.buffers["slots"][buffer], tables.buffers["pitch"][buffer]
    return _Region(step, zero, (0, slots - 1), zero, (0, pitch), pitch)


def _covered(use: _Region, definitions: list[_Region], slots: int | None) -> bool:
    """Whether the boxes of ``definitions`` cover that of ``use``; ``slots``: rows are taken modulo it."""
    boxes: list[_Box] = []
    wanted = _Box(0, 0, 0, 0)
    for definition in definitions:
        shared = _shared(use.step, definition.step)
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


def _check_shared(decoded: Decoded, tables: Tables) -> None:
    """Whole buffers are written by someone if anybody reads them; events order the two."""
    written: set[int] = set()
    read: dict[int, Step] = {}
    for step in decoded.all():
        for access in accesses(tables, step):
            if access.writes:
                written.add(access.buffer)
            if access.reads:
                read.setdefault(access.buffer, step)
        if step.row.opcode == Opcode.HOST:
            host = decoded.program.hosts[step.row.imm]
            written.update(host.outputs)
            for buffer in host.inputs:
                read.setdefault(buffer, step)
    for buffer, step in read.items():
        if tables.buffers["kind"][buffer] == BufferKind.WHOLE and buffer not in written:
            decoded.report("P050", f"reads whole buffer {buffer}, which nothing writes", step)
