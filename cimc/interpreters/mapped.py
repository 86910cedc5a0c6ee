"""Level 3 runs: stages of meta-operators on whole tensors of rows, before or after they are cut and placed.

Products go through the definition of docs/crossbar.md block by block, with the blocks of the placement table
once there is one; tails through the digital unit's library. Frames are independent and run together.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
from xdsl.dialects.builtin import ArrayAttr, ModuleOp, StringAttr
from xdsl.dialects.func import ReturnOp
from xdsl.ir import Operation, SSAValue

from cimc.backends.schema import Architecture
from cimc.diagnostics import CimError, UnsupportedError, UsageError, raise_all
from cimc.dialects.base import located
from cimc.dialects.cim import (
    ConcatOp,
    DcomOp,
    ReadCoreOp,
    ReadRowOp,
    ReadXbOp,
    RequantiseOp,
    StageOp,
    StorageCastOp,
    ViewOp,
    YieldOp,
)
from cimc.dialects.cim_products import FrameProductOp
from cimc.dialects.cim_real import RealOp
from cimc.dialects.cim_rows import uncast
from cimc.dialects.graph import main_function
from cimc.dialects.graph_types import quant_of
from cimc.dialects.mem import HostCallOp, InputOp, OutputOp, RelayoutOp
from cimc.dialects.mem_real import IndexMapOp, MatmulOp
from cimc.dialects.row_layout import RowLayout, frame_shape
from cimc.dialects.weights import WeightStore
from cimc.interpreters.graph import numpy_type
from cimc.interpreters.host import HostRunner
from cimc.interpreters.mapped_blocks import check_placement, stage_blocks
from cimc.interpreters.mapped_digital import apply_function, apply_real, requantise
from cimc.interpreters.mapped_frames import frame_product
from cimc.interpreters.mapped_products import EXACT_CELLS, Programmer, read_arrays
from cimc.interpreters.mapped_rows import from_rows, to_rows
from cimc.interpreters.real_operators import take_elements
from cimc.runtime.numerics import digital

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class MappedRun:
    """What one run of a mapped program gave, by ONNX tensor name and in ONNX layout, frames leading."""

    outputs: dict[str, Array]
    """Real values of the model's outputs."""
    integer_outputs: dict[str, Array]
    """Codes of those outputs that leave as codes."""
    taps: dict[str, Array]
    """The tensors asked for: codes where the tensor is held as codes."""
    lossless: dict[str, bool]
    """By stage with arrays: whether no converter of it can lose information on its weights."""
    needless: tuple[str, ...]
    """Stages whose steps lose information although their converters cover every sum at step 1."""


def execute_mapped(
    module: ModuleOp,
    store: WeightStore,
    inputs: Mapping[str, Array],
    *,
    taps: Collection[str] = (),
    host: HostRunner | None = None,
    arch: Architecture | None = None,
    arrays: Programmer = EXACT_CELLS,
) -> MappedRun:
    """Run a program of the mapped level on the machine ``arch``.

    ``inputs``: arrays (frames, *frame shape) by ONNX name. ``host`` keeps its sessions between runs.
    ``arrays`` programs the crossbars: exactly, with converters that lose nothing (what level 3 means before steps
    are chosen), or with the errors of devices. Raises UsageError for a missing machine and inputs or taps that do
    not belong to the program, MismatchError at a stage whose placement table breaks a rule, UnsupportedError with
    a location for operations without a meaning here and sums that leave their accumulator.
    """
    if arch is None:
        raise UsageError("the mapped level runs on a machine; give its architecture", where="execute_mapped")
    known = mapped_tensors(module)
    raise_all(
        [
            UsageError(f"no tensor {tap!r} at the mapped level; it may be inside a stage, or misspelt")
            for tap in sorted(set(taps) - set(known))
        ]
    )
    check_placement(module, store, arch)
    machine = _Machine(store, arch, host or HostRunner(store), _checked(module, inputs), arrays)
    for op in main_function(module).body.block.ops:
        if isinstance(op, ReturnOp):
            break
        machine.run(op)
    tapped = {
        tap: from_rows(machine.values[known[tap].value], known[tap].frame, known[tap].layout) for tap in taps
    }
    return MappedRun(
        machine.outputs, machine.integer_outputs, tapped, machine.lossless, tuple(machine.needless)
    )


@dataclass(frozen=True)
class NamedTensor:
    """A value of the mapped level that has an ONNX name: its shape in a frame and the operation that makes it."""

    value: SSAValue
    frame: tuple[int, ...]
    op: Operation

    @property
    def layout(self) -> RowLayout | None:
        """How the frame lies in the value's rows, where the operation says so."""
        return self.op.layout if isinstance(self.op, StageOp) else None


def mapped_tensors(module: ModuleOp) -> dict[str, NamedTensor]:
    """The tensors of a mapped module that a tap can name, in order of definition.

    Where a name is held as real values and as codes, the codes win; else the first.
    """
    found: dict[str, NamedTensor] = {}
    for op in main_function(module).body.block.ops:
        tensors = op.properties.get("tensors")
        if not isinstance(tensors, ArrayAttr):
            continue
        for name, value, frame in zip(tensors.data, op.results, _frames(op), strict=False):
            assert isinstance(name, StringAttr)
            known = found.get(name.data)
            if known is None or (quant_of(known.value) is None and quant_of(value) is not None):
                found[name.data] = NamedTensor(value, frame, op)
    return found


def _frames(op: Operation) -> list[tuple[int, ...]]:
    """ONNX shapes of one frame of the results of ``op``."""
    match op:
        case InputOp() | StageOp():
            return [op.frame.data]
        case RelayoutOp() | IndexMapOp() | MatmulOp():
            return [op.target.data]
        case HostCallOp():
            return [frame_shape(shape) for shape in op.target_shapes]
        case ConcatOp():
            height, width, channels = op.result.type.get_shape()
            image = len(_frame_of(op.args[0])) == 3
            return [(channels, height, width) if image else (height, channels) if height > 1 else (channels,)]
        case _:
            return []


def _frame_of(value: SSAValue) -> tuple[int, ...]:
    """ONNX shape of one frame of a mapped value."""
    value = uncast(value)
    owner = value.owner
    assert isinstance(owner, Operation)
    return _frames(owner)[list(owner.results).index(value)]  # pyright: ignore[reportArgumentType] results are SSA values


def _checked(module: ModuleOp, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """``inputs`` if they are those of the program. Raises ``UsageError``, all problems together."""
    ports = {op.port.data: op for op in main_function(module).body.block.ops if isinstance(op, InputOp)}
    errors: list[CimError] = [
        UsageError(f"there is no input {name!r}; the inputs are {', '.join(ports)}")
        for name in inputs
        if name not in ports
    ]
    for name, op in ports.items():
        if name not in inputs:
            errors.append(UsageError(f"input {name!r} is missing"))
            continue
        array = np.asarray(inputs[name])
        wanted = np.dtype(np.float32) if quant_of(op.result) is not None else numpy_type(op.result.type)
        if array.shape[1:] != op.frame.data or not len(array):
            errors.append(
                UsageError(f"input {name!r} has shape {array.shape}, not frames of {op.frame.data}")
            )
        if array.dtype != wanted:
            errors.append(UsageError(f"input {name!r} has elements {array.dtype}, the model takes {wanted}"))
    if len({len(array) for array in inputs.values() if np.ndim(array)}) > 1:
        errors.append(UsageError("the inputs have different numbers of frames"))
    raise_all(errors)
    return {name: np.asarray(array) for name, array in inputs.items()}


@dataclass
class _Machine:
    """Values computed so far, as rows (frames, H, W, C), and where they come from and go to."""

    store: WeightStore
    arch: Architecture
    host: HostRunner
    inputs: Mapping[str, Array]
    arrays: Programmer
    values: dict[SSAValue, Array] = field(default_factory=dict[SSAValue, Array])
    outputs: dict[str, Array] = field(default_factory=dict[str, Array])
    integer_outputs: dict[str, Array] = field(default_factory=dict[str, Array])
    lossless: dict[str, bool] = field(default_factory=dict[str, bool])
    needless: list[str] = field(default_factory=list[str])

    def run(self, op: Operation) -> None:
        """Execute one operation of ``@main``; an operand that does not fit it is an error with its place."""
        execute = _EXECUTE.get(type(op))
        if execute is None:
            raise UnsupportedError(located(op, "has no meaning at the mapped level"))
        try:
            execute(self, op)
        except (ValueError, IndexError, KeyError) as error:
            raise UnsupportedError(located(op, f"cannot be computed: {error}")) from error

    def input(self, op: InputOp) -> None:
        """One model input, quantised as it comes in where the rows are codes."""
        given, codes = self.inputs[op.port.data], quant_of(op.result)
        if codes is not None:
            bounds = codes.qmin, codes.qmax
            where = f"input '{op.port.data}'"
            given = digital.quantise(
                given, codes.scale, codes.zero_point, *bounds, dtype=codes.dtype, tensor=where
            )
        self.values[op.result] = to_rows(given, op.frame.data)

    def output(self, op: OutputOp) -> None:
        """One model output; codes become real values by rule 2."""
        found, codes = from_rows(self.values[op.value], op.frame.data), quant_of(op.value)
        self.outputs[op.port.data] = found
        if codes is not None:
            self.integer_outputs[op.port.data] = found
            self.outputs[op.port.data] = digital.dequantise(found, codes.scale, codes.zero_point)

    def relayout(self, op: RelayoutOp) -> None:
        """The frame in ONNX order, read back in the rows of another shape."""
        frames = from_rows(self.values[op.value], op.source.data)
        self.values[op.result] = to_rows(frames.reshape(len(frames), *op.target.data), op.target.data)

    def index_map(self, op: IndexMapOp) -> None:
        """Elements of the operands' rows by number."""
        index = self.store.array(op.index.key.data)
        constant = None if op.constant is None else self.store.array(op.constant.key.data)
        pairs = zip(op.args, op.ranges, strict=True)
        frames = zip(*(self.values[v][..., begin:end] for v, (begin, end) in pairs), strict=True)
        self.values[op.result] = np.stack([take_elements(frame, index, constant) for frame in frames])

    def matmul(self, op: MatmulOp) -> None:
        """Products of two activations, whole frames at a time."""
        batch, m, k, n = op.extents
        left, right = self.values[op.lhs], self.values[op.rhs]
        product = digital.matmul_float(left.reshape(-1, batch, m, k), right.reshape(-1, batch, k, n))
        self.values[op.result] = product.reshape(-1, batch * m, 1, n)

    def view(self, op: ViewOp) -> None:
        """Every row cut anew."""
        held, channels = self.values[op.value], op.result.type.get_shape()[2]
        rows = held.reshape(*held.shape[:2], -1)
        parts = [rows[..., start : start + channels] for start in op.starts.data]
        self.values[op.result] = np.stack(parts, axis=2)

    def storage_cast(self, op: StorageCastOp) -> None:
        """The same integers under another type."""
        self.values[op.result] = self.values[op.value]

    def concat(self, op: ConcatOp) -> None:
        """Channels side by side."""
        self.values[op.result] = np.concatenate([self.values[v] for v in op.args], axis=-1)

    def host_call(self, op: HostCallOp) -> None:
        """One operator through onnxruntime, frame by frame."""
        shapes = op.source_shapes
        sources = [
            from_rows(self.values[value], frame_shape(shape))
            for value, shape in zip(op.args, shapes, strict=True)
        ]
        frames = len(next(iter(self.inputs.values()))) if self.inputs else 1
        found = [
            self.host.run(op, [s[i].reshape(shape) for s, shape in zip(sources, shapes, strict=True)])
            for i in range(frames)
        ]
        for number, (value, shape) in enumerate(zip(op.outs, op.target_shapes, strict=True)):
            frame = frame_shape(shape)
            self.values[value] = to_rows(np.stack([f[number].reshape(frame) for f in found]), frame)

    def stage(self, op: StageOp) -> None:
        """One stage: its blocks and its tail, on the whole tensor."""
        blocks = stage_blocks(op, self.store, self.arch)
        inside: dict[SSAValue, Array] = {
            argument: self.values[value]
            for argument, value in zip(op.body.block.args, op.sources, strict=True)
        }
        for step in op.body.block.ops:
            match step:
                case ReadXbOp() | ReadRowOp() | ReadCoreOp():
                    source = inside[step.source]
                    read = read_arrays(op, source, blocks, self.store, self.arch, self.arrays)
                    inside[step.acc] = read.acc
                    self.lossless[op.label.data] = read.lossless
                    self.needless += [op.label.data] if read.needless else []
                case RequantiseOp():
                    inside[step.result] = requantise(step, inside[step.acc], self.store)
                case RealOp():
                    inside[step.result] = apply_real(step, [inside[v] for v in step.args], self.store)
                case FrameProductOp():
                    inside[step.result] = frame_product(step, inside[step.lhs], inside[step.frame], self.arch)
                case DcomOp():
                    inside[step.result] = apply_function(step, [inside[v] for v in step.args])
                case YieldOp():
                    self.values[op.result] = inside[step.value]
                case _:
                    pass  # writes make arrays, which the read takes from the stage


_EXECUTE: Mapping[type[Operation], Callable[[_Machine, Any], None]] = MappingProxyType(
    {
        InputOp: _Machine.input,
        OutputOp: _Machine.output,
        RelayoutOp: _Machine.relayout,
        IndexMapOp: _Machine.index_map,
        MatmulOp: _Machine.matmul,
        ConcatOp: _Machine.concat,
        ViewOp: _Machine.view,
        StorageCastOp: _Machine.storage_cast,
        HostCallOp: _Machine.host_call,
        StageOp: _Machine.stage,
    }
)
