"""Sliding windows: auto_pad resolved, ceil_mode as what hangs over behind the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cimc.diagnostics import UnsupportedError
from cimc.frontend.onnx.node import Node, ToHost

LARGEST_STEP = 1 << 20
"""Kernels, strides and dilations above this are damage: programs hold them in 32 bits."""


def resolve_pads(
    node: Node,
    extents: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> tuple[int, ...]:
    """``pads`` or ``auto_pad`` as the pads in front of each axis, then those behind.

    Raises ``UnsupportedError`` for kernels, strides and dilations below 1, which no runtime survives, and
    above :data:`LARGEST_STEP`.
    """
    for name, values in (("kernel", kernel), ("strides", strides), ("dilations", dilations)):
        if min(values) < 1:
            raise UnsupportedError(f"{name} {tuple(values)} are not all at least 1")
        if max(values) > LARGEST_STEP:
            raise UnsupportedError(f"{name} {tuple(values)} are not all at most {LARGEST_STEP}")
    rank = len(extents)
    if not len(kernel) == len(strides) == len(dilations) == rank:
        raise ToHost(
            f"a window of {len(kernel)} dimensions, {len(strides)} strides and {len(dilations)} dilations"
        )
    mode = node.text("auto_pad", "NOTSET")
    if mode == "NOTSET":
        pads = node.integers("pads", (0,) * (2 * rank))
        if len(pads) != 2 * rank:
            raise ToHost(f"{len(pads)} pads for {rank} spatial dimensions")
        return pads
    if mode == "VALID":
        return (0,) * (2 * rank)
    if mode not in ("SAME_UPPER", "SAME_LOWER"):
        raise ToHost(f"auto_pad {mode!r} is not known")
    before, after = [0] * rank, [0] * rank
    for axis in range(rank):
        outputs = -(-extents[axis] // strides[axis])
        reach = dilations[axis] * (kernel[axis] - 1) + 1
        total = max((outputs - 1) * strides[axis] + reach - extents[axis], 0)
        smaller, larger = total // 2, total - total // 2
        before[axis], after[axis] = (smaller, larger) if mode == "SAME_UPPER" else (larger, smaller)
    return (*before, *after)


@dataclass(frozen=True)
class WindowAxis:
    """A sliding window along one axis, in elements. ``hang``: how far ceil_mode lets the last one reach behind."""

    kernel: int
    stride: int
    before: int
    behind: int
    """Pads; ``hang`` comes on top."""
    dilation: int
    hang: int
    count: int
    """Windows: the extent of the result."""

    @property
    def reach(self) -> int:
        """Elements from the first to the last of a window."""
        return self.dilation * (self.kernel - 1) + 1


UNIT_AXIS = WindowAxis(1, 1, 0, 0, 1, 0, 1)
"""A window along an axis of extent 1."""


def window_axes(node: Node, extents: Sequence[int]) -> tuple[WindowAxis, ...]:
    """The window of the pool ``node`` over an input of the spatial ``extents``, axis by axis.

    With ceil_mode a last window that would begin behind the image and its front pad is dropped, as onnxruntime does.
    Raises :class:`ToHost` for pads that are negative or as large as the window, and windows larger than the input.
    """
    ones = (1,) * len(extents)
    kernel = node.integers("kernel_shape", ())
    strides = node.integers("strides", ones)
    dilations = node.integers("dilations", ones)
    pads = resolve_pads(node, extents, kernel, strides, dilations)
    ceil = bool(node.integer("ceil_mode", 0))
    rank = len(extents)
    return tuple(
        _window_axis(extents[a], kernel[a], strides[a], pads[a], pads[a + rank], dilations[a], ceil)
        for a in range(rank)
    )


def _window_axis(
    extent: int, kernel: int, stride: int, before: int, behind: int, dilation: int, ceil: bool
) -> WindowAxis:
    reach = dilation * (kernel - 1) + 1
    span = extent + before + behind - reach
    count = span // stride + 1
    if ceil and span % stride and count * stride < extent + before:
        count += 1
    hang = max(0, (count - 1) * stride - span)
    if min(before, behind) < 0 or max(before, behind + hang) >= reach:
        raise ToHost(f"pads {(before, behind + hang)} that are negative or as large as the window of {reach}")
    if count < 1:
        raise ToHost(f"a window of {reach} larger than its input of {extent}")
    return WindowAxis(kernel, stride, before, behind, dilation, hang, count)
