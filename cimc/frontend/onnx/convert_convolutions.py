"""``Conv`` over one, two and three spatial dimensions: all become two-dimensional convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from xdsl.ir import SSAValue

from cimc.diagnostics import UnsupportedError
from cimc.dialects.graph import ConvOp, ReshapeOp
from cimc.dialects.graph_types import shape_of
from cimc.frontend.onnx.builder import Builder, float_type
from cimc.frontend.onnx.convert_moves import add_move, check_countable, numbered
from cimc.frontend.onnx.node import Node, ToHost
from cimc.frontend.onnx.product_weights import codes_of, store_product
from cimc.frontend.onnx.stored_codes import StoredCodes
from cimc.frontend.onnx.windows import resolve_pads

Floats = npt.NDArray[np.float32]

MOST_DIMENSIONS = 3


@dataclass(frozen=True)
class Kernel:
    """Weights (M, C / group, *extents) with their codes, if the model has some, and the bias with its own."""

    weight: Floats
    weight_codes: StoredCodes | None
    bias: Floats | None
    bias_codes: StoredCodes | None

    def reshaped(self, *shape: int) -> Kernel:
        """The same numbers in another shape that keeps axis 0."""
        codes = self.weight_codes
        if codes is not None:
            codes = replace(codes, codes=codes.codes.reshape(shape)) if codes.axis in (None, 0) else None
        return replace(self, weight=self.weight.reshape(shape), weight_codes=codes)

    def turned(self, order: Sequence[int]) -> Kernel:
        """The weights with axis ``order[i]`` as axis ``i``."""
        codes = None if self.weight_codes is None else self.weight_codes.transposed(order)
        return replace(self, weight=self.weight.transpose(order), weight_codes=codes)


@dataclass(frozen=True)
class Sliding:
    """How a window slides: two entries each, height first; pads are top, left, bottom, right."""

    strides: Sequence[int]
    pads: Sequence[int]
    dilations: Sequence[int]
    group: int


def read_kernel(build: Builder, node: Node) -> Kernel:
    """The constant weights and bias of a node. Raises :class:`ToHost` where they are no constants."""
    weight = build.float_constant(node.input(1), "weight")
    bias = build.float_constant(node.input(2), "bias") if node.input(2) else None
    return Kernel(weight, codes_of(build, node.input(1)), bias, codes_of(build, node.input(2)))


def output_extents(
    extents: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
) -> tuple[int, ...]:
    """Extents of a convolution's result; ``pads`` are all begins, then all ends."""
    rank = len(extents)
    return tuple(
        (extents[a] + pads[a] + pads[a + rank] - dilations[a] * (kernel[a] - 1) - 1) // strides[a] + 1
        for a in range(rank)
    )


def conv(build: Builder, node: Node) -> None:
    """``Conv`` with constant weights; groups are kept, a border of zeros before it is its own."""
    name, border = build.zero_pads.get(node.input(0), (node.input(0), (0, 0, 0, 0)))
    if node.text("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        name, border = node.input(0), (0, 0, 0, 0)
    x = build.image_or_vector(name)
    given = shape_of(x)
    rank = len(given) - 2
    if not 1 <= rank <= MOST_DIMENSIONS:
        raise ToHost(f"a convolution over {rank} spatial dimensions, the arrays take 1 to {MOST_DIMENSIONS}")
    kernel = read_kernel(build, node)
    if kernel.weight.ndim != rank + 2:
        raise ToHost(f"weight of shape {kernel.weight.shape} does not fit the input {given}")
    kernel_shape = kernel.weight.shape[2:]
    if node.integers("kernel_shape", kernel_shape) != kernel_shape:
        stated = node.integers("kernel_shape", ())
        raise UnsupportedError(
            f"kernel_shape is {stated}, the weight's {kernel_shape}; export the model again"
        )
    ones = (1,) * rank
    strides, dilations = node.integers("strides", ones), node.integers("dilations", ones)
    group = node.integer("group", 1)
    pads = resolve_pads(node, given[2:], kernel.weight.shape[2:], strides, dilations)
    if rank == 2:
        pads = tuple(mine + theirs for mine, theirs in zip(pads, border, strict=True))
    if min(pads) < 0:
        raise ToHost(f"negative pads {pads}")
    extents = output_extents(given[2:], kernel.weight.shape[2:], strides, pads, dilations)
    check_channels(kernel.weight.shape[1] * group, kernel.weight.shape[0], group, given)
    if min(extents) < 1:
        raise ToHost(f"weight of shape {kernel.weight.shape} does not fit the input {given}")
    if rank == 1:
        row = Sliding((1, strides[0]), (0, pads[0], 0, pads[1]), (1, dilations[0]), group)
        _conv_1d(build, node, x, kernel, row)
    elif rank == 2:
        add_conv(build, node, x, kernel, Sliding(strides, pads, dilations, group), node.output)
    else:
        _conv_3d(build, node, x, kernel, (strides, pads, dilations, extents), group)


def check_channels(taken: int, made: int, group: int, given: tuple[int, ...]) -> None:
    """Raise ``UnsupportedError`` where weights are for other channels; onnxruntime would say so when it runs."""
    if taken != given[1] or made % group:
        raise UnsupportedError(
            f"its weights take {taken} channels and give {made}, in {group} groups; the input {given} has "
            f"{given[1]}: export the model again"
        )


def add_conv(
    build: Builder, node: Node, x: SSAValue, kernel: Kernel, sliding: Sliding, name: str
) -> SSAValue:
    """Append ``graph.conv`` of the image ``x``; its result is the tensor ``name``."""
    given, weight = shape_of(x), kernel.weight
    stored = store_product(
        build, node, weight, kernel.bias, 0, weight_codes=kernel.weight_codes, bias_codes=kernel.bias_codes
    )
    extents = output_extents(given[2:], weight.shape[2:], sliding.strides, sliding.pads, sliding.dilations)
    op = ConvOp(
        x,
        float_type((given[0], weight.shape[0], *extents)),
        weight=stored.weight,
        bias=stored.bias,
        kernel=weight.shape[2:],
        strides=sliding.strides,
        pads=sliding.pads,
        dilations=sliding.dilations,
        group=sliding.group,
        tensors=[name],
        codes=stored.codes,
    )
    build.add(op, node, name)
    return op.result


def add_reshape(build: Builder, node: Node, x: SSAValue, shape: Sequence[int], name: str) -> SSAValue:
    """Append ``graph.reshape``; its result is the tensor ``name``."""
    op = ReshapeOp(x, float_type(shape), tensors=[name])
    build.add(op, node, name)
    return op.result


def _conv_1d(build: Builder, node: Node, x: SSAValue, kernel: Kernel, sliding: Sliding) -> None:
    """A sequence is an image of one row."""
    n, channels, length = shape_of(x)
    image = add_reshape(build, node, x, (n, channels, 1, length), f"{node.output}/row")
    filters, depth, taps = kernel.weight.shape
    made = add_conv(
        build, node, image, kernel.reshaped(filters, depth, 1, taps), sliding, f"{node.output}/image"
    )
    _, _, _, width = shape_of(made)
    add_reshape(build, node, made, (n, filters, width), node.output)


def _conv_3d(
    build: Builder,
    node: Node,
    x: SSAValue,
    kernel: Kernel,
    sliding: tuple[Sequence[int], Sequence[int], Sequence[int], Sequence[int]],
    group: int,
) -> None:
    """Depth taps become channels, output slices bands of one tall image, so that weights are stored once.

    Every band holds the padded rows its windows need, its height a multiple of the vertical stride; outputs whose
    window would reach into the next band are dropped.
    """
    strides, pads, dilations, extents = sliding
    n, channels, depth, height, width = shape_of(x)
    filters, per_group, taps, kh, kw = kernel.weight.shape
    rows = max((extents[1] - 1) * strides[1] + (kh - 1) * dilations[1] + 1, 1)
    band = -(-rows // strides[1]) * strides[1]
    bordered = (n, channels, depth + pads[0] + pads[3], max(band, pads[1] + height), width)
    check_countable("its padded input", bordered)
    check_countable("its image of bands", (n, channels, extents[0], taps, band, width))
    padded = np.full(bordered, -1, np.int64)
    padded[:, :, pads[0] : pads[0] + depth, pads[1] : pads[1] + height] = numbered(x)
    slices = np.arange(extents[0])[:, None] * strides[0] + np.arange(taps) * dilations[0]
    # N, C, OD, taps, band, W to N, (group, channel, tap), (OD, band), W: a group's channels stay together.
    picked = padded[:, :, slices, :band].transpose(0, 1, 3, 2, 4, 5)
    tall = add_move(
        build, node, [x], picked.reshape(n, channels * taps, extents[0] * band, width), f"{node.output}/bands"
    )
    flat = kernel.reshaped(filters, per_group * taps, kh, kw)
    image = Sliding((strides[1], strides[2]), (0, pads[2], 0, pads[5]), (dilations[1], dilations[2]), group)
    made = add_conv(build, node, tall, flat, image, f"{node.output}/image")
    first = np.arange(extents[0])[:, None] * (band // strides[1]) + np.arange(extents[1])
    add_move(build, node, [made], numbered(made)[:, :, first], node.output)
