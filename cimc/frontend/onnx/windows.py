"""Pads of sliding windows: auto_pad resolved, ceil_mode folded into the pads behind the image."""

from __future__ import annotations

from collections.abc import Sequence

from cimc.diagnostics import UnsupportedError
from cimc.frontend.onnx.node import Node, ToHost


def resolve_pads(
    node: Node,
    extents: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> tuple[int, ...]:
    """``pads`` or ``auto_pad`` as the pads in front of each axis, then those behind.

    Raises ``UnsupportedError`` for kernels, strides and dilations below 1: no runtime survives them.
    """
    for name, values in (("kernel", kernel), ("strides", strides), ("dilations", dilations)):
        if min(values) < 1:
            raise UnsupportedError(f"{name} {tuple(values)} are not all at least 1")
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


def fold_ceil(
    extents: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
) -> tuple[int, ...]:
    """Pads that make floor division give the extents that ceil_mode gives.

    A last window that would begin behind the image and its front pad is dropped, as onnxruntime does.
    """
    after = list(pads[2:])
    for axis in range(2):
        reach = dilations[axis] * (kernel[axis] - 1) + 1
        span = extents[axis] + pads[axis] + pads[axis + 2] - reach
        outputs = -(-span // strides[axis]) + 1
        if (outputs - 1) * strides[axis] >= extents[axis] + pads[axis]:
            outputs -= 1
        needed = (outputs - 1) * strides[axis] + reach - extents[axis] - pads[axis]
        after[axis] = max(after[axis], needed)
    return pads[0], pads[1], after[0], after[1]
