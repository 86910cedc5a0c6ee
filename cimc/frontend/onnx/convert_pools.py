"""Pools and means over the image; a sequence is an image of one row, a volume is pooled along its depth first.

Maxima and means of a box are maxima and means along its axes, so that a pool of volumes is two of images: of
(depth, height * width) and then of (height, width). Neither moves an element in ONNX's order of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod

import numpy as np
from xdsl.ir import SSAValue

from cimc.dialects.graph import AveragePoolOp, GlobalAveragePoolOp, MaxPoolOp, ReshapeOp
from cimc.dialects.graph_types import shape_of
from cimc.frontend.onnx.builder import Builder, float_type
from cimc.frontend.onnx.convert_moves import rearrange
from cimc.frontend.onnx.node import Node, ToHost, axis_of
from cimc.frontend.onnx.windows import UNIT_AXIS, WindowAxis, window_axes

ImagePool = Callable[[SSAValue, WindowAxis, WindowAxis, str], MaxPoolOp | AveragePoolOp]
"""Makes the pool of an image by the windows of its rows and columns, and calls the result by a name."""


def _operand(build: Builder, node: Node) -> SSAValue:
    """The node's input. Raises :class:`ToHost` for other than one to three spatial dimensions."""
    x = build.image_or_vector(node.input(0))
    if not 3 <= len(shape_of(x)) <= 5:
        raise ToHost(f"a pool over {len(shape_of(x)) - 2} spatial dimensions, the digital unit takes 1 to 3")
    return x


def _reshaped(build: Builder, node: Node, x: SSAValue, shape: Sequence[int], name: str) -> SSAValue:
    if shape_of(x) == tuple(shape):
        return x
    op = ReshapeOp(x, float_type(shape), tensors=[name])
    build.add(op, node, name)
    return op.result


def _pool(build: Builder, node: Node, x: SSAValue, axes: Sequence[WindowAxis], make: ImagePool) -> None:
    """Append the pool of ``x`` by the window ``axes``: images (batch, channels, rows, columns) one after the other."""
    batch, channels, *extents = shape_of(x)
    final = (batch, channels, *(axis.count for axis in axes))
    row = replace(UNIT_AXIS, count=prod(extents[1:]))
    match axes:
        case (columns,):
            steps = [((batch, channels, 1, extents[0]), UNIT_AXIS, columns)]
        case (rows, columns):
            steps = [((batch, channels, *extents), rows, columns)]
        case (depth, rows, columns):
            image = (batch, channels * depth.count, *extents[1:])
            steps = [((batch, channels, extents[0], row.count), depth, row), (image, rows, columns)]
        case _:
            raise AssertionError("one to three axes")
    for number, (shape, rows, columns) in enumerate(steps):
        last = number == len(steps) - 1
        name = node.output if last and len(axes) == 2 else f"{node.output}/pooled{number}"
        op = make(_reshaped(build, node, x, shape, f"{node.output}/image{number}"), rows, columns, name)
        build.add(op, node, name)
        x = op.result
    if len(axes) != 2:
        build.add(ReshapeOp(x, float_type(final), tensors=[node.output]), node, node.output)


def max_pool(build: Builder, node: Node) -> None:
    """``MaxPool`` without its second output."""
    if node.output_used(1):
        raise ToHost("its output Indices is used")
    x = _operand(build, node)
    _pool(build, node, x, window_axes(node, shape_of(x)[2:]), _maximum)


def _maximum(x: SSAValue, rows: WindowAxis, columns: WindowAxis, name: str) -> MaxPoolOp:
    return MaxPoolOp(
        x,
        float_type((*shape_of(x)[:2], rows.count, columns.count)),
        kernel=(rows.kernel, columns.kernel),
        strides=(rows.stride, columns.stride),
        pads=_pads(rows, columns),
        dilations=(rows.dilation, columns.dilation),
        tensors=[name],
    )


def _pads(rows: WindowAxis, columns: WindowAxis) -> tuple[int, int, int, int]:
    return rows.before, columns.before, rows.behind + rows.hang, columns.behind + columns.hang


def average_pool(build: Builder, node: Node) -> None:
    """``AveragePool``. What ceil_mode lets hang over is never counted; where pads are, they become zeros first."""
    x = _operand(build, node)
    axes = window_axes(node, shape_of(x)[2:])
    counts = bool(node.integer("count_include_pad", 0))
    if counts and any(axis.hang for axis in axes):
        border = [(0, 0), (0, 0), *((axis.before, axis.behind) for axis in axes)]
        name = f"{node.output}/padded"
        x = rearrange(build, node, x, lambda i: np.pad(i, border, constant_values=-1), name)
        axes, counts = tuple(replace(axis, before=0, behind=0) for axis in axes), False

    def mean(image: SSAValue, rows: WindowAxis, columns: WindowAxis, name: str) -> AveragePoolOp:
        return AveragePoolOp(
            image,
            float_type((*shape_of(image)[:2], rows.count, columns.count)),
            kernel=(rows.kernel, columns.kernel),
            strides=(rows.stride, columns.stride),
            pads=_pads(rows, columns),
            dilations=(rows.dilation, columns.dilation),
            count_include_pad=counts,
            tensors=[name],
        )

    _pool(build, node, x, axes, mean)


def _whole_image(build: Builder, node: Node) -> SSAValue:
    """The node's input as an image: a sequence of one row, a volume with its slices below each other."""
    x = _operand(build, node)
    batch, channels, *extents = shape_of(x)
    shape = (batch, channels, prod(extents[:-1]), extents[-1])
    return _reshaped(build, node, x, shape, f"{node.output}/image")


def _add_whole(build: Builder, node: Node, make: Callable[[str], GlobalAveragePoolOp | MaxPoolOp]) -> None:
    """Append a pool over the whole image, its result in the rank of the node's input."""
    shape = shape_of(build.values[node.input(0)])
    name = node.output if len(shape) == 4 else f"{node.output}/pooled"
    op = make(name)
    build.add(op, node, name)
    _reshaped(build, node, op.result, (*shape[:2], *(1,) * (len(shape) - 2)), node.output)


def global_average_pool(build: Builder, node: Node) -> None:
    """``GlobalAveragePool`` of sequences, images and volumes."""
    x = _whole_image(build, node)
    kind = float_type((*shape_of(x)[:2], 1, 1))
    _add_whole(build, node, lambda name: GlobalAveragePoolOp(x, kind, tensors=[name]))


def global_max_pool(build: Builder, node: Node) -> None:
    """``GlobalMaxPool``: a maximum over one window as large as the image."""
    x = _whole_image(build, node)
    rows, columns = (replace(UNIT_AXIS, kernel=extent) for extent in shape_of(x)[2:])
    _add_whole(build, node, lambda name: _maximum(x, rows, columns, name))


def reduce_mean(build: Builder, node: Node) -> None:
    """``ReduceMean`` over height and width of an image: a global average pool."""
    x = build.image_or_vector(node.input(0))
    given = shape_of(x)
    axes = sorted(axis_of(a, len(given)) for a in _axes(build, node))
    if len(given) != 4 or axes != [2, 3]:
        raise ToHost(
            f"a mean over axes {axes} of {len(given)}; over height and width of an image it is a pool"
        )
    keep = bool(node.integer("keepdims", 1))
    name = node.output if keep else f"{node.output}/kept"
    pooled = GlobalAveragePoolOp(x, float_type((*given[:2], 1, 1)), tensors=[name])
    build.add(pooled, node, name)
    if not keep:
        build.add(ReshapeOp(pooled.result, float_type(given[:2]), tensors=[node.output]), node, node.output)


def _axes(build: Builder, node: Node) -> tuple[int, ...]:
    if not node.input(1):
        return node.integers("axes", ())
    axes = build.constant(node.input(1))
    if axes is None:
        raise ToHost("its axes are computed at run time")
    return tuple(int(a) for a in axes.reshape(-1))
