"""The report of a compile: what was decided, as plain JSON (docs/artifact.md)."""

from __future__ import annotations

from math import prod
from typing import Any

from xdsl.dialects.builtin import IntegerAttr

from cimc.compiler import BATCH, Compiled
from cimc.dialects.cim import StageOp
from cimc.dialects.graph import OUTPUTS, main_function, main_names, main_return
from cimc.dialects.graph_types import shape_of
from cimc.dialects.mem import HostCallOp
from cimc.passes.place.network import COLUMNS
from cimc.passes.schedule.copies.bounds import bounds
from cimc.report_tables import area, physical_crossbars, utilisation, writes

REPORT_VERSION = 2


def build_report(made: Compiled) -> dict[str, Any]:
    """Stages, crossbars, host operators and the share of products on the arrays, from the compiled levels."""
    assert made.linked is not None
    assert made.ctx.arch is not None
    program, arch = made.linked.program, made.ctx.arch
    mapped = made.modules["mapped"]
    first = main_function(made.modules.get("graph", mapped))
    batch = first.attributes.get(BATCH)
    stages = [_stage(op, made) for op in mapped.walk() if isinstance(op, StageOp)]
    used = sum(s["crossbars"] for s in stages)
    supply = arch.chip.cores * arch.core.crossbars
    array_macs = sum(s["macs"] for s in stages)
    source = made.modules.get("graph")
    outputs = (
        {
            n: list(shape_of(v))
            for n, v in zip(main_names(source, OUTPUTS), main_return(source).operands, strict=True)
        }
        if source is not None
        else {}
    )
    turns = {}
    if made.staggered is not None and made.ctx.mapping is not None:
        turns["stagger"] = {**made.staggered.to_dict(), "slack": made.ctx.mapping.stagger_slack}
    return {
        **turns,
        "version": REPORT_VERSION,
        "machine": arch.name,
        "batch": batch.value.data if isinstance(batch, IntegerAttr) else 1,
        "output_shapes": outputs,
        "crossbars": {
            "used": used,
            "supply": supply,
            "utilisation": used / supply,
            "physical": physical_crossbars(program, arch),
        },
        "activations": {
            "array_groups": sum(s["activations"]["array_groups"] for s in stages),
            "crossbars": sum(s["activations"]["crossbars"] for s in stages),
        },
        "utilisation": utilisation(program, arch),
        "writes": writes(program, arch),
        "area": area(program, arch),
        "array_macs": array_macs,
        "total_macs": program.total_macs,
        "host_operators": [
            {"op_type": op.op_type.data} for op in mapped.walk() if isinstance(op, HostCallOp)
        ],
        "instruction_rows": program.count("instructions"),
        "contexts": program.count("contexts"),
        "ir_operations": sum(1 for _ in mapped.walk()),
        "bounds": bounds(mapped, arch, program.frames).to_dict(),
        "stages": stages,
    }


def _stage(op: StageOp, made: Compiled) -> dict[str, Any]:
    """One stage: where its weights lie and how full the crossbars are."""
    assert op.placement is not None
    assert made.ctx.arch is not None
    table = made.store.array(op.placement.key.data)
    crossbars = int(table[:, COLUMNS.index("xbars")].sum())
    write, read = op.write, op.read
    k, n = write.arrays.type.shape.data if write is not None else (0, 0)
    windows = prod(shape_of(read.acc)[:2]) if read is not None else 0
    groups = read.diagonal.groups if read is not None else 1
    used = k * n // groups
    copies = op.copies.value.data
    bits = int(write.coding.fields["weight_bits"]) if write is not None else 0
    crossbar = made.ctx.arch.crossbar
    cells = crossbar.rows * crossbar.columns
    if bits and crossbar.logical_cells:
        cells *= crossbar.cells_per_weight(bits)
    return {
        "name": op.label.data,
        "copies": copies,
        "contexts": len(table),
        "crossbars": crossbars,
        "rows": list(shape_of(op.result)),
        "tensors": [name.data for name in op.tensors] if op.tensors is not None else [],
        "weights": [k, n],
        "weight_bits": bits,
        "macs": windows * used,
        "activations": _activations(op, windows, crossbars // copies),
        "weights_per_crossbar_cell": used * copies / (crossbars * cells) if crossbars else 0.0,
        "utilisation": used * copies * crossbar.cells_per_weight(bits) / (crossbars * cells)
        if crossbars
        else 0.0,
    }


def _activations(op: StageOp, windows: int, crossbars: int) -> dict[str, int]:
    """Products of one frame by crossbars: ``crossbars`` of a copy work on every window.

    ``array_groups`` counts crossbars that share their wordlines' inputs as one: row tiles of each diagonal block.
    """
    if op.read is None or op.write is None:
        return {"array_groups": 0, "crossbars": 0}
    blocks = op.write.arrays.type.shape.data[1] // op.read.diagonal.columns
    return {"array_groups": windows * op.write.grid.data[0] * blocks, "crossbars": windows * crossbars}
