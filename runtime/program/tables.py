"""The tables of a program: what each column means, and the frozen container that holds them.

A program is a handful of columnar numpy tables plus a small JSON header. Instruction rows grow with
stages, contexts with copies and tiles, nothing with pixels. ``docs/isa.md`` is the definition; this
file is its schema. A field of an instruction is an immediate when it is at least -1 (``NONE``),
otherwise it names a parameter of the context: see :func:`parameter`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

FORMAT_VERSION = (1, 3)
"""Major and minor version of the program format and the instruction set. Readers reject a newer major."""

NONE = -1
"""A field that names nothing."""

LEVELS = 6
"""Loops nest to this depth."""

IMAGES = 1
"""``func`` of the ``loop`` whose count is the number of images (frames) of the run."""

AGAIN = 1
"""``func`` of a write that programs its cells in every call of the model; with 0 they keep what the first one wrote."""

Columns = Mapping[str, npt.NDArray[Any]]
"""One table: column name to array; all columns have the same length (the first axis)."""


def parameter(index: int) -> int:
    """The field value that names parameter ``index`` of the executing context."""
    return -2 - index


def is_parameter(value: int) -> bool:
    """Whether a field names a parameter."""
    return value < NONE


def parameter_index(value: int) -> int:
    """The parameter a field names; the inverse of :func:`parameter`."""
    return -2 - value


_I = "int32"
_L = "int64"

SCHEMAS: dict[str, dict[str, str]] = {
    # One row an instruction. Operands dst, a, b: buffer, row, column (elements), index into `strides`.
    "instructions": {
        "opcode": "uint8",
        "func": "uint8",
        "node": _I,
        "dst": _I,
        "dst_row": _I,
        "dst_col": _I,
        "dst_st": _I,
        "a": _I,
        "a_row": _I,
        "a_col": _I,
        "a_st": _I,
        "b": _I,
        "b_row": _I,
        "b_col": _I,
        "b_st": _I,
        "n": _I,
        "m": _I,
        "xb": _I,
        "imm": _I,
    },
    # Increment of (row, column) per iteration of loop level 0..5 (0 outermost). Row 0 is all zero.
    "strides": {"row": "int32:6", "col": "int32:6"},
    "bodies": {"first": _I, "count": _I, "name": _I},
    "contexts": {
        "core": _I,
        "stream": _I,
        "phase": _I,
        "body": _I,
        "param_first": _I,
        "param_count": _I,
        "node": _I,
    },
    "params": {"value": _L},
    "buffers": {
        "context": _I,
        "core": _I,
        "kind": "uint8",
        "element": "uint8",
        "base": _L,
        "slots": _I,
        "pitch": _I,
        "channels": _I,
        "phase_first": _I,
        "phase_last": _I,
        # rings only
        "first": _I,
        "last": _I,
        "period": _I,
        "advance": _I,
        "places": _I,
        "top": _I,
        "bottom": _I,
        "fill": _I,
        "pad": _L,
    },
    "route_sets": {"first": _I, "count": _I},
    "routes": {
        "ring": _I,
        "group": _I,
        "src_pos": _I,
        "src_chan": _I,
        "positions": _I,
        "channels": _I,
        "dst_pos": _I,
        "dst_chan": _I,
    },
    "array_sets": {
        "context": _I,
        "core": _I,
        "coding": _I,
        "tensor": _I,
        "k0": _I,
        "k1": _I,
        "n0": _I,
        "n1": _I,
        "tile_first": _I,
        "tile_count": _I,
        "step_first": _I,
        "phase": _I,
        # Groups of a convolution on the block's diagonal; the rest of it holds zeros. 1: a dense block.
        "groups": _I,
    },
    "tiles": {"set": _I, "xbar": _I, "k0": _I, "k1": _I, "n0": _I, "n1": _I},
    "codings": {"fields": "int64:15"},
    "steps": {"h": _I},
    "windows": {
        "kh": _I,
        "row_step": _I,
        "kw": _I,
        "col_step": _I,
        "c": _I,
        "lo": _I,
        "hi": _I,
        "pos_step": _I,
    },
    "copies": {"n0": _I, "s0": _I, "d0": _I, "n1": _I, "s1": _I, "d1": _I},
    "records": {"i_first": _I, "i_count": _I, "f_first": _I, "f_count": _I},
    "const_i": {"value": _L},
    "const_f": {"value": "float32"},
    "events": {"initial": _I},
}


@dataclass(frozen=True)
class IoTensor:
    """One input or output of the model, per frame, as the host sees it.

    The host array of a frame has ``shape`` (ONNX order without the batch dimension). Row ``r`` of the
    stream holds ``positions x channels`` elements; element (r, p, c) is at
    ``r*row_stride + p*pos_stride + c*chan_stride`` of the flattened frame.
    """

    name: str
    direction: str
    """``in``, ``out`` or ``tap``."""
    element: int
    """:class:`~cimc.runtime.program.opcodes.Element` of the host array of an input (float32 for a float
    model), of the rows of an output."""
    shape: tuple[int, ...]
    rows: int
    positions: int
    channels: int
    row_stride: int
    pos_stride: int
    chan_stride: int
    scale: float | None = None
    """Outputs that are codes: ``real = f32(code - zero_point) * scale`` (numerics 0.2)."""
    zero_point: int = 0


@dataclass(frozen=True)
class HostOperator:
    """An operator that runs on the host, through onnxruntime, on whole tensors in the global buffer."""

    op_type: str
    model: str
    """File under ``host/`` of the artifact: a one-node ONNX model."""
    inputs: tuple[int, ...]
    """Whole buffers, in the order of the sub-model's inputs."""
    outputs: tuple[int, ...]
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    input_shapes: tuple[tuple[int, ...], ...]
    """ONNX shapes, batch dimension 1 included, in which the sub-model sees the buffers."""
    output_shapes: tuple[tuple[int, ...], ...]
    flops: int
    """Floating-point operations per frame, for the cycle engine's host figure."""


@dataclass(frozen=True)
class Program:
    """A compiled program: tables, names, I/O and the machine it was made for.

    Everything an engine needs is here and in the weight image; no IR, no model file.
    """

    tables: Mapping[str, Columns]
    names: tuple[str, ...]
    """Node names (layer or stage), indexed by ``node`` and ``bodies.name``."""
    io: tuple[IoTensor, ...]
    hosts: tuple[HostOperator, ...]
    weights: tuple[str, ...]
    """Names of the tensors of the weight image, indexed by ``array_sets.tensor``; each is an integer
    matrix (K, N), rows ordered (kernel row, kernel column, channel)."""
    machine: Mapping[str, Any]
    """The resolved architecture, as plain JSON."""
    frames: int = 1
    """Frames of one call of the model (its batch size)."""
    total_macs: int = 0
    """Multiply-accumulates per frame of every Conv, ConvTranspose, Gemm and MatMul by a constant."""
    taps: tuple[IoTensor, ...] = ()
    """Tensors that some ``send`` carries, indexed by the ``dst`` field of ``send``: what ``--tap`` can see."""

    def __getitem__(self, table: str) -> Columns:
        return self.tables[table]

    @property
    def phased(self) -> bool:
        """Whether it runs in several phases, on as many frames at most as one call has."""
        return int(self["contexts"]["phase"].max(initial=0)) > 0

    def count(self, table: str) -> int:
        """Number of rows of a table."""
        columns = self.tables[table]
        return len(next(iter(columns.values())))

    def name_of(self, node: int) -> str:
        """The layer a node index stands for."""
        return self.names[node] if node >= 0 else "-"
