"""Pools and means over the image."""

from __future__ import annotations

from cimc.dialects.graph import AveragePoolOp, GlobalAveragePoolOp, MaxPoolOp, ReshapeOp
from cimc.dialects.graph_base import window_extents
from cimc.dialects.graph_types import shape_of
from cimc.frontend.onnx.builder import Builder, float_type
from cimc.frontend.onnx.node import Node, ToHost, axis_of
from cimc.frontend.onnx.windows import fold_ceil, resolve_pads

_Window = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]


def _window(node: Node, given: tuple[int, ...]) -> tuple[_Window, bool]:
    """Kernel, strides, pads, dilations and output extents; and whether ceil_mode widened the pads."""
    if len(given) != 4:
        raise ToHost(f"a pool over {len(given) - 2} spatial dimensions, the digital unit takes 2")
    kernel = node.integers("kernel_shape", ())
    strides = node.integers("strides", (1, 1))
    dilations = node.integers("dilations", (1, 1))
    if not len(kernel) == len(strides) == len(dilations) == 2:
        raise ToHost("a window that is not two-dimensional")
    pads = resolve_pads(node, given[2:], kernel, strides, dilations)
    folded = fold_ceil(given[2:], kernel, strides, pads, dilations) if node.integer("ceil_mode", 0) else pads
    reach = [dilations[axis] * (kernel[axis] - 1) + 1 for axis in range(2)]
    if any(not 0 <= folded[axis] < reach[axis % 2] for axis in range(4)):
        raise ToHost(f"pads {folded} that are negative or as large as the window {tuple(reach)}")
    extents = window_extents(given[2:], kernel, strides, folded, dilations)
    if min(extents) < 1:
        raise ToHost(f"a window {tuple(reach)} larger than its input {given[2:]}")
    return (kernel, strides, folded, dilations, extents), folded != pads


def max_pool(build: Builder, node: Node) -> None:
    """``MaxPool`` without its second output."""
    x = build.image_or_vector(node.input(0))
    if node.output_used(1):
        raise ToHost("its output Indices is used")
    (kernel, strides, pads, dilations, extents), _ = _window(node, shape_of(x))
    op = MaxPoolOp(
        x,
        float_type((*shape_of(x)[:2], *extents)),
        kernel=kernel,
        strides=strides,
        pads=pads,
        dilations=dilations,
        tensors=[node.output],
    )
    build.add(op, node, node.output)


def average_pool(build: Builder, node: Node) -> None:
    """``AveragePool``. Windows that ceil_mode lets hang over count no pad there, so with
    ``count_include_pad`` such a pool stays on the host."""
    x = build.image_or_vector(node.input(0))
    (kernel, strides, pads, dilations, extents), widened = _window(node, shape_of(x))
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
    build.add(op, node, node.output)


def global_average_pool(build: Builder, node: Node) -> None:
    """``GlobalAveragePool`` over height and width."""
    x = build.image_or_vector(node.input(0))
    given = shape_of(x)
    if len(given) != 4:
        raise ToHost(f"a pool over {len(given) - 2} spatial dimensions, the digital unit takes 2")
    op = GlobalAveragePoolOp(x, float_type((*given[:2], 1, 1)), tensors=[node.output])
    build.add(op, node, node.output)


def global_max_pool(build: Builder, node: Node) -> None:
    """``GlobalMaxPool``: a maximum over one window as large as the image."""
    x = build.image_or_vector(node.input(0))
    given = shape_of(x)
    if len(given) != 4:
        raise ToHost(f"a pool over {len(given) - 2} spatial dimensions, the digital unit takes 2")
    op = MaxPoolOp(
        x,
        float_type((*given[:2], 1, 1)),
        kernel=given[2:],
        strides=(1, 1),
        pads=(0, 0, 0, 0),
        dilations=(1, 1),
        tensors=[node.output],
    )
    build.add(op, node, node.output)


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
