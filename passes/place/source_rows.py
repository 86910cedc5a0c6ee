"""Which rows and columns of its first source a context takes: window, kernel rows, ring geometry and padding."""

from __future__ import annotations

from typing import Any

from xdsl.ir import SSAValue

from cimc.dialects.cim import ConcatOp, StageOp
from cimc.dialects.cim_rows import uncast
from cimc.dialects.cim_types import Function, WindowAttr
from cimc.dialects.graph_types import quant_of, shape_of
from cimc.passes.place.tail_plan import element_of
from cimc.runtime.program.builder import float_bits
from cimc.runtime.program.geometry import RingGeometry, ring_geometry

WINDOW_SHARE = 16
"""Windows of whole rows that a core's memory must have room for, where all blocks of a row take whole rows."""


def head_window(stage: StageOp) -> WindowAttr | None:
    """The window of a stage over its first source; ``None`` for one that works row by row."""
    if stage.read is not None:
        return stage.read.window
    first = next(iter(stage.body.block.ops))
    window = getattr(first, "window", None)
    if isinstance(window, WindowAttr):
        return window
    if holds_image(stage):
        height, width, _ = shape_of(stage.sources[0])
        return WindowAttr.of((height, width))
    return None


def has_blind_windows(window: WindowAttr) -> bool:
    """Whether padding beside the image is so wide that windows at an end of a row may see none of it."""
    return max(window.pads[1], window.pads[3]) > (window.kernel[1] - 1) * window.dilations[1]


def holds_image(stage: StageOp) -> bool:
    """Whether the stage is a global pool of float32 rows, which needs the whole image at once."""
    return is_global_pool(stage) and quant_of(stage.sources[0]) is None


def is_global_pool(stage: StageOp) -> bool:
    """Whether the stage's head is a global average pool."""
    first = next(iter(stage.body.block.ops))
    function = getattr(first, "function", None)
    return function is not None and function.data is Function.GLOBAL_AVERAGE_POOL


def source_geometry(stage: StageOp, kernel: tuple[int, int], copy: int, copies: int) -> RingGeometry:
    """The ring of the stage's first source; ``kernel`` is the range of kernel rows the context needs."""
    rows_in = shape_of(stage.sources[0])[0]
    window = head_window(stage)
    if window is None:  # row by row; a streaming global pool takes every row in turn
        turns = rows_in if is_global_pool(stage) else shape_of(stage.result)[0]
        return ring_geometry(1, 1, 1, 0, rows_in, turns, copy, copies)
    dilation = window.dilations[0]
    above = window.pads[0] - kernel[0] * dilation
    turns = shape_of(stage.result)[0]
    return ring_geometry(
        kernel[1] - kernel[0], window.strides[0], dilation, above, rows_in, turns, copy, copies
    )


def source_columns(stage: StageOp, p0: int, p1: int) -> tuple[int, int]:
    """The columns [first, last) of the first source that positions [p0, p1) of an array stage's result need.

    Columns outside the image are padding. Stages that work row by row take the same positions.
    """
    window = head_window(stage)
    if window is None:
        return (0, shape_of(stage.sources[0])[1]) if is_global_pool(stage) else (p0, p1)
    step, reach = window.strides[1], (window.kernel[1] - 1) * window.dilations[1]
    first = p0 * step - window.pads[1]
    return first, first + (p1 - p0 - 1) * step + reach + 1


def ring_columns(stage: StageOp, p0: int, p1: int, arch: Any) -> tuple[int, int]:
    """The columns [first, last) of the first source that the ring of a context with positions [p0, p1) holds."""
    if shares_rows(stage, arch):
        return source_columns(stage, 0, shape_of(stage.result)[1])
    return source_columns(stage, p0, p1)


def shares_rows(stage: StageOp, arch: Any) -> bool:
    """Whether all blocks of a row of an array stage's result take whole rows of its source: one multicast a row.

    Where the global buffer sends them: every block of its own would take whole cycles of the chip's narrowest port, for
    columns under the overlap of windows twice. Only where a window's rows take at most a sixteenth of a core's memory.
    """
    if stage.read is None or isinstance(uncast(stage.sources[0]).owner, StageOp | ConcatOp):
        return False
    window = stage.read.window
    first, last = source_columns(stage, 0, shape_of(stage.result)[1])
    row = (last - first) * stage.read.diagonal.channels * element_of(stage.sources[0].type).size_bytes
    reach = (window.kernel[0] - 1) * window.dilations[0] + 1
    return WINDOW_SHARE * reach * row <= arch.core.local_buffer_bytes


def kernel_rows(stage: StageOp, k0: int, k1: int) -> tuple[int, int]:
    """The kernel rows [first, last) that weight rows [k0, k1) of an array stage need; all of them for others."""
    window = head_window(stage)
    if window is None:
        return 0, 1
    if stage.read is None:
        return 0, window.kernel[0]
    row = window.kernel[1] * stage.read.diagonal.channels
    return k0 // row, -(-k1 // row)


def pad_value(value: SSAValue, stage: StageOp | None) -> int:
    """What padding holds: the zero point, the least code for a max pool, or the bits of a float."""
    first = next(iter(stage.body.block.ops)) if stage is not None else None
    function = getattr(first, "function", None)
    is_max = function is not None and function.data is Function.MAX_POOL
    codes = quant_of(value)
    if codes is None:
        return float_bits(float("-inf") if is_max else 0.0)
    return codes.qmin if is_max else codes.zero_point
