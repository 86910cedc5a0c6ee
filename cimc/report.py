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

REPORT_VERSION = 1


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
    return {
        "version": REPORT_VERSION,
        "machine": arch.name,
        "batch": batch.value.data if isinstance(batch, IntegerAttr) else 1,
        "output_shapes": outputs,
        "crossbars": {"used": used, "supply": supply, "utilisation": used / supply},
        "array_macs": array_macs,
        "total_macs": program.total_macs,
        "host_operators": [
            {"op_type": op.op_type.data} for op in mapped.walk() if isinstance(op, HostCallOp)
        ],
        "instruction_rows": program.count("instructions"),
        "contexts": program.count("contexts"),
        "ir_operations": sum(1 for _ in mapped.walk()),
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
    cells = made.ctx.arch.crossbar.rows * made.ctx.arch.crossbar.columns
    bits = write.coding.fields["weight_bits"] if write is not None else 0
    return {
        "name": op.label.data,
        "copies": op.copies.value.data,
        "contexts": len(table),
        "crossbars": crossbars,
        "rows": list(shape_of(op.result)),
        "weights": [k, n],
        "weight_bits": bits,
        "macs": windows * used,
        "weights_per_crossbar_cell": used * op.copies.value.data / (crossbars * cells) if crossbars else 0.0,
    }
