"""What single operations take, whoever computes them: digital functions, moves in the global buffer, host calls."""

from __future__ import annotations

from math import ceil, prod
from typing import Any

import numpy as np

from cimc.dialects.cim import DcomOp, RequantiseOp
from cimc.dialects.cim_products import FrameProductOp
from cimc.dialects.cim_real import RealOp
from cimc.dialects.graph_elementwise import BINARY
from cimc.dialects.graph_rows import REDUCTIONS
from cimc.dialects.graph_types import quant_of, shape_of
from cimc.dialects.mem import HostCallOp
from cimc.dialects.mem_real import IndexMapOp
from cimc.passes.lower.copy_patterns import row_loops
from cimc.passes.lower.records import dcom_record
from cimc.passes.place.tail_plan import element_of
from cimc.passes.schedule.estimate.units import Units
from cimc.runtime.program.builder import ProgramBuilder


def cycles_of_moves(op: IndexMapOp, size: int, units: Units, store: Any) -> tuple[int, int]:
    """Cycles of all copies that make the rows of a frame, of elements of ``size`` bytes, and those of them in which the
    global buffer's port is taken."""
    rows, width, depth = shape_of(op.result)
    index = store.array(op.index.key.data).reshape(rows, width * depth)
    sizes = [prod(taken) for taken in op.taken]
    cycles = port = 0
    for loops in row_loops(index, np.cumsum([0, *sizes[:-1]])):
        once = sum(units.buffer(c.outer * c.inner * size) for c in loops.copies)
        port += once * prod(loops.extents)
        cycles += (once + len(loops.copies) * units.buffer_latency) * prod(loops.extents)
    return cycles, port


def cycles_on_host(op: HostCallOp, host: Any) -> int:
    """Cycles of a host operator: bytes of its operands and results, and one operation an element of these."""
    moved = sum(prod(shape_of(v)) * element_of(v.type).size_bytes for v in (*op.operands, *op.results))
    flops = sum(prod(shape_of(v)) for v in op.results)
    return ceil(moved / host.bytes_per_cycle) + ceil(flops / host.flops_per_cycle)


def work_of(
    op: RequantiseOp | DcomOp | RealOp | FrameProductOp, channels: int, whole: bool
) -> tuple[str, int]:
    """Name of a digital function and the elements it works on for a position of ``channels`` channels."""
    width = shape_of(op.result)[2]
    if isinstance(op, FrameProductOp):
        return "matmul", width * op.depth
    if isinstance(op, RequantiseOp):
        return ("requantise" if quant_of(op.result) is not None else "acc_to_float"), channels
    if isinstance(op, DcomOp):
        taps = prod(op.window.kernel) if op.window is not None else 1
        if op.function.data.windowed and op.window is None:
            if quant_of(op.args[0]) is not None:
                return "mean_codes", channels  # rows were summed as they came
            taps = prod(shape_of(op.args[0])[:2])
        return dcom_record(op, ProgramBuilder(), channels)[0], channels * taps
    if op.kind in REDUCTIONS:
        return op.kind, shape_of(op.args[0])[2]
    name = f"{op.kind}_constant" if op.constant is not None and op.kind in BINARY else op.kind
    return name, width if whole else channels
