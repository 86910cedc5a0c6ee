"""Operators that change only the shape, and those that change nothing."""

from __future__ import annotations

import math

import numpy as np

from cimc.dialects.graph import ReshapeOp
from cimc.dialects.graph_types import shape_of, tensor
from cimc.frontend.onnx.builder import Builder, float_type
from cimc.frontend.onnx.node import Node, ToHost, axis_of
from cimc.frontend.onnx.types import element_code


def identity(build: Builder, node: Node) -> None:
    """``Identity``: another name."""
    build.alias(node.output, node.input(0))


def dropout(build: Builder, node: Node) -> None:
    """``Dropout`` outside training: another name."""
    if node.output_used(1):
        raise ToHost("its output Mask is used")
    training = build.constant(node.input(2)) if node.input(2) else None
    if node.input(2) and (training is None or bool(training.reshape(-1)[0])):
        raise ToHost("it is in training mode")
    build.alias(node.output, node.input(0))


def cast(build: Builder, node: Node) -> None:
    """``Cast`` to the type the value has already: another name."""
    if element_code(tensor(build.values[node.input(0)]).get_element_type()) != node.integer("to", 0):
        raise ToHost("it changes the element type")
    build.alias(node.output, node.input(0))


def pad(build: Builder, node: Node) -> None:
    """``Pad``: always for the host; a border of zeros around an image is remembered for convolutions.

    A convolution takes the border over; when all its readers do, nobody reads the Pad and it is removed.
    """
    given = shape_of(build.image_or_vector(node.input(0)))
    pads = build.constant(node.input(1)) if node.input(1) else np.array(node.integers("pads", ()))
    fill = build.constant(node.input(2)) if node.input(2) else np.array(node.number("value", 0.0))
    zeros = node.text("mode", "constant") == "constant" and fill is not None and not np.any(fill)
    if zeros and pads is not None and pads.size == 8 and len(given) == 4 and not node.input(3):
        before, after = pads.reshape(2, 4).tolist()
        if before[:2] == after[:2] == [0, 0] and min(before + after) >= 0:
            build.zero_pads[node.output] = (node.input(0), (*before[2:], *after[2:]))
    raise ToHost("a border that no convolution takes over")


def reshape(build: Builder, node: Node) -> None:
    """``Reshape`` to constant extents; 0 keeps an extent, -1 takes the rest."""
    target = build.constant(node.input(1))
    if target is None:
        raise ToHost("its target shape is computed at run time")
    given = shape_of(build.image_or_vector(node.input(0)))
    _reshape_to(
        build, node, _resolved(given, [int(d) for d in target.reshape(-1)], node.integer("allowzero", 0))
    )


def _resolved(given: tuple[int, ...], target: list[int], allow_zero: int) -> tuple[int, ...]:
    extents = list(target)
    for axis, extent in enumerate(target):
        if extent == 0 and not allow_zero:
            if axis >= len(given):
                raise ToHost(f"target {target} copies an extent that {given} does not have")
            extents[axis] = given[axis]
    if extents.count(-1) == 1:
        known = math.prod(e for e in extents if e != -1)
        if known == 0 or math.prod(given) % known:
            raise ToHost(f"target {target} does not divide {given}")
        extents[extents.index(-1)] = math.prod(given) // known
    if min(extents, default=0) < 0 or math.prod(extents) != math.prod(given):
        raise ToHost(f"target {target} does not hold the elements of {given}")
    return tuple(extents)


def flatten(build: Builder, node: Node) -> None:
    """``Flatten`` to two dimensions."""
    given = shape_of(build.image_or_vector(node.input(0)))
    axis = node.integer("axis", 1)
    if not -len(given) <= axis <= len(given):
        raise ToHost(f"axis {axis} does not exist in {given}")
    axis += len(given) if axis < 0 else 0
    _reshape_to(build, node, (math.prod(given[:axis]), math.prod(given[axis:])))


def squeeze(build: Builder, node: Node) -> None:
    """``Squeeze``: axes are an attribute before opset 13, an operand from then on."""
    given = shape_of(build.image_or_vector(node.input(0)))
    axes = _axes(build, node)
    gone = {axis_of(a, len(given)) for a in axes} if axes else {i for i, d in enumerate(given) if d == 1}
    if any(given[axis] != 1 for axis in gone):
        raise ToHost(f"axes {sorted(gone)} of {given} are not all 1")
    _reshape_to(build, node, tuple(d for i, d in enumerate(given) if i not in gone))


def unsqueeze(build: Builder, node: Node) -> None:
    """``Unsqueeze``: extents of 1 at places of the result."""
    given = list(shape_of(build.image_or_vector(node.input(0))))
    axes = _axes(build, node)
    rank = len(given) + len(axes)
    for axis in sorted(axis_of(a, rank) for a in axes):
        given.insert(axis, 1)
    _reshape_to(build, node, tuple(given))


def _axes(build: Builder, node: Node) -> tuple[int, ...]:
    if not node.input(1):
        return node.integers("axes", ())
    axes = build.constant(node.input(1))
    if axes is None:
        raise ToHost("its axes are computed at run time")
    return tuple(int(a) for a in axes.reshape(-1))


def _reshape_to(build: Builder, node: Node, extents: tuple[int, ...]) -> None:
    x = build.values[node.input(0)]
    build.add(ReshapeOp(x, float_type(extents), tensors=[node.output]), node, node.output)
