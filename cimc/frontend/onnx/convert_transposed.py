"""``ConvTranspose``: one convolution of stride 1 for every phase of the stride, their outputs interleaved.

An output position o takes the inputs i with ``o + pad = stride * i + dilation * k`` for some tap k. Which taps these
are depends on ``(o + pad) mod stride`` alone: each such phase is a convolution with its own few taps, and no zero is
ever put between inputs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from math import gcd

import numpy as np
from xdsl.ir import SSAValue

from cimc.dialects.graph_types import shape_of
from cimc.frontend.onnx.builder import Builder
from cimc.frontend.onnx.convert_convolutions import (
    Kernel,
    Sliding,
    add_conv,
    add_reshape,
    check_channels,
    read_kernel,
)
from cimc.frontend.onnx.convert_moves import add_move, check_countable, numbered
from cimc.frontend.onnx.node import Node, ToHost


@dataclass(frozen=True)
class _Axis:
    """One spatial axis: input extent, taps, stride, dilation, pad in front, output extent."""

    extent: int
    taps: int
    stride: int
    dilation: int
    pad: int
    outputs: int


@dataclass(frozen=True)
class _Phase:
    """The outputs first, first + stride, ... of an axis, as a convolution of stride 1.

    ``taps`` are the kernel's taps in the order of the inputs they meet; ``skip`` results in front are not outputs.
    """

    first: int
    count: int
    taps: tuple[int, ...]
    dilation: int
    pads: tuple[int, int]
    skip: int
    results: int
    """Of the convolution; those outside [skip, skip + count) are nobody's."""


def conv_transpose(build: Builder, node: Node) -> None:
    """``ConvTranspose`` over one or two spatial dimensions with constant weights."""
    x = build.image_or_vector(node.input(0))
    given = shape_of(x)
    kernel = read_kernel(build, node)
    rank = len(given) - 2
    if not 1 <= rank <= 2 or kernel.weight.ndim != rank + 2:
        raise ToHost(
            f"a transposed convolution of input {given} and weight {kernel.weight.shape}, the arrays take 1 or 2 "
            "spatial dimensions"
        )
    group = node.integer("group", 1)
    check_channels(kernel.weight.shape[0], kernel.weight.shape[0], group, given)
    axes = _axes(node, given[2:], kernel.weight.shape[2:])
    turned = _channels_out_first(kernel, group)
    check_countable("its result", (given[0], turned.weight.shape[0], *(axis.outputs for axis in axes)))
    if rank == 1:
        # A sequence is an image of one row.
        x = add_reshape(build, node, x, (*given[:2], 1, given[2]), f"{node.output}/row")
        turned = turned.reshaped(*turned.weight.shape[:2], 1, turned.weight.shape[2])
        axes = (_Axis(1, 1, 1, 1, 0, 1), *axes)
    name = node.output if rank == 2 else f"{node.output}/image"
    made = _interleaved(build, node, x, turned, axes, group, name)
    if rank == 1:
        add_reshape(build, node, made, (given[0], turned.weight.shape[0], axes[1].outputs), node.output)


def _axes(node: Node, extents: tuple[int, ...], taps: tuple[int, ...]) -> tuple[_Axis, ...]:
    """Output extents and front pads, by the operator's definition."""
    rank = len(extents)
    ones, zeros = (1,) * rank, (0,) * rank
    strides, dilations = node.integers("strides", ones), node.integers("dilations", ones)
    extra = node.integers("output_padding", zeros)
    asked = node.integers("output_shape", ())[-rank:]
    pads = node.integers("pads", zeros * 2)
    mode = node.text("auto_pad", "NOTSET")
    if not len(strides) == len(dilations) == len(extra) == rank or (len(pads), len(asked)) not in (
        (2 * rank, 0),
        (2 * rank, rank),
    ):
        raise ToHost(
            f"strides, dilations, pads, output_padding or output_shape that are not for {rank} dimensions"
        )
    if min(*strides, *dilations, *taps) < 1:
        raise ToHost(f"strides {strides} or dilations {dilations} that are not all at least 1")
    found: list[_Axis] = []
    for a in range(rank):
        full = strides[a] * (extents[a] - 1) + extra[a] + (taps[a] - 1) * dilations[a] + 1
        if asked or mode in ("SAME_UPPER", "SAME_LOWER"):
            outputs = asked[a] if asked else extents[a] * strides[a]
            total = max(full - outputs, 0)
            front = total - total // 2 if mode == "SAME_LOWER" or (asked and mode == "NOTSET") else total // 2
        else:
            front = 0 if mode == "VALID" else pads[a]
            outputs = full - front - (0 if mode == "VALID" else pads[a + rank])
        if outputs < 1 or front < 0:
            raise ToHost(f"pads {pads} that leave {outputs} outputs of axis {a}")
        found.append(_Axis(extents[a], taps[a], strides[a], dilations[a], front, outputs))
    return tuple(found)


def _channels_out_first(kernel: Kernel, group: int) -> Kernel:
    """Weights (C, M / group, ...) as those of a convolution: (M, C / group, ...)."""
    channels, width, *taps = kernel.weight.shape
    if group == 1:
        return kernel.turned((1, 0, *range(2, kernel.weight.ndim)))
    split = (group, channels // group, width, *taps)
    order = (0, 2, 1, *range(3, len(split)))
    shape = (group * width, channels // group, *taps)
    # Codes with a scale for column j of every group are quantised again: they have no axis of output channels.
    codes = kernel.weight_codes and kernel.weight_codes.reshaped(split)
    parted = Kernel(kernel.weight.reshape(split), codes, kernel.bias, kernel.bias_codes)
    return parted.turned(order).reshaped(*shape)


def _phases(axis: _Axis) -> list[_Phase]:
    """The phases of an axis. Raises :class:`ToHost` where outputs take no input at all."""
    shared = gcd(axis.stride, axis.dilation)
    found: list[_Phase] = []
    for first in range(min(axis.stride, axis.outputs)):
        residue = (first + axis.pad) % axis.stride
        taps = [k for k in range(axis.taps) if axis.dilation * k % axis.stride == residue]
        if not taps:
            raise ToHost(
                f"some of its outputs are the bias alone: {axis.taps} taps of dilation {axis.dilation} at stride "
                f"{axis.stride}"
            )
        count = len(range(first, axis.outputs, axis.stride))
        dilation = axis.dilation // shared
        # The first output meets tap taps[0] at input `start`, later taps at earlier inputs.
        start = (first + axis.pad - axis.dilation * taps[0]) // axis.stride
        before = (len(taps) - 1) * dilation - start
        after = start + count - axis.extent
        # A window over the image's end that nobody asks for is cheaper than moving the image.
        pads = max(before, 0), max(after, 0)
        results = axis.extent + sum(pads) - (len(taps) - 1) * dilation
        found.append(_Phase(first, count, tuple(reversed(taps)), dilation, pads, max(-before, 0), results))
    return found


def _interleaved(
    build: Builder, node: Node, x: SSAValue, kernel: Kernel, axes: tuple[_Axis, ...], group: int, name: str
) -> SSAValue:
    """All phases of height and width, put together as the tensor ``name``."""
    rows, columns = (_phases(axis) for axis in axes)
    batch, filters = shape_of(x)[0], kernel.weight.shape[0]
    whole = (batch, filters, axes[0].outputs, axes[1].outputs)
    # A convolution of stride 1 whose results are all outputs is the result itself.
    plain = len(rows) == len(columns) == 1 and whole[2:] == (rows[0].results, columns[0].results)
    parts: list[SSAValue] = []
    index = np.empty(whole, np.int64)
    held = 0
    for r, c in product(rows, columns):
        made = add_conv(
            build,
            node,
            x,
            _taps_of(kernel, r.taps, c.taps),
            Sliding((1, 1), (r.pads[0], c.pads[0], r.pads[1], c.pads[1]), (r.dilation, c.dilation), group),
            name if plain else f"{name}/phase{len(parts)}",
        )
        numbers = numbered(made)[:, :, r.skip : r.skip + r.count, c.skip : c.skip + c.count]
        index[:, :, r.first :: axes[0].stride, c.first :: axes[1].stride] = numbers + held
        parts.append(made)
        held += int(np.prod(shape_of(made)))
    return parts[0] if plain else add_move(build, node, parts, index, name)


def _taps_of(kernel: Kernel, rows: tuple[int, ...], columns: tuple[int, ...]) -> Kernel:
    """The taps ``rows`` x ``columns`` of a kernel, in this order."""
    picked = np.ix_(rows, columns)
    codes = kernel.weight_codes
    if codes is not None:
        codes = replace(codes, codes=codes.codes[(..., *picked)])
    return Kernel(np.ascontiguousarray(kernel.weight[(..., *picked)]), codes, kernel.bias, kernel.bias_codes)
