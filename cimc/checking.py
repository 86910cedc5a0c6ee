"""Where each operator of a model would run on a machine, and why: what ``cimc check`` prints.

Nothing is compiled and no data is needed: the model is imported, the passes of the stage ``graph`` run,
and the machine's own rule (``Backend.legal_on_arrays``) judges every operator that is left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, prod
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation

from cimc.backends.protocol import Backend
from cimc.backends.schema import Architecture
from cimc.diagnostics import DoesNotFitError, UnsupportedError, raise_all
from cimc.dialects.context import CimContext
from cimc.dialects.graph import (
    NAMED,
    AffineOp,
    ConvOp,
    GemmOp,
    HostOp,
    MatmulOp,
    ProductOperation,
    main_function,
    tensor_names,
)
from cimc.dialects.graph_base import GraphOperation
from cimc.dialects.graph_types import shape_of
from cimc.dialects.locations import short_name
from cimc.frontend.onnx import import_onnx
from cimc.mapping_options import MappingOptions
from cimc.passes.graph.choose_products import cost_of, frame_tiles_of, obstacle
from cimc.passes.schedule.array_product import block_diagonal, stored_weights
from cimc.pipeline import pipeline

if TYPE_CHECKING:
    from onnx import ModelProto

Place = Literal["array", "digital", "host", "nowhere"]
"""Crossbars; a digital unit or the moves between buffers; onnxruntime; or a compile that fails."""


@dataclass(frozen=True)
class Row:
    """One operator: where it goes and why; on the arrays its matrix, and the crossbars of all its copies."""

    operator: str
    node: str
    where: Place
    reason: str
    crossbars: int = 0


@dataclass(frozen=True)
class CheckReport:
    """All operators of a model in order, and the machine's supply of crossbars."""

    rows: tuple[Row, ...]
    machine: str
    crossbars_supply: int
    rewrites: bool
    """Whether the machine writes weights at run time: larger models then run in phases."""

    @property
    def crossbars_needed(self) -> int:
        """Crossbars of all operators, each with its copies."""
        return sum(row.crossbars for row in self.rows)

    @property
    def phases(self) -> int:
        """Least number of phases that the crossbars allow."""
        return max(1, ceil(self.crossbars_needed / self.crossbars_supply))

    def summary(self) -> str:
        """Need and supply of crossbars in a sentence."""
        line = f"crossbars: {self.crossbars_needed} of {self.crossbars_supply} of {self.machine}"
        if self.phases > 1 and self.rewrites:
            line += f"; {self.phases} phases or more, with weights written between them"
        return line

    def raise_problems(self) -> None:
        """Raise what a compile would raise: operators without a place (exit 1), too few crossbars (exit 3)."""
        raise_all(
            [
                UnsupportedError(
                    f"{row.operator} has no place on {self.machine}: {row.reason}", where=row.node
                )
                for row in self.rows
                if row.where == "nowhere"
            ]
        )
        if self.phases > 1 and not self.rewrites:
            raise DoesNotFitError(
                f"the model needs {self.crossbars_needed} crossbars, {self.machine} has {self.crossbars_supply} and "
                "writes no weights at run time (chip.allow_writes: false); use fewer copies or a larger machine"
            )


def check_model(
    model: str | Path | ModelProto,
    backend: Backend,
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    mapping: MappingOptions | None = None,
) -> CheckReport:
    """Where every operator of ``model`` goes on the machine of ``backend``.

    ``shapes`` binds open dimensions by input name. Raises ``CimError`` for a model that cannot be imported
    (exit 1) and for wrong shapes, mapping or machine (exit 2); see :meth:`CheckReport.raise_problems` for
    models that can be imported and not compiled.
    """
    options = mapping or MappingOptions()
    arch = backend.architecture()
    ctx = CimContext(arch=arch, mapping=options)
    bound = {name: tuple(shape) for name, shape in (shapes or {}).items()}
    module = import_onnx(model, shapes=bound, store=ctx.store)
    options.check_matches([_node(op) for op in _operators(module) if isinstance(op, NAMED)])
    factors = [op for op in _operators(module) if isinstance(op, AffineOp)]
    before = {_node(op): op.op_type.data for op in factors}
    for step in pipeline(options, backend.extra_passes()):
        if step.stage == "graph":
            step.run.apply(ctx, module)
    rows = [_row(op, backend, ctx, options) for op in _operators(module)]
    left = {row.node for row in rows}
    folded = [
        Row(kind, node, "array", "folded into the weights of the product before it")
        for node, kind in before.items()
        if node not in left
    ]
    supply = arch.chip.cores * arch.core.crossbars
    return CheckReport((*rows, *folded), arch.name, supply, arch.chip.allow_writes)


def _operators(module: ModuleOp) -> list[GraphOperation]:
    return [op for op in main_function(module).body.block.ops if isinstance(op, GraphOperation)]


def _node(op: Operation) -> str:
    return short_name(op.location) or (tensor_names(op) or (op.name,))[0]


def _row(op: GraphOperation, backend: Backend, ctx: CimContext, options: MappingOptions) -> Row:
    node = _node(op)
    if isinstance(op, HostOp):
        return Row(op.op_type.data, node, "host", op.reason.data)
    kind = "".join(part.capitalize() for part in op.name.removeprefix("graph.").split("_"))
    if isinstance(op, MatmulOp):
        return _dynamic(op, kind, node, backend.architecture(), options)
    if not isinstance(op, ProductOperation):
        return Row(kind, node, "digital", backend.legal_on_arrays(op) or "computes with no stored weights")
    arch, bits = backend.architecture(), _weight_bits(op, node, ctx, options)
    reason = _refusal(op, node, backend, arch, options, bits)
    if reason is not None:
        return Row(kind, node, "nowhere", reason)
    tiles = _tiles(op, arch, bits)
    copies = options.for_node(node).copies
    return Row(kind, node, "array", tiles.describe(arch, bits, copies), tiles.crossbars * copies)


def _dynamic(op: MatmulOp, kind: str, node: str, arch: Architecture, options: MappingOptions) -> Row:
    """Where a product of two activations runs and why: all sides in cycles, or what keeps it off the arrays."""
    sides = cost_of(op, arch, options).describe()
    if op.on_arrays is not None:
        heads, tiles = prod(shape_of(op.lhs)[:-2]), frame_tiles_of(op, arch, options)
        return Row(kind, node, "array", f"{sides}; on arrays, products: {options.products}", heads * tiles)
    reason = obstacle(op, arch, options)
    why = f"off arrays: {reason}" if reason is not None else f"products: {options.products}"
    return Row(kind, node, "digital", f"{sides}; {why}")


def _weight_bits(op: ProductOperation, node: str, ctx: CimContext, options: MappingOptions) -> int:
    """Bits of a weight on the arrays: of the codes a quantised model brings, or as the mapping says."""
    if op.has_stored_codes:
        return stored_weights(op, ctx.store)[1]
    return options.for_node(node).weight_bits


def _refusal(
    op: ProductOperation,
    node: str,
    backend: Backend,
    arch: Architecture,
    options: MappingOptions,
    weight_bits: int,
) -> str | None:
    """Why the arrays do not take a product; ``None`` when they do."""
    if not options.for_node(node).on_array:
        return "the mapping says on_array: false"
    cells = arch.crossbar.cells_per_weight(weight_bits)
    if not arch.crossbar.weight_columns(weight_bits):
        return (
            f"a weight of {weight_bits} bits takes {cells} cells of one row, "
            f"which has {arch.crossbar.columns}"
        )
    return backend.legal_on_arrays(op)


@dataclass(frozen=True)
class _Tiles:
    """How weights lie in crossbars: ``blocks`` matrices of ``depth`` x ``width``, each in ``high`` x ``wide`` tiles."""

    depth: int
    width: int
    blocks: int
    high: int
    wide: int

    @property
    def crossbars(self) -> int:
        """Of one copy."""
        return self.blocks * self.high * self.wide

    def describe(self, arch: Architecture, bits: int, copies: int) -> str:
        """The matrix, its tiles and what one crossbar holds."""
        crossbar = arch.crossbar
        blocks = f"{self.blocks} diagonal blocks of " if self.blocks > 1 else ""
        times = f", {copies} copies" if copies > 1 else ""
        return (
            f"{blocks}{self.depth} x {self.width} weights of {bits} bits: {self.high} x {self.wide} crossbars of "
            f"{crossbar.rows} x {crossbar.weight_columns(bits)}{times}"
        )


def _tiles(op: ProductOperation, arch: Architecture, weight_bits: int) -> _Tiles:
    """Row tiles and column tiles of the weight matrix (K, N), or of each block of groups."""
    depth, width = _matrix_shape(op)
    rows, weights_a_row = arch.crossbar.rows, arch.crossbar.weight_columns(weight_bits)
    diagonal = block_diagonal(op, arch.crossbar, weights_a_row)
    blocks = 1
    if diagonal is not None:
        depth, blocks, width = depth * diagonal.groups, width // diagonal.columns, diagonal.columns
    return _Tiles(depth, width, blocks, ceil(depth / rows), ceil(width / weights_a_row))


def _matrix_shape(op: ProductOperation) -> tuple[int, int]:
    """Rows and columns of the product's weight matrix: a convolution's window by its output channels."""
    if isinstance(op, ConvOp):
        out, *window = op.weight_shape()
        return prod(window), out
    assert isinstance(op, GemmOp), "the dialect has two products"
    return op.weight_shape()
