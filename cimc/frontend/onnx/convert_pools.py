"""Pools and means over the image; a sequence is an image of one row."""

from __future__ import annotations

from xdsl.ir import SSAValue

from cimc.dialects.graph import AveragePoolOp, GlobalAveragePoolOp, MaxPoolOp, ReshapeOp
from cimc.dialects.graph_base import names, window_extents
from cimc.dialects.graph_types import shape_of
from cimc.frontend.onnx.builder import Builder, float_type
from cimc.frontend.onnx.node import Node, ToHost, axis_of
from cimc.frontend.onnx.windows import fold_ceil, resolve_pads

_Window = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]


def _window(node: Node, given: tuple[int, ...]) -> tuple[_Window, bool]:
    """Kernel, strides, pads, dilations and output extents, of an image; and whether ceil_mode widened the pads."""
    ones = (1,) * (len(given) - 2)
    kernel = node.integers("kernel_shape", ())
    strides = node.integers("strides", ones)
    dilations = node.integers("dilations", ones)
    pads = resolve_pads(node, given[2:], kernel, strides, dilations)
    if len(ones) == 1:
        kernel, strides, dilations = (1, *kernel), (1, *strides), (1, *dilations)
        pads, given = (0, pads[0], 0, pads[1]), (*given[:2], 1, given[2])
    folded = fold_ceil(given[2:], kernel, strides, pads, dilations) if node.integer("ceil_mode", 0) else pads
    reach = [dilations[axis] * (kernel[axis] - 1) + 1 for axis in range(2)]
    if any(not 0 <= folded[axis] < reach[axis % 2] for axis in range(4)):
        raise ToHost(f"pads {folded} that are negative or as large as the window {tuple(reach)}")
    extents = window_extents(given[2:], kernel, strides, folded, dilations)
    if min(extents) < 1:
        raise ToHost(f"a window {tuple(reach)} larger than its input {given[2:]}")
    return (kernel, strides, folded, dilations, extents), folded != pads


def _image(build: Builder, node: Node) -> SSAValue:
    """The node's input as an image. Raises :class:`ToHost` for other than one or two spatial dimensions."""
    x = build.image_or_vector(node.input(0))
    given = shape_of(x)
    if len(given) == 4:
        return x
    if len(given) != 3:
        raise ToHost(f"a pool over {len(given) - 2} spatial dimensions, the digital unit takes 1 or 2")
    name = f"{node.output}/row"
    row = ReshapeOp(x, float_type((*given[:2], 1, given[2])), tensors=[name])
    build.add(row, node, name)
    return row.result


def _add(build: Builder, node: Node, op: AveragePoolOp | GlobalAveragePoolOp | MaxPoolOp) -> None:
    """Append the pool ``op`` of an image; its result is a sequence again where the node's input is one."""
    if len(shape_of(build.values[node.input(0)])) == 4:
        build.add(op, node, node.output)
        return
    name = f"{node.output}/image"
    op.tensors = names([name])
    build.add(op, node, name)
    batch, channels, _, length = shape_of(op.result)
    build.add(
        ReshapeOp(op.result, float_type((batch, channels, length)), tensors=[node.output]), node, node.output
    )


def max_pool(build: Builder, node: Node) -> None:
    """``MaxPool`` without its second output."""
    if node.output_used(1):
        raise ToHost("its output Indices is used")
    x = _image(build, node)
    (kernel, strides, pads, dilations, extents), _ = _window(node, _given(build, node))
    op = MaxPoolOp(
        x,
        float_type((*shape_of(x)[:2], *extents)),
        kernel=kernel,
        strides=strides,
        pads=pads,
        dilations=dilations,
        tensors=[node.output],
    )
    _add(build, node, op)


def _given(build: Builder, node: Node) -> tuple[int, ...]:
    return shape_of(build.values[node.input(0)])


def average_pool(build: Builder, node: Node) -> None:
    """``AveragePool``. Windows that ceil_mode lets hang over count no pad there, so with
    ``count_include_pad`` such a pool stays on the host."""
    x = _image(build, node)
    (kernel, strides, pads, dilations, extents), widened = _window(node, _given(build, node))
    counts = bool(node.integer("count_include_pad", 0))
    if counts and widened:
        raise ToHost("ceil_mode with count_include_pad: its last windows have their own divisor")
    op = AveragePoolOp(
        x,
        float_type((*shape_of(x)[:2], *extents)),
        kernel=kernel,
        strides=strides,
        pads=pads,
        dilations=dilations,
        count_include_pad=counts,
        tensors=[node.output],
    )
    _add(build, node, op)


def global_average_pool(build: Builder, node: Node) -> None:
    """``GlobalAveragePool`` over height and width."""
    x = _image(build, node)
    _add(build, node, GlobalAveragePoolOp(x, float_type((*shape_of(x)[:2], 1, 1)), tensors=[node.output]))


def global_max_pool(build: Builder, node: Node) -> None:
    """``GlobalMaxPool``: a maximum over one window as large as the image."""
    x = _image(build, node)
    given = shape_of(x)
    op = MaxPoolOp(
        x,
        float_type((*given[:2], 1, 1)),
        kernel=given[2:],
        strides=(1, 1),
        pads=(0, 0, 0, 0),
        dilations=(1, 1),
        tensors=[node.output],
    )
    _add(build, node, op)


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
