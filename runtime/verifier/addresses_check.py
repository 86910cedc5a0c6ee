"""Addresses in bounds, by interval arithmetic over the loop counters (P040 to P044)."""

from __future__ import annotations

from collections.abc import Sequence

from cimc.runtime.program.opcodes import BY_WORDLINE, IMAGE_WRITES, READS, BufferKind, Opcode
from cimc.runtime.verifier.code import Decoded, Step
from cimc.runtime.verifier.held import held_places, left_at_end, net_of_loops
from cimc.runtime.verifier.operands import Access, Affine, Tables, Touched
from cimc.runtime.verifier.tables_check import Machine

_ARRAYS = READS | IMAGE_WRITES
_BY_TILE = _ARRAYS - BY_WORDLINE


def check_addresses(
    decoded: Decoded, tables: Tables, machine: Machine, touched: Sequence[Sequence[Touched]]
) -> None:
    """Report operands outside their slot, their ring's held rows, their tensor or their set."""
    wordlines = set_wordlines(decoded)
    for running, own in zip(decoded.running, touched, strict=True):
        for (step, accesses), held in zip(own, held_places(running), strict=True):
            for access in accesses:
                _check_columns(decoded, tables, step, access)
                if tables.buffers["kind"][access.buffer] == BufferKind.RING:
                    _check_held(decoded, step, access, held.get(access.buffer))
            if step.row.opcode in (Opcode.RECV, Opcode.FREE):
                _check_flow(decoded, tables, step, held.get(step.row.a))
            elif step.row.opcode in (Opcode.DMA_IN, Opcode.DMA_OUT):
                _check_io(decoded, tables, step)
            elif step.row.opcode == Opcode.WRITE_LOCAL:
                _check_rows(decoded, tables, step)
            elif step.row.opcode in _ARRAYS:
                _check_range(decoded, tables, step, wordlines[step.row.xb], machine)
        _check_left(decoded, running)


def set_wordlines(decoded: Decoded) -> list[int]:
    """Per array set: wordlines of its longest tile."""
    sets, tiles = decoded.program["array_sets"], decoded.program["tiles"]
    heights = (tiles["k1"] - tiles["k0"]).tolist()
    return [
        max(heights[first : first + count])
        for first, count in zip(sets["tile_first"].tolist(), sets["tile_count"].tolist(), strict=True)
    ]


def _check_columns(decoded: Decoded, tables: Tables, step: Step, access: Access) -> None:
    pitch = tables.buffers["pitch"][access.buffer]
    if step.images and access.col.steps and access.col.steps[0]:
        decoded.report(
            "P040", f"operand {access.operand} moves its column with the image; only rows may", step
        )
        return
    low = access.col.low(step.trips) + access.cols[0]
    high = access.col.high(step.trips) + access.cols[1]
    if low < 0 or high > pitch:
        decoded.report(
            "P040",
            f"operand {access.operand} touches elements {low} … {high - 1} of a slot of buffer"
            f" {access.buffer}, which has 0 … {pitch - 1}",
            step,
        )


def _check_held(decoded: Decoded, step: Step, access: Access, held: Affine | None) -> None:
    if held is None:
        decoded.report("P041", f"reads ring {access.buffer}, of which the context receives nothing", step)
        return
    above = Affine(
        access.row.base + access.rows[1] - held.base,
        tuple(r - h for r, h in zip(access.row.steps, held.steps, strict=True)),
    )
    excess = above.high(step.trips)
    if excess >= 0:
        decoded.report(
            "P041",
            f"operand {access.operand} touches row {excess} beyond the last one held of ring"
            f" {access.buffer}; receive it first or free later",
            step,
        )
    low = access.row.low(step.trips) + access.rows[0]
    if low < 0:
        decoded.report("P041", f"operand {access.operand} touches row {low} of ring {access.buffer}", step)


def _check_flow(decoded: Decoded, tables: Tables, step: Step, held: Affine | None) -> None:
    if held is None:
        return  # n = 0: nothing is received or freed
    ring, n = step.row.a, step.row.n
    slots = tables.buffers["slots"][ring]
    if step.row.opcode == Opcode.RECV and held.high(step.trips) + n > slots:
        decoded.report(
            "P042",
            f"receives {n} places of ring {ring} while {held.high(step.trips)} are held; it has {slots} slots",
            step,
        )
    if step.row.opcode == Opcode.FREE and held.low(step.trips) < n:
        decoded.report("P042", f"frees {n} places of ring {ring} while {held.low(step.trips)} are held", step)


def _check_left(decoded: Decoded, steps: list[Step]) -> None:
    nets = net_of_loops(steps)
    left = left_at_end(steps)
    for step in steps:
        if step.row.opcode == Opcode.RECV and left[step.row.a]:
            per_image = nets[step.loops[0]][step.row.a] if step.images else left[step.row.a]
            decoded.report(
                "P042",
                f"{per_image} places of ring {step.row.a} are left behind by each image: received and not freed",
                step,
            )
            left[step.row.a] = 0


def _check_io(decoded: Decoded, tables: Tables, step: Step) -> None:
    row = step.row
    tensor = decoded.program.io[row.imm]
    address = tables.row_address(step, "b")
    low, high = address.low(step.trips), address.high(step.trips)
    if step.images and address.steps[0]:
        decoded.report("P044", "the row number moves with the image; rows number from 0 in each frame", step)
    elif low < 0 or high >= tensor.rows:
        decoded.report("P044", f"moves rows {low} … {high} of '{tensor.name}', which has {tensor.rows}", step)
    if (row.m, row.n) != (tensor.positions, tensor.channels):
        decoded.report(
            "P044",
            f"moves {row.m} positions x {row.n} channels of '{tensor.name}', whose rows have"
            f" {tensor.positions} x {tensor.channels}",
            step,
        )


def _check_rows(decoded: Decoded, tables: Tables, step: Step) -> None:
    """Rows that are written at run time lie inside the set, the same ones in every image."""
    xb, first = step.row.xb, tables.row_address(step, "b")
    sets = decoded.program["array_sets"]
    rows = int(sets["k1"][xb] - sets["k0"][xb])
    low, high = first.low(step.trips), first.high(step.trips) + step.row.n
    if step.images and first.steps[0]:
        decoded.report("P043", f"the rows of array set {xb} that are written move with the image", step)
    elif low < 0 or high > rows:
        decoded.report("P043", f"writes rows {low} … {high - 1} of array set {xb}, which has {rows}", step)


def _check_range(decoded: Decoded, tables: Tables, step: Step, wordlines: int, machine: Machine) -> None:
    """Tiles lie inside the set. Wordlines may go on to the end of the array, where no cell is used, but not begin
    there."""
    xb = step.row.xb
    first, count = tables.row_address(step, "b"), tables.col_address(step, "b")
    end = Affine(first.base + count.base, tuple(map(sum, zip(first.steps, count.steps, strict=True))))
    low, high = first.low(step.trips), end.high(step.trips)
    if step.row.opcode in _BY_TILE:
        limit, unit = int(decoded.program["array_sets"]["tile_count"][xb]), "tiles"
    else:
        limit, unit = machine.rows, "wordlines"
    if low < 0 or high > limit or count.low(step.trips) < 1:
        decoded.report("P043", f"takes {unit} {low} … {high - 1} of array set {xb}, which has {limit}", step)
    elif step.row.opcode not in _BY_TILE and first.high(step.trips) >= wordlines:
        decoded.report(
            "P043",
            f"takes wordlines from {first.high(step.trips)} of array set {xb}, which uses {wordlines}",
            step,
        )
