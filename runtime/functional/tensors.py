"""Tensors on the host's side, seen as rows: (frame, row, position, channel) views of ONNX-shaped arrays."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import as_strided

from cimc.diagnostics import CimError, UsageError, raise_all
from cimc.runtime.functional.problems import BoundsError, UnwrittenError
from cimc.runtime.program.opcodes import Element
from cimc.runtime.program.tables import IoTensor, Program


class HostTensor:
    """An input, an output or a tap of a run; ``data`` has the shape (frames, *ONNX shape)."""

    def __init__(self, io: IoTensor, data: npt.NDArray[Any]):
        self.io = io
        self.inward = io.direction == "in"
        self.data = data
        self._written = np.zeros((0,) if self.inward else data.shape, np.bool_)
        reach = (io.rows - 1) * io.row_stride + (io.positions - 1) * io.pos_stride
        reach += (io.channels - 1) * io.chan_stride
        if min(io.row_stride, io.pos_stride, io.chan_stride) < 0 or reach >= math.prod(io.shape):
            raise BoundsError(f"the rows of '{io.name}' reach beyond its shape {io.shape}")
        self._rows = self._view(data)
        self._marks = None if self.inward else self._view(self._written)

    def _view(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        io, size = self.io, array.itemsize
        steps = (math.prod(io.shape), io.row_stride, io.pos_stride, io.chan_stride)
        shape = (array.shape[0], io.rows, io.positions, io.channels)
        return as_strided(array, shape, tuple(step * size for step in steps))

    def read(self, frame: int, row: int, positions: int, channels: int) -> npt.NDArray[Any]:
        """A row of a frame: (positions, channels). BoundsError if the tensor has less."""
        self._check(row, positions, channels)
        return self._rows[frame, row, :positions, :channels]

    def write(
        self, frame: int, row: int, data: npt.NDArray[Any], position: int = 0, channel: int = 0
    ) -> None:
        """Put a part (positions, channels) of a row, from ``position`` and ``channel`` on."""
        positions, channels = data.shape
        self._check(row, position + positions, channel + channels)
        place = (frame, row, slice(position, position + positions), slice(channel, channel + channels))
        self._rows[place] = data
        if self._marks is not None:
            self._marks[place] = True

    def _check(self, row: int, positions: int, channels: int) -> None:
        io = self.io
        if 0 <= row < io.rows and positions <= io.positions and channels <= io.channels:
            return
        raise BoundsError(
            f"row {row} with {positions} positions x {channels} channels of '{io.name}' is moved; it has "
            f"{io.rows} rows of {io.positions} x {io.channels}"
        )

    def complete(self) -> None:
        """UnwrittenError unless every element was written."""
        missing = int(self._written.size - np.count_nonzero(self._written))
        if missing:
            first = np.argwhere(~self._written)[0].tolist()
            raise UnwrittenError(
                f"{missing} of {self._written.size} elements of '{self.io.name}' were never written, the first "
                f"at frame {first[0]}, index {tuple(first[1:])}"
            )


def host_tensors(program: Program, inputs: Mapping[str, npt.NDArray[Any]]) -> tuple[list[HostTensor], int]:
    """The I/O table filled with the inputs of a run, and the number of frames.

    An input has the shape (frames, *its ONNX shape without batch). UsageError (all at once) for missing or
    unknown names, wrong shapes, types that do not convert without loss, or frames that differ.
    """
    wanted = [io for io in program.io if io.direction == "in"]
    problems: list[CimError] = [
        UsageError(f"the program has no such input; it takes {_names(wanted)}", where=f"input '{name}'")
        for name in inputs
        if name not in {io.name for io in wanted}
    ]
    arrays: dict[str, npt.NDArray[Any]] = {}
    for io in wanted:
        try:
            arrays[io.name] = _converted(io, inputs)
        except UsageError as error:
            problems.append(error)
    frames = {array.shape[0] for array in arrays.values()}
    if len(frames) > 1:
        sizes = ", ".join(f"'{name}' {array.shape[0]}" for name, array in arrays.items())
        problems.append(UsageError(f"inputs have different numbers of frames: {sizes}"))
    raise_all(problems)
    count = frames.pop() if frames else program.frames
    tensors = [
        HostTensor(io, arrays[io.name] if io.direction == "in" else empty_tensor(io, count))
        for io in program.io
    ]
    return tensors, count


def empty_tensor(io: IoTensor, frames: int) -> npt.NDArray[Any]:
    """Room for an output or a tap of a run."""
    return np.zeros((frames, *io.shape), Element(io.element).dtype)


def _converted(io: IoTensor, inputs: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[Any]:
    where = f"input '{io.name}'"
    if io.name not in inputs:
        raise UsageError(f"is missing; give an array of shape (frames, {_sizes(io.shape)})", where=where)
    given = np.asarray(inputs[io.name])
    if given.shape[1:] != io.shape or given.ndim != len(io.shape) + 1 or not given.shape[0]:
        raise UsageError(f"must have shape (frames, {_sizes(io.shape)}), given {given.shape}", where=where)
    kind = Element(io.element).dtype
    both_float = given.dtype.kind == "f" and kind.kind == "f"
    if not both_float and (given.dtype.kind not in "iu" or kind.kind not in "iu"):
        raise UsageError(f"must hold {kind}, given {given.dtype}", where=where)
    array = np.ascontiguousarray(given, kind)
    if not both_float and not np.array_equal(array, given):
        raise UsageError(f"holds values outside {kind}", where=where)
    return array


def _names(tensors: list[IoTensor]) -> str:
    return ", ".join(f"'{io.name}'" for io in tensors) or "none"


def _sizes(shape: tuple[int, ...]) -> str:
    return ", ".join(str(size) for size in shape)
