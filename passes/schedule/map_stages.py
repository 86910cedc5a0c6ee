"""Level 2 to level 3: operators become stages of meta-operators on channel-last rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
from xdsl.context import Context
from xdsl.dialects.builtin import ArrayAttr, FunctionType, ModuleOp, StringAttr
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Block, Operation, OpResult, Region, SSAValue
from xdsl.passes import ModulePass

from cimc.diagnostics import CimError, UnsupportedError, raise_all
from cimc.dialects import graph
from cimc.dialects.base import located
from cimc.dialects.cim import ConcatOp, StageOp, StorageCastOp, ViewOp, YieldOp
from cimc.dialects.context import CimContext
from cimc.dialects.graph import main_function, main_names, main_return, names, tensor_names
from cimc.dialects.graph_types import shape_of
from cimc.dialects.locations import describe, short_name
from cimc.dialects.mem import HostCallOp, InputOp, OutputOp, RelayoutOp
from cimc.dialects.mem_real import MatmulOp
from cimc.dialects.row_layout import (
    RowLayout,
    columns_layout,
    frame_shape,
    heads_layout,
    row_layout,
    scalar_layout,
    token_layout,
)
from cimc.passes.graph.whole_index import whole_index
from cimc.passes.place.tail_plan import element_of
from cimc.passes.schedule.array_product import ArrayProduct, build_product, flattened_image
from cimc.passes.schedule.heads import (
    frames_before,
    layouts_by_heads,
    products_on_cores,
    row_starts,
    waiting_sources,
)
from cimc.passes.schedule.image_takers import wants_image
from cimc.passes.schedule.mapped_rows import MappedRows, row_type
from cimc.passes.schedule.moves import identity, joined, row_index
from cimc.passes.schedule.stages import CONVERSIONS, ELEMENTWISE, HEADS, Group, absorbed_borders, group_stages
from cimc.passes.schedule.tails import add_tail, head_layout


@dataclass(frozen=True)
class MapStagesPass(ModulePass):
    """Turn every operator of level 2 into a stage, and place inputs, outputs, layout changes and host calls.

    Convolutions and products by a constant become ``cim.write_*``/``cim.read_*`` in the machine's computing mode, with
    tile grid and coding; elementwise operators join the stage before them; a flattened image that enters a
    product becomes a window over the whole image, so that no element moves.

    ```mlir
    // before
    %y = graph.conv %x weight <"w"> ... : (tensor<1x1x8x8x!graph.quant<u8, 0.1, 0>>) -> ...
    // after
    %y = cim.stage "conv1" (%x) : (tensor<8x8x1x!graph.quant<u8, 0.1, 0>>) -> ... {
      %w = cim.write_row ...
      %acc = cim.read_row %w, %a ...
      %q = cim.requantise %acc ...
      cim.yield %q
    }
    ```
    """

    name = "map-stages"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Rewrite ``@main`` in place. Raises ``UnsupportedError`` for operators the machine cannot take."""
        assert isinstance(ctx, CimContext)
        mapper = _Mapper(ctx, op)
        body = mapper.run()
        main = main_function(op)
        mapped = FuncOp("main", FunctionType.from_lists([], []), Region(body))
        mapped.attributes |= {
            key: value for key, value in main.attributes.items() if key.startswith(("graph.", "cim."))
        }
        main.detach()
        main.erase()
        op.body.block.add_op(mapped)


class _Mapper:
    """Walks level 2 in order and builds the mapped block."""

    def __init__(self, ctx: CimContext, module: ModuleOp):
        self.ctx = ctx
        self.main = main_function(module)
        self.ops = [o for o in self.main.body.block.ops if not isinstance(o, ReturnOp)]
        self.returned: Sequence[SSAValue] = main_return(module).operands
        self.inputs = main_names(module, graph.INPUTS)
        self.outputs = main_names(module, graph.OUTPUTS)
        self.absorbed = absorbed_borders(self.ops)
        self.products = products_on_cores(self.ops, ctx.arch)
        self.groups = group_stages(self.ops, absorbed=self.absorbed, products=self.products)
        self.mapped = MappedRows(ctx.store)
        self.labels: set[str] = set()

    def run(self) -> Block:
        """The mapped body of ``@main``."""
        errors: list[CimError] = []
        for name, argument in zip(self.inputs, self.main.args, strict=True):
            self._input(name, argument)
        for op in self.ops:
            try:
                self._operation(op)
            except CimError as error:
                errors.append(error)
                break
        raise_all(errors)
        for name, value in zip(self.outputs, self.returned, strict=True):
            # Codes leave with their scale in the I/O table, whether or not the model uses the reals as well.
            coded = isinstance(value, OpResult) and isinstance(value.op, graph.DequantizeOp)
            source = value.op.operands[0] if isinstance(value, OpResult) and coded else value
            self.mapped.add(OutputOp(name, frame_shape(shape_of(value)), self.mapped.rows(source)))
        self.mapped.block.add_op(ReturnOp())
        return self.mapped.block

    def _input(self, name: str, argument: SSAValue) -> None:
        """One frame of an input, quantised as it comes in when a quantiser is its only user."""
        first = next((u.operation for u in argument.uses), None)
        value = first.results[0] if first is not None and first in self.absorbed else argument
        frame = frame_shape(shape_of(argument))
        layout = row_layout(frame)
        tensors = names([name])
        op = InputOp(name, frame, row_type(value, layout), tensors)
        self.mapped.add(op, first if value is not argument else None)
        self.mapped.record(value, op.result, layout)
        if value is not argument and isinstance(first, graph.QuantizeOp):
            self.labels.add(name)

    def _operation(self, op: Operation) -> None:
        if op in self.absorbed:
            return
        if isinstance(op, graph.ReshapeOp):
            self._reshape(op)
        elif isinstance(op, graph.ConcatOp):
            self._concat(op)
        elif isinstance(op, graph.StorageCastOp):
            self._storage_cast(op)
        elif isinstance(op, graph.IndexMapOp):
            index = whole_index(op, self.ctx.store)
            self._move(op, op.inputs, index, op.constant and op.constant.key.data)
        elif isinstance(op, graph.HostOp):
            self._host(op)
        elif op in self.groups:
            if self.groups[op].last is op:
                self._stage(self.groups[op])
        elif isinstance(op, graph.MatmulOp):
            self._matmul(op)
        else:
            raise UnsupportedError(located(op, "no stage takes this operation"))

    def _reshape(self, op: graph.ReshapeOp) -> None:
        """Elements stay where they are if the rows are the same; otherwise they pass the global buffer."""
        if op.result.first_use is not None and all(
            isinstance(u.operation, graph.GemmOp) and flattened_image(u.operation) is not None
            for u in op.result.uses
        ):
            return  # every user takes the image itself
        source, target = frame_shape(shape_of(op.input)), frame_shape(shape_of(op.result))
        given = self.mapped.layouts[op.input]
        mapped = self.mapped.values[op.input]
        if given not in (row_layout(source), token_layout(source)) or layouts_by_heads(
            op.result, self.products
        ):
            self._move(op, [op.input], identity(target))
            return
        wanted = self._preferred(op.result)
        if not given.same_order(wanted):
            frame = (given.rows, given.channels) if given != row_layout(source) else source
            rows = target if wanted == row_layout(target) else (wanted.rows, wanted.channels)
            relayout = RelayoutOp(mapped, frame, rows, row_type(op.result, wanted), op.tensors)
            self.mapped.add(relayout, op)
            mapped = relayout.result
        self.mapped.record(op.result, mapped, wanted)

    def _concat(self, op: graph.ConcatOp) -> None:
        """Channels side by side are routes; along any other axis the elements move through the global buffer."""
        frame = frame_shape(shape_of(op.result))
        layout = row_layout(frame)
        axis = op.axis.value.data - (len(shape_of(op.result)) - len(frame))
        channel_axis = 0 if len(frame) == 3 else len(frame) - 1
        if axis != channel_axis:
            self._move(op, op.inputs, joined(op))
            return
        concat = ConcatOp([self.mapped.rows(v) for v in op.inputs], row_type(op.result, layout), op.tensors)
        self.mapped.add(concat, op)
        self.mapped.record(op.result, concat.result, layout)

    def _storage_cast(self, op: graph.StorageCastOp) -> None:
        """The same rows, wherever they lie, under another type."""
        layout = self.mapped.layouts[op.input]
        cast = StorageCastOp(self.mapped.values[op.input], row_type(op.result, layout))
        self.mapped.add(cast, op)
        self.mapped.record(op.result, cast.result, layout)

    def _move(
        self,
        op: Operation,
        operands: Sequence[SSAValue],
        index: npt.NDArray[Any],
        constant: str | None = None,
    ) -> None:
        """Elements by their number: cuts of the same rows where that is all, else through the global buffer."""
        (result,) = op.results
        values = [self.mapped.values[v] for v in operands]
        sources = [self.mapped.layouts[v] for v in operands]
        heads = layouts_by_heads(result, self.products)
        layouts = [*heads, self._preferred(result)]
        for layout in layouts if len(values) == 1 and constant is None else ():
            starts = row_starts(row_index(index, sources, layout), sources[0], layout)
            if starts is not None:
                view = ViewOp(values[0], starts, row_type(result, layout))
                self.mapped.add(view, op)
                self.mapped.record(result, view.result, layout)
                return
        tensors = None if heads else ArrayAttr([StringAttr(t) for t in tensor_names(op)])
        moved = self.mapped.moved(values, sources, index, result, layouts[0], constant, tensors)
        self.mapped.add(moved, op)
        self.mapped.record(result, moved.results[0], layouts[0])

    def _matmul(self, op: graph.MatmulOp) -> None:
        """A product of two activations on the chip's digital unit, both as tokens of their last axis."""
        lhs, rhs, result = (token_layout(frame_shape(shape_of(v))) for v in (op.lhs, op.rhs, op.result))
        product = MatmulOp(
            self.mapped.rows(op.lhs, lhs),
            self.mapped.rows(op.rhs, rhs),
            row_type(op.result, result),
            batch=lhs.rows // shape_of(op.lhs)[-2],
            target=frame_shape(shape_of(op.result)),
            tensors=op.tensors,
        )
        self.mapped.add(product, op)
        self.mapped.record(op.result, product.result, result)

    def _preferred(self, value: SSAValue) -> RowLayout:
        """Tokens, unless somebody who takes images comes first: then nothing is re-laid there."""
        frame = frame_shape(shape_of(value))
        return row_layout(frame) if len(frame) != 3 or wants_image(value) else token_layout(frame)

    def _host(self, op: graph.HostOp) -> None:
        layouts = [row_layout(frame_shape(shape_of(v))) for v in op.outputs]
        call = HostCallOp(
            op.op_type.data,
            op.model,
            [self.mapped.rows(v) for v in op.inputs],
            [shape_of(v) for v in op.inputs],
            [shape_of(v) for v in op.outputs],
            [row_type(v, lay) for v, lay in zip(op.outputs, layouts, strict=True)],
            op.tensors,
        )
        self.mapped.add(call, op)
        for value, mapped, layout in zip(op.outputs, call.outs, layouts, strict=True):
            self.mapped.record(value, mapped, layout)

    def _label(self, op: Operation) -> str:
        """A unique, readable name of a stage: that of its first operation's node."""
        stem = short_name(op.location) or describe(op.location) or (tensor_names(op) or ("stage",))[0]
        label, number = stem, 1
        while label in self.labels:
            number += 1
            label = f"{stem}.{number}"
        self.labels.add(label)
        return label

    def _stage(self, group: Group) -> None:
        head = group.ops[0]
        label = self._label(next((o for o in group.ops if not isinstance(o, CONVERSIONS)), head))
        product = build_product(head, label, self.ctx) if isinstance(head, graph.ProductOperation) else None
        result = group.last.results[0]
        layout = self._layout(head, result)
        sources = self._sources(group, product)
        block = Block(arg_types=[mapped.type for mapped in sources])
        last = add_tail(block, group, product, lambda v: self._layout(head, v), self.ctx)
        block.add_op(YieldOp(last))
        frame = frame_shape(shape_of(result))
        usual = any(map(layout.same_order, (row_layout(frame), token_layout(frame))))
        stage = StageOp(
            label,
            sources,
            row_type(result, layout),
            block,
            frame,
            ArrayAttr([StringAttr(t) for t in tensor_names(group.last)]),
            None if usual else (layout.row_stride, layout.pos_stride, layout.chan_stride),
            waiting_sources(sources, self.mapped.frames, product=isinstance(head, graph.MatmulOp)),
        )
        self.mapped.add(stage, head)
        self.mapped.record(result, stage.result, layout)

    def _layout(self, head: Operation, value: SSAValue) -> RowLayout:
        """The layout of ``value`` inside the stage of ``head``."""
        frame = frame_shape(shape_of(value))
        if isinstance(head, graph.LookupOp) and value is head.input:
            return scalar_layout(frame)
        if isinstance(head, graph.MatmulOp):
            columns = columns_layout(frame)
            by_columns = value is head.rhs and self.mapped.layouts[value] == columns and not head.is_quantised
            return columns if by_columns else heads_layout(frame)
        if isinstance(head, ELEMENTWISE):  # as its first operand lies
            first, given = frame_shape(shape_of(head.operands[0])), self.mapped.layouts[head.operands[0]]
            if first == frame and given not in (row_layout(first), token_layout(first)):
                return given
            tokens = given == token_layout(first) != row_layout(first)
            return token_layout(frame) if tokens else row_layout(frame)
        return head_layout(head, row_layout(frame), token_layout(frame))

    def _sources(self, group: Group, product: ArrayProduct | None) -> list[SSAValue]:
        """The mapped rows that enter the stage from outside, the head's input first.

        A value that is needed twice (``x + x``) enters twice.
        """
        head = group.ops[0]
        inside = {r for o in group.ops for r in o.results}
        outside = [(op, v) for op in group.ops for v in op.operands if v not in inside]
        found = [
            self.mapped.rows(product.source, product.layout)
            if op is head and product is not None
            else self.mapped.rows(value, self._layout(head, value))
            for op, value in outside
        ]
        latest = max(frames_before(rows, self.mapped.frames) for rows in found)
        for number, (op, value) in enumerate(outside):
            if op is not head and frames_before(found[number], self.mapped.frames) < latest:
                found[number] = self._waiting(value, found[number], group, product)
        return found

    def _waiting(
        self, operand: SSAValue, rows: SSAValue, group: Group, product: ArrayProduct | None
    ) -> SSAValue:
        """``rows`` of an operand whose companions come through whole frames: they wait in the rings of the stage's
        contexts or, where the narrowest would take more than half of a core's memory, in the global buffer."""
        arch = self.ctx.arch
        height, _, channels = shape_of(rows)
        if product is not None and arch is not None:
            channels = min(channels, arch.crossbar.weight_columns(product.coding.weight_bits))
        elif not any(isinstance(op, (*HEADS, graph.MatmulOp)) for op in group.ops):
            channels = 1
        size = height * channels * element_of(rows.type).size_bytes
        if arch is None or 2 * size <= arch.core.local_buffer_bytes:
            return rows
        layout = self.mapped.layouts[operand]
        held = self.mapped.moved([rows], [layout], identity(frame_shape(shape_of(operand))), operand, layout)
        self.mapped.add(held, operand.op if isinstance(operand, OpResult) else None)
        return held.result
