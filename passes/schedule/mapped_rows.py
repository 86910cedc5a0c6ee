"""Rows of level-2 values in the mapped block that is being built, and how they get into other rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy.typing as npt
from xdsl.dialects.builtin import ArrayAttr, StringAttr, TensorType
from xdsl.ir import Block, Operation, OpResult, SSAValue

from cimc.dialects.graph import tensor_names
from cimc.dialects.graph_types import shape_of
from cimc.dialects.mem import RelayoutOp
from cimc.dialects.mem_real import IndexMapOp
from cimc.dialects.row_layout import RowLayout, frame_shape, row_layout, token_layout
from cimc.dialects.weights import WeightStore
from cimc.passes.schedule.heads import frames_before
from cimc.passes.schedule.moves import identity, row_index, used_channels


def row_type(value: SSAValue, layout: RowLayout) -> TensorType[Any]:
    """The type of the rows of a level-2 value in a layout."""
    assert isinstance(value.type, TensorType)
    return TensorType(value.type.get_element_type(), layout.shape)


class MappedRows:
    """The mapped block as far as it is built, and the rows in it of every level-2 value."""

    def __init__(self, store: WeightStore):
        self._store = store
        self.block = Block()
        self.values: dict[SSAValue, SSAValue] = {}
        self.layouts: dict[SSAValue, RowLayout] = {}
        self.frames: dict[SSAValue, int] = {}
        """Whole frames before mapped rows (``heads.frames_before``)."""

    def add(self, op: Operation, like: Operation | None = None) -> None:
        """Append ``op``, with the location of ``like``."""
        if like is not None:
            op.location = like.location
        self.block.add_op(op)

    def record(self, value: SSAValue, mapped: SSAValue, layout: RowLayout) -> None:
        """``mapped`` are the rows of ``value`` from here on."""
        self.values[value] = mapped
        self.layouts[value] = layout
        frames_before(mapped, self.frames)

    def rows(self, value: SSAValue, layout: RowLayout | None = None) -> SSAValue:
        """The rows of a level-2 value as an image has them, or in another ``layout``: re-laid if they lie otherwise."""
        frame = frame_shape(shape_of(value))
        wanted = layout or row_layout(frame)
        mapped, given = self.values[value], self.layouts[value]
        if given.same_order(wanted):
            return mapped
        if not {given, wanted} <= {row_layout(frame), token_layout(frame)}:
            moved = self.moved([mapped], [given], identity(frame), value, wanted)
            self.add(moved, value.op if isinstance(value, OpResult) else None)
            return moved.results[0]
        source = (given.rows, given.channels) if given != row_layout(frame) else frame
        target = (wanted.rows, wanted.channels) if wanted != row_layout(frame) else frame
        op = RelayoutOp(mapped, source, target, row_type(value, wanted))
        self.add(op, value.op if isinstance(value, OpResult) else None)
        return op.result

    def moved(
        self,
        values: Sequence[SSAValue],
        sources: Sequence[RowLayout],
        index: npt.NDArray[Any],
        result: SSAValue,
        layout: RowLayout,
        constant: str | None = None,
        tensors: ArrayAttr[StringAttr] | None = None,
    ) -> IndexMapOp:
        """The move that makes ``result`` in rows of ``layout``; operands come in whatever rows they have."""
        rows, channels = used_channels(row_index(index, sources, layout), sources)
        name = (
            tensor_names(result.op)[0]
            if isinstance(result, OpResult) and tensor_names(result.op)
            else "moved"
        )
        return IndexMapOp(
            values,
            row_type(result, layout),
            channels=channels,
            index=self._store.put(self._store.fresh(f"{name}.rows"), rows),
            constant=constant,
            target=frame_shape(shape_of(result)),
            tensors=tensors,
        )
